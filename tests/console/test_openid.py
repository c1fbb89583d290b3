"""Sign in by OpenID Connect: at npm's oidc-provider, and at an identity provider that attacks."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from joserfc.jwk import OctKey, RSAKey

from services.console.openid.provider import ProviderUnavailable, parse_metadata
from tests.console.identity_provider import CLIENT_ID, HostileProvider
from tests.console.person import Person
from tests.support.auth_servers import Client, OidcProvider
from tests.support.backends import Bus, Store
from tests.support.browser import CHROMIUM, Tab, browser
from tests.support.hub import Hub, hub_with
from tests.support.npm import Unavailable
from tests.support.person import Person as Walker
from tests.support.recorded_secrets import record_secret
from tests.support.second_process import second_process

hub = hub_with(services=("gateway", "delivery", "console"), entrance=True)
CALLBACK = "/console/sign-in/callback"
BETA = "beta"
ROLES = {
    "staff": {"role": "viewer"},
    "ops": {"role": "operator"},
    "boss": {"role": "admin"},
    "beta": {"role": "operator", "workspace": BETA},
    "beta-boss": {"role": "admin", "workspace": BETA},
    "typo": {"role": "admin", "workspace": "btea"},
}
PEOPLE: dict[str, dict[str, Any]] = {
    "ada": {"roles": ["unknown", "boss"]},
    "vera": {"roles": ["staff"]},
    "vito": {"roles": ["staff"]},
    "olaf": {"roles": ["staff"]},
    "oda": {"roles": ["ops"]},
    "rosa": {"roles": ["staff"]},
    "both": {"roles": ["boss", "staff"]},
    "eve": {"roles": ["visitors"]},
    "duo": {"roles": ["beta-boss", "beta", "staff"]},
    "dora": {"roles": ["staff", "beta"]},
    "lost": {"roles": ["typo"]},
    "half": {"roles": ["staff", "typo"]},
    "nobody": {"roles": []},
}
BETA_KEY = f"ilk_beta_{token_hex(16)}"
SECRET = f"a client secret {token_hex(8)} %+:/="


def settings(issuer: str) -> dict[str, str]:
    return {
        "INTERLINK_OIDC_ISSUER": issuer,
        "INTERLINK_OIDC_CLIENT_ID": CLIENT_ID,
        "INTERLINK_OIDC_CLIENT_SECRET": SECRET,
        "INTERLINK_OIDC_NAME": "Example ID",
        "INTERLINK_OIDC_ROLES": json.dumps(ROLES),
    }


@pytest.fixture(scope="module")
def server(hub: Hub) -> Iterator[OidcProvider]:
    """The identity provider that the hub's console knows."""
    client = Client(CLIENT_ID, SECRET, [hub.url("gateway") + CALLBACK])
    with ExitStack() as stack:
        try:
            server = stack.enter_context(OidcProvider([client], claims=PEOPLE))
        except Unavailable as error:
            pytest.skip(str(error))
        hub.init(BETA, BETA_KEY)
        hub.stop_service("console")
        hub.start_service("console", **settings(server.url))
        hub.wait_ready("console")
        yield server


def walker(hub: Hub, name: str) -> Walker:
    """Somebody with a browser of their own."""
    return Walker(hub, name, client=httpx.Client(timeout=20, headers={"x-forwarded-for": address()}))


def address() -> str:
    """An address that has made no attempts yet."""
    return f"2001:db8::{token_hex(2)}:{token_hex(2)}"


def started(hub: Hub, person: Walker, next_path: str = "/console") -> str:
    """Begin; return the address at the identity provider."""
    answer = person.client.get(f"{hub.url('gateway')}/console/sign-in/openid", params={"next": next_path})
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def returning(hub: Hub, person: Walker) -> str:
    """Sign in at the identity provider; return the address that leads back to the hub."""
    address = person.consent(started(hub, person), stop_at=CALLBACK)
    answer = parse_qs(urlsplit(address).query)
    record_secret("a code of the identity provider", answer["code"][0])
    return address


def signed_in(hub: Hub, name: str) -> Person:
    """Somebody who has signed in at the identity provider."""
    person = walker(hub, name)
    page = person.client.get(returning(hub, person))
    assert page.status_code == 303, page.text
    return Person(hub.url("gateway"), client=person.client)


def member(hub: Hub, name: str) -> dict[str, Any]:
    members = hub.call("GET", "/api/members", params={"limit": "500"})["items"]
    return next(found for found in members if found["subject"] == name)


