"""Delivery over a real bus and store: what each answer of a subscriber leads to, and that nothing is lost."""

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from secrets import token_hex
from time import monotonic, sleep
from typing import Any

import psutil
import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from interlink.embedded import EmbeddedPair
from tests.support.backends import Store, embedded_bus
from tests.support.eventually import eventually
from tests.support.hub import Hub, hub_with
from tests.support.misbehaving_server import MisbehavingServer
from tests.support.ports import free_port
from tests.support.subscriber import Subscriber, WebhookRequest

QUICK = {"schedule": [0, 0.3, 0.3]}
ONCE = {"schedule": [0]}


def new_type() -> str:
    """An event type of its own, so that tests on one hub do not meet."""
    return f"t{token_hex(6)}"


def publish(hub: Hub, kind: str, count: int = 1, *, first: int = 0) -> list[str]:
    """Put events of one conversation on Kafka, numbered in their data; their ids."""
    ids = [f"evt-{token_hex(8)}" for _ in range(count)]
    events = [
        {
            "specversion": "1.0",
            "id": name,
            "type": kind,
            "source": "/tests",
            "subject": kind,
            "data": {"n": first + position},
        }
        for position, name in enumerate(ids)
    ]
    for start in range(0, count, 500):
        hub.call("POST", "/api/events", events[start : start + 500], expect=202)
    return ids


def n_of(got: WebhookRequest) -> int:
    return int(json.loads(got.body)["data"]["n"])


def finished(hub: Hub, webhook_id: str, within_s: float = 60, count: int = 1) -> list[dict[str, Any]]:
    """The webhook's deliveries with every attempt, oldest first, once `count` are finished."""

    def check() -> list[dict[str, Any]] | None:
        """All deliveries are finished."""
        listed = hub.deliveries(webhook_id=webhook_id)
        done = [
            delivery for delivery in listed if delivery["status"] in ("delivered", "dead_letter", "cancelled")
        ]
        return listed if len(done) == len(listed) == count else None

    listed = eventually(check, within_s) or []
    return [hub.call("GET", f"/api/deliveries/{delivery['id']}") for delivery in reversed(listed)]


def attempt_of(hub: Hub, url: str, **fields: Any) -> dict[str, Any]:
    """The one attempt that a webhook with this URL gets, from the log, when it is dead or delivered."""
    kind = new_type()
    webhook = hub.outgoing_webhook(url, events=[kind], **({"retry": ONCE} | fields))
    publish(hub, kind)
    [delivery] = finished(hub, webhook["id"])
    [attempt] = delivery["attempts"]
    return {**attempt, "outcome": delivery["status"]}


def stats(hub: Hub, webhook_id: str) -> dict[str, Any]:
    return dict(hub.call("GET", f"/api/queue/stats?webhook_id={webhook_id}"))


class Script:
    """Answers with these statuses in turn, then with the last one."""

    def __init__(self, *statuses: int, body: bytes = b"") -> None:
        self._statuses = list(statuses)
        self._body = body

    def __call__(self, _got: WebhookRequest) -> web.Response:
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        return web.Response(status=status, body=self._body)


# Retries and the log


def test_retries_follow_the_schedule_and_the_log_keeps_every_attempt(hub: Hub) -> None:
    page = "".join(f"line {number}\n" for number in range(2000)).encode()
    with Subscriber(Script(500, 503, 200, body=page)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=QUICK)
        [event_id] = publish(hub, kind)
        [delivery] = finished(hub, webhook["id"])

    assert (delivery["status"], delivery["attempt_count"]) == ("delivered", 3)
    assert (delivery["event_id"], delivery["event_type"]) == (event_id, kind)
    assert delivery["finished_at"] is not None
    assert delivery["next_attempt_at"] is None
    attempts = delivery["attempts"]
    assert [attempt["number"] for attempt in attempts] == [1, 2, 3]
    assert [attempt["status_code"] for attempt in attempts] == [500, 503, 200]
    assert [attempt["error"] for attempt in attempts] == ["status", "status", None]
    for attempt in attempts:
        assert attempt["response_body"] == page[:4096].decode()
        assert 0 < attempt["duration_ms"] < 5000
        assert attempt["address"] == "127.0.0.1"
        assert attempt["response_headers"]["Content-Length"] == str(len(page))
        assert attempt["request_headers"]["webhook-id"] == delivery["id"]
    got = subscriber.got
    assert len(got) == 3
    assert {request.headers["webhook-id"] for request in got} == {delivery["id"]}
    assert {request.body for request in got} == {delivery["body"].encode()}
    for earlier, later in pairwise(got):
        assert later.at - earlier.at >= 0.3


