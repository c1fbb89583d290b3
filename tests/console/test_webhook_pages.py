"""The pages of outgoing webhooks, deliveries and dead letters over a real hub, without script."""

from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import pytest
from aiohttp import web

from tests.console.person import Answer, Person
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.subscriber import Subscriber


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
    assert any(link.startswith("/console/find?id=evt_") for link in page.links)
    assert "unknown" in page.text
    assert "Waiting reason none" in page.text.partition("All fields")[2]
    assert "Waiting reason" not in page.text.partition("All fields")[0]
    receiver.answer = None
    retried = admin.send(page, "/do/retry")
    assert "It is sent again now" in retried.text
    eventually(lambda: "Every attempt failed" not in admin.open(f"/console/deliveries/{delivery}").text)

    def counted() -> bool:
        shown = admin.open(f"/console/webhooks/{webhook}").text
        return "half within" in shown and "By the hour" in shown

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
