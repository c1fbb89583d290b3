"""The pages of outgoing webhooks, deliveries and dead letters over a real hub, without script."""

import base64
import json
from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import httpx
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.console.person import Answer, Person
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.subscriber import Subscriber

PLAID = {"environment": "production", "client_id": "0" * 24, "client_secret": "f" * 30}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Subscriber]:
    with Subscriber(lambda _: web.Response(status=401, text="unknown")) as subscriber:
        yield subscriber


def send(person: Person, page: Answer, **values: str | list[str]) -> Answer:
    """Send the form of a webhook, with boxes that are ticked and the button that is pressed."""
    fields = page.form(page.path.partition("?")[0]).fields
    here = page.path.partition("?")[0]
    answer = person.client.post(here, data={**fields, **values}, headers={"origin": person.base})
    return Answer(answer)


def test_a_webhook_is_made_with_picked_events_and_tried_before(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/webhooks/do/create")
    assert "message.created" in form.text
    assert "/console/event-types/message.created" in form.links
    values: dict[str, str | list[str]] = {
        "name": token_hex(4),
        "url": f"http://127.0.0.1:9/{token_hex(4)}",
        "pick": ["message.created", "user.*"],
        "condition": "data.absent",
        "transform": "{kind: type}",
    }
    tried = send(admin, form, **values, do="preview")
    assert tried.status == 200
    assert "It is not sent" in tried.text
    tried = send(admin, tried, **values | {"condition": ""}, do="preview")
    assert '"kind": "message.created"' in tried.text
    assert hub.call("GET", f"/api/outgoing-webhooks?name={values['name']}")["items"] == []
    broken = send(admin, tried, **values | {"transform": "{{"}, do="save")
    assert (broken.status, "transform" in broken.text) == (422, True)
    made = send(admin, broken, **values, do="save")
    assert "whsec_" in made.text
    same = send(admin, admin.open("/console/webhooks/do/create"), **values | {"name": "twin"}, do="save")
    assert (same.status, "change that one, or choose Save anyway" in same.text) == (409, True)
    assert "whsec_" in send(admin, same, **values | {"name": "twin"}, do="force").text
    stored = hub.call("GET", f"/api/outgoing-webhooks?name={values['name']}")["items"][0]
    assert sorted(stored["events"]) == ["message.created", "user.*"]
    assert stored["filter"]["condition"] == "data.absent"
    assert stored["transform"] == "{kind: type}"


def test_the_types_of_a_provider_are_shown_on_demand(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/webhooks/do/create")
    assert len(form.response.content) < 100_000, "there are more than two thousand types"
    assert "github.push" not in form.text
    shown = send(admin, form, name="kept", show="github", pick=["slack.message"])
    assert "github.push" in shown.text
    assert shown.form("/do/create").fields["name"] == "kept"
    assert hub.call("GET", "/api/outgoing-webhooks?name=kept")["items"] == []
    again = send(admin, shown, name="kept", show="stripe")
    assert "github.push" in again.text, "what was opened stays open"


def test_changing_a_webhook_keeps_what_the_form_does_not_have(hub: Hub, admin: Person) -> None:
    settings: dict[str, Any] = {"mentions": ["ada"], "content": "urgent", "condition": "data.a == '\u200b'"}
    settings["exclude_bots"] = True
    webhook = hub.outgoing_webhook(
        "http://127.0.0.1:9/edited",
        name="before",
        events=["message.created", "a.b"],
        filter=settings,
        timeout_s=7,
    )["id"]
    form = admin.open(f"/console/webhooks/{webhook}/do/edit")
    boxes = [
        attributes for tag, attributes in form.elements if tag == "input" and attributes.get("name") == "pick"
    ]
    assert [box["value"] for box in boxes if "checked" in box] == ["message.created"]
    assert form.form("/do/edit").fields["content"] == "urgent"
    changed = send(admin, form, name="after", pick=["message.created"], content="")
    assert changed.path == f"/console/webhooks/{webhook}?done=edit"
    stored = hub.call("GET", f"/api/outgoing-webhooks/{webhook}")
    assert (stored["name"], stored["timeout_s"]) == ("after", 7)
    assert sorted(stored["events"]) == ["a.b", "message.created"]
    assert stored["filter"]["mentions"] == ["ada"]
    assert stored["filter"]["content"] is None
    assert stored["filter"]["exclude_bots"] is True
    assert stored["filter"]["condition"] == settings["condition"], "what hides is visible, and stays"
    nothing = send(admin, admin.open(f"/console/webhooks/{webhook}/do/edit"), events="", pick=[])
    assert (nothing.status, "pick one at least" in nothing.text) == (422, True)


def test_the_second_of_two_people_sees_what_the_first_has_stored(hub: Hub, admin: Person) -> None:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/both", name="before", events=["a.b"])["id"]
    form = admin.open(f"/console/webhooks/{webhook}/do/edit")
    hub.call("PATCH", f"/api/outgoing-webhooks/{webhook}", {"name": "theirs", "events": ["c.d"]})
    late = send(admin, form, name="mine", do="save")
    assert late.status == 412
    assert "Name mine theirs" in late.text
    assert "Events a.b c.d" in late.text
    assert hub.call("GET", f"/api/outgoing-webhooks/{webhook}")["name"] == "theirs"
    assert "done=edit" in send(admin, late, do="save").path
    stored = hub.call("GET", f"/api/outgoing-webhooks/{webhook}")
    assert (stored["name"], stored["events"]) == ("mine", ["a.b"])


def test_an_endpoint_is_made_of_a_template_and_every_setting_is_changed(
    hub: Hub, admin: Person, person: Person
) -> None:
    form = admin.open("/console/endpoints/new/github")
    form = admin.open(form.link("/console/endpoints/new/github?template=github-"))
    assert "From the template" in form.text
    values = {
        "own-secret": "handed-over-1234",
        "own-allow_ips": "192.0.2.0/24\r\nnowhere",
        "own-public_url": "https://hooks.example.com",
    }
    wrong = admin.send(form, "/new/github", **values, **{"own-channel_id": "general"})
    assert wrong.status == 422
    assert wrong.errors == ["own-allow_ips"]
    assert "192.0.2.0/24 nowhere" in wrong.text
    assert "handed-over" not in wrong.response.text, "a secret is never shown again"
    made = admin.send(wrong, "/new/github", **values | {"own-allow_ips": "192.0.2.7/24"})
    assert (made.status, "https://hooks.example.com/" in made.text) == (200, True)
    endpoint = made.link("/console/endpoints/ep_").rpartition("/")[2]
    stored = hub.call("GET", f"/api/inbound-endpoints/{endpoint}")
    templates = {item["id"]: item for item in hub.call("GET", "/api/endpoint-templates")}
    template = templates[form.path.partition("template=")[2]]
    assert (stored["name"], stored["events"]) == (template["name"], template["events"])
    assert (stored["allow_ips"], stored["awaits"]) == (["192.0.2.0/24"], None)

    path = f"/console/endpoints/{endpoint}"
    edit = admin.open(admin.open(path).link("/do/edit"))
    later: dict[str, str | None] = {
        "own-name": "after",
        "own-events": "push",
        "own-channel_id": "",
        "own-allow_ips": "",
        "own-public_url": "",
        "own-rate_limit": "5",
        "own-body_limit": "2048",
        "own-dedupe_window_s": "0",
        "own-unsigned_reason": "no",
    }
    for name, text in {"own-rate_limit": "many", "own-unsigned_reason": "no", "own-body_limit": "1"}.items():
        wrong = admin.send(edit, "/do/edit", **later | {"own-unsigned_reason": ""} | {name: text})
        assert (wrong.status, wrong.errors) == (422, [name]), wrong.text
    stale = admin.open(f"{path}/do/edit")
    changed = admin.send(edit, "/do/edit", **later | {"own-unsigned_reason": "it cannot sign"})
    assert changed.path == f"{path}?done=edit"
    stored |= {"name": "after", "events": ["push"], "channel_id": None, "allow_ips": [], "rate_limit": 5}
    stored |= {"body_limit": 2048, "dedupe_window_s": 0, "require_signature": False}
    now = hub.call("GET", f"/api/inbound-endpoints/{endpoint}")
    assert {name for name in stored if now[name] != stored[name]} == {
        *("version", "updated_at", "public_url", "url", "unsigned_reason", "setup_steps"),
    }
    late = admin.send(stale, "/do/edit", **{"own-name": "mine"})
    assert late.status == 412
    assert "Name mine after" in late.text
    assert "Requests per minute 60000 5" in late.text
    assert hub.call("GET", f"/api/inbound-endpoints/{endpoint}")["name"] == "after"
    assert "done=edit" in admin.send(late, "/do/edit", **{"own-unsigned_reason": ""}).path
    now = hub.call("GET", f"/api/inbound-endpoints/{endpoint}")
    assert (now["name"], now["rate_limit"], now["require_signature"]) == ("mine", 60_000, True)

    reader = hub.call("POST", "/api/api-keys", {"name": "reader", "scopes": ["integrations:read"]})
    person.sign_in(reader["key"])
    assert not any("/do/edit" in link for link in person.open(path).links)
    assert person.open(f"{path}/do/edit").status == 403
    refused = person.post(f"{path}/do/edit", **{"own-name": "theirs"})
    assert (refused.status, "integrations:write" in refused.text) == (403, True)
    assert hub.call("GET", f"/api/inbound-endpoints/{endpoint}")["name"] == "mine"


def test_a_key_of_several_lines_the_sender_and_the_settings_of_an_endpoint(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/endpoints/new/generic")
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    [key, newer] = [
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        for key in keys
    ]
    source = {"verification": [{"scheme": "ecdsa", "signature": {"header": "x-sign", "encoding": "base64"}}]}
    values = {"own-secret": key.replace("\n", "\r\n"), "own-source": json.dumps(source)}
    made = admin.send(form, "/new/generic", **values)
    assert made.status == 200, made.text
    endpoint = hub.call("GET", "/api/inbound-endpoints?limit=1")["items"][0]

    def accepted(private: ec.EllipticCurvePrivateKey) -> int:
        signature = base64.b64encode(private.sign(b"{}", ec.ECDSA(hashes.SHA256()))).decode()
        return httpx.post(endpoint["url"], content=b"{}", headers={"x-sign": signature}).status_code

    assert accepted(keys[0]) == 202
    path = f"/console/endpoints/{endpoint['id']}"
    rotated = admin.send(
        admin.open(f"{path}/do/rotate"), "/do/rotate", secret=newer.replace("\n", "\r\n"), overlap_hours="1"
    )
    assert "New secret" in rotated.text
    assert eventually(lambda: accepted(keys[1]) == 202)
    edit = admin.open(f"{path}/do/edit")
    assert json.loads(edit.form("/do/edit").fields["own-source"]) == source
    wrong = admin.send(edit, "/do/edit", **{"own-source": "{"})
    assert (wrong.status, wrong.errors) == (422, ["own-source"])
    assert "done=edit" in admin.send(wrong, "/do/edit", **{"own-source": ""}).path
    assert hub.call("GET", f"/api/inbound-endpoints/{endpoint['id']}")["source"] is None

    made = hub.call("POST", "/api/inbound-endpoints", {"provider": "plaid", "name": "p", "settings": PLAID})
    path = f"/console/endpoints/{made['id']}/do/edit"
    edit = admin.open(path)
    assert PLAID["client_secret"] not in edit.response.text
    for values in ({"client_id": ""}, {"client_secret": "short"}):
        wrong = admin.send(edit, "/do/edit", **values)
        assert (wrong.status, wrong.errors) == (422, list(values))
    assert "done=edit" in admin.send(edit, "/do/edit", environment="sandbox").path
    settings = hub.call("GET", f"/api/inbound-endpoints/{made['id']}")["settings"]
    assert settings == PLAID | {"environment": "sandbox", "client_secret": None}


def test_a_rotation_shows_until_when_the_old_secret_is_valid(hub: Hub, admin: Person) -> None:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/rotated", name="rotated")["id"]
    assert hub.call("GET", f"/api/outgoing-webhooks/{webhook}")["old_secrets_until"] == []
    form = admin.open(f"/console/webhooks/{webhook}/do/rotate")
    rotated = admin.send(form, "/do/rotate", overlap_hours="3")
    assert "valid until" in rotated.text
    [until] = hub.call("GET", f"/api/outgoing-webhooks/{webhook}")["old_secrets_until"]
    shown = admin.open(f"/console/webhooks/{webhook}")
    assert until in shown.response.text
    endpoint = hub.github_endpoint(name="rotated")["id"]
    hub.call("POST", f"/api/inbound-endpoints/{endpoint}/rotate-secret", {"overlap_hours": 1})
    [until] = hub.call("GET", f"/api/inbound-endpoints/{endpoint}")["old_secrets_until"]
    assert until in admin.open(f"/console/endpoints/{endpoint}").response.text


def test_a_failure_says_what_to_do_and_leads_there(hub: Hub, admin: Person, receiver: Subscriber) -> None:
    webhook = hub.outgoing_webhook(receiver.url, name="repaired")["id"]
    delivery = hub.call("POST", f"/api/outgoing-webhooks/{webhook}/test")["delivery_id"]
    eventually(lambda: "Every attempt failed" in admin.open(f"/console/deliveries/{delivery}").text)
    page = admin.open(f"/console/deliveries/{delivery}")
    assert "The receiver does not recognize the hub" in page.text
    assert f"/console/webhooks/{webhook}/do/edit" in page.links
    assert f"/console/webhooks/{webhook}" in page.links
    assert any(link.startswith("/console/paths/evt_") for link in page.links)
    assert "unknown" in page.text
    assert "Waiting reason none" in page.text.partition("All fields")[2]
    assert "Waiting reason" not in page.text.partition("All fields")[0]
    receiver.answer = None
    retried = admin.send(page, "/do/retry")
    assert "It is sent again now" in retried.text
    eventually(lambda: "Every attempt failed" not in admin.open(f"/console/deliveries/{delivery}").text)

    def counted() -> bool:
        shown = admin.open(f"/console/webhooks/{webhook}").text
        return "latency p50" in shown and "By the hour" in shown

    assert eventually(counted)


def test_dead_letters_are_discarded_by_reason(hub: Hub, admin: Person, receiver: Subscriber) -> None:
    receiver.answer = lambda _: web.Response(status=404)
    webhook = hub.outgoing_webhook(receiver.url + "/discarded", name="discarded")["id"]
    hub.call("POST", f"/api/outgoing-webhooks/{webhook}/test")
    letters = f"/console/dead-letters?webhook_id={webhook}&error=status"
    eventually(lambda: "/console/dead-letters/dlv_" in admin.open(letters).response.text)
    form = admin.open("/console/dead-letters/do/discard")
    job = admin.send(form, "/do/discard", webhook_id=webhook, error="status")
    assert "/console/jobs/job_" in job.path
    eventually(lambda: "Nothing fits these filters" in admin.open(letters).text)


def test_chosen_rows_shown_rows_or_all_hits_are_sent_again_or_discarded(
    hub: Hub, admin: Person, person: Person, receiver: Subscriber
) -> None:
    receiver.answer = lambda _: web.Response(status=404)
    webhook = hub.outgoing_webhook(receiver.url + "/many", name="many", retry={"schedule": [0]})["id"]
    for _ in range(6):
        hub.call("POST", f"/api/outgoing-webhooks/{webhook}/test")
    letters = f"/console/dead-letters?webhook_id={webhook}"

    def dead() -> list[str]:
        items = hub.call("GET", f"/api/dead-letters?webhook_id={webhook}")["items"]
        return [item["id"] for item in items]

    eventually(lambda: len(dead()) == 6)
    [first, *rest] = dead()
    page = admin.open(letters)
    boxes = [found for _, found in page.elements if found.get("type") == "checkbox"]
    assert [box["value"] for box in boxes if box["name"] == "id"] == [first, *rest]
    form = page.form("/bulk/replay")
    data = form.fields | {"id": first, "shown": [first, *rest]}

    def ask(action: str, data: dict[str, Any], **more: str) -> Answer:
        headers = {"origin": admin.base}
        return Answer(admin.client.post(f"/console/{action}", data=data | more, headers=headers))

    asked = ask("dead-letters/bulk/discard", data)
    for words in ("the 1 that you have chosen", "the 6 that the page has shown", "all 6 hits of this search"):
        assert words in asked.text
    assert "Their receivers do not get these events" in asked.text
    data = asked.form("/bulk/discard").fields | {"id": first, "shown": [first, *rest]}
    done = ask("dead-letters/bulk/discard", data, rows="id")
    assert "Discarded 1" in done.text
    assert (dead(), done.link("/console/dead-letters?")) == (rest, letters)
    # What was chosen has changed meanwhile: its reason is shown, and the others are done.
    again = ask("dead-letters/bulk/discard", data | {"shown": [first, rest[0]]}, rows="shown", once="another")
    assert "Discarded 1" in again.text
    assert f"{first}: its status is discarded, not dead_letter" in again.text
    assert dead() == rest[1:]
    for wrong in ({"rows": "id", "id": ""}, {"rows": "nothing"}):
        refused = ask("dead-letters/bulk/discard", data | {"once": "other"}, **wrong)
        assert (refused.status, "choose some in the list first" in refused.text) == (422, True)

    # All hits, by the search of deliveries: those that wait or have failed, a job.
    receiver.answer = None
    listed = admin.open(f"/console/deliveries?webhook_id={webhook}")
    asked = admin.send(listed, "/bulk/retry")
    assert "all 4 hits of this search" in asked.text
    assert "all 4 hits" in admin.open(f"/console/deliveries/bulk/retry?webhook_id={webhook}").text
    assert "dead letter, retrying" in asked.text
    job = admin.send(asked, "/bulk/retry", rows="all")
    assert "/console/jobs/job_" in job.path, job.text
    eventually(lambda: dead() == [])
    asked = admin.send(
        admin.open(f"/console/deliveries?webhook_id={webhook}&status=discarded"), "/bulk/retry"
    )
    assert "all 2 hits of this search" in asked.text
    [delivery, *_] = hub.deliveries(webhook_id=webhook, status="discarded")
    trace = hub.call("GET", f"/api/deliveries/{delivery['id']}")["trace_id"]
    for query in (f"event_id={delivery['event_id']}", f"trace_id={trace}"):
        asked = admin.open(f"/console/deliveries/bulk/retry?webhook_id={webhook}&status=discarded&{query}")
        assert "all 1 hits of this search" in asked.text
    job = admin.send(asked, "/bulk/retry", rows="all")
    assert "/console/jobs/job_" in job.path, job.text
    sent = f"/api/deliveries/{delivery['id']}"
    eventually(lambda: hub.call("GET", sent)["status"] == "delivered")
    assert len(hub.deliveries(webhook_id=webhook, status="discarded")) == 1, "not those of other traces"
    delivered = admin.open(f"/console/deliveries?webhook_id={webhook}&status=delivered")
    asked = admin.send(delivered, "/bulk/retry")
    assert "All hits of this search cannot be chosen" in asked.text
    assert "it was delivered" in admin.send(asked, "/bulk/retry", rows="shown").text

    reader = hub.call("POST", "/api/api-keys", {"name": "reader", "scopes": ["webhooks:read"]})
    person.sign_in(reader["key"])
    assert not any("/bulk/" in form.action for form in person.open("/console/deliveries").forms)
    assert person.post("/console/deliveries/bulk/retry", rows="all").status == 403
