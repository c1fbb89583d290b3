"""What an operator sees: correct readiness, metrics, logs with one trace id, a clean stop."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from time import monotonic

import httpx
import pytest

from docs.generator.alerts import rules
from docs.generator.dashboards import dashboards, queries, runbook_queries
from docs.generator.metrics import metrics_page
from interlink.embedded import EmbeddedPair
from tests.support.backends import Bus, Store, embedded, embedded_bus
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.ports import free_port
from tests.support.second_process import second_process
from tests.support.services import completed
from tests.support.subscriber import Subscriber
from tests.support.tap import RawRecord, Tap, put

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
BODY = b'{"zen":"Keep it logically awesome.","repository":{"full_name":"a/b"}}'


@pytest.fixture(scope="module", autouse=True)
def nowhere(hub: Hub) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway without MongoDB, started first: it gives up after half a minute."""
    port = str(free_port())
    uri = f"mongodb://operator:hidden@127.0.0.1:{free_port()}/interlink"
    env = {**hub.env, "INTERLINK_PORT": port, "MONGODB_URI": uri, "MONGODB_TIMEOUT_MS": "500"}
    command = [sys.executable, "-m", "interlink", "serve", "gateway"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_one_trace_id_from_webhook_to_delivery(hub: Hub) -> None:
    endpoint = hub.github_endpoint(channel_id="general")
    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(subscriber.url, events=["github.ping"])
        headers = signed(endpoint["secret"], "ping", BODY, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
        assert httpx.post(endpoint["url"], content=BODY, headers=headers).status_code == 202
        got = subscriber.wait_for(1)[0]
    assert got.headers["traceparent"][3:35] == TRACE
    logged = eventually(lambda: hub.deliveries(webhook_id=webhook["id"]))
    assert logged[0]["trace_id"] == TRACE

    def lines(service: str) -> list[str]:
        return [line["event"] for line in hub.log_lines(service) if line.get("trace_id") == TRACE]

    assert eventually(lambda: lines("gateway")) == ["webhook.accepted"]
    assert eventually(lambda: lines("delivery")) == ["delivery.attempted"]
    assert eventually(lambda: lines("sync")) == ["message.relayed"]


@pytest.mark.parametrize("sent", [None, "garbage", f"00-{'0' * 32}-00f067aa0ba902b7-01"])
def test_a_trace_id_is_created_if_the_caller_sends_none(hub: Hub, sent: str | None) -> None:
    """A new trace id for each webhook, the same in all services."""
    endpoint = hub.github_endpoint(channel_id="general")
    with Subscriber() as subscriber:
        hub.outgoing_webhook(subscriber.url, events=["github.ping"])
        headers = signed(endpoint["secret"], "ping", BODY, **({"traceparent": sent} if sent else {}))
        event_id = httpx.post(endpoint["url"], content=BODY, headers=headers).json()["event_id"]
        [got] = subscriber.wait_for(1)
    trace = got.headers["traceparent"][3:35]
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]", got.headers["traceparent"])
    assert trace != TRACE
    [accepted] = eventually(lambda: [x for x in hub.log_lines("gateway") if x.get("event_id") == event_id])
    assert accepted["trace_id"] == trace
    for service in ("delivery", "sync"):
        eventually(lambda name=service: [x for x in hub.log_lines(name) if x.get("trace_id") == trace])  # type: ignore[misc]


def test_every_log_line_is_json(hub: Hub) -> None:
    for service in hub.services:
        lines = hub.log_text(service).splitlines()
        assert lines
        assert len(hub.log_lines(service)) == len(lines)
        assert all({"event", "level", "time", "service"} <= line.keys() for line in hub.log_lines(service))


def test_the_metrics_that_operators_need(hub: Hub) -> None:
    endpoint = hub.github_endpoint(channel_id="general")
    with Subscriber() as subscriber:
        hub.outgoing_webhook(subscriber.url, events=["github.ping"])
        accepted = hub.metric("gateway", "interlink_requests_total", outcome="accepted")
        headers = signed(endpoint["secret"], "ping", BODY)
        assert httpx.post(endpoint["url"], content=BODY, headers=headers).status_code == 202
        wrong = headers | {"x-hub-signature-256": "sha256=" + "0" * 64}
        assert httpx.post(endpoint["url"], content=BODY, headers=wrong).status_code == 401
        subscriber.wait_for(1)
    assert hub.metric("gateway", "interlink_requests_total", outcome="accepted") == accepted + 1
    assert (
        hub.metric("gateway", "interlink_signature_failures_total", provider="github", reason="mismatch") >= 1
    )
    assert hub.metric("gateway", "interlink_produce_seconds_count", topic="webhooks.received") >= 1
    for service, name, labels in (
        ("delivery", "interlink_deliveries_total", {"outcome": "delivered"}),
        ("delivery", "interlink_attempt_seconds_bucket", {"le": "30.0"}),
        ("delivery", "interlink_event_age_seconds_count", {}),
        ("delivery", "interlink_handled_total", {"topic": "webhooks.received"}),
        ("sync", "interlink_handled_total", {"topic": "webhooks.received"}),
    ):
        eventually(partial(hub.metric, service, name, **labels))
    text = httpx.get(hub.url("delivery") + "/metrics").text
    assert 'interlink_consumer_lag{group="delivery-attempt",partition="' in text
    assert "interlink_dead_lettered_total" in text
    assert 'interlink_consumer_position{group="delivery-attempt",partition="' in text
    for service, kind in (("gateway", "event"), ("delivery", "attempt")):
        assert hub.metric(service, "interlink_workspace_usage_total", workspace="default", kind=kind) >= 1
    assert hub.metric("delivery", "interlink_first_attempts_total", outcome="in_time") >= 1
    assert 'interlink_build_info{service="delivery",version="' in text


def test_every_query_is_about_metrics_and_labels_that_are_exported(hub: Hub) -> None:
    """Those of the rules, the dashboards and the runbooks."""
    texts = [httpx.get(hub.url(service) + "/metrics").text for service in hub.services]
    exported = {name for text in texts for name in re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE)}
    exported |= {name + part for name in exported for part in ("_bucket", "_count", "_sum")}
    groups = rules()["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    asked = [rule["expr"] for group in groups for rule in group["rules"]]
    asked += [query for board in dashboards().values() for query in queries(board)]
    for page in Path("docs/runbooks").glob("*.md"):
        asked += runbook_queries(page.read_text("utf-8"))
    named = {name for query in asked for name in re.findall(r"\b(?:interlink|process)[_:][\w:]+", query)}
    assert named - recorded - exported == set()
    labels = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"\| \w+ \| (`.*?) \|", metrics_page()))))
    used = {
        label.strip()
        for query in asked
        for part in re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
        for label in part.split(",")
    } | {label for query in asked for label in re.findall(r"(\w+)=~?\"", query)}
    assert used - labels == {"alertname", "alertstate", "instance", "le"}