def test_a_person_signs_in_and_is_a_member_with_the_role_of_the_claim(hub: Hub, server: OidcProvider) -> None:
    person = walker(hub, "ada")
    page = person.client.get(f"{hub.url('gateway')}/console/webhooks?limit=1")
    assert page.status_code == 401
    assert "Sign in with Example ID" in page.text
    address = started(hub, person, "/console/webhooks?x=1")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    assert asked["redirect_uri"] == hub.url("gateway") + CALLBACK
    assert asked["code_challenge_method"] == "S256"
    back = person.client.get(person.consent(address, stop_at=CALLBACK))
    assert (back.status_code, back.headers["location"]) == (303, "/console/webhooks?x=1")
    shown = Person(hub.url("gateway"), client=person.client).open("/console/sessions")
    assert "ada Example (admin)" in shown.text
    assert "identity provider" in shown.text
    found = member(hub, "ada")
    assert (found["role"], found["sign_in"], found["issuer"]) == ("admin", "openid", server.url)
    assert found["email"] == "ada@example.com"


def test_the_first_entry_of_the_settings_that_fits_counts(hub: Hub, server: OidcProvider) -> None:
    signed_in(hub, "both").close()
    assert member(hub, "both")["role"] == "viewer"


def test_a_person_with_roles_in_two_workspaces_is_in_both_and_stays_in_one_when_removed_from_the_other(
    hub: Hub, server: OidcProvider
) -> None:
    person = signed_in(hub, "duo")
    page = person.open("/console")
    assert "(viewer) workspace default" in page.text, "the first entry of the settings"
    assert "(operator) workspace beta" in person.open(page.link("/console/in/")).text
    [theirs] = hub.call("GET", "/api/members", key=BETA_KEY)["items"]
    assert theirs["role"] == "operator", "the first of its workspace"
    hub.call("DELETE", f"/api/members/{theirs['id']}", key=BETA_KEY, expect=204)
    page = person.open("/console")
    assert "(viewer) workspace default" in page.text
    assert "Change to" not in page.text
    again = signed_in(hub, "duo").open("/console")
    assert ("workspace default" in again.text, "Change to" in again.text) == (True, False)


def test_a_workspace_that_does_not_exist_gets_no_member(hub: Hub, server: OidcProvider) -> None:
    person = walker(hub, "lost")
    page = person.client.get(returning(hub, person))
    assert page.status_code == 403
    assert "INTERLINK_OIDC_ROLES names the workspace btea, which does not exist" in page.text
    both = signed_in(hub, "half").open("/console")
    assert "(viewer) workspace default" in both.text
    assert "btea" in (hub.folder / "console.log").read_text()


@pytest.mark.parametrize("name", ["eve", "nobody"])
def test_without_a_known_claim_nobody_gets_in(hub: Hub, server: OidcProvider, name: str) -> None:
    person = walker(hub, name)
    page = person.client.get(returning(hub, person))
    assert page.status_code == 403
    assert "no role here" in page.text
    assert "interlink" not in person.client.cookies
    members = hub.call("GET", "/api/members", params={"limit": "500"})["items"]
    assert name not in [found["subject"] for found in members]


def test_new_keys_of_the_identity_provider_are_found(hub: Hub, server: OidcProvider) -> None:
    signed_in(hub, "vera").close()
    server.rotate()
    signed_in(hub, "vera").close()


