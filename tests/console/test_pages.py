"""The console's pages over a real hub, as a person without script uses them."""

import csv
import io
import re
from collections.abc import Iterator
from secrets import token_hex

import httpx
import pytest
from aiohttp import web

from services.console.pages.kinds import Kind
from services.console.pages.registry import KINDS
from tests.console.person import Answer, Person
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.subscriber import Subscriber


@pytest.fixture(scope="module")
def receiver() -> Iterator[Subscriber]:
    """A receiver of webhooks that refuses everything until it is repaired."""
    with Subscriber(lambda _: web.Response(status=400, text="broken <b>on purpose</b>")) as subscriber:
        yield subscriber


def field_of(page: Answer, label: str) -> str:
    """The value beside a label, on a page that shows fields."""
    found = re.search(rf"<dt>{label}</dt><dd>(?:<code>)?([^<]*)", page.response.text)
    assert found, page.text
    return found[1].strip()


def test_the_address_of_the_hub_leads_to_the_console(hub: Hub, person: Person) -> None:
    page = person.open("/")
    assert (page.status, page.path) == (401, "/console")
    page = person.send(page, "/console/sign-in", key=hub.admin_key)
    assert (page.status, page.path) == (200, "/console")
    assert all(f"{name} ready" in page.text for name in hub.services if name != "console")


def test_signing_in_leads_to_the_page_that_was_asked_for(hub: Hub, person: Person) -> None:
    asked = person.open("/console/deliveries?status=dead_letter")
    assert asked.status == 401
    page = person.send(asked, "/console/sign-in", key=hub.admin_key)
    assert page.path == "/console/deliveries?status=dead_letter"
    assert '<option value="dead_letter" selected>' in page.response.text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "{" not in kind.path], ids=lambda kind: kind.path)
def test_every_list_is_shown_and_every_link_and_form_page_of_it_works(admin: Person, kind: Kind) -> None:
    page = admin.open(f"/console/{kind.path}")
    assert page.status == 200
    for link in {link for link in page.links if "/do/" in link or ".csv" in link}:
        assert admin.open(link).status == 200, link