def test_the_first_attempt_waits_too_when_the_schedule_says_so(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry={"schedule": [1.5]})
        started = monotonic()
        publish(hub, kind)
        [got] = subscriber.wait_for(1)
        [delivery] = finished(hub, webhook["id"])
    assert got.at - started >= 1.5
    assert (delivery["status"], delivery["attempt_count"]) == ("delivered", 1)


def test_after_the_last_attempt_it_is_a_dead_letter_and_nothing_more_is_sent(hub: Hub) -> None:
    with Subscriber(Script(500)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=QUICK)
        publish(hub, kind)
        [delivery] = finished(hub, webhook["id"])
        sleep(1)
        assert len(subscriber.got) == 3
    assert (delivery["status"], delivery["attempt_count"]) == ("dead_letter", 3)
    assert stats(hub, webhook["id"])["failed"] == 1


def test_a_schedule_without_pauses_does_not_strand_a_delivery(hub: Hub) -> None:
    """What is due at once is due before its entry is in the log: it must still be found there."""
    with Subscriber(Script(500)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], max_in_flight=50, retry={"schedule": [0, 0, 0]}
        )
        publish(hub, kind, 100)
        eventually(lambda: stats(hub, webhook["id"])["failed"] == 100)
        assert len(subscriber.got) == 300


def test_a_refusal_that_no_repeat_can_help_is_dead_at_once(hub: Hub) -> None:
    with Subscriber(Script(410)) as subscriber:
        attempt = attempt_of(hub, subscriber.url, retry=QUICK)
    assert (attempt["outcome"], attempt["status_code"], attempt["error"]) == ("dead_letter", 410, "status")


# Subscribers that misbehave


def test_a_subscriber_that_is_down(hub: Hub) -> None:
    attempt = attempt_of(hub, f"http://127.0.0.1:{free_port()}/hook")
    assert (attempt["outcome"], attempt["status_code"], attempt["error"]) == (
        "dead_letter",
        None,
        "connection",
    )


def test_a_slow_subscriber_is_given_its_time_and_no_more(hub: Hub) -> None:
    with Subscriber(delay_s=4) as subscriber:
        attempt = attempt_of(hub, subscriber.url, timeout_s=1)
    assert (attempt["outcome"], attempt["status_code"], attempt["error"]) == ("dead_letter", None, "timeout")
    assert 900 <= attempt["duration_ms"] <= 2500


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(hub: Hub, status: int) -> None:
    with Subscriber() as elsewhere:

        def moved(_got: WebhookRequest) -> web.Response:
            return web.Response(status=status, headers={"Location": elsewhere.url})

        with Subscriber(moved) as subscriber:
            attempt = attempt_of(hub, subscriber.url)
        assert elsewhere.got == []
    assert (attempt["outcome"], attempt["status_code"], attempt["error"]) == (
        "dead_letter",
        status,
        "redirect",
    )
    assert attempt["response_headers"]["Location"] == elsewhere.url


def test_a_redirect_to_an_internal_address_is_tried_again_where_it_came_from(hub: Hub) -> None:
    def inward(got: WebhookRequest) -> web.Response | None:
        if len(subscriber.got) > 1:
            return None
        return web.Response(status=307, headers={"Location": "http://10.0.0.1/"})

    with Subscriber(inward) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry=QUICK)
        publish(hub, kind)
        [delivery] = finished(hub, webhook["id"])
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [307, 204]


