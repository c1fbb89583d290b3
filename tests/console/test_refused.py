"""Who is refused: forged and ended sessions, forms of other sites and workspaces, and guessed keys."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from secrets import token_hex, token_urlsafe
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from services.console.sessions.records import digest_of
from services.console.web.visits import policy
from tests.console.person import Answer, Person
from tests.support.backends import Bus, Store
from tests.support.hub import Hub
from tests.support.second_process import second_process

COOKIE = "interlink"
CHAT = "https://chat.example.com"
THE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


@pytest.fixture
def key(hub: Hub) -> str:
    """A new admin key, whose sessions nobody else has."""
    made = hub.call("POST", "/api/api-keys", {"name": token_hex(4), "scopes": ["admin"]})
    return str(made["key"])


@pytest.fixture
def member(hub: Hub, person: Person, key: str) -> Person:
    """Somebody who has signed in with it."""
    assert person.sign_in(key).status == 200
    return person


@pytest.fixture(scope="module")
def sessions(hub: Hub) -> Iterator[Any]:
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"], tz_aware=True) as client:
        yield client.get_default_database()["console_sessions"]


def session_id(person: Person) -> str:
    return str(person.client.cookies[COOKIE])


def token_of(person: Person) -> str:
    return person.open("/console").form("/sign-out").fields["token"]


# Sessions


def test_a_session_is_random_and_stored_as_a_digest(hub: Hub, member: Person, sessions: Any) -> None:
    own = session_id(member)
    assert len(own) >= 43, "256 bits in base64"
    stored = sessions.find_one({"_id": digest_of(own)})
    assert own not in str(stored)
    assert stored["ends_at"] - stored["created_at"] == timedelta(days=7)
    assert stored["expires_at"] - stored["created_at"] == timedelta(hours=12)
    others = Person(hub.url("gateway"))
    others.sign_in(hub.admin_key)
    assert session_id(others) != own


def test_the_cookie_is_for_the_browser_and_this_site_alone(hub: Hub, key: str) -> None:
    base = hub.url("gateway")
    answer = httpx.post(f"{base}/console/sign-in", data={"key": key}, headers={"origin": base})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=lax", "path=/"))
    assert "domain" not in cookie


def test_over_https_the_cookie_is_bound_to_the_host(
    hub: Hub, key: str, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    public = "https://hub.example.com"
    folder = tmp_path_factory.mktemp("https")
    with second_process("console", hub, folder, bus, store, INTERLINK_PUBLIC_URL=public) as other:
        address = f"{other.url('console')}/console/sign-in"
        answer = httpx.post(address, data={"key": key}, headers={"origin": public})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-interlink=")
        assert "Secure" in cookie
        plain = httpx.post(address, data={"key": key}, headers={"origin": other.url("console")})
        assert plain.status_code == 403, "with https, only the public address counts"


def test_a_session_counts_in_every_process_and_ends_in_every_process(
    hub: Hub, member: Person, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with second_process("console", hub, tmp_path_factory.mktemp("second"), bus, store) as other:
        cookies = {COOKIE: session_id(member)}
        assert httpx.get(f"{other.url('console')}/console/sessions", cookies=cookies).status_code == 200
        member.send(member.open("/console"), "/sign-out")
        assert httpx.get(f"{other.url('console')}/console/sessions", cookies=cookies).status_code == 401


def ends_by_sign_out(hub: Hub, member: Person, sessions: Any) -> None:
    member.send(member.open("/console"), "/sign-out")


def ends_with_its_key(hub: Hub, member: Person, sessions: Any) -> None:
    stored = sessions.find_one({"_id": digest_of(session_id(member))})
    hub.call("DELETE", f"/api/api-keys/{stored['key_id']}")


def ends_by_an_admin(hub: Hub, member: Person, sessions: Any) -> None:
    other = Person(hub.url("gateway"))
    other.sign_in(hub.admin_key)
    page = other.open("/console/sessions")
    ended = other.send(page, f"/console/sessions/{digest_of(session_id(member))}/end")
    assert "has ended" in ended.text


def ends_by_time(hub: Hub, member: Person, sessions: Any) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    sessions.update_one({"_id": digest_of(session_id(member))}, {"$set": {"expires_at": past}})


@pytest.mark.parametrize("end", [ends_by_sign_out, ends_with_its_key, ends_by_an_admin, ends_by_time])
def test_an_ended_session_is_refused(
    hub: Hub, member: Person, sessions: Any, end: Callable[[Hub, Person, Any], None]
) -> None:
    own, token = session_id(member), token_of(member)
    end(hub, member, sessions)
    cookies, base = {COOKIE: own}, hub.url("gateway")
    assert httpx.get(f"{base}/console/webhooks", cookies=cookies).status_code == 401
    page = "/console/mappings/do/create?place=chat"
    for referrer, following in ((base + page, page), ("http://[", "/console")):
        headers = {"origin": base, "referer": referrer}
        sent = httpx.post(f"{base}/console/sign-out", data={"token": token}, cookies=cookies, headers=headers)
        answer = Answer(sent)
        assert (answer.status, answer.form("/sign-in").fields["next"]) == (401, following)


def test_a_list_of_sessions_says_that_it_is_cut(member: Person, sessions: Any) -> None:
    assert "newest 200" not in member.open("/console/sessions").text
    stored = sessions.find_one({"_id": digest_of(session_id(member))})
    others = [stored | {"_id": token_hex(32)} for _ in range(200)]
    sessions.insert_many(others)
    assert "These are the newest 200" in member.open("/console/sessions").text
    sessions.delete_many({"_id": {"$in": [other["_id"] for other in others]}})


def test_a_removed_member_is_signed_out_and_a_role_counts_at_once(hub: Hub, person: Person) -> None:
    made = hub.call("POST", "/api/members", {"name": "Ada", "role": "viewer"}, expect=201)
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/")["id"]
    assert person.sign_in(made["key"]).status == 200
    page = f"/console/webhooks/{webhook}"
    assert not [form for form in person.open(page).forms if form.action.endswith("/do/pause")]
    hub.call("PATCH", f"/api/members/{made['id']}", {"role": "operator"})
    paused = person.send(person.open(page), "/do/pause")
    assert (paused.status, hub.call("GET", f"/api/outgoing-webhooks/{webhook}")["paused"]) == (200, True)
    assert "Ada (operator)" in person.open("/console/sessions").text
    hub.call("DELETE", f"/api/members/{made['id']}", expect=204)
    assert person.open(page).status == 401


def test_a_session_that_others_chose_is_never_used(hub: Hub, person: Person, key: str) -> None:
    chosen = token_urlsafe(32)
    person.client.cookies.set(COOKIE, chosen)
    assert person.open("/console").status == 401
    person.client.cookies.clear()
    person.client.cookies.set(COOKIE, chosen, domain="127.0.0.1", path="/")
    person.sign_in(key)
    assert chosen not in [cookie.value for cookie in person.client.cookies.jar]
    base = hub.url("gateway")
    assert httpx.get(f"{base}/console", cookies={COOKIE: chosen}).status_code == 401


def test_signing_in_again_ends_the_session_before(hub: Hub, member: Person, key: str) -> None:
    before = session_id(member)
    base = hub.url("gateway")
    answer = member.client.post("/console/sign-in", data={"key": key}, headers={"origin": base})
    assert answer.status_code == 200
    assert session_id(member) != before
    assert httpx.get(f"{base}/console", cookies={COOKIE: before}).status_code == 401


def test_sessions_of_another_workspace_are_not_there(hub: Hub, member: Person, person: Person) -> None:
    stranger = Person(hub.url("gateway"))
    stranger.sign_in(hub.other_workspace())
    page = stranger.open("/console/sessions")
    assert page.text.count("this one") == 1
    data = {"token": token_of(stranger)}
    address = f"/console/sessions/{digest_of(session_id(member))}/end"
    answer = stranger.client.post(address, data=data, headers={"origin": stranger.base})
    assert answer.status_code == 404
    assert member.open("/console").status == 200


# Forms

FORGED: list[tuple[str, dict[str, str], dict[str, str | None]]] = [
    ("another site", {"origin": "https://attacker.example"}, {}),
    ("a file", {"origin": "null"}, {}),
    ("no origin", {}, {}),
    ("a host that begins alike", {"origin": "http://127.0.0.1.attacker.example"}, {}),
    ("another port", {"origin": "http://127.0.0.1:1"}, {}),
    ("no token", {"origin": "own"}, {"token": None}),
    ("a token of somebody else", {"origin": "own"}, {"token": "0" * 64}),
]


@pytest.mark.parametrize(("headers", "fields"), [row[1:] for row in FORGED], ids=[row[0] for row in FORGED])
def test_a_form_of_others_changes_nothing(
    hub: Hub, member: Person, headers: dict[str, str], fields: dict[str, str | None]
) -> None:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/")["id"]
    data = {"token": token_of(member), **fields}
    sent = {name: member.base if value == "own" else value for name, value in headers.items()}
    answer = member.client.post(
        f"/console/webhooks/{webhook}/do/pause",
        data={name: value for name, value in data.items() if value is not None},
        headers=sent,
    )
    assert answer.status_code == 403
    assert hub.call("GET", f"/api/outgoing-webhooks/{webhook}")["paused"] is False
    assert member.open("/console").status == 200


def test_a_link_changes_nothing(hub: Hub, member: Person) -> None:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/")["id"]
    page = member.open(f"/console/webhooks/{webhook}/do/delete?token={token_of(member)}")
    assert page.status == 200
    assert "cannot be undone" in page.text
    assert hub.call("GET", f"/api/outgoing-webhooks/{webhook}")["id"] == webhook
    for method in ("PUT", "DELETE", "PATCH"):
        assert member.client.request(method, f"/console/webhooks/{webhook}").status_code in (404, 405)


def test_a_viewer_who_sends_an_operators_form_is_refused(hub: Hub, person: Person) -> None:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/")["id"]
    made = hub.call("POST", "/api/api-keys", {"name": "viewer", "scopes": ["webhooks:read"]})
    person.sign_in(made["key"])
    for action in ("pause", "delete", "rotate"):
        answer = person.client.post(
            f"/console/webhooks/{webhook}/do/{action}",
            data={"token": token_of(person), "overlap_hours": "1"},
            headers={"origin": person.base},
        )
        assert answer.status_code == 403
    assert hub.call("GET", f"/api/outgoing-webhooks/{webhook}")["paused"] is False


def test_objects_of_another_workspace_are_not_found(hub: Hub, person: Person) -> None:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/")["id"]
    person.sign_in(hub.other_workspace())
    assert person.open(f"/console/webhooks/{webhook}").status == 404
    assert person.open(f"/console/webhooks/{webhook}/json").status == 404
    assert person.open("/console/webhooks/wh_none").status == 404


def test_a_form_that_is_too_large_is_refused(member: Person) -> None:
    answer = member.client.post(
        "/console/webhooks/do/create", data={"name": "x" * 70_000}, headers={"origin": member.base}
    )
    assert answer.status_code == 400


# Signing in


@pytest.mark.parametrize("key", ["", "ilk_wrong", "ils_forged", "Bearer x", "ilk_\u202e", "x" * 5000])
def test_a_wrong_key_is_refused(hub: Hub, key: str) -> None:
    person = Person(hub.url("gateway"), address="192.0.2.1")
    page = person.sign_in(key)
    assert page.status == 401
    assert COOKIE not in person.client.cookies
    assert key == "" or key not in page.response.text


def test_a_key_of_some_accounts_cannot_sign_in(hub: Hub, person: Person) -> None:
    limits = {"name": "limited", "scopes": ["accounts:call"], "accounts": {"user": "u1"}}
    key = hub.call("POST", "/api/api-keys", limits)["key"]
    assert person.sign_in(key).status == 403


def test_ten_wrong_keys_a_minute_are_enough(hub: Hub) -> None:
    base = hub.url("console")
    guesser = Person(base, address="192.0.2.77")
    answers = [guesser.sign_in(f"ilk_{number}").status for number in range(12)]
    assert answers == [401] * 10 + [429] * 2
    assert guesser.sign_in(hub.admin_key).status == 429
    assert Person(base, address="192.0.2.78").sign_in(hub.admin_key).status == 200


@pytest.mark.parametrize(
    "target", ["//attacker.example", "https://attacker.example", "/\\attacker.example", "/api/x", "/consolex"]
)
def test_signing_in_leads_nowhere_else(hub: Hub, person: Person, key: str, target: str) -> None:
    page = person.client.get("/console/sign-in", params={"next": target})
    assert 'name="next" value="/console"' in page.text
    answer = httpx.post(
        f"{person.base}/console/sign-in",
        data={"key": key, "next": target},
        headers={"origin": person.base},
    )
    assert answer.headers["location"] == "/console"


def test_every_answer_has_the_policy(hub: Hub, member: Person) -> None:
    assert policy().decode() == THE_POLICY
    paths = ["/console", "/console/sign-in", "/console/nothing", "/console/webhooks", "/console/webhooks.csv"]
    paths += ["/console/static/console.css", "/console/static/nothing", "/console/webhooks/none"]
    for path in paths:
        answer = member.client.get(path)
        assert answer.headers["content-security-policy"] == THE_POLICY, path
        assert answer.headers["x-frame-options"] == "DENY"
        if "static" not in path:
            assert answer.headers["cache-control"] == "no-store"
    refused = member.client.post("/console/webhooks/do/create", headers={"origin": "https://x.example"})
    assert refused.headers["content-security-policy"] == THE_POLICY


# Several workspaces


@pytest.fixture
def both(hub: Hub, member: Person) -> tuple[Person, str, str]:
    """Somebody who has signed in to a second workspace too, its key, and the address of its pages."""
    other = hub.other_workspace()
    page = member.open("/console/sign-in?another=1")
    base = member.send(page, "/console/sign-in", key=other).path
    assert base.startswith("/console/in/other-")
    return member, other, base


def workspace_of(page: Answer) -> str:
    return page.response.text.partition("<br>workspace ")[2].partition("<")[0]


def test_two_tabs_work_in_two_workspaces_whose_data_stays_apart(
    hub: Hub,
    both: tuple[Person, str, str],
    sessions: Any,
    bus: Bus,
    store: Store,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    person, other, base = both
    second = base.removeprefix("/console/in/")
    assert [workspace_of(person.open(path)) for path in ("/console", base)] == [hub.workspace, second]
    tabs = {None: "/console", other: base}
    forms = {key: person.open(f"{tab}/webhooks/do/create") for key, tab in tabs.items()}
    made = {}
    for key, tab in tabs.items():
        name = token_hex(4)
        values = {"name": name, "url": f"http://127.0.0.1:9/{name}", "pick": "user.*", "do": "save"}
        sent = person.send(forms[key], "/do/create", **values)
        assert "whsec_" in sent.text, sent.text.partition("Sign out")[2][:600]
        [found] = hub.call("GET", f"/api/outgoing-webhooks?name={name}", key=key)["items"]
        made[key] = f"/webhooks/{found['id']}"
        paused = person.send(person.open(tab + made[key]), "/do/pause")
        assert paused.path == f"{tab}{made[key]}?done=pause"
        assert hub.call("GET", f"/api/outgoing{made[key].replace('/', '-', 1)}", key=key)["paused"] is True
    assert person.open(base + made[None]).status == 404
    entries = sessions.database["audit_entries"]
    entry = entries.find_one({"workspace": second})
    entries.insert_many([{**entry, "_id": f"{entry['_id']}{number:04}"} for number in range(1001)])
    more = person.client.get(f"{base}/audit.csv").headers["link"]
    assert more.startswith(f"<{base}/audit.csv?"), "the rest is in the same workspace"
    assert person.open("/console" + made[other]).status == 404
    for path in ("", "/webhooks", "/catalogue", "/help", "/statistics", "/imports/new", made[other]):
        page = person.open(base + path)
        assert page.status == 200
        targets = [*page.links, *(form.action for form in page.forms)]
        change = f"/console/in/{hub.workspace}"
        own = [target for target in targets if target.startswith("/console") and target != change]
        assert len(own) > 10
        assert [target for target in own if not f"{target}/".startswith((f"{base}/", f"{base}?"))] == []
    cookies = {COOKIE: session_id(person)}
    with second_process("console", hub, tmp_path_factory.mktemp("second"), bus, store) as process:
        page = Answer(httpx.get(f"{process.url('console')}{base}/statistics", cookies=cookies))
    assert workspace_of(page) == second
    person.send(person.open(base), "/sign-out")
    for one in cookies[COOKIE].split("."):
        answer = httpx.get(f"{person.base}/console", cookies={COOKIE: one})
        assert answer.status_code == 401, "signing out ends the sessions in both"


def test_what_a_page_of_one_workspace_sends_never_reaches_the_other(
    hub: Hub, both: tuple[Person, str, str]
) -> None:
    person, other, base = both
    page = person.open("/console")
    token, session = token_of(person), next(at["data-session"] for tag, at in page.elements if tag == "body")
    headers = {"origin": person.base, "x-form-token": token}
    for path in ("/webhooks/do/create", "/sessions/key"):
        data = {"token": token, "name": "x", "url": "http://127.0.0.1:9/"}
        assert person.client.post(base + path, data=data, headers=headers).status_code == 403
    assert person.client.post(f"{base}/uploads", headers=headers).status_code == 403
    stream = person.client.get(f"{base}/live", params={"session": str(session)}, timeout=5)
    assert stream.text.startswith("event: ended"), "no events of the one workspace on a page of the other"
    assert hub.call("GET", "/api/outgoing-webhooks", key=other)["items"] == []


def test_only_the_browsers_own_workspaces_can_be_opened(hub: Hub, both: tuple[Person, str, str]) -> None:
    person, _, base = both
    stranger = Person(hub.url("gateway"))
    key = hub.other_workspace()
    theirs = workspace_of(stranger.sign_in(key))
    for forged in (theirs, "%22%3E", "%0a", digest_of(session_id(stranger)), "x" * 300):
        page = person.open(f"/console/in/{forged}/webhooks")
        assert (page.status, "Sign out" in page.text) == (401, False), forged
        assert "this address is of the workspace" in page.text
    page = person.open(f"/console/in/{theirs}/webhooks?order=name")
    assert person.send(page, "/console/sign-in", key=key).path == f"/console/in/{theirs}/webhooks?order=name"
    assert workspace_of(person.open("/console")) == hub.workspace, "a further sign-in changes no other tab"
    assert workspace_of(person.open(base)) == base.removeprefix("/console/in/")
    wrong = person.open("/console/in/nobody/webhooks")
    again = person.send(wrong, "/console/sign-in", key=hub.admin_key)
    assert "sign in with a key of it" in again.text, "it is the key of another workspace"
    many = ".".join(["x"] * 50 + [session_id(stranger)])
    assert httpx.get(f"{person.base}/console", cookies={COOKIE: many}).status_code == 401, "bounded"


def test_a_revoked_key_ends_the_session_of_its_workspace_alone(
    hub: Hub, both: tuple[Person, str, str], sessions: Any
) -> None:
    person, _, base = both
    first = session_id(person).split(".")[0]
    hub.call("DELETE", f"/api/api-keys/{sessions.find_one({'_id': digest_of(first)})['key_id']}")
    page = person.open("/console")
    assert workspace_of(page) == workspace_of(person.open(base)) == base.removeprefix("/console/in/")
    assert "Change to" not in page.text
    assert httpx.get(f"{person.base}/console", cookies={COOKIE: first}).status_code == 401


# All that the console promises to refuse, in one table


def fixation(hub: Hub, person: Person) -> httpx.Response:
    """The attacker knows the id of the session before the victim signs in."""
    chosen = token_urlsafe(32)
    person.client.cookies.set(COOKIE, chosen, domain="127.0.0.1", path="/")
    person.sign_in(hub.admin_key)
    return httpx.get(f"{person.base}/console", cookies={COOKIE: chosen})


def replay(hub: Hub, person: Person) -> httpx.Response:
    """A whole request with cookie and token is sent again after its session has ended."""
    person.sign_in(hub.admin_key)
    cookies, token = {COOKIE: session_id(person)}, token_of(person)
    person.send(person.open("/console"), "/sign-out")
    form = {"token": token, "name": "mallory", "role": "admin"}
    address = f"{person.base}/console/members/do/create"
    return httpx.post(address, data=form, cookies=cookies, headers={"origin": person.base})


def another_origin(hub: Hub, person: Person) -> httpx.Response:
    person.sign_in(hub.admin_key)
    form = {"token": token_of(person), "name": "mallory", "role": "admin"}
    headers = {"origin": "https://attacker.example"}
    return person.client.post("/console/members/do/create", data=form, headers=headers)


def a_revoked_key(hub: Hub, person: Person) -> httpx.Response:
    made = hub.call("POST", "/api/api-keys", {"name": "x", "scopes": ["admin"]})
    person.sign_in(made["key"])
    hub.call("DELETE", f"/api/api-keys/{made['id']}", expect=204)
    return person.client.get("/console/webhooks")


def a_replaced_key(hub: Hub, person: Person) -> httpx.Response:
    made = hub.call("POST", "/api/members", {"name": "replaced", "role": "admin"}, expect=201)
    person.sign_in(made["key"])
    hub.call("POST", f"/api/members/{made['id']}/rotate-key")
    return person.client.get("/console/webhooks")


def a_viewer_posts_an_operators_form(hub: Hub, person: Person) -> httpx.Response:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/", name="refused")["id"]
    made = hub.call("POST", "/api/members", {"name": "x", "role": "viewer"}, expect=201)
    person.sign_in(made["key"])
    form, headers = {"token": token_of(person)}, {"origin": person.base}
    return person.client.post(f"/console/webhooks/{webhook}/do/pause", data=form, headers=headers)


def an_operator_posts_an_admins_form(hub: Hub, person: Person) -> httpx.Response:
    made = hub.call("POST", "/api/members", {"name": "x", "role": "operator"}, expect=201)
    person.sign_in(made["key"])
    form = {"token": token_of(person), "role": "admin"}
    address = f"/console/members/{made['id']}/do/role"
    return person.client.post(address, data=form, headers={"origin": person.base})


def a_portal(hub: Hub) -> tuple[str, str]:
    """The id and the cookie of a customer's portal."""
    body = {"customer": "acme", "events": ["message.created"], "origins": [CHAT]}
    made = hub.call("POST", "/api/portal-sessions", body, expect=201)
    return made["id"], httpx.get(made["url"]).headers["set-cookie"].partition(";")[0]