def test_an_endpoint_is_created_tested_rotated_and_deleted(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/endpoints/new/github")
    wrong = admin.send(form, "/new/github", **{"own-name": "repository", "own-secret": "short"})
    assert wrong.status == 422
    assert "repository" in wrong.response.text, "what was entered is still there"
    made = admin.send(wrong, "/new/github")
    assert made.status == 200
    assert "Set up" in made.text
    secret = field_of(made, "Secret")
    detail = admin.open(made.link("/console/endpoints/ep_"))
    assert "repository" in detail.text
    assert secret not in detail.response.text
    endpoint = detail.path.rpartition("/")[2]
    address = hub.call("GET", f"/api/inbound-endpoints/{endpoint}")["url"]
    tested = admin.send(detail, "/do/test")
    assert "Sample" in tested.text

    def executions() -> list[str]:
        page = admin.open(f"/console/endpoints/{endpoint}/events")
        return [link for link in page.links if "/events/exe_" in link]

    execution = eventually(lambda: next(iter(executions()), ""))
    shown = admin.open(execution)
    assert shown.status == 200
    asked = admin.open(shown.link("/do/replay"))
    replayed = admin.send(asked, "/do/replay")
    assert "published again" in replayed.text
    rotate = admin.open(f"/console/endpoints/{endpoint}/do/rotate")
    rotated = admin.send(rotate, "/do/rotate", overlap_hours="1")
    assert field_of(rotated, "New secret") != secret
    answer = httpx.post(address, content=b"{}", headers=signed("another", "ping", b"{}"))
    assert answer.status_code == 401

    def advice() -> bool:
        pages = [admin.open(link) for link in executions()]
        return any("compare the one at the provider" in page.text for page in pages)

    assert eventually(advice)
    deleted = admin.send(admin.open(f"/console/endpoints/{endpoint}/do/delete"), "/do/delete")
    assert (deleted.status, deleted.path) == (200, "/console/endpoints?done=delete")
    assert admin.open(f"/console/endpoints/{endpoint}").status == 404


def test_a_failed_delivery_is_found_and_sent_again(hub: Hub, admin: Person, receiver: Subscriber) -> None:
    form = admin.open("/console/webhooks/do/create")
    made = admin.send(form, "/do/create", name="orders", url=receiver.url, events="message.created\r\nuser.*")
    assert made.status == 200
    assert field_of(made, "Secret").startswith("whsec_")
    webhook = admin.open(made.link("/console/webhooks/wh_"))
    assert "message.created" in webhook.text
    tested = admin.send(webhook, "/do/test")
    assert "/console/deliveries/dlv_" in tested.path
    delivery = tested.path.partition("?")[0]

    eventually(lambda: "Every attempt failed" in admin.open(delivery).text)
    page = admin.open(delivery)
    assert "broken <b>on purpose</b>" in page.text, "the response is shown as text"
    assert "400" in page.text
    letters = admin.open("/console/dead-letters")
    letter = admin.open(letters.link("/console/dead-letters/dlv_"))
    receiver.answer = None
    retried = admin.send(letter, "/do/replay")
    assert retried.path.startswith("/console/deliveries/dlv_")
    eventually(lambda: "delivered" in admin.open(delivery).text)
    found = admin.open(f"/console/find?id={delivery.rpartition('/')[2]}")
    assert found.path == delivery
    event = hub.call("GET", f"/api/deliveries/{delivery.rpartition('/')[2]}")["event_id"]
    assert "Deliveries of this event" in admin.open(f"/console/find?id={event}").text
    assert "Nothing has the id" in admin.open("/console/find?id=nowhere").text
    rows = list(csv.reader(io.StringIO(admin.open("/console/deliveries.csv").response.text)))
    assert rows[0][0] == "Delivery"
    assert rows[1][0].startswith("dlv_")


def test_an_incoming_webhook_is_created_and_its_address_is_shown_once(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/incoming-webhooks/do/create")
    made = admin.send(form, "/do/create", name="scripts", target_channel_id="general")
    address = field_of(made, "Address with token")
    assert httpx.post(address, json={"text": "hello"}).status_code == 200
    detail = admin.open(made.link("/console/incoming-webhooks/ep_"))
    assert address not in detail.response.text


def test_a_refused_form_says_why_and_keeps_what_was_filled_in(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/people/do/link")
    refused = admin.send(form, "/do/link", provider="slack", account="T1", person_id="U1", user_id="ada")
    assert refused.status == 404
    assert "no account 'T1' of slack in this workspace: connect it" in refused.text
    assert refused.form("/do/link").fields["person_id"] == "U1"


def test_dead_letters_are_discarded_by_filter(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/dead-letters/do/discard")
    nothing = admin.send(form, "/do/discard")
    assert nothing.status == 422
    assert "at least one of" in nothing.text
    started = admin.send(form, "/do/discard", event_type="none.such")
    assert started.path.startswith("/console/jobs/job_"), started.text


def test_lists_have_pages_and_filters_in_their_address(hub: Hub, admin: Person) -> None:
    name = token_hex(4)
    for number in range(51):
        hub.outgoing_webhook("http://127.0.0.1:9/", name=f"many {name} {number}", events=["a.b"])
    first = admin.open("/console/webhooks")
    older = admin.open(first.link("cursor="))
    assert older.status == 200
    assert older.response.text.count("<tr>") > 1
    assert admin.open(older.link("/console/webhooks?")).path.startswith("/console/webhooks")
    one = admin.open(f"/console/webhooks?name=many+{name}+7")
    assert one.response.text.count("<tr>") == 2
    assert "Nothing fits these filters" in admin.open("/console/webhooks?name=none").text
    assert admin.open("/console/deliveries?since=yesterday").status == 422
    assert admin.open("/console/deliveries?since=2026-01-31T12:00").status == 200
    assert admin.open("/console/deliveries?cursor=forged").status in (400, 422)


def test_the_audit_log_names_the_member_and_the_console(hub: Hub, admin: Person) -> None:
    form = admin.open("/console/api-keys/do/create")
    body = {"name": "of the console", "scopes": "webhooks:read"}
    made = admin.send(form, "/do/create", **body)
    key = field_of(made, "API key")
    assert hub.call("GET", "/api/deliveries", key=key)["items"] is not None
    entry = hub.call("GET", "/api/audit?limit=1")["items"][0]
    assert entry["actor"]["service"] == "console"
    assert entry["actor"]["key_name"] == "first admin key"
    assert entry["client"] == "127.0.0.1"
    assert "first admin key by console" in admin.open("/console/audit").text
    revoke = admin.open(admin.open("/console/api-keys").link("/do/revoke"))
    assert "refused at once" in revoke.text
    assert admin.send(revoke, "/do/revoke").path == "/console/api-keys?done=revoke"
    hub.call("GET", "/api/deliveries", key=key, expect=401)


def test_a_form_that_is_sent_twice_does_its_work_once(hub: Hub, admin: Person) -> None:
    name = token_hex(4)
    form = admin.open("/console/webhooks/do/create")
    values = {"name": name, "url": f"http://127.0.0.1:9/{name}", "events": "a.b"}
    first, second = (admin.send(form, "/do/create", **values) for _ in range(2))
    assert first.link("/console/webhooks/wh_") == second.link("/console/webhooks/wh_")
    assert len(hub.call("GET", f"/api/outgoing-webhooks?name={name}")["items"]) == 1


def test_a_member_sees_and_does_what_the_key_allows(hub: Hub, person: Person) -> None:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/")["id"]
    created = hub.call("POST", "/api/api-keys", {"name": "viewer", "scopes": ["webhooks:read"]})
    person.sign_in(created["key"])
    page = person.open(f"/console/webhooks/{webhook}")
    assert page.status == 200
    assert not any("/do/" in link for link in page.links)
    assert [form.action for form in page.forms if "/do/" in form.action] == []
    menu = person.open("/console")
    assert not any("api-keys" in link or "imports" in link for link in menu.links)
    assert person.open("/console/api-keys").status == 403


def test_a_service_that_is_down_takes_only_its_parts_with_it(hub: Hub, admin: Person) -> None:
    hub.kill("sync")
    try:
        eventually(lambda: "sync not ready" in admin.open("/console").text, 10)
        page = admin.open("/console")
        assert page.status == 200
        assert "The service sync does not answer" in page.text
        assert "delivery ready" in page.text
        mappings = admin.open("/console/mappings")
        assert (mappings.status, "The service sync does not answer" in mappings.text) == (200, True)
        assert admin.open("/console/webhooks").status == 200
    finally:
        hub.start_service("sync")
        hub.wait_ready("sync")
    eventually(lambda: "sync ready" in admin.open("/console").text, 10)


def test_static_files_are_versioned_compressed_and_of_the_hub(hub: Hub, admin: Person) -> None:
    page = admin.open("/console")
    addresses = [
        str(attributes.get("href") or attributes.get("src"))
        for tag, attributes in page.elements
        if tag in ("link", "script")
    ]
    assert all(address.startswith(("/console/static/", "data:,")) for address in addresses)
    sizes = 0
    for address in addresses:
        if address.startswith("/"):
            answer = admin.client.get(address)
            assert answer.headers["content-encoding"] == "gzip"
            assert "immutable" in answer.headers["cache-control"]
            sizes += int(answer.headers["content-length"])
    assert sizes + len(page.response.content) < 200_000, "cold, over the wire"
    assert admin.client.get("/console/static/../settings.py").status_code in (400, 404)
    assert admin.client.get("/console/static/vendor/lock.json").status_code == 404