def test_an_endless_answer_is_read_up_to_its_bound_only(hub: Hub, note: Callable[[str], None]) -> None:
    megabytes, sent = 100, 0

    def flood(connection: Any) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (megabytes << 20))
        for _ in range(megabytes * 16):
            connection.sendall(b"x" * 65536)
            sent += 65536

    delivery = psutil.Process(hub.pid("delivery"))
    before = peak = delivery.memory_info().rss
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.01):
            peak = max(peak, delivery.memory_info().rss)

    with MisbehavingServer(flood) as subscriber:
        watching = threading.Thread(target=watch)
        watching.start()
        attempt = attempt_of(hub, subscriber.url)
        over.set()
        watching.join()
    note(
        f"an answer of {megabytes} MB: {sent / 2**20:.1f} MB were taken by sockets,"
        f" delivery grew by {(peak - before) / 2**20:.1f} MB, the attempt took {attempt['duration_ms']} ms"
    )
    assert (attempt["outcome"], attempt["status_code"]) == ("delivered", 200)
    assert attempt["response_body"] == "x" * 4096
    assert attempt["duration_ms"] < 2000
    assert sent < 20 << 20  # the sockets' buffers, and not the whole
    assert peak - before < 24 << 20


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 1000\r\n\r\nonly this",
        b"Transfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n5\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nZZZ\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nonly this",
    ],
    ids=["length", "chunks", "bad chunk", "bad encoding"],
)
@pytest.mark.parametrize(
    ("status", "outcome", "error"),
    [
        (200, "delivered", None),
        (299, "delivered", None),
        (301, "dead_letter", "redirect"),
        (404, "dead_letter", "status"),
        (410, "dead_letter", "status"),
        (500, "dead_letter", "status"),
    ],
)
def test_the_status_decides_though_the_body_breaks_off(
    hub: Hub, body: bytes, status: int, outcome: str, error: str | None
) -> None:
    def break_off(connection: Any) -> None:
        head, _, rest = body.partition(b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 %d Status\r\n%b\r\n\r\n" % (status, head))
        sleep(0.1)
        connection.sendall(rest)

    with MisbehavingServer(break_off) as subscriber:
        attempt = attempt_of(hub, subscriber.url)
        assert subscriber.requests == 1, "what was taken is not sent again"
    assert (attempt["outcome"], attempt["status_code"], attempt["error"]) == (outcome, status, error)
    assert attempt["response_body"] == "only this"


@pytest.mark.parametrize(("status", "outcome"), [(200, "delivered"), (500, "dead_letter")])
@pytest.mark.parametrize("pause_s", [0.05, 30], ids=["trickles", "stops"])
def test_the_status_decides_though_the_body_is_not_complete_in_time(
    hub: Hub, status: int, outcome: str, pause_s: float
) -> None:
    over = threading.Event()

    def trickle(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 %d Status\r\nContent-Length: 4000\r\n\r\n" % status)
        while not over.is_set():
            connection.sendall(b"x")
            over.wait(pause_s)

    with MisbehavingServer(trickle) as subscriber:
        attempt = attempt_of(hub, subscriber.url, timeout_s=1)
        over.set()
        assert subscriber.requests == 1
    assert (attempt["outcome"], attempt["status_code"]) == (outcome, status)
    assert attempt["detail"] == "the response body was not complete in time"
    assert set(attempt["response_body"]) == {"x"}
    assert attempt["duration_ms"] < 4000


def test_no_answer_at_all_is_a_failure(hub: Hub) -> None:
    with MisbehavingServer(lambda _connection: None) as subscriber:
        attempt = attempt_of(hub, subscriber.url)
    assert (attempt["outcome"], attempt["error"]) == ("dead_letter", "closed_mid_response")


@pytest.mark.parametrize(
    "noise",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\xff\xfe garbage \r\n\r\n" * 50,
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(100_000)) + b"\r\n",
    ],
    ids=["ssh", "binary", "status", "length", "chunk", "long-header", "endless-headers"],
)
def test_what_is_not_http_is_a_failure(hub: Hub, noise: bytes) -> None:
    with MisbehavingServer(lambda connection: connection.sendall(noise)) as subscriber:
        attempt = attempt_of(hub, subscriber.url, timeout_s=5)
    assert attempt["outcome"] == "dead_letter"
    assert attempt["error"] in ("protocol", "closed_mid_response"), attempt
    assert attempt["duration_ms"] < 4000