def test_requests_are_counted_by_their_outcome(hub: Hub) -> None:
    endpoint = hub.github_endpoint()
    headers = signed(endpoint["secret"], "ping", BODY)
    wrong = headers | {"x-hub-signature-256": "sha256=" + "0" * 64}
    large = {**headers, "content-length": str(2**21)}
    nowhere = hub.url("gateway") + "/api/webhooks/github/nothing"
    calls: tuple[tuple[str, str, str, bytes, Mapping[str, str]], ...] = (
        ("accepted", "POST", endpoint["url"], BODY, headers),
        ("duplicate", "POST", endpoint["url"], BODY, headers),
        ("signature", "POST", endpoint["url"], BODY, wrong),
        ("malformed", "POST", endpoint["url"], b"x", signed(endpoint["secret"], "ping", b"x")),
        ("method", "GET", endpoint["url"], b"", {}),
        ("not_found", "POST", nowhere, BODY, headers),
        ("too_large", "POST", endpoint["url"], bytes(2**21), large),
    )
    for outcome, method, url, body, sent in calls:
        before = hub.metric("gateway", "interlink_requests_total", route="webhook", outcome=outcome)
        try:
            httpx.request(method, url, content=body, headers=sent, timeout=10)
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            assert outcome == "too_large"  # it hung up before it was sent
        after = hub.metric("gateway", "interlink_requests_total", route="webhook", outcome=outcome)
        assert after == before + 1, outcome


@pytest.mark.parametrize(
    ("change", "reason"),
    [(None, "missing"), ("sha256=00", "mismatch"), ("x", "unreadable")],
)
def test_signature_failures_are_counted_by_their_reason(hub: Hub, change: str | None, reason: str) -> None:
    endpoint = hub.github_endpoint()
    headers = signed(endpoint["secret"], "ping", BODY)
    del headers["x-hub-signature-256"]
    if change:
        headers["x-hub-signature-256"] = change
    counted = {"provider": "github", "reason": reason}
    before = hub.metric("gateway", "interlink_signature_failures_total", **counted)
    assert httpx.post(endpoint["url"], content=BODY, headers=headers).status_code == 401
    assert hub.metric("gateway", "interlink_signature_failures_total", **counted) == before + 1


