"""Portals of customers, as a browser without script, and what they refuse."""

import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pymongo import MongoClient

from shared.runtime.clock import utcnow
from tests.console.guest import Guest
from tests.console.person import Answer, Person
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.outgoing import Moody
from tests.support.second_process import second_process
from tests.support.subscriber import Subscriber

CHAT: Final = "https://chat.example.com"
COLLECTION: Final = "console_embedded_sessions"


def portal(hub: Hub, **fields: Any) -> dict[str, Any]:
    body = {"customer": "acme", "events": ["message.created", "user.*"], "origins": [CHAT], **fields}
    made: dict[str, Any] = hub.call("POST", "/api/portal-sessions", body, expect=201)
    return made


@pytest.fixture
def guest(hub: Hub) -> Iterator[Guest]:
    guest = Guest(hub.url("gateway"))
    yield guest
    guest.close()


def path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def create(guest: Guest, list_page: Answer, url: str, **fields: str | list[str]) -> Answer:
    """Fill in the form of a new webhook, and send it."""
    form = guest.open(list_page.link("/do/create"))
    here = form.path.partition("?")[0]
    values = {**form.form(here).fields, "name": "mine", "url": url, "do": "save", **fields}
    return Answer(guest.client.post(here, data=values, headers={"origin": guest.base}))


def test_a_customer_has_webhooks_of_his_own(hub: Hub, guest: Guest) -> None:
    theirs = hub.outgoing_webhook("http://127.0.0.1:9/workspace", name="of-the-workspace")["id"]
    with Subscriber() as receiver:
        made = portal(hub, customer="full")
        page = guest.open(path_of(made["url"]))
        assert page.path == f"/console/portal/{made['id']}/webhooks", page.text
        assert "of-the-workspace" not in page.text
        offered = guest.open(page.link("/do/create")).text
        assert "message.created" in offered
        assert "message.deleted" not in offered
        assert "every event" not in offered
        done = create(guest, page, receiver.url, pick=["message.created"])
        receiver.secret = re.findall("whsec_[^ ]+", done.text)[0]
        detail = guest.open(done.link("/webhooks/wh_"))
        webhook = detail.path.rpartition("/")[2]
        assert hub.call("GET", f"/api/outgoing-webhooks/{webhook}")["customer"] == "full"
        tested = guest.send(detail, "/do/test")
        assert "/deliveries/dlv_" in tested.path, tested.text
        log = f"/console/portal/{made['id']}/webhooks/{webhook}/deliveries"
        delivery = tested.path.partition("?")[0]
        eventually(lambda: "/do/resend" in guest.open(delivery).response.text)
        assert delivery in guest.open(log).links
        again = guest.send(guest.open(delivery), "/do/resend")
        assert "/deliveries/dlv_" in again.path
        receiver.wait_for(2)
        paused = guest.send(guest.open(detail.path), "/do/pause")
        assert "deliveries wait" in paused.text
        edit = guest.open(paused.link("/do/edit"))
        here = edit.path.partition("?")[0]
        values = edit.form(here).fields | {"name": "renamed", "pick": ["message.created"], "do": "save"}
        edited = Answer(guest.client.post(here, data=values, headers={"origin": guest.base}))
        assert "renamed" in edited.text
        for link in {link for link in edited.links if link.startswith("/")}:
            assert link.startswith(f"/console/portal/{made['id']}/"), "nothing leads out of the portal"
        gone = guest.send(guest.open(edited.link("/do/delete")), "/do/delete")
        assert "The webhook is deleted." in gone.text
        hub.call("GET", f"/api/outgoing-webhooks/{webhook}", expect=404)
        hub.call("GET", f"/api/outgoing-webhooks/{theirs}")
    entry = hub.call("GET", "/api/audit", params={"resource": webhook})["items"][-1]
    assert (entry["actor"]["user"], entry["actor"]["service"]) == ("full", "console")


def test_a_delivery_that_is_retried_is_followed_in_the_portal(hub: Hub, guest: Guest) -> None:
    with Subscriber(Moody(500)) as receiver:
        made = portal(hub, customer="failing")
        page = guest.open(path_of(made["url"]))
        done = create(guest, page, receiver.url, pick=["message.created"])
        tested = guest.send(guest.open(done.link("/webhooks/wh_")), "/do/test")
        receiver.wait_for(1)
        delivery = guest.open(tested.path.partition("?")[0])
        assert (tested.status, delivery.status) == (200, 200), delivery.text
        assert "live.js" in delivery.response.text