@pytest.mark.parametrize(
    ("count", "value", "expected_count"), [(100, b"value", 50), (5, b"v" * 5000, 6)], ids=["many", "long"]
)
def test_many_and_long_headers_do_not_flood_the_log(
    hub: Hub, count: int, value: bytes, expected_count: int
) -> None:
    head = b"".join(b"x-header-%d: %b\r\n" % (number, value) for number in range(count))

    def talk(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 2\r\n\r\nok")

    with MisbehavingServer(talk) as subscriber:
        attempt = attempt_of(hub, subscriber.url)
    assert (attempt["outcome"], attempt["status_code"]) == ("delivered", 200)
    assert len(attempt["response_headers"]) == expected_count
    assert max(map(len, attempt["response_headers"].values())) <= 512


def test_a_thousand_headers_are_a_failure(hub: Hub) -> None:
    head = b"".join(b"x-header-%d: value\r\n" % number for number in range(1000))

    def talk(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 2\r\n\r\nok")

    with MisbehavingServer(talk) as subscriber:
        attempt = attempt_of(hub, subscriber.url)
    assert (attempt["outcome"], attempt["status_code"], attempt["error"]) == ("dead_letter", None, "protocol")


HOSTILE = (
    b"HTTP/1.1 500 Caf\xe9\r\nX-Name: caf\xe9 \xff\r\n$ref: outgoing_webhooks\r\n$id: 1\r\n"
    b"$set: x\r\na.b.c: d\r\nContent-Length: 7\r\n\r\n\xff\xfe\x00\xed\xa0\x80."
)


@pytest.mark.parametrize("delay_s", [0, 0.6], ids=["at once", "after its batch"])
def test_an_answer_that_no_database_would_take_costs_nothing_else(hub: Hub, delay_s: float) -> None:
    """Header names that are operators, bytes that are no text: stored as well as possible, beside others."""

    def talk(connection: Any) -> None:
        sleep(delay_s)
        connection.sendall(HOSTILE)

    with MisbehavingServer(talk) as subscriber, Subscriber(delay_s=delay_s) as neighbour:
        kind = new_type()
        hostile = hub.outgoing_webhook(subscriber.url, events=[kind], retry=QUICK)
        beside = hub.outgoing_webhook(neighbour.url, events=[kind])
        publish(hub, kind)
        [delivery] = finished(hub, hostile["id"])
        [other] = finished(hub, beside["id"])
        assert subscriber.requests == 3
        assert len(neighbour.got) == 1
    assert (delivery["status"], delivery["attempt_count"]) == ("dead_letter", 3)
    assert (other["status"], other["attempt_count"]) == ("delivered", 1)
    for attempt in delivery["attempts"]:
        logged = attempt["response_headers"]
        assert attempt["status_code"] == 500
        assert (logged["$ref"], logged["$id"], logged["$set"], logged["a.b.c"]) == (
            "outgoing_webhooks",
            "1",
            "x",
            "d",
        )
        assert logged["X-Name"].startswith("caf")
        assert attempt["response_body"].endswith(".")


# Internal addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://192.168.1.1:8080/hook",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[fd00::1]/",
        "http://[fe80::1]/",
        "http://[64:ff9b::a00:1]/",
        "http://0.0.0.0/",
        "http://0x0a000001/",
        "http://167772161/",
        "http://224.0.0.1/",
        "http://168.63.129.16/",
    ],
)
def test_an_internal_address_is_refused_when_the_webhook_is_made_or_changed(hub: Hub, url: str) -> None:
    body = {"name": "test", "url": url, "events": ["*"]}
    problem = hub.call("POST", "/api/outgoing-webhooks", body, expect=422)
    assert [fault["field"] for fault in problem["errors"]] == ["url"]
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/", events=[new_type()])
    hub.call("PATCH", f"/api/outgoing-webhooks/{webhook['id']}", {"url": url}, expect=422)
    assert hub.call("GET", f"/api/outgoing-webhooks/{webhook['id']}")["url"] == "http://127.0.0.1:9/"


# A process that was killed is missed within seconds.
hub = hub_with(services=("gateway", "delivery"), env={"KAFKA_SESSION_TIMEOUT_MS": "3000"})


