"""OpenTelemetry traces, off unless the environment names a collector.

The libraries are imported only then: without one a trace costs a process nothing. Contexts pass
between the parts as W3C's `traceparent` (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
FLUSH_TIMEOUT: Final = 2.0  # seconds that an ending process waits for its last spans

Value = str | int | float | bool | tuple[str, ...]
Kind = Literal["server", "client", "internal"]


def read_traceparent(header: str | None) -> str:
    """The header if it is well-formed, else empty: a trace begins anew then."""
    return header if header and TRACEPARENT.fullmatch(header) else ""


def trace_id(traceparent: str) -> str:
    """32 hexadecimal digits; empty without a context."""
    found = TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else ""


def is_configured(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment, in OpenTelemetry's own variables, asks for traces."""
    return (
        any(environment.get(name) for name in ENDPOINTS)
        and environment.get("OTEL_SDK_DISABLED", "").lower() != "true"
        and environment.get("OTEL_TRACES_EXPORTER", "otlp") != "none"
    )


class Tracing:
    """Makes spans, and sends them away in the background."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("modelfleet")

    def span(
        self,
        name: str,
        *,
        parent: str = "",
        kind: Kind = "internal",
        start: float = 0.0,
        attributes: Mapping[str, Value] | None = None,
    ) -> Span:
        """Call its `end`. `parent` is a traceparent; `start` in Unix seconds, 0: now."""
        from opentelemetry import trace
        from opentelemetry.context import Context

        context = Context()
        if found := TRACEPARENT.fullmatch(parent):
            before = trace.SpanContext(
                int(found[1], 16), int(found[2], 16), is_remote=True,
                trace_flags=trace.TraceFlags(int(found[3], 16)),
            )  # fmt: skip
            context = trace.set_span_in_context(trace.NonRecordingSpan(before), context)
        return self._tracer.start_span(
            name,
            context,
            kind=trace.SpanKind[kind.upper()],
            attributes=attributes,
            start_time=nanoseconds(start or time.time()),
        )

    def close(self) -> None:
        """Sends what is left, for FLUSH_TIMEOUT at most."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(FLUSH_TIMEOUT)


def traceparent_of(span: Span) -> str:
    """What makes another span its child, in another process, too."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def nanoseconds(seconds: float) -> int:
    """Of Unix time, as OpenTelemetry counts it."""
    return round(seconds * 1e9)


def fail(span: Span, reason: str, kind: str) -> None:
    """Marks it as failed; `kind` is one of few words or statuses, `reason` for a person."""
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, reason[:500]))
    span.set_attribute("error.type", kind)


def start_tracing(service: str, instance: str) -> Tracing | None:
    """None: the environment does not ask for it. What else it says of OpenTelemetry holds.

    `service` is its service.name if OTEL_SERVICE_NAME is not set; `instance` tells processes apart.
    """
    if not is_configured():
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    names = {"service.name": service, "service.instance.id": instance}
    if given := os.environ.get("OTEL_SERVICE_NAME"):
        names["service.name"] = given
    provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
