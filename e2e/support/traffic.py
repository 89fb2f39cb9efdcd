"""Continuous traffic from the official `openai` client, and an account of every request."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from dataclasses import dataclass, field

import openai

from background import Background
from clients import openai_client

_REFUSALS = (429, 503)


@dataclass
class Account:
    """What became of every request."""

    answered: int = 0
    refused: list[str] = field(default_factory=list)  # before a worker took them: allowed, counted
    lost: list[str] = field(default_factory=list)
    texts: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    slowest: float = 0.0  # seconds from the question to the full answer

    @property
    def garbled(self) -> list[str]:
        """Questions that got different answers: greedy answers never differ."""
        return [question for question, texts in self.texts.items() if len(texts) > 1]


class Traffic(Background):
    """Clients that ask one model without pause, half of them streaming, until the block ends."""

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        clients: int = 4,
        tokens: int = 48,
        questions: int = 8,
        ignore_eos: bool = False,
        timeout: float = 300,
    ) -> None:
        """`endpoint` is the gateway's http://HOST:PORT; `timeout` in seconds, of one request."""
        super().__init__()
        self.account = Account()
        self._endpoint, self._model, self._clients = endpoint, model, clients
        self._tokens, self._questions, self._timeout = tokens, questions, timeout
        self._extra = {"ignore_eos": True} if ignore_eos else {}

    def wait_for_answers(self, count: int, within: float = 120) -> None:
        """Returns when so many more requests were answered."""
        enough = self.account.answered + count
        deadline = time.monotonic() + within
        while self.account.answered < enough:
            assert time.monotonic() < deadline, f"not answered within {within} s: {self.account}"
            time.sleep(0.05)

    def check(self) -> None:
        """Every request was answered in full, and alike: none lost, none refused."""
        account = self.account
        assert not account.lost, account.lost
        assert not account.refused, account.refused
        assert not account.garbled, {q: account.texts[q] for q in account.garbled}
        assert account.answered, "no request was answered, so nothing was tested"

    def work(self) -> None:
        """Asks until the block ends."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with openai_client(self._endpoint, timeout=self._timeout) as client:
            await asyncio.gather(*(self._ask(client, number) for number in range(self._clients)))

    async def _ask(self, client: openai.AsyncOpenAI, number: int) -> None:
        for turn in itertools.count(number):
            if self.ending.is_set():
                return
            question = f"Question {turn % self._questions}: what is new?"
            started = time.monotonic()
            try:
                text = await self._answer(client, question, streaming=number % 2 == 0)
            except openai.APIStatusError as error:
                told = f"{question} HTTP {error.status_code}: {error.message}"
                refused = error.status_code in _REFUSALS
                (self.account.refused if refused else self.account.lost).append(told)
                await asyncio.sleep(0.2)
            except (openai.APIError, AssertionError) as error:
                cause = error.__cause__ or error
                self.account.lost.append(f"{question} {type(error).__name__}: {cause!r}")
                await asyncio.sleep(0.2)
            else:
                self.account.answered += 1
                self.account.texts[question].add(text)
                took = time.monotonic() - started
                self.account.slowest = max(self.account.slowest, took)

    async def _answer(self, client: openai.AsyncOpenAI, question: str, *, streaming: bool) -> str:
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [
            {"role": "user", "content": question}
        ]
        if not streaming:
            answer = await client.chat.completions.create(
                model=self._model,
                messages=messages,
                max_tokens=self._tokens,
                temperature=0,
                seed=7,
                extra_body=self._extra,
            )
            return answer.choices[0].message.content or ""
        text, finish = "", None
        async for chunk in await client.chat.completions.create(
            model=self._model,
            messages=messages,
            max_tokens=self._tokens,
            temperature=0,
            seed=7,
            stream=True,
            extra_body=self._extra,
        ):
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
        assert finish in ("stop", "length"), "the stream ended without a finish reason"
        return text
