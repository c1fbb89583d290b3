"""What strangers wrote is text on every page: no element, no attribute, no link, and nothing invisible."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import parse_qs

import httpx
import pytest
from aiohttp import web
from pymongo import MongoClient

from services.delivery.log.deliveries import DELIVERIES
from shared.manifests.registry import registry
from shared.runtime.mongo import Document
from tests.console.hostile import ELEMENTS, all_of_them, short_ones
from tests.console.person import Answer, Person
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.subscriber import Subscriber

EVIL = all_of_them()
DOCUMENTS = {
    str(item.manifest.integration.docs if item.manifest.integration else item.manifest.docs)
    for item in registry().providers.values()
}
"""Of providers, as their manifests name them."""
_OF_A_KIND = 5
"""Pages of one kind that are opened."""
UNPRINTABLE = "\u202e\u200b\u0007\ufeff\u2066\u2069"


def kind_of(path: str) -> str:
    """Return what pages of one kind share: another provider or part of a list makes no other kind."""
    place, _, query = path.partition("?")
    place = re.sub(r"/(catalogue|endpoints/new)/(?!github\b)[a-z0-9-]+", r"/\1/*", place)
    return f"{place}?{sorted(parse_qs(query))}"


def check(page: Answer) -> None:
    """Fail if a page has an element or attribute of a stranger, or a character that hides something."""
    assert not [letter for letter in UNPRINTABLE if letter in page.response.text], page.path
    for tag, attributes in page.elements:
        assert tag not in ELEMENTS, (page.path, tag)
        assert not [name for name in attributes if name.startswith("on")], (page.path, tag, attributes)
        for name in ("href", "src", "action"):
            value = attributes.get(name) or ""
            is_ours = value.startswith(("/console", "data:,", "#")) or value in ("", *DOCUMENTS)
            assert is_ours, (page.path, name, value)
        if tag == "meta":
            assert "http-equiv" not in attributes
        if tag == "script":
            assert str(attributes["src"]).startswith("/console/static/")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Subscriber]:
    """A receiver whose answers are hostile."""
    headers = {"x-evil": "<img src=x onerror=alert(1)>"}
    with Subscriber(lambda _: web.Response(status=400, text=EVIL, headers=headers)) as subscriber:
        yield subscriber


def test_hostile_texts_are_texts_on_every_page(hub: Hub, admin: Person, receiver: Subscriber) -> None:
    names = [text[:80] for text in short_ones() if text.isprintable()]
    endpoints = [hub.github_endpoint(name=name)["id"] for name in names]
    webhook = hub.outgoing_webhook(
        receiver.url, name=names[0], description=EVIL, metadata={"evil": names[1]}
    )["id"]
    hub.call("POST", "/api/api-keys", {"name": names[1], "scopes": ["webhooks:read"]})
    type_of_evil = {"name": "evil.type", "about": EVIL, "example": {EVIL: [EVIL]}}
    hub.call("POST", "/api/event-types", type_of_evil)
    hub.call("POST", f"/api/outgoing-webhooks/{webhook}/test")
    address = hub.call("GET", f"/api/inbound-endpoints/{endpoints[0]}")["url"]
    headers = {"x-github-event": "<script>alert(1)</script>", "user-agent": "<svg/onload=alert(1)>"}
    httpx.post(address, content=EVIL.encode(), headers=headers)
    hub.call(
        "POST",
        "/api/events",
        {"specversion": "1.0", "id": "evil-1", "type": "evil.type", "source": "/x", "data": {"text": EVIL}},
    )
    eventually(lambda: len(hub.deliveries(webhook_id=webhook, status="dead_letter")) == 2)
    agent = Person(hub.url("gateway"))
    agent.client.headers["user-agent"] = "<img src=x onerror=alert(1)>"
    agent.sign_in(hub.admin_key)

    seen, shown, kinds = set(), "", Counter[str]()
    waiting = ["/console", "/console/sessions", f"/console/find?id={names[2]}", "/console/nothing/<x>"]
    waiting += [f"/console/endpoints/{endpoints[0]}/events", "/console/event-types/evil.type"]
    waiting += [f"/console/webhooks?name={names[3]}", "/console/sign-in?next=/console/<script>"]
    while waiting:
        path = waiting.pop()
        if path in seen or ".csv" in path or path.endswith("/json") or kinds[kind_of(path)] == _OF_A_KIND:
            continue
        seen.add(path)
        kinds[kind_of(path)] += 1
        page = admin.open(path)
        assert page.status < 500, path
        check(page)
        shown += page.text
        waiting += [
            link
            for link in page.links
            if link.startswith("/console/") and ("evil" in link or "event-types/" not in link)
        ]
    assert EVIL.split()[0] in shown
    assert "[RIGHT-TO-LEFT OVERRIDE]gpj.exe" in shown
    assert "{{ 7*7 }}" in shown
    assert "<svg/onload=alert(1)>" in shown
    assert len(seen) > 60, "pages of every kind that links lead to"


def test_large_values_are_cut_and_can_be_downloaded(hub: Hub, admin: Person, receiver: Subscriber) -> None:
    large = "x" * 300_000
    webhook = hub.outgoing_webhook(f"{receiver.url}/large", events=["large.event"])["id"]
    data = {"text": large, "deep": _nested(200)}
    event = {"specversion": "1.0", "id": "large-1", "type": "large.event", "source": "/x", "data": data}
    hub.call("POST", "/api/events", event)
    delivery = eventually(lambda: next(iter(hub.deliveries(webhook_id=webhook)), None))
    assert delivery
    page = admin.open(f"/console/deliveries/{delivery['id']}")
    assert page.status == 200
    assert len(page.response.text) < 200_000
    assert "more characters: see the download" in page.text
    download = admin.client.get(page.link("/json"))
    assert download.headers["content-disposition"].startswith("attachment")
    assert large in download.json()["body"]
    with MongoClient[Document](hub.env["MONGODB_URI"]) as client:
        deliveries = client.get_default_database()[DELIVERIES]
        levels = 100_000
        for body in (json.dumps({"text": "x" * 2**23}), "[" * levels + "]" * levels, '{"a":' * levels):
            deliveries.update_one({"_id": delivery["id"]}, {"$set": {"body": body.encode()}})
            page = admin.open(f"/console/deliveries/{delivery['id']}")
            assert page.status == 200
            assert len(page.response.text) < 200_000
            assert "more characters: see the download" in page.text
            assert admin.client.get(page.link("/json")).json()["body"] == body


def test_a_request_with_many_levels_is_shown(hub: Hub, admin: Person) -> None:
    endpoint = hub.github_endpoint(name="deep")["id"]
    body = b"[" * 100_000 + b"]" * 100_000
    answer = httpx.post(f"{hub.url('gateway')}/api/webhooks/github/{endpoint}", content=body)
    assert 400 <= answer.status_code < 500
    events = f"/console/endpoints/{endpoint}/events"
    shown = f"{events}/exe_"
    eventually(lambda: any(shown in link for link in admin.open(events).links))
    assert admin.open(admin.open(events).link(shown)).status == 200


def _nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value
