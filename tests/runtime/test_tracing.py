"""Traces: one from the webhook to the delivery and the chat message, and nothing that slows or betrays it."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from time import monotonic
from typing import Any
from unittest import mock

import httpx
import pytest
from aiohttp import web

from shared.contracts.errors import Misconfigured
from shared.contracts.topics import CHAT_INBOUND
from shared.runtime.tracing import start_tracing
from tests.console.person import Person
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.otlp import CollectedSpan, Collector
from tests.support.outgoing import new_type
from tests.support.ports import free_port
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber, WebhookRequest
from tests.support.tap import Tap

BODY = b'{"zen":"Never in a span.","repository":{"full_name":"a/b"}}'
SERVER = "POST /api/webhooks/{provider}/{endpoint}"
_OTELCOL = shutil.which("otelcol") or str(Path(".cache/otelcol/otelcol").resolve())


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as listening:
        yield listening
        assert not listening.rejected


class TracedHub(Hub):
    """A hub whose gateway has two workers, which fork before they trace."""

    def start_service(self, name: str, *, module: Sequence[str] = (), **env: str) -> None:
        workers = ("interlink", "serve", name, "--workers", "2") if name == "gateway" else ()
        super().start_service(name, module=module or workers, **env)


@pytest.fixture(scope="module", name="hub")
def _hub(
    tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store, collector: Collector
) -> Iterator[Hub]:
    env = {
        "INTERLINK_TRACE_RATIO": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    folder, services = tmp_path_factory.mktemp("hub"), ("gateway", "delivery", "sync", "console")
    with TracedHub(folder, bus, store, services=services, env=env, entrance=True) as hub:
        yield hub


@dataclass
class Sent:
    """A webhook of GitHub, sent with a trace of its sender."""

    endpoint: dict[str, str]
    url: str = ""
    flag: str = "00"
    trace_id: str = field(default_factory=lambda: token_hex(16))
    span_id: str = field(default_factory=lambda: token_hex(8))
    answer: httpx.Response = field(init=False)

    def __post_init__(self) -> None:
        traceparent = f"00-{self.trace_id}-{self.span_id}-{self.flag}"
        headers = signed(self.endpoint["secret"], "ping", BODY, traceparent=traceparent)
        self.answer = httpx.post(self.url or self.endpoint["url"], content=BODY, headers=headers, timeout=30)
        assert self.answer.status_code == 202, self.answer.text


def one(spans: Sequence[CollectedSpan], service: str, name: str, group: str = "") -> CollectedSpan:
    found = [
        span
        for span in spans
        if (span.service, span.name) == (service, name)
        and span.attributes.get("messaging.consumer.group.name", group) == group
    ]
    assert len(found) == 1, [(span.service, span.name, span.attributes) for span in spans]
    return found[0]


def test_one_trace_from_webhook_to_delivery_and_chat_message(
    hub: Hub, bus: Bus, collector: Collector
) -> None:
    """Each step is the child of the one that caused it, and the sender's flag does not count."""
    endpoint, inbound = hub.github_endpoint(channel_id="general"), Tap(bus, CHAT_INBOUND.name)
    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(f"{subscriber.url}/hook-path?key=hook-query", events=["github.ping"])
        sent = Sent(endpoint)
        [got] = subscriber.wait_for(1)
    written = "bulk_write webhook_deliveries"
    spans = collector.wait_for(
        sent.trace_id,
        SERVER,
        "verify",
        "send webhooks.received",
        "attempt",
        written,
        "send chat.inbound",
        "process chat.inbound",
        where=lambda found: sum(span.name == "process webhooks.received" for span in found) == 3,
    )
    request = one(spans, "gateway", SERVER)
    assert (request.kind, request.parent_id) == ("server", sent.span_id)
    assert request.attributes["http.response.status_code"] == 202
    verified = one(spans, "gateway", "verify")
    assert verified.parent_id == request.span_id
    assert verified.attributes["interlink.verdict"] == "verified"
    produced = one(spans, "gateway", "send webhooks.received")
    assert (produced.kind, produced.parent_id) == ("producer", request.span_id)
    assert produced.attributes["messaging.system"] == "kafka"
    fanned_out = one(spans, "delivery", "process webhooks.received", "delivery-fanout")
    assert (fanned_out.kind, fanned_out.parent_id) == ("consumer", produced.span_id)
    attempt = one(spans, "delivery", "attempt")
    assert attempt.parent_id in {fanned_out.span_id} | {
        span.span_id for span in spans if span.name == "process delivery.requested"
    }
    assert attempt.kind == "client"
    assert attempt.attributes["server.address"] == "127.0.0.1"
    assert attempt.attributes["http.response.status_code"] == 204
    assert got.headers["traceparent"] == attempt.traceparent
    assert one(spans, "delivery", written).parent_id == attempt.span_id
    [delivery] = eventually(lambda: hub.deliveries(webhook_id=webhook["id"]))
    assert delivery["trace_id"] == sent.trace_id

    relayed = one(spans, "sync", "process webhooks.received", "sync-relay")
    assert relayed.parent_id == produced.span_id
    published = one(spans, "sync", "send chat.inbound")
    assert published.parent_id == relayed.span_id
    messages = [dict(record.headers) for record in inbound.wait_for(1)]
    assert published.traceparent.encode() in [headers["traceparent"] for headers in messages]
    for service, event in (("gateway", "webhook.accepted"), ("sync", "message.relayed")):
        lines = [line["event"] for line in hub.log_lines(service) if line.get("trace_id") == sent.trace_id]
        assert lines == [event]

    exported = b"".join(collector.raw)
    for secret in (BODY[8:24], endpoint["secret"].encode(), b"hook-path", b"hook-query", b"sha256="):
        assert secret not in exported


