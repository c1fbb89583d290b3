"""The runbooks, rehearsed: a fault makes an alert's expression true, and after its end it clears.

A real Prometheus scrapes a real hub once a second, and has the rules of `deploy/monitoring` with all windows
a hundredth as long.
"""

import base64
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any, Final, NamedTuple, TypeVar

import httpx
import pytest
from pymongo import MongoClient

from docs.generator.alerts import ALERTS, rules
from docs.generator.dashboards import dashboards, queries, runbook_queries
from docs.generator.monitoring import rules_text
from interlink.embedded import EmbeddedPair, EmbeddedServer
from shared.contracts.topics import INTEGRATION_EVENTS
from shared.runtime.encryption_keys import COLLECTION
from shared.runtime.secrets import LocalKeyProvider
from tests.faults.durability import chat_event
from tests.support.accounts import SECRET, Accounts
from tests.support.backends import Store, embedded, embedded_bus
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.outgoing import Moody, new_type
from tests.support.prometheus import PROGRAM, Prometheus, prometheus
from tests.support.provider_hosts import Reply
from tests.support.rotating_server import RotatingServer
from tests.support.subscriber import Subscriber
from tests.support.tap import RawRecord, Tap, put

FACTOR: Final = 0.01
LAG: Final = 150
"""Records; above the 10,000 of the alert by the factor."""
BODY: Final = b'{"zen":"Keep it logically awesome.","repository":{"full_name":"a/b"}}'

REHEARSED: Final[set[str]] = set()


class Rehearsal(NamedTuple):
    hub: Hub
    pair: EmbeddedPair
    prometheus: Prometheus
    windows: list[tuple[str, dict[str, str]]]
    """Alerts that clear when a window is over; the last test waits for all of them at once."""

    def is_true(self, name: str, **labels: str) -> None:
        """Wait until the expression of an alert is true."""
        eventually(lambda: self.prometheus.true(name, labels), 90)

    def is_clear(self, name: str, **labels: str) -> None:
        """Wait until it is not any more."""
        eventually(lambda: not self.prometheus.true(name, labels), 90)

    def clears_later(self, name: str, **labels: str) -> None:
        """Let the last test wait until an alert that was true is clear."""
        self.windows.append((name, labels))

    def ping(self, endpoint: dict[str, Any]) -> int:
        """Send a webhook; the status of the answer."""
        url = (
            self.hub.url("gateway")
            + endpoint["url"].partition("/api/")[1]
            + endpoint["url"].partition("/api/")[2]
        )
        body = BODY.replace(b"logically", os.urandom(4).hex().encode())
        return httpx.post(
            url, content=body, headers=signed(endpoint["secret"], "ping", body), timeout=30
        ).status_code


Test = TypeVar("Test", bound=Callable[..., None])


def rehearses(*names: str) -> Callable[[Test], Test]:
    """Note that a test rehearses the runbooks of these alerts."""
    REHEARSED.update(names)
    return lambda test: test


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    if PROGRAM is None:
        pytest.skip("Prometheus is not installed (Debian: prometheus)")
    folder = tmp_path_factory.mktemp("rehearsal")
    with ExitStack() as stack:
        pair = embedded(folder / "pair")
        stack.callback(pair.stop)
        hub = Hub(
            folder / "hub",
            embedded_bus(pair),
            Store("own", pair.mongodb_uri),
            services=("gateway", "delivery", "oauth"),
            env={"INTERLINK_UPKEEP_EVERY_S": "0.3"},
        )
        stack.callback(hub.stop)
        hub.init("default")
        for name in hub.services:
            own = {"INTERLINK_PUBLIC_URL": hub.url("oauth")} if name == "oauth" else {}
            hub.start_service(name, **own)
        for name in hub.services:
            hub.wait_ready(name)
        file = folder / "rules.yaml"
        file.write_text(rules_text(rules(factor=FACTOR)), "utf-8")
        targets = [f"127.0.0.1:{port}" for port in hub.ports.values()]
        yield Rehearsal(hub, pair, stack.enter_context(prometheus(folder, targets, file)), [])


@contextmanager
def stopped(pid: int | None) -> Iterator[None]:
    """A process does nothing meanwhile."""
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def process_of(server: EmbeddedServer) -> int | None:
    return server.child.pid