def test_dead_letters_are_counted_by_topic_and_lag_by_partition(hub: Hub, bus: Bus) -> None:
    """A record that is no event, between two events: it is counted once, and no partition lags."""
    counted = {"topic": "chat.events", "group": "delivery-fanout", "reason": "malformed"}
    before = hub.metric("delivery", "interlink_dead_lettered_total", **counted)
    handled = hub.metric("delivery", "interlink_handled_total", topic="chat.events", group="delivery-fanout")
    good = [
        ("ce_specversion", b"1.0"),
        ("ce_id", token_hex(8).encode()),
        ("ce_type", b"a.b"),
        ("ce_source", b"/test"),
        ("workspace", hub.workspace.encode()),
    ]
    records = [RawRecord(b"k", b"{}", good), RawRecord(b"k", b"{}", good[:-1]), RawRecord(b"k", b"{}", good)]
    partition = put(bus, "chat.events", records)[0][0]

    def seen() -> bool:
        """The metrics have all three."""
        now = hub.metric("delivery", "interlink_handled_total", topic="chat.events", group="delivery-fanout")
        return now >= handled + 3

    eventually(seen)
    assert hub.metric("delivery", "interlink_dead_lettered_total", **counted) == before + 1
    text = httpx.get(hub.url("delivery") + "/metrics").text
    sample = (
        rf'interlink_consumer_lag{{group="delivery-fanout",partition="{partition}",topic="chat.events"}} 0\.0'
    )
    assert re.search(sample, text), text


def test_the_last_bucket_is_the_timeout_of_an_attempt(hub: Hub) -> None:
    """The default timeout is 30 s. Durations beyond the last bucket cannot be distinguished."""
    answer = httpx.get(hub.url("delivery") + "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in ("interlink_attempt_seconds", "interlink_event_age_seconds"):
        bounds = [float(bound) for bound in re.findall(rf'{name}_bucket{{le="([^"]+)"}}', answer.text)]
        assert bounds == sorted(bounds)
        assert bounds[-2:] == [30.0, float("inf")]
        assert bounds[0] <= 0.01


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedPair, Hub]]:
    """A hub with its own broker and database, which tests may stop. Tests start its services."""
    tmp_path = tmp_path_factory.mktemp("own")
    pair = embedded(tmp_path / "pair")
    hub = Hub(
        tmp_path / "hub",
        embedded_bus(pair),
        Store("own", pair.mongodb_uri),
        services=("gateway", "delivery"),
    )
    try:
        yield pair, hub
    finally:
        hub.stop()
        pair.stop()


