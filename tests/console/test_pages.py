"""The console's pages over a real hub, as a person without script uses them."""

import csv
import io
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from aiohttp import web
from pymongo import MongoClient

from services.console.pages.kinds import Kind
from services.console.pages.registry import KINDS
from tests.console.person import Answer, Person
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.second_process import second_process
from tests.support.slow_line import slow_line
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
    ordered = admin.open(admin.open("/console/endpoints?status=active").link("order=most_webhooks"))
    assert 'aria-sort="descending"' in ordered.response.text
    assert "status=active" in ordered.path
    assert f"/console/endpoints/{endpoint}" in ordered.links
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
    assert found.link(delivery) == delivery
    assert "Nothing has the id" in admin.open("/console/find?id=nowhere").text
    assert "Nothing is stored with this id" in admin.open("/console/paths/evt_nothing").text
    rows = list(csv.reader(io.StringIO(admin.open("/console/deliveries.csv").response.text)))
    assert rows[0][0] == "Delivery"
    assert rows[1][0].startswith("dlv_")


def test_any_id_leads_to_the_whole_path_from_the_webhook_to_its_targets(hub: Hub, admin: Person) -> None:
    endpoint = hub.github_endpoint(name="paths")
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/nobody", events=["github.ping", "inbound.*"])["id"]
    trace, sent = token_hex(16), f"sent-{token_hex(8)}"
    headers = signed(endpoint["secret"], "ping", b"{}", delivery=sent)
    traced = headers | {"traceparent": f"00-{trace}-{token_hex(8)}-01"}
    assert httpx.post(endpoint["url"], content=b"{}", headers=traced).status_code == 202
    refused = httpx.post(endpoint["url"], content=b"{ }", headers=traced)
    assert refused.status_code == 401

    def complete() -> bool:
        page = admin.open(f"/console/find?id={trace}")
        return "Refused with status 401" in page.text and "retrying" in page.text

    eventually(complete)
    page = admin.open(f"/console/find?id={trace}")
    assert page.path == f"/console/paths/{trace}"
    assert "2 requests (1 refused); 1 delivery" in page.text
    assert "Nothing answers at this address" in page.text
    assert {page.link("/do/edit"), page.link("/setup")} == {
        f"/console/webhooks/{webhook}/do/edit",
        f"/console/endpoints/{endpoint['id']}/setup",
    }
    delivery, execution = page.link("/console/deliveries/"), page.link("/events/exe_")
    event = page.link("/console/paths/evt_").rpartition("/")[2]
    for wanted in (sent, event, delivery.rpartition("/")[2], execution.rpartition("/")[2]):
        found = admin.open(f"/console/find?id={wanted}")
        assert found.path == f"/console/paths/{wanted}"
        assert {delivery, f"/console/paths/{trace}"} <= set(found.links), wanted
    assert admin.open(delivery).link("/console/paths/dlv_")

    unwanted = hub.github_endpoint(name="nobody wants it")
    headers = signed(unwanted["secret"], "star", b"{}", delivery=f"unwanted-{trace}")
    assert httpx.post(unwanted["url"], content=b"{}", headers=headers).status_code == 202
    path = f"/console/paths/unwanted-{trace}"
    eventually(lambda: "No outgoing webhook is subscribed to events of its type" in admin.open(path).text)

    channels = [f"c-{token_hex(6)}" for _ in range(2)]
    legs = [{"provider": "chat", "conversation": channel} for channel in channels]
    hub.call("POST", "/api/mappings", {"legs": legs}, expect=201)
    trace, message = token_hex(16), f"msg_{token_hex(12)}"
    data = {
        "message_id": message,
        "channel_id": channels[0],
        "text": "hello",
        "author": {"id": "u", "name": "U"},
    }
    own_id = f"written-{token_hex(6)}"
    written = {
        "specversion": "1.0",
        "id": own_id,
        "source": "/chat",
        "type": "message.created",
        "subject": channels[0],
        "traceparent": f"00-{trace}-{token_hex(8)}-01",
        "data": data,
    }
    hub.call("POST", "/api/events", [written], expect=202)
    synced = eventually(lambda: hub.call("GET", f"/api/synced-messages?related_id={message}")["items"])[0]
    assert synced["trace_id"] == trace
    eventually(lambda: hub.call("GET", f"/api/deliveries?trace_id={trace}")["items"])
    for wanted in (message, synced["id"], own_id, trace):
        page = admin.open(f"/console/find?id={wanted}")
        assert page.path == f"/console/paths/{wanted}"
        assert "inbound.message.created" in page.text, "the event that the message became"
        assert page.link("/console/messages/") == f"/console/messages/{synced['id']}"
    other = Person(hub.url("gateway"))
    other.sign_in(hub.other_workspace())
    for wanted in (trace, sent, event, synced["id"]):
        assert "Nothing is stored with this id" in other.open(f"/console/paths/{wanted}").text
    other.close()


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
    assert "First page" in older.text
    one = admin.open(f"/console/webhooks?name=many+{name}+7")
    assert one.response.text.count("<tr>") == 2
    assert "Nothing fits these filters" in admin.open("/console/webhooks?name=none").text
    assert admin.open("/console/deliveries?since=yesterday").status == 422
    assert admin.open("/console/deliveries?since=2026-01-31T12:00").status == 200
    assert admin.open("/console/deliveries?cursor=forged").status in (400, 422)