def a_portal_opens_the_console(hub: Hub, person: Person) -> httpx.Response:
    _, cookie = a_portal(hub)
    own = cookie.replace("interlink-portal", COOKIE)
    return httpx.get(f"{person.base}/console/webhooks", headers={"cookie": f"{cookie}; {own}"})


def a_portal_opens_a_webhook_of_the_workspace(hub: Hub, person: Person) -> httpx.Response:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/", name="refused")["id"]
    portal, cookie = a_portal(hub)
    address = f"{person.base}/console/portal/{portal}/webhooks/{webhook}"
    return httpx.get(address, headers={"cookie": cookie})


def a_connect_window(hub: Hub) -> tuple[str, str]:
    """The address and the cookie of a window to connect accounts at GitHub."""
    body = {"user": "ada", "providers": ["github"], "origin": CHAT}
    made = hub.call("POST", "/api/connect-sessions", body, expect=201)
    address = f"{hub.url('gateway')}/console/connect/{made['id']}"
    opened = httpx.get(f"{address}/open", params={"code": made["session"].partition(".")[2]})
    return address, opened.headers["set-cookie"].partition(";")[0]


def a_connect_window_opens_another_provider(hub: Hub, person: Person) -> httpx.Response:
    address, cookie = a_connect_window(hub)
    assert httpx.get(address, headers={"cookie": cookie}).status_code == 200
    return httpx.get(f"{address}/telegram/bot_token", headers={"cookie": cookie})