@pytest.fixture(scope="module")
def strict_hub(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Iterator[Hub]:
    """A hub as it is in production: no internal address at all. On a broker of its own."""
    own = EmbeddedPair(tmp_path_factory.mktemp("own-broker"))
    own.broker.start()
    services, env = ("gateway", "delivery"), {"INTERLINK_ALLOW_PRIVATE_NETWORKS": "none"}
    try:
        with Hub(
            tmp_path_factory.mktemp("strict-hub"), embedded_bus(own), store, services=services, env=env
        ) as started:
            yield started
    finally:
        own.stop()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1"]
)
def test_loopback_is_internal_unless_it_is_permitted(strict_hub: Hub, host: str) -> None:
    body = {"name": "test", "url": f"http://{host}:8080/hook", "events": ["*"]}
    strict_hub.call("POST", "/api/outgoing-webhooks", body, expect=422)


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST"])
def test_a_name_that_resolves_to_an_internal_address_is_never_called(strict_hub: Hub, name: str) -> None:
    with Subscriber() as subscriber:
        url = subscriber.url.replace("127.0.0.1", name)
        attempt = attempt_of(strict_hub, url, retry=QUICK)
        assert subscriber.got == []
    assert (attempt["outcome"], attempt["status_code"]) == ("dead_letter", None)
    assert attempt["error"] == "address_refused"


def test_a_name_is_called_where_its_address_is_permitted(hub: Hub) -> None:
    with Subscriber() as subscriber:
        attempt = attempt_of(hub, subscriber.url.replace("127.0.0.1", "localhost"))
        assert len(subscriber.got) == 1
    assert (attempt["outcome"], attempt["status_code"]) == ("delivered", 204)


# Signatures


def test_the_nchat_profile_signs_as_nself_chat_does(hub: Hub) -> None:
    secret = "a secret that nself-chat made"
    with Subscriber(Script(500, 204)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], profile="nchat", secret=secret, retry=QUICK
        )
        publish(hub, kind)
        [delivery] = finished(hub, webhook["id"])
    assert len(subscriber.got) == 2
    for attempt, got in enumerate(subscriber.got, 1):
        expected = hmac.new(secret.encode(), got.body, hashlib.sha256).hexdigest()
        assert got.headers["x-webhook-signature"] == f"sha256={expected}"
        assert got.headers["x-webhook-event"] == kind
        assert got.headers["x-webhook-id"] == delivery["id"]
        assert got.headers["x-webhook-attempt"] == str(attempt)
        assert got.headers["content-type"] == "application/json"
        assert not any(name.startswith("webhook-") for name in got.headers)