def test_a_list_is_read_from_either_end_and_in_a_range_of_time(hub: Hub, admin: Person) -> None:
    name = token_hex(4)
    ids = [hub.outgoing_webhook("http://127.0.0.1:9/", name=f"{name} {number}")["id"] for number in range(3)]
    of_name = f"/console/webhooks?name={name}"

    def shown(query: str) -> list[str]:
        page = admin.open(of_name + query)
        return [link.rpartition("/")[2] for link in page.links if re.search(r"/webhooks/wh_\w+$", link)]

    assert (shown(""), shown("&order=oldest")) == (ids[::-1], ids)
    assert shown("&order=none.such") == ids[::-1]
    assert shown("&until=2026-01-01T00:00") == []
    assert shown("&since=2026-01-01T00:00") == ids[::-1]
    # As a page links it: in the form it has no zone, without which a browser would show and send nothing.
    page = admin.open(f"{of_name}&since=2026-01-31T13:00:00.5%2B01:00")
    [since] = [
        found["value"] for tag, found in page.elements if tag == "input" and found.get("name") == "since"
    ]
    assert since == "2026-01-31T12:00:00.500"


def test_columns_are_in_the_address_of_a_list_and_of_its_csv(hub: Hub, admin: Person) -> None:
    hub.outgoing_webhook("http://127.0.0.1:9/", name="=1+1")
    page = admin.open("/console/webhooks?columns=status&columns=name&columns=nothing&name=%3D1%2B1")
    heads = re.findall(r'<th scope="col">([^<]*)', page.response.text)
    assert heads == ["Name", "Status"], "in the order of the list"
    assert 'title="Copy the id"' in page.response.text
    rows = list(csv.reader(io.StringIO(admin.open(page.link(".csv")).response.text)))
    assert rows == [["Name", "Status"], ["'=1+1", "active"]]


def test_a_file_has_a_thousand_rows_and_names_the_next_one(hub: Hub, admin: Person) -> None:
    workspace = hub.call("GET", "/api/audit?limit=1")["items"][0]
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"], tz_aware=True) as client:
        log = client.get_default_database()["audit_entries"]
        entry = log.find_one({"_id": workspace["id"]})
        assert entry
        entry["terms"] = ["resource:many"]
        log.insert_many([{**entry, "_id": f"aud_many{number:05}"} for number in range(1203)])
    page = admin.open("/console/audit?resource=many&order=oldest&columns=what&columns=who")
    export = admin.open(page.link("/console/audit/export?"))
    assert "Download 1,000 rows" in export.text
    file = admin.client.get(export.link("/console/audit.csv"))
    assert file.text.count("\r\n") == 1001
    following = re.fullmatch(r'<(.*)>; rel="next"', file.headers["link"])
    assert following
    rest = admin.client.get(following[1])
    assert (rest.text.count("\r\n"), "link" in rest.headers) == (204, False)
    last = admin.open(export.link("/console/audit/export?"))
    assert "Download 203 rows" in last.text
    assert "This is the last part" in last.text


def test_twenty_views_are_saved_and_nobody_else_sees_them(hub: Hub, admin: Person, person: Person) -> None:
    page = admin.open("/console/deliveries?status=dead_letter&order=oldest&cursor=x&columns=error&other=1")
    saved = admin.send(page, "/console/views", name="  <b>broken</b> ")
    assert saved.path == "/console/deliveries?status=dead_letter&order=oldest&columns=error"
    assert saved.path in admin.open("/console/deliveries").links
    assert "<b>broken</b>" in saved.text
    assert saved.path not in admin.open("/console/dead-letters").links
    other = hub.call("POST", "/api/api-keys", {"name": "of another", "scopes": ["admin"]})["key"]
    person.sign_in(other)
    assert saved.path not in person.open("/console/deliveries").links
    for path in ("nothing", "deliveries/dlv_1", "//attacker.example", ""):
        assert admin.send(page, "/console/views", name="x", path=path).status == 400
    assert admin.send(page, "/console/views", name=" ").status == 400
    for number in range(19):
        assert admin.send(page, "/console/views", name=f"view {number}").status == 200
    assert "20 saved views" in admin.send(page, "/console/views", name="one more").text
    again = admin.open("/console/deliveries")
    deleted = admin.send(again, next(form.action for form in again.forms if "/delete" in form.action))
    assert len([form for form in deleted.forms if "/delete" in form.action]) == 19
    assert admin.send(page, "/console/views", name="one more").status == 200
    assert admin.post(f"/console/views/{'9' * 4400}/delete").status == 404
    stranger = admin.client.post("/console/views", data={"name": "x", "path": "deliveries"})
    assert stranger.status_code == 403


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


