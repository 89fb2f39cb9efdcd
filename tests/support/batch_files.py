"""Input files of batches, and what came of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai

FINAL = {"completed", "failed", "expired", "cancelled"}
COMPLETIONS = "/v1/completions"


def request_line(custom_id: str, url: str = COMPLETIONS, **body: Any) -> dict[str, Any]:
    body = {"model": "tiny"} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def prompts(count: int, *, tokens: int = 4) -> bytes:
    """Plain completions "p0", "p1", ...; the answer of each is known (expected_text)."""
    return jsonl(
        *(
            request_line(f"c{number}", prompt=f"p{number}", seed=7, max_tokens=tokens)
            for number in range(count)
        )
    )


async def create(
    client: openai.AsyncOpenAI, content: bytes, url: str = COMPLETIONS, window: str = "24h"
) -> openai.types.Batch:
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id,
        endpoint=url,  # type: ignore[arg-type]
        completion_window=window,  # type: ignore[arg-type]
    )


async def ended(
    client: openai.AsyncOpenAI, batch_id: str, within: float = 30.0
) -> openai.types.Batch:
    """The batch, once nothing more happens to it."""
    async with asyncio.timeout(within):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.status in FINAL:
                return batch
            await asyncio.sleep(0.05)


async def lines_of(client: openai.AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """Of an output or error file; none if there is no such file."""
    if file_id is None:
        return []
    content = await client.files.content(file_id)
    return [json.loads(line) for line in content.text.splitlines()]