def test_the_headers_and_the_cookie_of_a_portal(hub: Hub) -> None:
    made = portal(hub, origins=[CHAT, "https://other.example:8443"], theme={"accent": "#1a7f37"})
    base = hub.url("gateway")
    opened = httpx.get(made["url"])
    assert (opened.status_code, opened.headers["referrer-policy"]) == (303, "no-referrer")
    cookie = opened.headers["set-cookie"]
    assert f"Path=/console/portal/{made['id']};" in cookie
    assert all(part in cookie for part in ("HttpOnly", "Secure", "SameSite=None", "Partitioned"))
    secret = cookie.partition(";")[0]
    page = httpx.get(base + opened.headers["location"], headers={"cookie": secret})
    policy = page.headers["content-security-policy"]
    assert f"frame-ancestors {CHAT} https://other.example:8443;" in policy
    assert "x-frame-options" not in page.headers
    assert "cross-origin-opener-policy" not in page.headers
    again = httpx.get(made["url"], headers={"cookie": secret})
    assert again.headers["location"] == opened.headers["location"], "the page around it was loaded again"
    style = httpx.get(f"{base}/console/portal/{made['id']}/theme.css").text
    assert "--interlink-accent:#1a7f37;--tblr-primary:#1a7f37" in style
    script = httpx.get(f"{base}/console/embed/interlink-connect.js")
    assert (script.status_code, script.headers["access-control-allow-origin"]) == (200, "*")
    assert len(script.content) <= 12 * 1024
    gone = httpx.get(f"{base}/console/portal/ptl_unknown/webhooks")
    assert "frame-ancestors 'none'" in gone.headers["content-security-policy"]


@pytest.mark.parametrize(
    "fields",
    [
        {"events": []},
        {"events": ["*; DROP"]},
        {"events": [f"{number:0200}" for number in range(50)]},
        {"origins": ["https://*.example.com"]},
        {"origins": ["https://a.example; script-src *"]},
        {"origins": ["https://a.example/path"]},
        {"origins": ["javascript:alert(1)"]},
        {"theme": {"accent": "red"}},
        {"theme": {"accent": "#fff;}body{background:url(//x)"}},
        {"theme": {"radius": "calc(1px)"}},
        {"theme": {"background": "#777777", "text": "#888888"}},
        {"theme": {"font": "x"}},
        {"customer": ""},
        {"expires_in_s": 86_400},
    ],
)
def test_portals_that_are_not_created(hub: Hub, fields: dict[str, Any]) -> None:
    body: dict[str, Any] = {"customer": "acme", "events": ["message.created"], "origins": [CHAT]}
    hub.call("POST", "/api/portal-sessions", {**body, **fields}, expect=422)