def test_each_alert_is_rehearsed() -> None:
    assert {alert.name for alert in ALERTS} == REHEARSED


@rehearses("InterlinkBrokerUnavailable", "InterlinkAcceptanceBurnRate")
def test_kafka_does_not_answer(rehearsal: Rehearsal) -> None:
    endpoint = rehearsal.hub.github_endpoint()
    assert rehearsal.ping(endpoint) == 202
    rehearsal.is_clear("InterlinkBrokerUnavailable")
    with stopped(process_of(rehearsal.pair.broker)):
        eventually(
            lambda: (
                rehearsal.ping(endpoint) == 503
                and rehearsal.prometheus.true("InterlinkAcceptanceBurnRate", {"severity": "page"})
            )
        )
        rehearsal.is_true("InterlinkBrokerUnavailable")
    eventually(lambda: rehearsal.ping(endpoint) == 202)
    rehearsal.is_clear("InterlinkBrokerUnavailable")
    rehearsal.clears_later("InterlinkAcceptanceBurnRate", severity="page")


@rehearses("InterlinkFirstAttemptBurnRate")
def test_delivery_stands_still(rehearsal: Rehearsal) -> None:
    hub, endpoint = rehearsal.hub, rehearsal.hub.github_endpoint()
    alert, page = "InterlinkFirstAttemptBurnRate", {"severity": "page"}
    with Subscriber() as subscriber:
        hub.outgoing_webhook(subscriber.url, events=["github.ping"])
        assert rehearsal.ping(endpoint) == 202
        subscriber.wait_for(1)
        rehearsal.is_clear(alert, **page)
        with stopped(hub.pid("delivery")):
            for _ in range(5):
                assert rehearsal.ping(endpoint) == 202
            sleep(6)
        subscriber.wait_for(6)
        rehearsal.is_true(alert, **page)
    rehearsal.clears_later(alert, **page)


@rehearses("InterlinkDeadLetters")
def test_a_record_is_no_event(rehearsal: Rehearsal) -> None:
    labels = {"group": "delivery-fanout", "topic": "chat.events", "reason": "malformed"}
    rehearsal.is_clear("InterlinkDeadLetters")
    put(rehearsal.hub.bus, "chat.events", [RawRecord(b"key", b"no event", ())])
    rehearsal.is_true("InterlinkDeadLetters", **labels)
    rehearsal.clears_later("InterlinkDeadLetters", **labels)


@rehearses(
    "InterlinkDatabaseUnavailable", "InterlinkNoProgress", "InterlinkOldestDue", "InterlinkConsumerLag"
)
def test_mongodb_does_not_answer(rehearsal: Rehearsal) -> None:
    hub, endpoint = rehearsal.hub, rehearsal.hub.github_endpoint()
    kind = new_type()
    names = (
        *("InterlinkDatabaseUnavailable", "InterlinkNoProgress"),
        *("InterlinkOldestDue", "InterlinkConsumerLag"),
    )
    with Subscriber(Moody(500)) as subscriber:
        retry = {"schedule": [0, 3, 3, 3, 3, 3, 3, 3, 3, 3], "jitter": 0}
        webhook = hub.outgoing_webhook(subscriber.url, events=["github.ping", kind], retry=retry)
        assert rehearsal.ping(endpoint) == 202
        eventually(
            lambda: [one["status"] for one in hub.deliveries(webhook_id=webhook["id"])] == ["retrying"]
        )
        for name in names:
            assert not rehearsal.prometheus.true(name, {})
        with stopped(process_of(rehearsal.pair.database)):
            assert rehearsal.ping(endpoint) == 202
            with stopped(hub.pid("delivery")):  # what comes meanwhile is fetched at once
                put(hub.bus, "chat.events", [chat_event(f"{kind}.{number}", kind) for number in range(LAG)])
            for name in names:
                rehearsal.is_true(name)
            assert rehearsal.prometheus.true("InterlinkConsumerLag", {"topic": "chat.events"})
            assert rehearsal.prometheus.true("InterlinkNoProgress", {"group": "delivery-fanout"})
        subscriber.answer = None
        for name in names:
            rehearsal.is_clear(name)
        eventually(
            lambda: {one["status"] for one in hub.deliveries(webhook_id=webhook["id"])} == {"delivered"}
        )


