"""Attacks by what is polled: hostile feeds, addresses inside, and a workspace with many triggers."""

import gzip
import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import httpx

from tests.attacks.attack import Attack, Setup
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.misbehaving_server import MisbehavingServer

_PATH = "/api/polling-triggers"
_TRIGGER = "rss_trigger_new_item"
_ENV = {"INTERLINK_UPKEEP_EVERY_S": "0.2"}
_SETUP = Setup(services=("gateway", "oauth"), entrance=True, env=_ENV)
_STRICT = Setup(
    services=("gateway", "oauth"),
    entrance=True,
    env={**_ENV, "INTERLINK_ALLOW_PRIVATE_NETWORKS": "none"},
)
_HEAD = b"<rss><channel><title>Feed</title>"
_TAIL = b"</channel></rss>"


def _answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> Callable[[socket.socket], None]:
    head = b"\r\n".join(
        (b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), b"Connection: close", *headers)
    )

    def talk(connection: socket.socket) -> None:
        connection.sendall(head + b"\r\n\r\n" + body)

    return talk


def _endless(connection: socket.socket) -> None:
    """Send a feed without an end, as fast as it is read."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + _HEAD)
    while True:
        connection.sendall(b"<item><guid>%d</guid></item>" % time.monotonic_ns() * 100)


def _dripping(connection: socket.socket) -> None:
    """Send a byte a second, until the hub closes the connection."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for byte in _HEAD * 100:
        connection.sendall(bytes((byte,)))
        is_closed, _, _ = select.select([connection], [], [], 1.0)
        if is_closed:
            return


def _create(hub: Hub, url: str, *, key: str | None = None) -> str:
    body = {"trigger": _TRIGGER, "params": {"url": url}}
    return str(hub.call("POST", _PATH, body, key=key, expect=201)["id"])


def _outcome(hub: Hub, trigger: str, *, key: str | None = None) -> dict[str, object]:
    """Return the trigger after its first poll."""

    def look() -> dict[str, object] | None:
        shown = dict(hub.call("GET", f"{_PATH}/{trigger}", key=key))
        return shown if shown["last_polled_at"] else None

    return eventually(look) or {}


_LAUGHS = b"".join(b'<!ENTITY a%d "%s">' % (number, b"&a%d;" % (number - 1) * 10) for number in range(1, 10))
_BOMB = gzip.compress(_HEAD + b" " * 50_000_000 + _TAIL)
_FEEDS: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "endless": (_endless, "larger than"),
    "external entity": (
        _answer(b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + _HEAD + b"&x;" + _TAIL),
        "document type",
    ),
    "billion laughs": (
        _answer(b'<!DOCTYPE r [<!ENTITY a0 "lol">' + _LAUGHS + b"]>" + _HEAD + b"&a9;" + _TAIL),
        "document type",
    ),
    "gzip bomb": (_answer(_BOMB, b"Content-Encoding: gzip"), "decompresses to more"),
    "elements": (_answer(_HEAD + b"<x/>" * 400_000 + _TAIL), "too many elements"),
    "depth": (_answer(_HEAD + b"<x>" * 500_000), "too deep"),
    "one long namespace for many elements": (
        _answer(
            _HEAD + b'<x:z xmlns:x="' + b"u" * 1_000_000 + b'">' + b"<x:a/>" * 90_000 + b"</x:z>" + _TAIL
        ),
        "too long",
    ),
    "many namespaces": (
        _answer(_HEAD + b"<x " + b" ".join(b'xmlns:a%d="u"' % n for n in range(10_000)) + b"/>" + _TAIL),
        "too many namespaces",
    ),
    "attributes": (
        _answer(_HEAD + b"<x " + b" ".join(b'a%d="1"' % n for n in range(100_000)) + b"/>" + b"<"),
        "too long",
    ),
}


def _hostile_feed(name: str) -> Callable[[Hub], None]:
    talk, words = _FEEDS[name]

    def attempt(hub: Hub) -> None:
        with MisbehavingServer(talk) as server:
            trigger = _create(hub, server.url)
            shown = _outcome(hub, trigger)
            assert shown["status"] == "failing", shown
            error = shown["last_error"]
            assert isinstance(error, dict)
            assert words in error["detail"], error
            assert "root:" not in str(shown)
            hub.call("DELETE", f"{_PATH}/{trigger}", expect=204)

    return attempt


def _many_items(hub: Hub) -> None:
    """Publish tens of thousands of items with one poll."""
    feeds = [_HEAD + _TAIL]

    def talk(connection: socket.socket) -> None:
        _answer(feeds[0])(connection)

    with MisbehavingServer(talk) as server:
        trigger = _create(hub, server.url)
        _outcome(hub, trigger)
        items = b"".join(b"<item><guid>%d</guid></item>" % number for number in range(65_000))
        feeds[0] = _HEAD + items + _TAIL
        assert len(feeds[0]) < 2 * 1024 * 1024
        before = hub.call("GET", f"{_PATH}/{trigger}")["last_polled_at"]
        hub.call("POST", f"{_PATH}/{trigger}/resume")
        eventually(lambda: hub.call("GET", f"{_PATH}/{trigger}")["last_polled_at"] != before)
        endpoint = hub.call("GET", f"{_PATH}/{trigger}")["endpoint_id"]
        path = f"/api/inbound-endpoints/{endpoint}"
        eventually(lambda: hub.call("GET", path)["trigger_count"] == 100)
        hub.call("DELETE", f"{_PATH}/{trigger}", expect=204)