def test_a_removed_member_is_out_at_once_in_both_consoles(
    hub: Hub, server: OidcProvider, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    person = signed_in(hub, "vito")
    folder = tmp_path_factory.mktemp("second")
    with second_process("console", hub, folder, bus, store, **settings(server.url)) as other:
        cookies = {"interlink": str(person.client.cookies["interlink"])}
        urls = [f"{one.url('console')}/console/webhooks" for one in (hub, other)]
        assert [httpx.get(url, cookies=cookies).status_code for url in urls] == [200, 200]
        hub.call("DELETE", f"/api/members/{member(hub, 'vito')['id']}", expect=204)
        assert [httpx.get(url, cookies=cookies).status_code for url in urls] == [401, 401]
    again = walker(hub, "vito")
    page = again.client.get(returning(hub, again))
    assert page.status_code == 403
    assert "removed this member" in page.text


def test_a_restored_member_signs_in_again_and_earlier_sessions_stay_ended(
    hub: Hub, server: OidcProvider
) -> None:
    person = signed_in(hub, "olaf")
    path = f"/api/members/{member(hub, 'olaf')['id']}"
    hub.call("DELETE", path, expect=204)
    hub.call("POST", f"{path}/restore")
    assert person.open("/console").status == 401
    person.close()
    again = signed_in(hub, "olaf")
    hub.call("POST", f"{path}/restore")  # of a member who was not removed: it ends nothing
    assert again.open("/console").status == 200
    again.close()


async def sign_in_by_clicks(hub: Hub, tab: Tab, name: str) -> None:
    await tab.goto(f"{hub.url('gateway')}/console/sign-in?next=/console/webhooks")
    await tab.press("a[href^='/console/sign-in/openid']")
    await tab.fill("#login", name)
    await tab.press("#sign-in")
    await tab.press("#allow")
    await tab.at(f"{hub.url('gateway')}/console/webhooks$")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
async def test_in_a_browser_each_role_signs_in_and_out_and_a_removed_member_is_out(
    hub: Hub, server: OidcProvider
) -> None:
    async with browser(width=1280, height=900) as started:
        for name, role in (("rosa", "viewer"), ("oda", "operator"), ("ada", "admin")):
            async with started.user() as tab:
                await sign_in_by_clicks(hub, tab, name)
                assert f"{name} Example ({role})" in await tab.see("#menu .who")
                assert await tab.evaluate("!!document.querySelector('#menu a[href$=members]')") is (
                    role == "admin"
                )
                assert tab.complaints == []
                await tab.press("form[action='/console/sign-out'] button")
                await tab.at("/console/sign-in$")
                assert "interlink" not in [cookie["name"] for cookie in await tab.cookies()]
                await tab.goto(f"{hub.url('gateway')}/console/webhooks")
                await tab.see("#key")
        async with started.user() as tab:
            await sign_in_by_clicks(hub, tab, "dora")
            await tab.press("#menu a[href='/console/in/beta']")
            await tab.at("/console/in/beta$")
            assert "workspace beta" in await tab.see("#menu .who")
            assert tab.complaints == []
        async with started.user() as tab:
            await sign_in_by_clicks(hub, tab, "rosa")
            hub.call("DELETE", f"/api/members/{member(hub, 'rosa')['id']}", expect=204)
            await tab.press("#menu a[href='/console/deliveries']")
            await tab.see("#key")
            assert await tab.evaluate("document.querySelector('#menu')") is None
            await tab.press("a[href^='/console/sign-in/openid']")
            await tab.press("#allow")
            assert "removed this member" in await tab.see(".alert-danger")


def test_a_viewer_who_posts_an_operators_form_is_refused(hub: Hub, server: OidcProvider) -> None:
    webhook = hub.outgoing_webhook("http://127.0.0.1:9/")["id"]
    person = signed_in(hub, "vera")
    page = person.open(f"/console/webhooks/{webhook}")
    assert page.status == 200
    assert not [link for link in page.links if "/do/" in link]
    token = page.form("/sign-out").fields["token"]
    for path in (f"webhooks/{webhook}/do/pause", f"webhooks/{webhook}/do/delete", "members/do/create"):
        data = {"token": token, "name": "x", "role": "admin"}
        answer = person.client.post(f"/console/{path}", data=data, headers={"origin": person.base})
        assert answer.status_code == 403, path
    assert hub.call("GET", f"/api/outgoing-webhooks/{webhook}")["paused"] is False
    [entry] = hub.call(
        "GET", "/api/audit", params={"actor": member(hub, "vera")["id"], "resource": webhook, "limit": "1"}
    )["items"]
    assert (entry["actor"]["role"], entry["status"]) == ("viewer", 403)
    assert len(entry["actor"]["session"]) == 64


# What is refused, each in a browser of its own that has signed in up to the way back


def a_state_that_was_used(hub: Hub, person: Walker, back: str) -> httpx.Response:
    cookie = str(person.client.cookies["interlink-sign-in"])
    assert person.client.get(back).status_code == 303
    return httpx.get(back, cookies={"interlink-sign-in": cookie}, headers=person.client.headers)


def another_browser(hub: Hub, person: Walker, back: str) -> httpx.Response:
    return httpx.get(back, headers=person.client.headers)


def a_code_of_somebody_else(hub: Hub, person: Walker, back: str) -> httpx.Response:
    """The attacker's code, brought into the sign-in of another browser: PKCE refuses it."""
    victim = walker(hub, "vera")
    state = parse_qs(urlsplit(started(hub, victim)).query)["state"][0]
    code = parse_qs(urlsplit(back).query)["code"][0]
    return victim.client.get(changed(back, state=state, code=code))


def a_whole_answer_of_somebody_else(hub: Hub, person: Walker, back: str) -> httpx.Response:
    """To make a victim use the attacker's account."""
    victim = walker(hub, "vera")
    started(hub, victim)
    return victim.client.get(back)


def another_issuer(hub: Hub, person: Walker, back: str) -> httpx.Response:
    return person.client.get(changed(back, iss="https://id.attacker.example"))


def no_issuer(hub: Hub, person: Walker, back: str) -> httpx.Response:
    return person.client.get(changed(back, iss=None))


def a_forged_cookie(hub: Hub, person: Walker, back: str) -> httpx.Response:
    value = str(person.client.cookies["interlink-sign-in"])
    forged = {"interlink-sign-in": value[:-12] + "A" * 12}
    return httpx.get(back, cookies=forged, headers=person.client.headers)


def an_error(hub: Hub, person: Walker, back: str) -> httpx.Response:
    return person.client.get(changed(back, code=None, error="<script>alert(1)</script>"))


def changed(address: str, **parameters: str | None) -> str:
    """The address with other parameters; None takes one out."""
    parts = urlsplit(address)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()} | parameters
    return parts._replace(query=urlencode({k: v for k, v in query.items() if v is not None})).geturl()


