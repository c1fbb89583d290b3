"""Traces of the hub's steps, off by default.

A traced step hands on its own context in the place of the `traceparent` that it received: in the headers of
the request, in the event or in the record. What follows becomes its child, and no step knows another's span.
A step is traced if the `traceparent` that it received says that the trace is recorded. The gateway decides
that for each request, whatever its sender asks for.

The spans themselves are in `spans.py`, which nothing imports before traces are on.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from shared.contracts.errors import Misconfigured
from shared.wire.tracing import is_traceparent, new_traceparent

if TYPE_CHECKING:
    from shared.runtime.spans import Tracer

tracer: "Tracer | None" = None
"""The tracer of this process; None while traces are off, which is all that the hot paths ask."""


def start_tracing(service: str, *, instance: str, ratio: float) -> "Tracer | None":
    """Start the tracer of this process and its exporting thread; return None if `ratio` is 0.

    To be called after every fork. Raises `Misconfigured` if the extra `otel` is not installed, or a protocol
    other than OTLP over HTTP is wanted.
    """
    if not ratio or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if protocol not in (None, "", "http/protobuf"):
        raise Misconfigured(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol} is not supported, only http/protobuf")
    try:
        spans = import_module("shared.runtime.spans")
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"INTERLINK_TRACE_RATIO: {error.name} is not installed: pip install 'interlink[otel]', or set 0"
        ) from None
    try:
        started: Tracer = spans.Tracer(service, instance=instance, ratio=ratio)
    except ValueError as error:  # of the SDK, about its variables
        raise Misconfigured(f"OTEL_BSP_...: {error}") from None
    return started


def continue_trace(traceparent: str) -> str:
    """Return a `traceparent` of the hub unchanged, or that of a new trace if it is not valid."""
    if is_traceparent(traceparent):
        return traceparent
    return new_traceparent(sampled=tracer is None or tracer.is_chosen())


def admit_trace(traceparent: str) -> str:
    """Return the `traceparent` of a stranger for use in the hub: its trace id counts, its flag does not."""
    return continue_trace(traceparent) if tracer is None else tracer.admit(traceparent)
