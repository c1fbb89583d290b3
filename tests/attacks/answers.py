"""Tenants who describe a sender so that the hub's own origin answers what they like."""

import re
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from pymongo import MongoClient

from tests.attacks.attack import Attack
from tests.support.eventually import eventually
from tests.support.hub import Hub

_CSP: Final = "sandbox; default-src 'none'"
_COOKIE: Final = "interlink_connect=a-binding-of-the-attacker; Path=/api/auth/oauth"
_TOKEN: Final = [{"scheme": "token", "from": "{header:x-token}"}]


def make(hub: Hub, source: dict[str, Any] | None = None, expect: int = 201) -> dict[str, Any]:
    """An endpoint of the provider that may be described, or the answer that refuses it."""
    body = {"provider": "generic", "name": "attack", "secret": "a secret of the attack", "source": source}
    created: dict[str, Any] = hub.call("POST", "/api/inbound-endpoints", body, expect=expect)
    return created


def stored(hub: Hub, source: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """An endpoint whose description was stored before descriptions were bounded."""
    endpoint = make(hub, {"verification": _TOKEN})
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        change = {"source": source, "changed_at": datetime.now(UTC), **fields}
        endpoints = mongo.get_default_database()["inbound_endpoints"]
        assert endpoints.update_one({"_id": endpoint["id"]}, {"$set": change}).modified_count == 1
    eventually(lambda: read(hub, endpoint)["source"] == source)
    return endpoint


def read(hub: Hub, endpoint: dict[str, Any]) -> dict[str, Any]:
    current: dict[str, Any] = hub.call("GET", f"/api/inbound-endpoints/{endpoint['id']}")
    return current


def send(hub: Hub, endpoint: dict[str, Any], method: str = "GET", **options: Any) -> httpx.Response:
    """What a browser or a sender gets at the endpoint's address; redirects are not followed."""
    path = endpoint["url"].partition("/api/")[2]
    url = f"{hub.url('gateway')}/api/{path}"
    answer = httpx.request(method, url, timeout=30, follow_redirects=False, **options)
    harmless(answer)
    return answer


def harmless(answer: httpx.Response) -> None:
    """No browser follows it, keeps a cookie of it, or runs what it has."""
    assert answer.headers["content-security-policy"] == _CSP, answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(answer.headers.get_list("x-content-type-options")) == 1
    assert not 300 <= answer.status_code < 400
    assert not answer.headers.keys() & {"set-cookie", "location", "refresh", "clear-site-data", "link"}
    kind = answer.headers.get("content-type", "")
    assert re.fullmatch(r"|(text/plain|application/(problem\+)?json)(; charset=utf-8)?", kind), kind


def handshake(answer: dict[str, Any], **when: str) -> dict[str, Any]:
    handshake_spec = {"about": "x", "when": when or {"method": "GET"}, "answer": answer}
    return {"verification": _TOKEN, "handshakes": [handshake_spec]}


HOSTILE: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "sets the cookie of a connection": (
        {"status": 302, "headers": {"Location": "/api/auth/oauth/callback?state=1", "Set-Cookie": _COOKIE}},
        "status",
    ),
    "sets a cookie with 200": ({"headers": {"set-cookie": _COOKIE}}, "headers"),
    "sends a page": ({"type": "text/html", "text": "<script>fetch('/api/api-keys')</script>"}, "type"),
    "sends a page of XML": ({"type": "application/xhtml+xml", "text": "{query:x}"}, "type"),
    "sends a picture with a script": ({"type": "image/svg+xml", "text": "<svg/>"}, "type"),
    "sends a script": ({"type": "text/javascript", "text": "alert(1)"}, "type"),
    "redirects": ({"status": 307, "headers": {"Location": "https://example.com"}}, "status"),
    "refreshes to another page": ({"headers": {"Refresh": "0; url=https://example.com"}}, "headers"),
    "allows other origins": ({"headers": {"Access-Control-Allow-Origin": "*"}}, "headers"),
    "takes the protection away": ({"headers": {"Content-Security-Policy": "script-src *"}}, "headers"),
    "names a type in the headers": ({"headers": {"Content-Type": "text/html"}}, "headers"),
    "fails as a server does": ({"status": 503, "text": "x"}, "status"),
    "has a body where there is none": ({"status": 204, "text": "HTTP/1.1 200 OK"}, ""),
    "splits the answer in a header's name": ({"headers": {"x\r\nSet-Cookie: a": "b"}}, "headers"),
    "splits the answer with a blank name": ({"headers": {" x-hook-secret": "b"}}, "headers"),
    "splits the answer in a header's value": (
        {"headers": {"x-hook-secret": "a\r\nSet-Cookie: a=b"}},
        "headers",
    ),
    "splits the answer in the type": ({"type": "text/plain\r\nSet-Cookie: a=b", "text": "x"}, "type"),
    "hides a type behind a blank": ({"type": "text/plain text/html", "text": "x"}, "type"),
    "ends a value with NUL": ({"headers": {"x-hook-secret": "a\0b"}}, "headers"),
}