def a_connect_window_opens_the_console(hub: Hub, person: Person) -> httpx.Response:
    _, cookie = a_connect_window(hub)
    own = f"{COOKIE}={cookie.partition('=')[2]}"
    return httpx.get(f"{person.base}/console/integrations", headers={"cookie": f"{cookie}; {own}"})


REFUSED: dict[Callable[[Hub, Person], httpx.Response], int] = {
    fixation: 401,
    replay: 401,
    another_origin: 403,
    a_revoked_key: 401,
    a_replaced_key: 401,
    a_viewer_posts_an_operators_form: 403,
    an_operator_posts_an_admins_form: 403,
    a_portal_opens_the_console: 401,
    a_portal_opens_a_webhook_of_the_workspace: 404,
    a_connect_window_opens_another_provider: 404,
    a_connect_window_opens_the_console: 401,
}


@pytest.mark.parametrize(("attack", "expected"), REFUSED.items(), ids=[case.__name__ for case in REFUSED])
def test_what_is_refused_changes_nothing_and_cannot_be_framed(
    hub: Hub, person: Person, attack: Callable[[Hub, Person], httpx.Response], expected: int
) -> None:
    answer = attack(hub, person)
    assert answer.status_code == expected, answer.text
    ancestors = CHAT if "/portal/" in str(answer.url) else "'none'"
    assert f"frame-ancestors {ancestors};" in answer.headers["content-security-policy"]
    members = hub.call("GET", "/api/members")["items"]
    assert {member["name"] for member in members if member["role"] == "admin"} <= {"replaced"}
    webhooks = hub.call("GET", "/api/outgoing-webhooks")["items"]
    assert not [webhook for webhook in webhooks if webhook["name"] == "refused" and webhook["paused"]]
