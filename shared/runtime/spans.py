"""Spans of this process, in a bounded queue to an OTLP collector. Needs the extra `otel`.

The SDK reads its own variables: `OTEL_EXPORTER_OTLP_...` for the collector, `OTEL_BSP_...` for the queue,
`OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`. Its samplers are not used: they decide by the trace id,
which the sender of a webhook chooses.
"""

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from random import random
from types import TracebackType
from typing import Final, Literal, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from shared.runtime import metrics
from shared.runtime.version import VERSION
from shared.wire.tracing import is_sampled, is_traceparent, new_traceparent, with_decision

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = Mapping[str, str | int | bool]

_KINDS: Final[Mapping[str, trace.SpanKind]] = {kind.name.lower(): kind for kind in trace.SpanKind}
_SAMPLED: Final = trace.TraceFlags(trace.TraceFlags.SAMPLED)
_MAX_TEXT_LENGTH: Final = 256
"""Of an attribute: event types and ids are as long as a sender makes them."""
_FLUSH_TIMEOUT_S: Final = 3.0
"""For what is queued when the service stops."""


class Span:
    """One step of a trace. `traceparent` is its context, for what follows it."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent: Final = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def rename(self, name: str) -> None:
        """Give the step the name that only its end knows."""
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        for name, value in attributes.items():
            self._span.set_attribute(name, value)

    def end(self, error: str | None = None) -> None:
        """End the step; `error` is the class of a failure, never a text with data. Later ends are ignored."""
        if not self._span.is_recording():
            return
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(kind.__name__ if kind else None)


class Tracer:
    """Starts the spans of a process. Nothing here waits for the collector."""

    def __init__(self, service: str, *, instance: str, ratio: float) -> None:
        """Start the exporting thread. Raises `ValueError` if the SDK rejects a variable."""
        self._ratio = ratio
        names = {
            "service.namespace": "interlink",
            "service.version": VERSION,
            "service.instance.id": instance,
        }
        if "OTEL_SERVICE_NAME" not in os.environ:
            names["service.name"] = service
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # only sampled traces get spans at all
            resource=Resource.create(names),
            span_limits=SpanLimits(max_span_attributes=32, max_span_attribute_length=_MAX_TEXT_LENGTH),
            shutdown_on_exit=False,  # it would wait half a minute for a collector that does not answer
        )
        self._provider.add_span_processor(_BoundedQueue(_CountingExporter()))
        self._tracer = self._provider.get_tracer("interlink", VERSION)

    def is_chosen(self) -> bool:
        """Return whether a new trace is to be recorded, at random."""
        return random() < self._ratio  # noqa: S311 -- no secret

    def admit(self, traceparent: str) -> str:
        """Return the `traceparent` of a request from outside: in its trace, but recorded by our own choice.

        A sender who could choose would have everything recorded that he sends.
        """
        sampled = self.is_chosen()
        if is_traceparent(traceparent):
            return with_decision(traceparent, sampled=sampled)
        return new_traceparent(sampled=sampled)

    def start(
        self, name: str, kind: Kind, parent: str, attributes: Attributes, *, link: str = ""
    ) -> Span | None:
        """Start a step below the `traceparent` of its cause; None if that trace is not recorded.

        An invalid or empty `parent` starts a trace, if it is chosen. `link` is the `traceparent` of an
        earlier step of the same kind, such as the first attempt of a delivery.
        """
        context = None
        if is_sampled(parent):
            context = trace.set_span_in_context(trace.NonRecordingSpan(_span_context(parent)))
        elif is_traceparent(parent) or not self.is_chosen():
            return None
        links = [trace.Link(_span_context(link))] if is_sampled(link) else None
        return Span(
            self._tracer.start_span(
                name, context or Context(), _KINDS[kind], attributes=attributes, links=links
            )
        )

    async def stop(self) -> None:
        """Export what is queued, in at most 3 s, and end."""
        done, loop = asyncio.Event(), asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(done.set)

        # A thread of its own: the end of the loop would wait for one of its executor.
        threading.Thread(target=shut_down, daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                await done.wait()


class _CountingExporter(OTLPSpanExporter):
    """Counts what it takes out of the queue, and what the collector has accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = super().export(spans)
        finally:
            metrics.SPANS.labels("exported" if result is SpanExportResult.SUCCESS else "failed").inc(
                len(spans)
            )
        return result


class _BoundedQueue(BatchSpanProcessor):
    """Drops a span that finds the queue full. The SDK would drop the oldest one, and log it."""

    def __init__(self, exporter: _CountingExporter) -> None:
        self._max_spans: int = self._default_max_queue_size()  # type: ignore[no-untyped-call]
        super().__init__(exporter, max_queue_size=self._max_spans)
        self._exporter = exporter
        self._queued = 0

    def on_end(self, span: ReadableSpan) -> None:
        if self._queued - self._exporter.taken >= self._max_spans:
            metrics.SPANS.labels("dropped").inc()
            return
        self._queued += 1
        super().on_end(span)


def _span_context(traceparent: str) -> trace.SpanContext:
    return trace.SpanContext(int(traceparent[3:35], 16), int(traceparent[36:52], 16), True, _SAMPLED)