def _is_refused(answer: dict[str, Any], field: str) -> Any:
    def attempt(hub: Hub) -> None:
        for source in (handshake(answer), {"verification": _TOKEN, "answers": [answer]}):
            location = "source.handshakes.0.answer" if "handshakes" in source else "source.answers.0"
            faults = make(hub, source, expect=422)["errors"]
            assert any(fault["field"].startswith(f"{location}.{field}".rstrip(".")) for fault in faults), (
                faults
            )
            assert all(fault["message"] for fault in faults)
            mine = make(hub, {"verification": _TOKEN})
            path = f"/api/inbound-endpoints/{mine['id']}"
            hub.call("PATCH", path, {"source": source}, expect=422)
            assert read(hub, mine)["source"] == {"verification": _TOKEN}

    return attempt


def _was_stored(answer: dict[str, Any], field: str) -> Any:
    def attempt(hub: Hub) -> None:
        endpoint = stored(hub, handshake(answer))
        eventually(lambda: read(hub, endpoint)["disabled_reason"])
        current = read(hub, endpoint)
        assert send(hub, endpoint).status_code == 503
        assert current["status"] == "error"
        assert f"source.handshakes.0.answer.{field}".rstrip(".") in current["disabled_reason"]
        assert "PATCH" in current["disabled_reason"]
        assert send(hub, endpoint, "POST", content=b"{}").status_code == 503
        path = f"/api/inbound-endpoints/{endpoint['id']}"
        fixed = hub.call("PATCH", path, {"source": handshake({"text": "{query:x}"})})
        assert (fixed["status"], fixed["disabled_reason"]) == ("active", None)
        assert send(hub, endpoint, params={"x": "<b>"}).text == "<b>"

    return attempt


def _splits_with_a_value(hub: Hub) -> None:
    """What the request brings goes into a header, the text and the JSON of the answer."""
    echo = {"x-hook-secret": "{query:x}"}
    for answer in ({"headers": echo}, {"text": "{query:x}"}, {"json": {"x": "{query:x}"}}):
        endpoint = make(hub, handshake(answer))
        for value in ("a\r\nSet-Cookie: a=b", "a\nSet-Cookie: a=b", "a\rb", "a\0b", "x" * 4097):
            rejected = send(hub, endpoint, params={"x": value})
            assert rejected.status_code == 400, rejected.text
        assert send(hub, endpoint, params={"x": "<script>"}).status_code == 200


def _fills_a_large_answer(hub: Hub) -> None:
    """A short request makes a long answer."""
    answer = {"json": {f"a{n}": {f"b{m}": "{query:x}" for m in range(20)} for n in range(20)}}
    endpoint = make(hub, handshake(answer))
    assert send(hub, endpoint, params={"x": "x" * 4000}).status_code == 400
    assert send(hub, endpoint, params={"x": "x" * 10}).status_code == 200


def _every_answer_is_harmless(hub: Hub) -> None:
    """Of platforms' manifests, of refusals, and where nothing is."""
    secret = "a secret of the attack"
    own = make(hub, handshake({"text": "{query:x}"}, **{"query:x": "present"}))
    graph = hub.call(
        "POST",
        "/api/inbound-endpoints",
        {"provider": "microsoft-graph", "name": "x"},
        expect=201,
    )
    handshake_spec = send(hub, graph, "POST", params={"validationToken": "<script>alert(1)</script>"})
    assert handshake_spec.text == "<script>alert(1)</script>"
    for endpoint in (own, graph):
        for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
            for options in ({}, {"content": b"x" * 2_000_000}, {"headers": {"content-encoding": "br"}}):
                send(hub, endpoint, method, **options)
    assert send(hub, own, "POST", content=b"{}", headers={"x-token": secret}).status_code == 202
    hub.call("POST", f"/api/inbound-endpoints/{own['id']}/disable")
    assert send(hub, own, "POST", content=b"{}").status_code == 410
    channel = {"name": "x", "target_channel_id": "general"}
    incoming = hub.call("POST", "/api/incoming-webhooks", channel, expect=201)
    token = {"url": incoming["url"]}
    assert send(hub, token, "POST", json={"text": "<script>"}).status_code == 200
    assert send(hub, token, "POST", content=b"<").status_code in (400, 415)
    for path in ("slack", "none", "slack/none", "incoming/none", "a/b/c", "", "github/%0d%0a"):
        for method in ("GET", "POST"):
            harmless(httpx.request(method, f"{hub.url('gateway')}/api/webhooks/{path}", timeout=30))
    for name in ("slack", "none", "github"):
        for method in ("GET", "POST", "HEAD"):
            url = f"{hub.url('gateway')}/integrations/{name}/webhook"
            harmless(httpx.request(method, url, timeout=30))


ATTACKS: Final = (
    *(Attack(f"an answer {what}", _is_refused(*item)) for what, item in HOSTILE.items()),
    *(
        Attack(f"a stored answer {what}", _was_stored(*HOSTILE[what]))
        for what in (
            "sets the cookie of a connection",
            "sends a page",
            "splits the answer in a header's value",
            "has a body where there is none",
        )
    ),
    Attack("a value of the request splits the answer", _splits_with_a_value),
    Attack("a value of the request is echoed many times", _fills_a_large_answer),
    Attack("every answer of the webhook paths is no page", _every_answer_is_harmless),
)