_IMPATIENT = """
import sys
from interlink.cli import app
from shared.runtime import prerequisites
prerequisites.WAIT_S = 0.5
app(["serve", *sys.argv[1:]])
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_missing_topics_and_indexes_stop_the_start_with_one_line(
    own: tuple[EmbeddedPair, Hub], workers: int
) -> None:
    """Before `interlink init`; after half a second instead of half a minute."""
    _, hub = own
    env = {**hub.env, "INTERLINK_PORT": str(free_port())}
    command = (sys.executable, "-c", _IMPATIENT, "delivery", "--workers", str(workers))
    done = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    lines = set(done.stderr.decode().strip().splitlines())  # of each worker
    assert len(lines) == 1, lines
    line = lines.pop()
    assert "topics are missing (webhooks.received, chat.events, integration.events" in line
    assert "indexes are missing (outgoing_webhooks(" in line
    assert "run 'interlink init'" in line
    assert b"Traceback" not in done.stdout


def test_readiness_follows_broker_and_database(own: tuple[EmbeddedPair, Hub]) -> None:
    """A service that starts beside `interlink init` waits for it."""
    pair, hub = own
    hub.start_service("delivery")
    waits = {"topics", "indexes"}
    eventually(
        lambda: (
            waits
            == {line["kind"] for line in hub.log_lines("delivery") if line["event"] == "service.start_waits"}
        )
    )
    hub.init("default")
    before = eventually(lambda: _checks(hub))
    assert before["delivery-attempt_assigned"] is False, "ready before the first assignment"
    hub.wait_ready("delivery")

    store = pair.database.child.pid
    assert store
    os.kill(store, signal.SIGSTOP)
    try:
        eventually(lambda: _checks(hub).get("store_answers") is False)
        assert httpx.get(hub.url("delivery") + "/readyz", timeout=10).status_code == 503
        assert httpx.get(hub.url("delivery") + "/healthz").status_code == 200
    finally:
        os.kill(store, signal.SIGCONT)
    eventually(lambda: _checks(hub).get("store_answers") is True)

    eventually(lambda: all(_checks(hub).values()))
    assert httpx.get(hub.url("delivery") + "/readyz", timeout=10).status_code == 200
    assert hub.stop_service("delivery") == 0


def test_a_gateway_without_a_broker_is_not_ready(own: tuple[EmbeddedPair, Hub]) -> None:
    """Before the first connection, and after a send was not acknowledged, until the broker is back."""
    pair, hub = own
    hub.init("default")
    pair.broker.kill()
    hub.start_service("gateway")
    eventually(lambda: _checks(hub, "gateway"))
    for _ in range(2):
        assert _checks(hub, "gateway") == {
            "not_draining": True,
            "producer_has_metadata": False,
            "store_answers": True,
        }
        assert httpx.get(hub.url("gateway") + "/readyz").status_code == 503
        assert httpx.get(hub.url("gateway") + "/healthz").status_code == 200
        endpoint = hub.github_endpoint()
        assert _ping(endpoint) == 503
        pair.broker.start()
        hub.init("default")  # the broker came back empty
        hub.wait_ready("gateway")
        assert eventually(lambda made=endpoint: _ping(made) == 202)  # type: ignore[misc]
        pair.broker.kill()
        started = monotonic()
        assert _ping(endpoint) == 503
        assert monotonic() - started < 10


def _ping(endpoint: Mapping[str, str]) -> int:
    headers = signed(endpoint["secret"], "ping", BODY)
    return httpx.post(endpoint["url"], content=BODY, headers=headers, timeout=10).status_code


def _checks(hub: Hub, service: str = "delivery") -> dict[str, bool]:
    try:
        return dict(httpx.get(hub.url(service) + "/readyz", timeout=10).json()["checks"])
    except httpx.HTTPError:
        return {}


WRONG: tuple[tuple[dict[str, str | None], str], ...] = (
    ({"KAFKA_BOOTSTRAP_SERVERS": None}, "KAFKA_BOOTSTRAP_SERVERS"),
    ({"MONGODB_URI": None}, "MONGODB_URI"),
    ({"MONGODB_URI": "nonsense"}, "MONGODB_URI"),
    ({"MONGODB_URI": "mongodb://operator:hidden@127.0.0.1:port/"}, "MONGODB_URI"),
    ({"MONGODB_URI": "mongodb://operator:hid@den@127.0.0.1/"}, "MONGODB_URI"),
    ({"MONGODB_TIMEOUT_MS": "0"}, "MONGODB_TIMEOUT_MS"),
    (
        {"MONGODB_PASSWORD_FILE": "/nowhere/password"},
        "MONGODB_PASSWORD_FILE: /nowhere/password cannot",
    ),
    ({"INTERLINK_ENCRYPTION_KEY": None}, "openssl rand -base64 32"),
    (
        {"INTERLINK_ENCRYPTION_KEY": None, "INTERLINK_ENCRYPTION_KEY_FILE": "/nowhere/key"},
        "INTERLINK_ENCRYPTION_KEY_FILE: /nowhere/key cannot be read",
    ),
    ({"INTERLINK_ENCRYPTION_KEY": "c2hvcnQ="}, "32 bytes in base64"),
    ({"INTERLINK_ENCRYPTION_KEY": "hidden,hidden"}, "INTERLINK_ENCRYPTION_KEY"),
    ({"INTERLINK_PORT": "seventy"}, "INTERLINK_PORT"),
    ({"INTERLINK_PORT": "70000"}, "INTERLINK_PORT"),
    ({"INTERLINK_HOST": "192.0.2.1"}, "192.0.2.1"),
    ({"INTERLINK_HOST": "nonsense.invalid"}, "nonsense.invalid"),
    ({"INTERLINK_LOG_LEVEL": "loud"}, "INTERLINK_LOG_LEVEL"),
    ({"INTERLINK_DRAIN_SECONDS": "soon"}, "INTERLINK_DRAIN_SECONDS"),
    ({"INTERLINK_PUBLIC_URL": "nonsense"}, "INTERLINK_PUBLIC_URL"),
    ({"INTERLINK_MAX_BODY_BYTES": "1"}, "INTERLINK_MAX_BODY_BYTES"),
    ({"INTERLINK_PEERS": "nonsense"}, "INTERLINK_PEERS"),
    ({"INTERLINK_PEERS": '{"delivery":"nonsense"}'}, "INTERLINK_PEERS"),
    ({"KAFKA_SECURITY_PROTOCOL": "NONE"}, "KAFKA_SECURITY_PROTOCOL"),
    ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CAFILE": "nowhere.pem"}, "KAFKA_SSL_CAFILE"),
    ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "KAFKA_SASL_USERNAME"),
    (
        {
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_USERNAME": "hub",
            "KAFKA_SASL_PASSWORD_FILE": "/nowhere/password",
        },
        "KAFKA_SASL_PASSWORD_FILE: /nowhere/password cannot be read",
    ),
)


@pytest.fixture(scope="module")
def starts(hub: Hub) -> list[subprocess.CompletedProcess[bytes]]:
    """The gateway, started once for every wrong setting."""
    return [_start(hub, wrong) for wrong, _ in WRONG]


def _start(hub: Hub, changed: Mapping[str, str | None]) -> subprocess.CompletedProcess[bytes]:
    env = {**hub.env, "INTERLINK_PORT": str(free_port()), **changed}
    given = {name: value for name, value in env.items() if value is not None}
    return completed(("interlink", "serve", "gateway"), given, within_s=60)


@pytest.mark.parametrize("which", range(len(WRONG)), ids=lambda which: str(WRONG[which][0])[1:60])
def test_a_wrong_setting_stops_the_start_with_one_line(
    starts: list[subprocess.CompletedProcess[bytes]], which: int
) -> None:
    """The line names the setting and the reason, and repeats no secret."""
    done = starts[which]
    assert done.returncode == 2
    lines = done.stderr.decode().strip().splitlines()
    assert len(lines) == 1, lines
    assert WRONG[which][1] in lines[0]
    assert "hidden" not in lines[0]
    assert b"Traceback" not in done.stdout


def test_a_port_in_use_is_named(hub: Hub) -> None:
    done = _start(hub, {"INTERLINK_PORT": str(hub.ports["gateway"])})
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{hub.ports['gateway']}" in done.stderr.decode()


@contextmanager
def _half_sent(gateway: Hub, endpoint: Mapping[str, str], body: bytes) -> Iterator[socket.socket]:
    """A request whose last byte is still to come."""
    path = "/" + endpoint["url"].split("/", 3)[3]
    fields = {**signed(endpoint["secret"], "ping", body), "content-length": str(len(body)), "host": "x"}
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with socket.create_connection(("127.0.0.1", gateway.ports["gateway"]), timeout=20) as connection:
        connection.sendall(head.encode() + b"\r\n" + body[:-1])
        yield connection


def test_sigterm_finishes_requests_under_way_and_accepts_no_new_ones(
    hub: Hub, bus: Bus, store: Store, tmp_path: Path
) -> None:
    """One request that ends, one that does not: the first is published, the other gets 503."""
    tap = Tap(bus, "webhooks.received")
    endpoint = hub.github_endpoint()
    with (
        second_process("gateway", hub, tmp_path, bus, store, INTERLINK_DRAIN_SECONDS="6") as other,
        _half_sent(other, endpoint, BODY) as ends,
        _half_sent(other, endpoint, BODY) as lasts,
    ):
        eventually(lambda: other.metric("gateway", "interlink_requests_in_flight") == 2)
        stopped_at = monotonic()
        os.kill(other.pid("gateway"), signal.SIGTERM)
        eventually(lambda: not _listens(other.ports["gateway"]))
        ends.sendall(BODY[-1:])
        assert ends.recv(1000).startswith(b"HTTP/1.1 202")
        assert lasts.recv(1000).startswith(b"HTTP/1.1 503")
        assert other.stop_service("gateway") == 0
        assert monotonic() - stopped_at < 6 + 10
        assert other.log_lines("gateway")[-1]["event"] == "service.stopped"
        assert "Traceback" not in other.log_text("gateway")
    assert [record.key for record in tap.look()].count(endpoint["id"].encode()) == 1


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_sigterm_drains(hub: Hub) -> None:
    """Keep it last: it stops the hub of this module."""
    for service in hub.services:
        assert hub.stop_service(service) == 0
        assert hub.log_lines(service)[-1]["event"] == "service.stopped"


def test_a_missing_database_stops_the_start_with_one_line(nowhere: subprocess.Popen[bytes]) -> None:
    """After 30 s only: the database may start later than the hub."""
    out, complaint = nowhere.communicate(timeout=60)
    assert nowhere.returncode == 2
    [line] = complaint.decode().strip().splitlines()
    assert "MONGODB_URI" in line
    assert "30 s" in line
    assert "hidden" not in line + out.decode()
    assert b"Traceback" not in out