def _headers_that_cannot_be_stored(hub: Hub) -> None:
    """Send validators that are no text: the poll must end, and not be repeated for ever."""
    names = (b"ETag", b"Last-Modified", b"Content-Type", b"X-Other")
    headers = [name + b': "\xff\xfe\xc3\xa9"' for name in names]
    with MisbehavingServer(_answer(_HEAD + b"<item><guid>1</guid></item>" + _TAIL, *headers)) as server:
        trigger = _create(hub, server.url)
        assert _outcome(hub, trigger)["status"] == "active"
        hub.call("DELETE", f"{_PATH}/{trigger}", expect=204)


def _redirect_inside(hub: Hub) -> None:
    """Have the hub follow a redirect to a server inside."""
    with MisbehavingServer(_answer(_HEAD + _TAIL)) as inside:
        location = b"Location: " + inside.url.encode()
        with MisbehavingServer(_answer(b"", location, status=b"302 Found")) as outside:
            trigger = _create(hub, outside.url)
            assert _outcome(hub, trigger)["status"] == "paused"
            assert inside.requests == 0
            hub.call("DELETE", f"{_PATH}/{trigger}", expect=204)


def _addresses_inside(hub: Hub) -> None:
    """Read what is inside: this machine, the metadata of a cloud, and names and spellings of both."""
    with MisbehavingServer(_answer(_HEAD + _TAIL)) as inside:
        port = inside.url.rpartition(":")[2].partition("/")[0]
        urls = [
            f"http://127.0.0.1:{port}/",
            f"http://localhost:{port}/",
            f"http://[::1]:{port}/",
            f"http://2130706433:{port}/",
            "http://169.254.169.254/latest/meta-data/",
            "http://[::ffff:127.0.0.1]/",
            "http://0.0.0.0/",
        ]
        for url in urls:
            trigger = _create(hub, url)
            shown = _outcome(hub, trigger)
            assert shown["status"] == "failing", (url, shown)
            hub.call("DELETE", f"{_PATH}/{trigger}", expect=204)
        assert inside.requests == 0
    for url in ("file:///etc/passwd", "gopher://127.0.0.1/", "https://a@127.0.0.1/", "ftp://x/"):
        hub.call("POST", _PATH, {"trigger": _TRIGGER, "params": {"url": url}}, expect=422)


def _many_triggers(hub: Hub) -> None:
    """Hold up the polls of others with as many slow triggers as a workspace may have."""
    hostile = hub.other_workspace()
    with ExitStack() as stack:
        slow = stack.enter_context(MisbehavingServer(_dripping))
        for _ in range(100):
            _create(hub, slow.url, key=hostile)
        body = {"trigger": _TRIGGER, "params": {"url": slow.url}}
        hub.call("POST", _PATH, body, key=hostile, expect=409)
        eventually(lambda: slow.requests >= 4)
        good = stack.enter_context(MisbehavingServer(_answer(_HEAD + _TAIL)))
        started = time.monotonic()
        assert _outcome(hub, _create(hub, good.url))["status"] == "active"
        # Four slow polls at a time take 15 s each: behind all of them it would be six minutes.
        assert time.monotonic() - started < 60
        for item in hub.call("GET", f"{_PATH}?limit=500", key=hostile)["items"]:
            hub.call("DELETE", f"{_PATH}/{item['id']}", key=hostile, expect=204)


def _forged_events(hub: Hub) -> None:
    """Publish events of a provider without a webhook of it."""
    other = hub.other_workspace()
    event = {"event": "item.published", "delivery_id": "1", "data": {"title": "forged"}}
    with MisbehavingServer(_answer(_HEAD + b"<item><guid>1</guid></item>" + _TAIL)) as server:
        trigger = _create(hub, server.url)
        _outcome(hub, trigger)
        for key in (hub.admin_key, other):
            headers = {"authorization": f"Bearer {key}"}
            body = {"endpoint_id": "ep_0", "events": [event]}
            answer = httpx.post(f"{hub.url('gateway')}/api/polled-events", json=body, headers=headers)
            assert answer.status_code == 403, answer.text
            create = {"provider": "rss", "name": "mine", "polled": True}
            hub.call("POST", "/api/inbound-endpoints", create, key=key, expect=422)
        assert httpx.post(f"{hub.url('gateway')}/api/polled-events", json={}).status_code == 401
        hub.call("GET", f"{_PATH}/{trigger}", key=other, expect=404)
        hub.call("DELETE", f"{_PATH}/{trigger}", expect=204)


ATTACKS = (
    *(Attack(f"a hostile feed: {name}", _hostile_feed(name), _SETUP) for name in _FEEDS),
    Attack("a feed with tens of thousands of items", _many_items, _SETUP),
    Attack("a feed with headers that are no text", _headers_that_cannot_be_stored, _SETUP),
    Attack("a feed that redirects inside", _redirect_inside, _SETUP),
    Attack("polled events of a stranger", _forged_events, _SETUP),
    Attack("a workspace with many slow triggers", _many_triggers, _SETUP),
    Attack("a feed at an address inside", _addresses_inside, _STRICT),
)