def test_after_a_rotation_both_secrets_verify_until_the_old_one_ends(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        path = f"/api/outgoing-webhooks/{webhook['id']}"
        old, new = webhook["secret"], hub.call("POST", f"{path}/rotate-secret", {})["secret"]
        assert old != new
        publish(hub, kind)
        subscriber.wait_for(1)
        newest = hub.call("POST", f"{path}/rotate-secret", {"overlap_hours": 0})["secret"]
        publish(hub, kind)
        both, newest_only = subscriber.wait_for(2)
    assert len(both.headers["webhook-signature"].split(" ")) == 2
    assert Webhook(old).verify(both.body, both.headers)
    assert Webhook(new).verify(both.body, both.headers)
    assert len(newest_only.headers["webhook-signature"].split(" ")) == 1
    assert Webhook(newest).verify(newest_only.body, newest_only.headers)
    for gone in (old, new):
        with pytest.raises(WebhookVerificationError):
            Webhook(gone).verify(newest_only.body, newest_only.headers)


def test_secrets_are_in_no_answer_but_the_first_and_in_no_log(hub: Hub) -> None:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/", events=[new_type()])
    path = f"/api/outgoing-webhooks/{webhook['id']}"
    secrets = [webhook["secret"], hub.call("POST", f"{path}/rotate-secret", {})["secret"]]
    visible = [
        json.dumps(hub.call("GET", path)),
        json.dumps(hub.call("GET", "/api/outgoing-webhooks?limit=500")),
        json.dumps(hub.call("PATCH", path, {"name": "other"})),
        hub.log_text("delivery"),
    ]
    for secret in secrets:
        for text in visible:
            assert secret.removeprefix("whsec_") not in text


# Management


def test_a_change_holds_for_the_next_event(hub: Hub) -> None:
    with Subscriber() as subscriber, Subscriber() as other:
        kind, another = new_type(), new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        path = f"/api/outgoing-webhooks/{webhook['id']}"
        publish(hub, kind)
        subscriber.wait_for(1)
        changed = hub.call("PATCH", path, {"url": other.url, "events": [f"{another}.*"]})
        assert (changed["url"], changed["events"]) == (other.url, [f"{another}.*"])
        publish(hub, kind)
        publish(hub, f"{another}.made")
        other.wait_for(1)
        assert json.loads(other.got[0].body)["type"] == f"{another}.made"
        assert len(subscriber.got) == 1
        hub.call("PATCH", path, {"urll": "x"}, expect=422)


def test_disabled_sends_nothing_enabled_sends_again(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        path = f"/api/outgoing-webhooks/{webhook['id']}"
        assert hub.call("POST", f"{path}/disable")["enabled"] is False
        publish(hub, kind, first=1)
        sleep(1)
        assert hub.call("POST", f"{path}/enable")["enabled"] is True
        publish(hub, kind, first=2)
        subscriber.wait_for(1)
        sleep(0.5)
        assert [n_of(got) for got in subscriber.got] == [2]


def test_what_waits_while_disabled_is_sent_when_enabled(hub: Hub) -> None:
    with Subscriber(Script(500, 204)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry={"schedule": [0, 2]})
        path = f"/api/outgoing-webhooks/{webhook['id']}"
        publish(hub, kind)
        subscriber.wait_for(1)
        hub.call("POST", f"{path}/disable")
        sleep(3)
        assert len(subscriber.got) == 1
        hub.call("POST", f"{path}/enable")
        [delivery] = finished(hub, webhook["id"])
        assert (delivery["status"], delivery["attempt_count"]) == ("delivered", 2)


def test_deleted_is_gone_and_what_waits_is_cancelled(hub: Hub) -> None:
    with Subscriber(Script(500)) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], retry={"schedule": [0, 1]})
        path = f"/api/outgoing-webhooks/{webhook['id']}"
        publish(hub, kind)
        eventually(lambda: stats(hub, webhook["id"])["delayed"] == 1)
        hub.call("DELETE", path, expect=204)
        hub.call("GET", path, expect=404)
        publish(hub, kind)
        [delivery] = finished(hub, webhook["id"])
        assert delivery["status"] == "cancelled"
        sleep(1.5)
        assert len(subscriber.got) == 1


def test_deleted_gets_nothing_of_what_waits_in_memory(hub: Hub) -> None:
    with Subscriber(delay_s=0.1) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], max_in_flight=1)
        publish(hub, kind, 12)
        subscriber.wait_for(1)
        hub.call("DELETE", f"/api/outgoing-webhooks/{webhook['id']}", expect=204)
        got = len(subscriber.got) + subscriber.in_progress
        sleep(2)
        ends = {delivery["status"] for delivery in hub.deliveries(webhook_id=webhook["id"])}
        assert ends <= {"delivered", "cancelled"}
        assert len(subscriber.got) <= got + 1  # one may have been on its way


def test_a_test_event_takes_the_same_way(hub: Hub) -> None:
    with Subscriber() as subscriber:
        webhook = hub.outgoing_webhook(subscriber.url, events=[new_type()])
        subscriber.secret = webhook["secret"]
        asked = hub.call("POST", f"/api/outgoing-webhooks/{webhook['id']}/test", expect=202)
        [got] = subscriber.wait_for(1)
        [delivery] = finished(hub, webhook["id"])
    assert json.loads(got.body)["type"] == "webhook.test"
    assert asked["delivery_id"] == delivery["id"] == got.headers["webhook-id"]