REFUSED = [
    *(a_state_that_was_used, another_browser, a_code_of_somebody_else, a_whole_answer_of_somebody_else),
    *(another_issuer, no_issuer, a_forged_cookie, an_error),
]


@pytest.mark.parametrize("attack", REFUSED, ids=lambda attack: attack.__name__)
def test_a_callback_that_is_not_ones_own_is_refused(hub: Hub, server: OidcProvider, attack: Any) -> None:
    person = walker(hub, "ada")
    answer = attack(hub, person, returning(hub, person))
    assert answer.status_code == 401, answer.text
    assert "interlink=" not in answer.headers.get("set-cookie", "").replace("interlink-sign-in=", "")
    assert "<script>alert" not in answer.text


def test_a_session_that_others_chose_is_never_used(hub: Hub, server: OidcProvider) -> None:
    person = walker(hub, "ada")
    back = returning(hub, person)
    chosen = token_hex(32)
    person.client.cookies.set("interlink", chosen, domain="127.0.0.1", path="/")
    answer = person.client.get(back)
    assert answer.status_code == 303
    assert chosen not in answer.headers["set-cookie"]
    assert httpx.get(f"{hub.url('gateway')}/console", cookies={"interlink": chosen}).status_code == 401


def test_ten_wrong_callbacks_a_minute_are_enough(hub: Hub, server: OidcProvider) -> None:
    person, answers = walker(hub, "ada"), []
    for _ in range(11):
        state = parse_qs(urlsplit(started(hub, person)).query)["state"][0]
        url = f"{hub.url('gateway')}{CALLBACK}?code=x&state={state}&iss={server.url}"
        answers.append(person.client.get(url).status_code)
    assert answers == [401] * 10 + [429]


def test_callbacks_that_a_website_makes_a_browser_send_use_up_no_attempts(
    hub: Hub, server: OidcProvider
) -> None:
    before = server.stats().called.get("authorization_code", 0)
    person = walker(hub, "ada")
    forged = f"{hub.url('gateway')}{CALLBACK}?code=x&state=y"
    answers = [httpx.get(forged, headers=person.client.headers).status_code for _ in range(11)]
    assert answers == [401] * 11
    assert server.stats().called.get("authorization_code", 0) == before, "the provider is not asked"
    back = returning(hub, person)
    assert person.client.get(forged).status_code == 401, "by a link, with the cookie of what was started"
    assert person.client.get(back).status_code == 303


# An identity provider that attacks


@pytest.fixture(scope="module")
def hostile(
    hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[HostileProvider, str]]:
    """The provider, and the address of a console that trusts it."""
    with HostileProvider() as provider:
        folder = tmp_path_factory.mktemp("hostile")
        with second_process("console", hub, folder, bus, store, **settings(provider.url)) as other:
            yield provider, other.url("console")