@rehearses("InterlinkRefreshFailures", "InterlinkAccountErrors")
def test_an_authorization_server_does_not_answer(rehearsal: Rehearsal) -> None:
    hub, labels = rehearsal.hub, {"provider": "oidc"}
    client: MongoClient[Any] = MongoClient(hub.env["MONGODB_URI"], tz_aware=True)
    with client:
        accounts = Accounts(hub, client.get_default_database(), Tap(hub.bus, INTEGRATION_EVENTS.name))
        with RotatingServer("app", SECRET, accounts.redirect_uri) as server:
            accounts.register(server.settings, "app")
            ids: list[str] = []
            for name in ("ada", "grace", "mary"):
                server.login(name)
                ids.append(accounts.connect(name))
            server.fail_next = [Reply(503)] * 1000
            for integration in ids:
                accounts.move(integration, expires_at=-1, renew_at=-60)
                accounts.call(integration, "check", expect=503)
            rehearsal.is_true("InterlinkAccountErrors", **labels)
            rehearsal.is_true("InterlinkRefreshFailures", **labels)
            server.fail_next = []
            eventually(
                lambda: {accounts.shown(integration)["status"] for integration in ids} == {"connected"}
            )
            assert server.faults == []
    rehearsal.clears_later("InterlinkAccountErrors", **labels)
    rehearsal.clears_later("InterlinkRefreshFailures", **labels)


@rehearses(
    "InterlinkServiceAbsent",
    "InterlinkWebhooksUnreadable",
    "InterlinkCertificateExpiry",
    "InterlinkEncryptionKeyAge",
)
def test_delivery_is_started_with_wrong_keys_and_old_files(rehearsal: Rehearsal, tmp_path: Path) -> None:
    hub, near = rehearsal.hub, Authority("near", days=10)
    rehearsal.hub.outgoing_webhook("http://127.0.0.1:1/", events=["never"])
    other = os.urandom(32)
    with MongoClient[Any](hub.env["MONGODB_URI"]) as client:
        client.get_default_database()[COLLECTION].insert_one(
            {
                "_id": LocalKeyProvider([other]).current,
                "first_used_at": datetime.now(UTC) - timedelta(days=400),
            }
        )
    authorities = tmp_path / "authorities.pem"
    authorities.write_text(near.pem)
    wrong = base64.b64encode(other).decode()
    rehearsal.is_clear("InterlinkServiceAbsent", service="delivery")
    assert hub.stop_service("delivery") == 0
    rehearsal.is_true("InterlinkServiceAbsent", service="delivery")

    names = ("InterlinkWebhooksUnreadable", "InterlinkCertificateExpiry", "InterlinkEncryptionKeyAge")
    hub.start_service("delivery", INTERLINK_ENCRYPTION_KEY=wrong, INTERLINK_EGRESS_CA_FILE=str(authorities))
    for name in names:
        rehearsal.is_true(name)
    rehearsal.is_clear("InterlinkServiceAbsent", service="delivery")
    hub.stop_service("delivery")
    authorities.write_text(near.pem + Authority("newer", days=300).pem)
    keys = f"{hub.env['INTERLINK_ENCRYPTION_KEY']},{wrong}"
    hub.start_service("delivery", INTERLINK_ENCRYPTION_KEY=keys, INTERLINK_EGRESS_CA_FILE=str(authorities))
    hub.wait_ready("delivery")
    for name in names:
        rehearsal.is_clear(name)


def test_what_depends_on_a_window_clears_when_it_is_over(rehearsal: Rehearsal) -> None:
    assert rehearsal.windows
    for name, labels in rehearsal.windows:
        rehearsal.is_clear(name, **labels)


def test_prometheus_accepts_every_query(rehearsal: Rehearsal) -> None:
    """Those of the dashboards and the runbooks; a third of them has something to show, whatever ran."""
    asked = [query for board in dashboards().values() for query in queries(board)]
    for page in Path("docs/runbooks").glob("*.md"):
        asked += runbook_queries(page.read_text("utf-8"))
    results = {query: rehearsal.prometheus.query(query.replace("$workspace", ".+")) for query in asked}
    assert sum(map(bool, results.values())) > len(results) / 3
