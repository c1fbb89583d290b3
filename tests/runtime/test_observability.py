"""What an operator sees: readiness that tells the truth, metrics, logs with one trace id, a clean stop."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from interlink.embedded import Embedded
from tests.support.backends import Bus, Store, embedded, embedded_bus
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.ports import free_port
from tests.support.subscriber import Subscriber

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
BODY = b'{"zen":"Keep it logically awesome.","repository":{"full_name":"a/b"}}'


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

    assert lines("gateway") == ["webhook accepted"]
    assert eventually(lambda: lines("delivery")) == ["delivery attempted"]
    assert eventually(lambda: lines("sync")) == ["message relayed"]


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
    eventually(lambda: hub.metric("delivery", "interlink_deliveries_total", outcome="delivered") >= 1)
    assert hub.metric("delivery", "interlink_attempt_seconds_bucket", le="30.0") >= 1
    assert hub.metric("delivery", "interlink_event_age_seconds_count") >= 1
    assert hub.metric("delivery", "interlink_handled_total", topic="webhooks.received") >= 1
    assert hub.metric("sync", "interlink_handled_total", topic="webhooks.received") >= 1
    text = httpx.get(hub.url("delivery") + "/metrics").text
    assert 'interlink_consumer_lag{group="delivery-attempt",partition="' in text
    assert "interlink_dead_lettered_total" in text


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Embedded, Hub]]:
    """A hub on a pair of its own, which the test may stop."""
    pair = embedded(tmp_path / "pair")
    hub = Hub(
        tmp_path / "hub",
        embedded_bus(pair),
        Store("own", pair.mongodb_uri.rsplit("/", 1)[0]),
        services=("delivery",),
    )
    try:
        yield pair, hub
    finally:
        hub.stop()
        pair.stop()


def test_readiness_tells_the_truth(own: tuple[Embedded, Hub]) -> None:
    pair, hub = own
    hub.init("default")
    hub.start_service("delivery")
    before = eventually(lambda: _checks(hub))
    assert before["delivery-attempt_assigned"] is False, "ready before the first assignment"
    hub.wait_ready("delivery")

    store = pair.store.child.pid
    assert store
    os.kill(store, signal.SIGSTOP)
    try:
        eventually(lambda: _checks(hub).get("store_answers") is False)
        assert httpx.get(hub.url("delivery") + "/readyz", timeout=10).status_code == 503
        assert httpx.get(hub.url("delivery") + "/healthz").status_code == 200
    finally:
        os.kill(store, signal.SIGCONT)
    eventually(lambda: _checks(hub).get("store_answers") is True)

    assert hub.stop_service("delivery") == 0


def _checks(hub: Hub) -> dict[str, bool]:
    try:
        return dict(httpx.get(hub.url("delivery") + "/readyz", timeout=10).json()["checks"])
    except httpx.HTTPError:
        return {}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"KAFKA_BOOTSTRAP_SERVERS": None}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"MONGODB_URI": None}, "MONGODB_URI"),
        ({"MONGODB_URI": "nonsense"}, "MONGODB_URI"),
        ({"INTERLINK_ENCRYPTION_KEY": None}, "openssl rand -base64 32"),
        ({"INTERLINK_ENCRYPTION_KEY": "c2hvcnQ="}, "32 bytes in base64"),
        ({"INTERLINK_PORT": "seventy"}, "INTERLINK_PORT"),
        ({"INTERLINK_LOG_LEVEL": "loud"}, "INTERLINK_LOG_LEVEL"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    hub: Hub, changed: dict[str, str | None], said: str
) -> None:
    env = {**hub.env, "INTERLINK_PORT": str(free_port())}
    for name, value in changed.items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    done = subprocess.run(
        [sys.executable, "-m", "interlink", "serve", "gateway"],
        env=env,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    lines = done.stderr.decode().strip().splitlines()
    assert len(lines) == 1, lines
    assert said in lines[0]


def test_a_taken_port_is_said(hub: Hub) -> None:
    env = {**hub.env, "INTERLINK_PORT": str(hub.ports["gateway"])}
    done = subprocess.run(
        [sys.executable, "-m", "interlink", "serve", "gateway"],
        env=env,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{hub.ports['gateway']}" in done.stderr.decode()


def test_sigterm_drains(tmp_path: Path, bus: Bus, store: Store) -> None:
    hub = Hub(tmp_path, bus, store).start()
    try:
        for service in hub.services:
            assert hub.stop_service(service) == 0
            assert hub.log_lines(service)[-1]["event"] == "stopped"
    finally:
        hub.stop()