def test_another_workspace_sees_none_of_it(hub: Hub) -> None:
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        publish(hub, kind)
        [delivery] = finished(hub, webhook["id"])
    key = hub.other_workspace()
    path = f"/api/outgoing-webhooks/{webhook['id']}"
    for method, where in (
        ("GET", path),
        ("PATCH", path),
        ("DELETE", path),
        ("POST", f"{path}/test"),
        ("POST", f"{path}/disable"),
        ("GET", f"/api/deliveries/{delivery['id']}"),
    ):
        hub.call(method, where, {} if method == "PATCH" else None, key=key, expect=404)
    assert hub.call("GET", f"/api/deliveries?webhook_id={webhook['id']}", key=key)["items"] == []
    assert hub.call("GET", f"/api/queue/stats?webhook_id={webhook['id']}", key=key)["total"] == 0


# Order, fairness, statistics


def test_strict_order_waits_for_the_one_that_fails(hub: Hub) -> None:
    def answer(got: WebhookRequest) -> web.Response | None:
        return web.Response(status=500) if len(subscriber.got) <= 2 else None

    with Subscriber(answer) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], ordering="strict", retry=QUICK)
        publish(hub, kind, 5)
        subscriber.wait_for(1)
        publish(hub, kind, 5, first=5)
        deliveries = finished(hub, webhook["id"], count=10)
    assert [n_of(got) for got in subscriber.got] == [0, 0, 0, *range(1, 10)]
    assert [delivery["attempt_count"] for delivery in deliveries].count(3) == 1


def test_strict_order_is_preserved_behind_a_slow_and_failing_subscriber(hub: Hub) -> None:
    """Every third request fails, all are slow: batches end while an attempt is under way."""

    def answer(got: WebhookRequest) -> web.Response | None:
        return web.Response(status=503) if len(subscriber.got) % 3 == 0 else None

    with Subscriber(answer, delay_s=0.06) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], ordering="strict", retry={"schedule": [0, 0, 0.1, 0.1, 0.1]}
        )
        for start in range(0, 30, 3):
            publish(hub, kind, 3, first=start)
        finished(hub, webhook["id"], count=30, within_s=40)
        order = [n_of(got) for got in subscriber.got]
    assert order == sorted(order)
    assert set(order) == set(range(30))


def test_what_follows_waits_in_order_once_a_webhook_with_direct_requests_becomes_strict(hub: Hub) -> None:
    refused = set[int]()

    def answer(got: WebhookRequest) -> web.Response | None:
        number = n_of(got)
        if number % 4 or number in refused:
            return None
        refused.add(number)
        return web.Response(status=500)

    def direct() -> float:
        return hub.metric("delivery", "interlink_direct_requests_total")

    with Subscriber(answer, delay_s=0.1) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], max_in_flight=2, retry=QUICK)
        none_yet = direct()

        def goes_directly() -> bool:
            """A request goes without Kafka."""
            publish(hub, kind, first=-1)
            return direct() > none_yet

        eventually(goes_directly, every_s=0.5)
        finished(hub, webhook["id"], count=len(subscriber.got))
        before, came = direct(), len(subscriber.got)
        publish(hub, kind, 10)
        subscriber.wait_for(came + 1)
        hub.call("PATCH", f"/api/outgoing-webhooks/{webhook['id']}", {"ordering": "strict"})
        assert direct() - before == 10
        assert len(subscriber.got) < came + 10, "nothing is open any more"
        publish(hub, kind, 10, first=10)
        eventually(lambda: set(range(20)) <= {n_of(got) for got in subscriber.got})
        eventually(lambda: not hub.deliveries(webhook_id=webhook["id"], status="retrying"))
        order = [n_of(got) for got in subscriber.got[came:]]
    earlier = [number for number in order if number < 10]
    assert {0, 4, 8} <= {number for number in earlier if earlier.count(number) == 2}
    assert order[len(earlier) :] == sorted([*range(10, 20), 12, 16])