def test_a_form_whose_service_answers_too_late_does_its_work_once(hub: Hub, admin: Person) -> None:
    name = token_hex(4)
    create = admin.open("/console/webhooks/do/create")
    values = {"name": name, "url": f"http://127.0.0.1:9/{name}", "events": "a.b"}
    existing = hub.outgoing_webhook("http://127.0.0.1:9/")["id"]
    rotate = admin.open(f"/console/webhooks/{existing}/do/rotate")
    os.kill(hub.pid("delivery"), signal.SIGSTOP)
    try:
        late = [admin.send(create, "/do/create", **values), admin.send(rotate, "/do/rotate")]
    finally:
        os.kill(hub.pid("delivery"), signal.SIGCONT)
    assert all("The service delivery does not answer" in page.text for page in late)
    eventually(lambda: name in admin.open(f"/console/webhooks?name={name}").text)
    assert "Secret" in admin.send(late[0], "/do/create").text
    assert admin.open(f"/console/webhooks?name={name}").response.text.count("<tr>") == 2
    assert "New secret" in admin.send(late[1], "/do/rotate").text
    assert len(hub.call("GET", f"/api/outgoing-webhooks/{existing}")["old_secrets_until"]) == 1


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
        eventually(lambda: "sync not ready" in admin.open("/console").text)
        page = admin.open("/console")
        assert page.status == 200
        assert "The service sync does not answer" in page.text
        assert "delivery ready" in page.text
        mappings = admin.open("/console/mappings")
        assert (mappings.status, "The service sync does not answer" in mappings.text) == (200, True)
        webhook = hub.outgoing_webhook("http://127.0.0.1:9/")["id"]
        delivery = hub.call("POST", f"/api/outgoing-webhooks/{webhook}/test")["delivery_id"]
        path = f"/console/paths/{delivery}"
        eventually(lambda: "webhook.test" in admin.open(path).text)
        assert "The service sync does not answer" in admin.open(path).text
        assert admin.open("/console/webhooks").status == 200
    finally:
        hub.start_service("sync")
        hub.wait_ready("sync")
    eventually(lambda: "sync ready" in admin.open("/console").text)


def test_a_database_that_does_not_answer_is_named_within_five_seconds(
    hub: Hub, admin: Person, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The database accepts everything, and answers nothing: as one that has too much to do."""
    uri = urlsplit(hub.env["MONGODB_URI"])
    portal = {"customer": "acme", "events": ["*"], "origins": ["https://chat.example.com"]}
    address = urlsplit(hub.call("POST", "/api/portal-sessions", portal, expect=201)["url"])
    folder = tmp_path_factory.mktemp("slow")
    with slow_line(uri.port or 27017) as line:
        netloc = uri.netloc.rpartition("@")[0] + f"@127.0.0.1:{urlsplit(line.url).port}"
        query = "&".join(filter(None, (uri.query, "directConnection=true")))
        through = uri._replace(netloc=netloc.removeprefix("@"), query=query).geturl()
        with second_process("console", hub, folder, bus, store, MONGODB_URI=through) as other:
            person = Person(other.url("console"))
            person.client.cookies = admin.client.cookies
            page = person.open("/console/webhooks")
            assert page.status == 200
            line.is_held = True
            with ThreadPoolExecutor(4) as pool:
                opened = [
                    pool.submit(person.open, path)
                    for path in ("/console/webhooks", "/console/sign-in", f"{address.path}?{address.query}")
                ]
                opened.append(pool.submit(person.send, page, "/console/sign-out", origin=person.base))
                refused = [item.result() for item in opened]
            line.is_held = False
            for answer in refused:
                assert answer.status == 503
                assert "Try again in a moment" in answer.text
                assert answer.response.elapsed.total_seconds() < 7
            assert "may have been done already" in refused[-1].text
            eventually(lambda: person.open("/console/sign-in").status == 200)


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
