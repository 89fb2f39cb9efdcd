"""Streams whose every byte is known before, and the faults that they go through."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from background import Background

Body = dict[str, Any]
THINK = 0.2  # seconds between two requests of a client
RECONNECTS = (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError)


@dataclass(frozen=True)
class Question:
    """A request, which has one answer."""

    url: str
    body: Body


@dataclass
class Outcome:
    """What became of every request."""

    answered: int = 0
    dropped: int = 0  # by their client
    reconnected: int = 0  # before the status line: nothing was lost
    lost: list[str] = field(default_factory=list)
    corrupted: list[str] = field(default_factory=list)


class DroppedError(Exception):
    """The client has left in the middle of its answer."""


class Streams(Background):
    """Clients that ask without pause until the block ends, each its own questions in turn."""

    def __init__(self, questions: Sequence[Sequence[Question]]) -> None:
        """One entry a client."""
        super().__init__()
        self.outcome = Outcome()
        self._questions = questions
        self._answers: dict[str, str] = {}
        self._drops = [False] * len(questions)

    def learn(self) -> None:
        """Asks each question once, while nothing is disturbed. Call it first."""
        asyncio.run(self._learn())

    def drop_a_third(self, chance: random.Random) -> None:
        """So many clients leave in the middle of their answers."""
        for number in chance.sample(range(len(self._drops)), len(self._drops) // 3):
            self._drops[number] = True

    def check(self) -> None:
        """Every request had its whole answer, and exactly that."""
        assert not self.outcome.lost, self.outcome.lost[:5]
        assert not self.outcome.corrupted, self.outcome.corrupted[:5]

    def work(self) -> None:
        """Until the block ends."""
        asyncio.run(self._run())

    async def _learn(self) -> None:
        async with _client() as http:
            for question in itertools.chain(*self._questions):
                key = _key(question)
                if key not in self._answers:
                    self._answers[key] = await read_answer(http, question)

    async def _run(self) -> None:
        async with _client() as http:
            await asyncio.gather(*(self._ask(http, n) for n in range(len(self._questions))))

    async def _ask(self, http: httpx.AsyncClient, number: int) -> None:
        for question in itertools.cycle(self._questions[number]):
            if self.ending.is_set():
                return
            await self._ask_once(http, number, question)
            await asyncio.sleep(THINK)

    async def _ask_once(self, http: httpx.AsyncClient, number: int, question: Question) -> None:
        def on_line() -> None:
            if self._drops[number]:
                self._drops[number] = False
                raise DroppedError

        try:
            answer = await read_answer(http, question, on_line)
        except DroppedError:
            self.outcome.dropped += 1
        except NoAnswerError as error:
            self.outcome.lost.append(f"{question.body['model']}: {error}")
        except RECONNECTS:  # before its status line
            self.outcome.reconnected += 1
        else:
            self.outcome.answered += 1
            if answer != self._answers[_key(question)]:
                expected = self._answers[_key(question)]
                self.outcome.corrupted.append(f"{answer!r} instead of {expected!r}")


class NoAnswerError(Exception):
    """A request that has ended without its whole answer."""


async def read_answer(
    http: httpx.AsyncClient, question: Question, on_line: Callable[[], None] = lambda: None
) -> str:
    """What a stream says, as one text: content, calls and why each choice ended."""
    request = http.build_request("POST", question.url, json={**question.body, "stream": True})
    reply = await http.send(request, stream=True)
    said: list[str] = []
    has_ended = False
    try:
        if reply.status_code != httpx.codes.OK:
            raise NoAnswerError(f"{reply.status_code} {(await reply.aread()).decode()[:300]}")
        async for line in reply.aiter_lines():
            on_line()
            has_ended = has_ended or line == "data: [DONE]"
            if line.startswith("data: {"):
                said += _parts(json.loads(line.removeprefix("data: ")))
    except httpx.TransportError as error:
        raise NoAnswerError(f"cut after {len(said)} parts: {error!r}") from error
    finally:
        await reply.aclose()
    if not has_ended:
        raise NoAnswerError(f"no end after {len(said)} parts")
    return "".join(said)


def _parts(chunk: Body) -> list[str]:
    if "error" in chunk:
        raise NoAnswerError(str(chunk["error"]))
    parts = []
    for choice in chunk["choices"]:
        delta = choice["delta"]
        parts.append(delta.get("content") or "")
        for call in delta.get("tool_calls") or ():
            function = call["function"]
            parts += [f"[{function['name']}]" if "name" in function else "", function["arguments"]]
        if choice["finish_reason"]:
            parts.append(f"[{choice['finish_reason']}]")
    return parts


def _key(question: Question) -> str:
    return json.dumps([question.url, question.body], sort_keys=True)


def _client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(timeout=120, limits=limits, verify=False)


def rounds(
    faults: Sequence[Callable[[], None]], seconds: float, every: float, chance: random.Random
) -> list[str]:
    """Brings about one fault every so many seconds, each kind before any comes again."""
    end, happened = time.monotonic() + seconds, []
    order: list[Callable[[], None]] = []
    while time.monotonic() < end:
        if not order:
            order = chance.sample(list(faults), len(faults))
        fault = order.pop()
        next_at = time.monotonic() + every
        fault()
        happened.append(fault.__name__)
        time.sleep(max(0.0, min(next_at, end) - time.monotonic()))
    return happened