def test_a_dead_endpoint_with_hundreds_waiting_does_not_delay_a_healthy_one(
    hub: Hub, note: Callable[[str], None]
) -> None:
    with Subscriber(delay_s=30) as dead, Subscriber() as healthy:
        kind = new_type()
        slow = hub.outgoing_webhook(dead.url, events=[kind], timeout_s=1, retry={"schedule": [0, 600]})
        hub.outgoing_webhook(healthy.url, events=[kind])
        started = monotonic()
        publish(hub, kind, 600)
        healthy.wait_for(600)
        all_of_them = monotonic() - started
        waiting = stats(hub, slow["id"])
        assert waiting["pending"] >= 300, waiting
        latencies = []
        for number in range(10):
            started = monotonic()
            publish(hub, kind)
            healthy.wait_for(601 + number)
            latencies.append(monotonic() - started)
        assert stats(hub, slow["id"])["pending"] >= 200
        hub.call("DELETE", f"/api/outgoing-webhooks/{slow['id']}", expect=204)
    note(
        f"beside a dead endpoint with {waiting['pending']} waiting: 600 events in {all_of_them:.1f} s,"
        f" single ones in {max(latencies):.2f} s at most"
    )
    assert max(latencies) < 5


def test_the_queue_is_counted_at_each_stage(hub: Hub) -> None:
    counted = ("pending", "active", "completed", "failed", "delayed")

    def stage(**expected: int) -> None:
        expected_counts = dict.fromkeys(counted, 0) | expected

        def check() -> dict[str, Any] | None:
            now = stats(hub, webhook["id"])
            seen.append(now)
            return now if {name: now[name] for name in counted} == expected_counts else None

        seen: list[dict[str, Any]] = []
        try:
            now = eventually(check, every_s=0.03) or {}
        except AssertionError:
            pytest.fail(f"never {expected_counts}, but {seen[-1]}")
        assert now["total"] == sum(expected.values())

    with Subscriber(Script(500, 204), delay_s=1) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(
            subscriber.url, events=[kind], max_in_flight=1, retry={"schedule": [0, 4]}
        )
        stage()
        publish(hub, kind, 3)
        stage(active=1, pending=2)
        assert stats(hub, webhook["id"])["oldest_due_s"] >= 0
        stage(active=1, pending=1, delayed=1)
        stage(active=1, delayed=1, completed=1)
        stage(delayed=1, completed=2)
        stage(active=1, completed=2)
        stage(completed=3)
        assert stats(hub, webhook["id"])["oldest_due_s"] is None
    webhook = hub.outgoing_webhook(f"http://127.0.0.1:{free_port()}/", events=[kind], retry=ONCE)
    publish(hub, kind)
    stage(failed=1)
    whole = hub.call("GET", "/api/queue/stats")
    assert whole["total"] >= 4
    assert whole["failed"] >= 1


# Ends


def test_killed_during_a_slow_attempt_it_is_attempted_again_when_the_lease_is_over(hub: Hub) -> None:
    with Subscriber(delay_s=20) as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind], timeout_s=2)
        publish(hub, kind)
        subscriber.wait_for(1)
        eventually(lambda: stats(hub, webhook["id"])["active"] == 1, every_s=0.02)
        hub.kill("delivery")
        killed_at = monotonic()
        subscriber.delay_s = 0
        hub.start_service("delivery")
        hub.wait_ready("delivery")
        first, second = subscriber.wait_for(2)
        [delivery] = finished(hub, webhook["id"])
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == delivery["id"]
    assert first.body == second.body
    assert delivery["status"] == "delivered"
    assert second.at - killed_at < 20


def test_a_stop_waits_for_what_is_under_way_and_a_lease_covers_what_takes_too_long(hub: Hub) -> None:
    with Subscriber(delay_s=4) as slow, Subscriber(delay_s=60) as endless:
        kind = new_type()
        webhook = hub.outgoing_webhook(slow.url, events=[kind], timeout_s=10)
        stuck = hub.outgoing_webhook(endless.url, events=[kind], timeout_s=40)
        publish(hub, kind)
        slow.wait_for(1)
        endless.wait_for(1)
        assert hub.deliveries(webhook_id=webhook["id"], status="delivered") == [], "still under way"
        assert hub.stop_service("delivery") == 0
        hub.start_service("delivery")
        hub.wait_ready("delivery")
        [delivery] = finished(hub, webhook["id"])
        assert len(slow.got) == 1
        assert stats(hub, stuck["id"])["active"] == 1
        hub.call("DELETE", f"/api/outgoing-webhooks/{stuck['id']}", expect=204)
    assert (delivery["status"], delivery["attempt_count"]) == ("delivered", 1)
