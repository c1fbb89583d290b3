"""A collector of traces: takes OTLP over HTTP as the specification has it, and refuses anything else."""

import gzip
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.eventually import eventually

_TYPE = "application/x-protobuf"


@dataclass(frozen=True)
class CollectedSpan:
    """One span, with the resource that sent it."""

    service: str
    instance: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    """Trace id and span id of each."""
    attributes: dict[str, Any]
    failed: bool

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"


@dataclass
class Collector:
    """Listens on a port of its own. While `refuses` is set, it answers 503; while `hangs` is set, nothing."""

    spans: list[CollectedSpan] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    """What was wrong with requests that do not follow the specification."""
    raw: list[bytes] = field(default_factory=list)
    refuses: bool = False
    hangs: threading.Event | None = None
    requests: int = 0

    def __enter__(self) -> Self:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector.requests += 1
                body = self.rfile.read(int(self.headers["content-length"]))
                if collector.hangs:
                    collector.hangs.wait(60)
                wrong = "" if collector.refuses else collector.take(self.path, dict(self.headers), body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(503 if collector.refuses else 400 if wrong else 200)
                self.send_header("content-type", _TYPE)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> str:
        """Add the spans of a request; return what is wrong with it, '' for nothing."""
        named = {name.lower(): value for name, value in headers.items()}
        wrong = ""
        if path != "/v1/traces":
            wrong = f"path {path}"
        elif named.get("content-type") != _TYPE:
            wrong = f"content type {named.get('content-type')}"
        if not wrong:
            body = gzip.decompress(body) if named.get("content-encoding") == "gzip" else body
            request = ExportTraceServiceRequest()
            request.ParseFromString(body)
            if request.SerializeToString() and not request.resource_spans:
                wrong = "no spans"
            found = [
                _span(resource.resource.attributes, span)
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]
            self.raw.append(body)
            self.spans += found
        if wrong:
            self.rejected.append(wrong)
        return wrong

    def wait_for(
        self, trace_id: str, *names: str, where: Callable[[list[CollectedSpan]], bool] = bool
    ) -> list[CollectedSpan]:
        """The spans of a trace, in the order of arrival, once it has these names and `where` holds."""

        def found() -> list[CollectedSpan]:
            spans = [span for span in self.spans if span.trace_id == trace_id]
            has_all = set(names) <= {span.name for span in spans}
            return spans if has_all and where(spans) else []

        try:
            return eventually(found)
        except AssertionError:
            have = [(span.service, span.name) for span in self.spans if span.trace_id == trace_id]
            raise AssertionError(f"{names} are not all in {have}") from None


def _span(resource: Any, span: trace_pb2.Span) -> CollectedSpan:
    assert len(span.trace_id) == 16
    assert len(span.span_id) == 8
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
    names = _attributes(resource)
    return CollectedSpan(
        service=str(names["service.name"]),
        instance=str(names["service.instance.id"]),
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        attributes=_attributes(span.attributes),
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}
