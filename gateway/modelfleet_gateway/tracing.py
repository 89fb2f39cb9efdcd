"""The spans of one request: its whole, each wait for a slot, each worker that it was on.

Attributes have OpenTelemetry's names (semantic conventions of HTTP and generative AI) where there
are any, and `modelfleet.` ones else. No text of a prompt or an answer is among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from modelfleet_process.tracing import Tracing, Value, fail, trace_id, traceparent_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

# By URL; all others are chats. OpenTelemetry's gen_ai.operation.name.
OPERATIONS: Final = {
    "/v1/completions": "text_completion",
    "/api/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
}
LONGEST_NAME: Final = 200  # characters of a model's name as the client sent it


class RequestTrace:
    """Spans from the request's arrival to its last byte."""

    def __init__(self, tracing: Tracing, path: str, request_id: str, traceparent: str) -> None:
        self._tracing = tracing
        self._operation = OPERATIONS.get(path, "chat")
        self._span = tracing.span(
            self._operation,
            parent=traceparent,
            kind="server",
            attributes={
                "gen_ai.operation.name": self._operation,
                "gen_ai.provider.name": "modelfleet",
                "http.request.method": "POST",
                "url.path": path,
                "modelfleet.request_id": request_id,
            },
        )
        self.traceparent = traceparent_of(self._span)
        self.trace_id = trace_id(self.traceparent)
        self._choices: list[ChoiceTrace] = []

    def begin(self, asked: str, model: str) -> None:
        """The model is known: as the client named it, and its full name."""
        self._span.update_name(f"{self._operation} {model}")
        self._span.set_attribute("gen_ai.request.model", asked[:LONGEST_NAME])
        self._span.set_attribute("gen_ai.response.model", model)

    def choice(self, index: int) -> ChoiceTrace:
        """One of its choices, which waits for a slot from now on."""
        choice = ChoiceTrace(self._tracing, self._span, self.traceparent, index)
        self._choices.append(choice)
        return choice

    def end(self, status: int, *, tokens: tuple[int, int, int], ttft: float | None) -> None:
        """`tokens` of the prompt, of those cached, of the answer; `ttft` in seconds."""
        for choice in self._choices:
            choice.close()
        self._span.set_attribute("http.response.status_code", status)
        if any(tokens):
            prompt, cached, completion = tokens
            self._span.set_attribute("gen_ai.usage.input_tokens", prompt)
            self._span.set_attribute("gen_ai.usage.cache_read.input_tokens", cached)
            self._span.set_attribute("gen_ai.usage.output_tokens", completion)
        if ttft is not None:
            self._span.set_attribute("modelfleet.time_to_first_token", ttft)
        if status >= 400:
            fail(self._span, "", str(status))
        self._span.end()


class ChoiceTrace:
    """The spans of one choice, one at a time: it waits, or a worker has it."""

    def __init__(self, tracing: Tracing, request: Span, parent: str, index: int) -> None:
        self._tracing = tracing
        self._request = request
        self._parent = parent
        self._index = index
        self._attempts = 0
        self.traceparent = parent  # what a worker continues
        self._span = self._start("queue")

    def _start(self, name: str, **attributes: Value) -> Span:
        attributes = {"modelfleet.choice": self._index, **attributes}
        is_worker = name == "generate"
        return self._tracing.span(
            name,
            parent=self._parent,
            kind="client" if is_worker else "internal",
            attributes=attributes,
        )

    def on_slot(self, worker: str) -> None:
        """It waits no more."""
        self._span.end()
        self._attempts += 1
        attributes: dict[str, Value] = {
            "modelfleet.worker": worker,
            "modelfleet.attempt": self._attempts,
        }
        self._span = self._start("generate", **attributes)
        self.traceparent = traceparent_of(self._span)

    def on_continued(self, worker: str, exactness: str, tokens: int) -> None:
        """Another worker goes on after so many tokens."""
        attributes: dict[str, Value] = {
            "modelfleet.worker": worker,
            "modelfleet.exactness": exactness,
            "modelfleet.tokens": tokens,
        }
        self._request.add_event("continued", attributes)

    def on_failure(self, worker: str, status: str, tokens: int) -> None:
        """The worker has failed it, or refused it."""
        fail(self._span, "", status)
        self._span.end()
        attributes: dict[str, Value] = {
            "modelfleet.worker": worker,
            "modelfleet.tokens": tokens,
            "error.type": status,
        }
        self._request.add_event("failover" if tokens else "retry", attributes)

    def on_queued(self) -> None:
        """It waits again."""
        self._span = self._start("queue")

    def on_finished(self, tokens: int) -> None:
        """It has its answer of so many tokens."""
        self._span.set_attribute("gen_ai.usage.output_tokens", tokens)
        self._span.end()

    def close(self) -> None:
        """Nothing comes any more: its client has left, or its request ended."""
        if self._span.is_recording():
            self._span.end()