def test_events_of_a_program_are_traced(hub: Hub, collector: Collector) -> None:
    """Those without a trace of their own belong to that of the request."""
    kind, request_trace, own_trace = new_type(), token_hex(16), token_hex(16)
    caller, own = token_hex(8), f"00-{own_trace}-{token_hex(8)}-00"
    event = {"specversion": "1.0", "type": kind, "source": "/tests", "data": {}}
    events = [{**event, "id": f"{kind}.1"}, {**event, "id": f"{kind}.2", "traceparent": own}]
    with Subscriber() as subscriber, hub.client("gateway") as client:
        hub.outgoing_webhook(subscriber.url, events=[kind])
        headers = {"traceparent": f"00-{request_trace}-{caller}-00"}
        assert client.post("/api/events", json=events, headers=headers).status_code == 202
        subscriber.wait_for(2)
    spans = collector.wait_for(
        request_trace,
        "POST /api/events",
        "send chat.events",
        "attempt",
        where=lambda found: any(
            (span.service, span.name) == ("delivery", "process chat.events") for span in found
        ),
    )
    request = one(spans, "gateway", "POST /api/events")
    assert (request.kind, request.parent_id) == ("server", caller)
    produced = one(spans, "gateway", "send chat.events")
    assert (produced.kind, produced.parent_id) == ("producer", request.span_id)
    fanned_out = one(spans, "delivery", "process chat.events", "delivery-fanout")
    assert fanned_out.parent_id == produced.span_id
    assert one(spans, "delivery", "attempt")
    others = collector.wait_for(own_trace, "send chat.events", "process chat.events", "attempt")
    assert one(others, "gateway", "send chat.events").parent_id == own.split("-")[2]
    assert one(others, "delivery", "attempt")


def test_calls_of_a_page_are_in_the_trace_of_the_page(hub: Hub, collector: Collector) -> None:
    person, trace_id, browser = Person(hub.url("console")), token_hex(16), token_hex(8)
    with person.client as client:
        person.sign_in(hub.admin_key)
        client.headers["traceparent"] = f"00-{trace_id}-{browser}-00"
        assert person.open("/console/deliveries").status == 200
    spans = collector.wait_for(trace_id, "GET /api/deliveries", "GET /console/deliveries")
    page = one(spans, "console", "GET /console/deliveries")
    assert (page.kind, page.parent_id) == ("server", browser)
    assert one(spans, "delivery", "GET /api/deliveries").parent_id == page.span_id


def test_no_token_in_a_path_becomes_part_of_a_span(hub: Hub, collector: Collector) -> None:
    incoming = hub.call(
        "POST", "/api/incoming-webhooks", {"name": "x", "target_channel_id": "general"}, expect=201
    )
    trace_id = token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{token_hex(8)}-00"}
    assert httpx.post(incoming["url"], json={"text": "never-in-a-span"}, headers=headers).is_success
    collector.wait_for(trace_id, SERVER, "send chat.inbound")
    exported = b"".join(collector.raw)
    assert incoming["url"].rpartition("/")[2].encode() not in exported
    assert b"never-in-a-span" not in exported


def test_a_retry_in_another_process_is_linked_to_the_first_attempt(hub: Hub, collector: Collector) -> None:
    def fails_once(_: WebhookRequest) -> web.StreamResponse | None:
        return web.Response(status=500) if len(subscriber.got) == 1 else None

    endpoint = hub.github_endpoint()
    with Subscriber(fails_once) as subscriber:
        webhook = hub.outgoing_webhook(
            subscriber.url, events=["github.ping"], retry={"schedule": [0, 2], "jitter": 0}
        )
        sent = Sent(endpoint)
        eventually(lambda: [d for d in hub.deliveries(webhook_id=webhook["id"]) if d["status"] == "retrying"])
        collector.wait_for(sent.trace_id, where=lambda found: len(_attempts(found, webhook)) == 1)
        hub.kill("delivery")
        hub.start_service("delivery")
        hub.wait_ready("delivery")
        subscriber.wait_for(2)
        spans = collector.wait_for(sent.trace_id, where=lambda found: len(_attempts(found, webhook)) == 2)
    first, second = _attempts(spans, webhook)
    assert (first.failed, first.links, first.attributes["error.type"]) == (True, (), "500")
    assert second.links == ((first.trace_id, first.span_id),)
    assert second.attributes["http.request.resend_count"] == 1
    assert second.parent_id == first.parent_id
    assert subscriber.got[1].headers["traceparent"] == second.traceparent