def test_what_a_portal_refuses(hub: Hub, guest: Guest) -> None:
    made, base = portal(hub, customer="strict"), hub.url("gateway")
    other = hub.call(
        "POST",
        "/api/outgoing-webhooks",
        {"name": "n", "url": "https://x.example/", "events": ["message.created"], "customer": "else"},
        expect=201,
    )["id"]
    page = guest.open(path_of(made["url"]))
    own = next(iter(guest.jar.values()))[1]
    stranger = Guest(base)
    home = f"/console/portal/{made['id']}/webhooks"
    assert stranger.open(path_of(made["url"])).status == 403, "the code was used"
    assert stranger.open(f"/console/portal/{made['id']}/open?code=forged").status == 403
    assert stranger.open(home).status == 401
    assert httpx.get(base + home, headers={"cookie": "interlink-portal=forged"}).status_code == 401
    second = portal(hub, customer="strict-2")
    assert (
        httpx.get(f"{base}/console/portal/{second['id']}/webhooks", headers={"cookie": own}).status_code
        == 401
    )
    # The cookie of one is none for the other.
    console = own.replace("interlink-portal=", "interlink=")
    assert httpx.get(f"{base}/console/webhooks", headers={"cookie": f"{own}; {console}"}).status_code == 401
    admin = Person(base)
    admin.sign_in(hub.admin_key)
    session = admin.client.cookies["interlink"]
    assert httpx.get(base + home, headers={"cookie": f"interlink-portal={session}"}).status_code == 401
    # Other customers, and other events.
    for end in ("", "/do/edit", "/deliveries"):
        assert guest.open(f"{home}/{other}{end}").status == 404, end
    assert guest.open(f"/console/portal/{made['id']}/keys").status == 404
    for beyond in ("message.deleted", "*", "message.*"):
        refused = create(guest, page, "https://y.example/", pick=[beyond])
        assert (refused.status, "not offered here" in refused.text) == (422, True), refused.text
    # Forms of other sites, and without the token.
    form = guest.open(page.link("/do/create"))
    here = form.path.partition("?")[0]
    fields = form.form(here).fields | {"name": "x", "url": "https://z.example/", "pick": "message.created"}
    for origin, token in ((CHAT, fields["token"]), ("null", fields["token"]), (base, "forged")):
        sent = guest.client.post(here, data={**fields, "token": token}, headers={"origin": origin})
        assert sent.status_code == 403, origin
    assert "https://z.example/" not in guest.open(home).response.text
    # Its end.
    hub.call("DELETE", f"/api/connect-sessions/{made['id']}", expect=404)
    hub.call("DELETE", f"/api/portal-sessions/{made['id']}", expect=204)
    assert guest.open(home).status == 404


def test_sessions_end_by_time_and_with_their_key_in_every_process(
    hub: Hub, guest: Guest, store: Store, bus: Bus, tmp_path_factory: pytest.TempPathFactory
) -> None:
    key = hub.call("POST", "/api/api-keys", {"name": "chat", "scopes": ["portal:write"]})
    body = {"customer": "acme", "events": ["message.created"], "origins": [CHAT]}
    made = hub.call("POST", "/api/portal-sessions", body, key=key["key"])
    hub.call("POST", "/api/connect-sessions", {}, key=key["key"], expect=403)
    home = guest.open(path_of(made["url"])).path
    own = next(iter(guest.jar.values()))[1]
    with second_process("console", hub, tmp_path_factory.mktemp("second"), bus, store) as second:
        there = second.url("console") + home
        assert httpx.get(there, headers={"cookie": own}).status_code == 200
        used = httpx.get(second.url("console") + path_of(made["url"]))
        assert used.status_code == 403
        hub.call("DELETE", f"/api/api-keys/{key['id']}", expect=204)
        assert httpx.get(there, headers={"cookie": own}).status_code == 404
    member = hub.call("POST", "/api/members", {"name": "chat", "role": "admin"}, expect=201)
    demoted = hub.call("POST", "/api/portal-sessions", body, key=member["key"], expect=201)
    page = guest.open(path_of(demoted["url"]))
    assert page.status == 200
    rotated = hub.call("POST", f"/api/members/{member['id']}/rotate-key")["key"]
    assert guest.open(page.path).status == 404, "it ends with the key that started it"
    demoted = hub.call("POST", "/api/portal-sessions", body, key=rotated, expect=201)
    page = guest.open(path_of(demoted["url"]))
    assert page.status == 200
    hub.call("PATCH", f"/api/members/{member['id']}", {"role": "viewer"})
    assert guest.open(page.path).status == 404
    late = portal(hub, customer="late")
    page = guest.open(path_of(late["url"]))
    secrets = [parse_qs(urlsplit(late["url"]).query)["code"][0]]
    secrets += [value.partition("=")[2] for path, value in guest.jar.values() if path.endswith(late["id"])]
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"], tz_aware=True) as client:
        stored = client.get_default_database()[COLLECTION]
        [record] = stored.find({"_id": late["id"]})
        assert [secret for secret in secrets if secret in str(record)] == []
        stored.update_one({"_id": late["id"]}, {"$set": {"expires_at": utcnow()}})
    expired = guest.open(page.path)
    assert (expired.status, "The time for this has passed" in expired.text) == (410, True)
    assert f"frame-ancestors {CHAT};" in expired.response.headers["content-security-policy"]