FLAWS: dict[str, dict[str, Any]] = {
    "another nonce": {"nonce": "another"},
    "no nonce": {"nonce": None},
    "another audience": {"aud": "another"},
    "several audiences without a party": {"aud": [CLIENT_ID, "another"]},
    "another party": {"azp": "another"},
    "another issuer": {"iss": "https://id.example"},
    "expired": {"exp": 1_000_000_000},
    "no expiry": {"exp": None},
    "from the future": {"iat": 4_000_000_000},
    "nobody": {"sub": None},
    "a number": {"sub": 7},
    "an endless subject": {"sub": "x" * 256},
    "an unprintable subject": {"sub": "a\u0000b"},
    "the hash of another access token": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
}


def attempt(hostile: tuple[HostileProvider, str]) -> tuple[HostileProvider, httpx.Client, str]:
    """Begin a sign-in at the console of the hostile provider."""
    provider, base = hostile
    client = httpx.Client(base_url=base, headers={"x-forwarded-for": address()}, timeout=20)
    there = client.get("/console/sign-in/openid").headers["location"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(there).query).items()}
    provider.reset(asked["nonce"])
    return provider, client, f"{CALLBACK}?code=x&state={asked['state']}"


def test_an_honest_answer_of_it_is_taken(hostile: tuple[HostileProvider, str]) -> None:
    provider, client, back = attempt(hostile)
    assert client.get(back).status_code == 303
    assert provider.token_requests[-1]["code"] == ["x"]


@pytest.mark.parametrize("flaw", FLAWS)
def test_an_id_token_with_a_flaw_is_refused(hostile: tuple[HostileProvider, str], flaw: str) -> None:
    provider, client, back = attempt(hostile)
    claims = {**provider.claims, **FLAWS[flaw]}
    provider.claims = {name: value for name, value in claims.items() if value is not None}
    assert client.get(back).status_code == 401


@pytest.mark.parametrize("signed", ["by another key", "with the client secret", "by nobody"])
def test_an_id_token_that_others_signed_is_refused(hostile: tuple[HostileProvider, str], signed: str) -> None:
    provider, client, back = attempt(hostile)
    match signed:
        case "by another key":
            provider.key = RSAKey.generate_key(2048)
        case "with the client secret":
            provider.key, provider.algorithm = OctKey.import_key(SECRET), "HS256"
        case "by nobody":
            provider.token = {"id_token": "eyJhbGciOiJub25lIn0.e30."}
    assert client.get(back).status_code == 401


@pytest.mark.parametrize(
    "token",
    [b"", b"[]", b"{" * 60_000, b'{"id_token": 7}', b"x" * 1_000_000],
    ids=["none", "list", "deep", "number", "large"],
)
def test_an_answer_that_is_none_is_an_outage(hostile: tuple[HostileProvider, str], token: bytes) -> None:
    provider, client, back = attempt(hostile)
    provider.token = token
    assert client.get(back).status_code == 503


@pytest.mark.parametrize(
    "roles", [None, 7, {"staff": True}, [["staff"]], "staffs", ["STAFF"], [None]], ids=str
)
def test_a_claim_of_another_form_gives_no_role(hostile: tuple[HostileProvider, str], roles: Any) -> None:
    provider, client, back = attempt(hostile)
    provider.claims["roles"] = roles
    assert client.get(back).status_code == 403


def test_texts_of_it_are_bounded_and_shown_as_text(hub: Hub, hostile: tuple[HostileProvider, str]) -> None:
    provider, client, back = attempt(hostile)
    provider.claims |= {"sub": "long", "name": "<script>alert(1)</script>\ud800\u202e" + "x" * 9000}
    assert client.get(back).status_code == 303
    assert len(member(hub, "long")["name"]) == 200
    page = client.get("/console/sessions")
    assert page.status_code == 200
    assert "<script>alert" not in page.text


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://id.attacker.example"},
        {"token_endpoint": "http://169.254.169.254/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
    ],
    ids=str,
)
def test_metadata_that_lead_elsewhere_are_refused(metadata: dict[str, Any]) -> None:
    good = {
        name: f"https://id.example/{name}"
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")
    }
    document = {"issuer": "https://id.example", **good}
    parse_metadata(json.dumps(document).encode(), "https://id.example")
    with pytest.raises(ProviderUnavailable):
        parse_metadata(json.dumps(document | metadata).encode(), "https://id.example")