def _attempts(spans: Sequence[CollectedSpan], webhook: dict[str, Any]) -> list[CollectedSpan]:
    return [
        span
        for span in spans
        if span.name == "attempt" and span.attributes["interlink.webhook_id"] == webhook["id"]
    ]


def test_a_sender_does_not_choose_what_is_recorded(
    hub: Hub, collector: Collector, tmp_path: Path, bus: Bus, store: Store
) -> None:
    """At a tiny ratio, a request that asks for it is not recorded, nor what follows in other processes."""
    endpoint = hub.github_endpoint()
    env = {"INTERLINK_TRACE_RATIO": "1e-12", "OTEL_SERVICE_NAME": "other"}
    with Subscriber() as subscriber:
        hub.outgoing_webhook(subscriber.url, events=["github.ping"])
        with second_process("gateway", hub, tmp_path, bus, store, **env) as other:
            url = endpoint["url"].replace(hub.url("gateway"), other.url("gateway"))
            sent = Sent(endpoint, url, flag="01")
            later = Sent(endpoint)
        received = subscriber.wait_for(2)
        collector.wait_for(later.trace_id, "attempt")
    assert [span for span in collector.spans if span.trace_id == sent.trace_id] == []
    # Not recorded: the sender's span stays the parent, and the receiver learns that nobody records.
    assert f"00-{sent.trace_id}-{sent.span_id}-00" in [got.headers["traceparent"] for got in received]


def test_a_collector_that_hangs_costs_spans_and_nothing_else(
    hub: Hub, tmp_path: Path, bus: Bus, store: Store
) -> None:
    """The queue is bounded, requests do not wait for it, and neither does the stop."""
    endpoint, hangs = hub.github_endpoint(), threading.Event()
    with Collector(hangs=hangs) as collector:
        env = {
            "INTERLINK_TRACE_RATIO": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_MAX_QUEUE_SIZE": "40",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
        }
        with second_process("gateway", hub, tmp_path, bus, store, **env) as other:
            url = endpoint["url"].replace(hub.url("gateway"), other.url("gateway"))
            slowest = 0.0
            for _ in range(30):  # three spans each
                started = monotonic()
                Sent(endpoint, url)
                slowest = max(slowest, monotonic() - started)
            assert collector.requests == 1
            assert other.metric("gateway", "interlink_spans_total", outcome="dropped") >= 30
            assert slowest < 5  # the collector hangs for a minute
            started = monotonic()
            assert other.stop_service("gateway") == 0
            assert monotonic() - started < 20
        hangs.set()


def test_a_missing_extra_and_another_protocol_are_refused() -> None:
    with mock.patch.dict(os.environ, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}):
        assert start_tracing("x", instance="x", ratio=0) is None
        with pytest.raises(Misconfigured, match="OTEL_EXPORTER_OTLP_PROTOCOL: grpc"):
            start_tracing("x", instance="x", ratio=1)
    with mock.patch.dict(sys.modules, {"opentelemetry": None}):
        sys.modules.pop("shared.runtime.spans", None)
        with pytest.raises(Misconfigured, match=r"pip install 'interlink\[otel\]'"):
            start_tracing("x", instance="x", ratio=1)


@pytest.mark.skipif(not Path(_OTELCOL).exists(), reason="no otelcol on the PATH: `make otelcol` builds one")
def test_the_opentelemetry_collector_takes_the_traces(
    hub: Hub, tmp_path: Path, bus: Bus, store: Store
) -> None:
    port, written = free_port(), tmp_path / "traces.json"
    config = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{port}"}}}},
        "exporters": {"file": {"path": str(written)}},
        "service": {
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}},
            "telemetry": {"metrics": {"level": "none"}},
        },
    }
    with (tmp_path / "otelcol.log").open("wb") as log:
        process = subprocess.Popen([_OTELCOL, "--config", f"yaml:{json.dumps(config)}"], stderr=log)
    try:
        endpoint = hub.github_endpoint()
        env = {
            "INTERLINK_TRACE_RATIO": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        }
        with second_process("gateway", hub, tmp_path / "hub", bus, store, **env) as other:
            sent = Sent(endpoint, endpoint["url"].replace(hub.url("gateway"), other.url("gateway")))
            eventually(lambda: other.metric("gateway", "interlink_spans_total", outcome="exported") >= 3)
        lines = eventually(lambda: written.read_text("utf-8").splitlines() if written.exists() else [])
    finally:
        process.terminate()
        process.wait(30)
    spans = [
        (span["name"], span["traceId"])
        for line in lines
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert {(name, sent.trace_id) for name in (SERVER, "verify", "send webhooks.received")} <= set(spans)
