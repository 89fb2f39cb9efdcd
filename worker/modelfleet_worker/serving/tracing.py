"""The spans of one request on this worker: its whole, its wait, its prefill, its decode."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from modelfleet_process.tracing import Tracing, Value, fail, traceparent_of
from modelfleet_proto import worker_pb2 as pb

from ..errors import RefusalError

if TYPE_CHECKING:
    from ..engine.messages import RequestStart
    from .streams import Stream


class WorkerTrace:
    """Times are noted while it runs, and become spans at its end."""

    def __init__(self, tracing: Tracing, request: pb.GenerateRequest) -> None:
        self._tracing = tracing
        self._span = tracing.span(
            "worker",
            parent=request.traceparent,
            kind="server",
            attributes={
                "gen_ai.operation.name": "generate_content",
                "gen_ai.provider.name": "modelfleet",
                "gen_ai.request.model": request.model[:200],
                "modelfleet.request_id": request.request_id[:64],
                "modelfleet.choice": request.choice,
                "modelfleet.resumed_tokens": len(request.resume.token_ids),
            },
        )
        # Where the engine's clock, which never steps back, stands by that of the spans.
        self._offset = time.time() - time.monotonic()
        self._resumed = len(request.resume.token_ids)
        self._submitted_at = 0.0
        self._stream: Stream | None = None
        self._prompt_tokens = 0
        self._finished: pb.Finished | None = None

    def on_submitted(self, stream: Stream, prompt_tokens: int) -> None:
        """The engine has it."""
        self._submitted_at = time.monotonic()
        self._stream, self._prompt_tokens = stream, prompt_tokens

    def on_finished(self, finished: pb.Finished) -> None:
        """It has its whole answer."""
        self._finished = finished

    def end(self, error: RefusalError | None, *, cancelled: bool = False) -> None:
        """Nothing more of it comes."""
        now = time.monotonic()
        if self._stream is not None:
            self._end_phases(self._stream, now)
        if self._finished is not None:
            usage = self._finished
            self._span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
            self._span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens)
        if error is not None:
            fail(self._span, "", error.mark or error.status.name)
        elif cancelled:
            fail(self._span, "", "CANCELLED")
        self._span.end()

    def _end_phases(self, stream: Stream, now: float) -> None:
        start = stream.start
        if start is None:
            self._phase("queue", self._submitted_at, now)
            return
        self._phase("queue", self._submitted_at, start.admitted_at)
        self._phase("prefill", start.admitted_at, start.first_token_at, **self._prefill(start))
        decode: dict[str, Value] = {}
        if self._finished is not None:
            tokens = self._finished.completion_tokens - self._resumed
            decode["modelfleet.tokens"] = tokens
            decode["modelfleet.steps"] = max(tokens - 1, 0)  # a prefill's last step draws the first
        self._phase("decode", start.first_token_at, now, **decode)

    def _prefill(self, start: RequestStart) -> dict[str, Value]:
        return {
            "modelfleet.tokens": self._prompt_tokens,
            "modelfleet.cached_tokens": start.cached_tokens,
            "modelfleet.steps": start.prefill_steps,
        }

    def _phase(self, name: str, began: float, ended: float, **attributes: Value) -> None:
        span = self._tracing.span(
            name,
            parent=traceparent_of(self._span),
            start=began + self._offset,
            attributes=attributes,
        )
        span.end(round((ended + self._offset) * 1e9))
