"""Attacks on authorizations: forged and stolen responses, mix-up, open redirects, a tampered database.

The authorization servers are npm's oidc-provider, strict about PKCE and codes. One more, the mirror, is an
attacker's: its errors repeat whatever it received. The end of the run searches logs, messages and answers for
leaked secrets.
"""

import base64
import hashlib
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from threading import Barrier
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx
import pytest
from aiohttp import web
from pymongo import MongoClient

from shared.runtime.web import api_keys
from shared.runtime.web.api_keys import ApiKeyRecord, generate_key
from tests.support.auth_servers import Client, OidcProvider
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.npm import Unavailable
from tests.support.person import Person
from tests.support.recorded_secrets import record_secret
from tests.support.subscriber import Subscriber, WebhookRequest

CALLBACK = "/api/auth/oauth/callback"
ORIGIN = "https://chat.example.com"
SERVICES = ("gateway", "oauth")
BODIES: Mapping[str, Any] = {
    "fields": {"fields": {}},
    "choose": {"choice": "x"},
    "watches": {"watch": "x"},
    "refused": {"version": 0},
    "PATCH": {"name": "x"},
}
"""What the routes of one integration want to be sent; the others take an empty object."""


class World:
    """A hub with three workspaces: the first is connected to one server, the second to another, and the third
    to a server of an attacker's, who is its administrator.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.second, self.third = self._workspace(), self._workspace()
        self.back = hub.url("gateway") + CALLBACK
        self.mirror = Subscriber(answer=self._repeat)
        self.mirror_error = ""
        self.a = self._server("a")
        self.b = self._server("b")

    def _workspace(self) -> str:
        """The admin key of a new workspace."""
        key = generate_key()
        record = ApiKeyRecord.of_key(key, f"w-{token_hex(4)}", "test", ["admin"])
        with self.collection(api_keys.COLLECTION) as keys:
            keys.insert_one(record.document())
        return key

    def _server(self, name: str) -> OidcProvider:
        client = Client(f"hub-{name}", f"the-secret-at-{name}-{token_hex(8)}", [self.back])
        server = OidcProvider([client], access_token_s=600)
        self.clients = {**getattr(self, "clients", {}), name: client}
        return server

    def _repeat(self, got: WebhookRequest) -> web.StreamResponse:
        """The attacker's token endpoint."""
        _, _, login = got.headers.get("authorization", "").partition(" ")
        payload = f"{base64.b64decode(login).decode()} {got.body.decode()}"
        error = self.mirror_error or f"bad {payload}"
        return web.json_response({"error": error, "error_description": f"I received {payload}"}, status=400)

    def set_up(self) -> None:
        """Tell the hub about the servers."""
        eventually(lambda: self.knows(self.second) and self.knows(self.third))
        self.register(self.a, "a", self.hub.admin_key)
        self.register(self.b, "b", self.second)
        self.register_mirror()

    def knows(self, key: str) -> bool:
        return self.ask("GET", "/api/integrations", key=key).status_code == 200

    def register(self, server: OidcProvider, name: str, key: str, **settings: str | None) -> None:
        found = {
            "authorize_url": server.authorize_url,
            "token_url": server.token_url,
            "userinfo_url": server.userinfo_url,
            "revoke_url": server.revoke_url,
            "issuer": server.url,
        } | settings
        body = {
            "client_id": self.clients[name].id,
            "client_secret": self.clients[name].secret,
            "settings": {name: text for name, text in found.items() if text},
            "verified": True,
        }
        answer = self.ask("PUT", "/api/platform-credentials/oidc", body, key=key)
        assert answer.status_code == 200, answer.text

    def register_mirror(self, **settings: str) -> None:
        secret = f"secret-of-the-mirror-{token_hex(8)}"
        found = {name: f"{self.mirror.url}/{name}" for name in ("authorize_url", "token_url", "userinfo_url")}
        body = {
            "client_id": "mirrored",
            "client_secret": secret,
            "settings": found | settings,
            "verified": True,
        }
        answer = self.ask("PUT", "/api/platform-credentials/oidc", body, key=self.third)
        assert answer.status_code == 200, answer.text

    def ask(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> httpx.Response:
        """A call of the hub's API, through its entrance."""
        headers = {"authorization": f"Bearer {key or self.hub.admin_key}"}
        with httpx.Client(timeout=30) as client:
            return client.request(method, self.hub.url("gateway") + path, json=body, headers=headers)

    def callback(self, query: Any, person: Person | None = None, **headers: str) -> httpx.Response:
        """Come back from a platform with this query, in a person's browser."""
        text = query if isinstance(query, str) else urlencode(query)
        with httpx.Client(timeout=30) as client:
            if person is not None:
                client.cookies.update(person.client.cookies)
            return client.get(f"{self.back}?{text}", headers=headers)

    def person(self, name: str, key: str | None = None) -> Person:
        """Somebody with a browser of his own, whose page has the key."""
        return Person(self.hub, name, entrance="gateway", key=key)

    def status(self, integration: str, key: str | None = None) -> dict[str, Any]:
        answer = self.ask("GET", f"/api/integrations/{integration}", key=key)
        return {"status": answer.status_code} if answer.is_error else dict(answer.json())

    def ids(self, key: str | None = None) -> set[str]:
        """The integrations of a workspace, by id."""
        return {
            item["id"] for item in self.ask("GET", "/api/integrations?limit=500", key=key).json()["items"]
        }

    @contextmanager
    def collection(self, name: str) -> Iterator[Any]:
        with MongoClient[dict[str, Any]](self.hub.env["MONGODB_URI"]) as mongo:
            yield mongo.get_default_database()[name]

    def change_state(self, state: str, change: Mapping[str, Any]) -> None:
        """Change what the store has of a state."""
        with self.collection("oauth_states") as states:
            assert states.update_one({"_id": digest(state)}, {"$set": change}).modified_count == 1


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def refused(answer: httpx.Response, status: int, code: str) -> None:
    """It is a page that says so, which nobody may keep, frame or run anything in."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert f'<p class="code">{code}</p>' in answer.text, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    env = {"INTERLINK_RETURN_ORIGINS": f"{ORIGIN}, http://localhost:7777/", "INTERLINK_LOG_LEVEL": "debug"}
    hub = Hub(tmp_path_factory.mktemp("hub"), bus, store, services=SERVICES, env=env, entrance=True)
    with ExitStack() as stack:
        stack.callback(hub.stop)
        hub.start()
        made = World(hub)
        try:
            stack.enter_context(made.a)
            stack.enter_context(made.b)
        except Unavailable as error:
            pytest.skip(str(error))
        stack.enter_context(made.mirror)
        made.set_up()
        yield made
        assert [*made.a.stats().faults, *made.b.stats().faults] == []


# States


def test_a_forged_state_is_refused(world: World) -> None:
    """Whoever makes one up, with or without a browser that is on its way."""
    before = world.a.stats()
    with world.person("ada") as ada:
        authorization = ada.connect("oidc")
        came = query_of(ada.consent(authorization["authorization_url"]))
        forged = came["state"][:-1] + ("A" if came["state"][-1] != "A" else "B")
        for state in (forged, "x", "x" * 43, came["state"] + "=", came["state"].swapcase(), "\ud7ff\ufffd"):
            refused(world.callback(came | {"state": state}, ada), 404, "unknown_state")
        refused(world.callback(came | {"state": ""}, ada), 400, "no_state")
        assert world.a.stats().since(before).called == {}
        assert world.status(authorization["integration_id"])["status"] == "pending"
        assert world.callback(came, ada).status_code == 303, "what others forge uses nothing up"


def test_a_state_is_used_once(world: World) -> None:
    with world.person("ada") as ada:
        authorization = ada.connect("oidc")
        cookies = dict(ada.client.cookies)
        came = query_of(ada.consent(authorization["authorization_url"]))
        before = world.a.stats()
        finished = ada.client.get(f"{world.back}?{urlencode(came)}")
        assert finished.status_code == 303
        result = finished.headers["location"]
        assert not {came["code"], came["state"]} & set(re.split(r"[/?=&]", result))
        assert cookies.keys() <= ada.client.cookies.keys(), "this browser may look again, for ten minutes"
        for query in (came, came | {"code": "another"}, came | {"error": "access_denied"}):
            assert world.callback(query, ada).headers["location"] == result
        page = ada.client.get(result)
        assert (page.status_code, "ada@example.com is connected" in page.text) == (200, True)
        with world.person("eve") as eve:  # who has the addresses, and not the cookie
            eve.connect("oidc")
            for answer in (world.callback(came, eve), eve.client.get(result)):
                page = eve.client.get(answer.headers["location"]) if answer.is_redirect else answer
                assert (page.status_code, "Finished" in page.text) == (200, True)
                assert "ada" not in page.text
        assert world.a.stats().since(before).called == {"authorization_code": 1}
        assert world.status(authorization["integration_id"])["status"] == "connected"


def test_a_repeated_call_starts_one_authorization(world: World) -> None:
    """With an Idempotency-Key, as a chat's server that is careful: the same state, and the same cookie."""
    key = {"idempotency-key": f"once-{token_hex(8)}"}
    with world.person("ida") as ida:

        def begin() -> httpx.Response:
            url = world.hub.url("gateway") + "/api/auth/oauth/connect"
            headers = {"authorization": f"Bearer {ida.key}", **key}
            return ida.client.post(url, json={"provider": "oidc"}, headers=headers)

        def again() -> httpx.Response | None:
            """The answer, once the first call is over and no longer under way."""
            answer = begin()
            return None if answer.status_code == 409 else answer

        first, second = begin(), eventually(again)
        assert second is not None
        assert first.json() == second.json()
        assert first.headers["set-cookie"] == second.headers["set-cookie"]
        assert ida.go(first.json()["authorization_url"]).status_code == 200


def test_a_denied_authorization_consumes_its_state(world: World) -> None:
    with world.person("ada") as ada:
        authorization = ada.connect("oidc")
        came = query_of(ada.consent(authorization["authorization_url"], deny=True))
        refused(world.callback(came, ada), 400, "access_denied")
        assert world.status(authorization["integration_id"])["status"] == 404
        refused(world.callback(came | {"code": "x"}, ada), 410, "used")


def test_a_state_lasts_ten_minutes(world: World) -> None:
    with world.person("ada") as ada:
        now = datetime.now(UTC)
        authorization = ada.connect("oidc")
        ends = datetime.fromisoformat(authorization["expires_at"])
        assert timedelta(minutes=9, seconds=55) < ends - now < timedelta(minutes=10, seconds=5)
        came = query_of(ada.consent(authorization["authorization_url"]))
        world.change_state(came["state"], {"expires_at": datetime.now(UTC)})
        before = world.a.stats()
        refused(world.callback(came, ada), 410, "used")
        assert world.a.stats().since(before).called == {}


def test_a_callback_belongs_to_the_browser_that_started(world: World) -> None:
    """Another person's, even one who is on his way himself, and one who moves his cookie."""
    before = world.a.stats()
    with world.person("ada") as ada, world.person("bob") as bob:
        authorization, other = ada.connect("oidc"), bob.connect("oidc")
        came = query_of(ada.consent(authorization["authorization_url"]))
        refused(world.callback(came), 403, "other_browser")
        refused(world.callback(came, bob), 403, "other_browser")
        (name, _), (_, theirs) = cookie_of(ada), cookie_of(bob)
        for value in (theirs, "", "x" * 5000):
            refused(world.callback(came, cookie=f"{name}={value}"), 403, "other_browser")
        assert world.a.stats().since(before).called == {}
        assert world.callback(came, ada).status_code == 303
        assert world.status(other["integration_id"])["status"] == "pending"


def cookie_of(person: Person) -> tuple[str, str | None]:
    """The name and value of the cookie of the one dance that somebody is in."""
    [found] = [item for item in person.client.cookies.jar if item.name.startswith("interlink_")]
    return found.name, found.value


# Codes


def test_a_stolen_code_is_worthless_with_another_state(world: World) -> None:
    """Code injection: the thief has a dance of his own under way, and brings another's code."""
    with world.person("ada") as ada, world.person("mallory") as mallory:
        authorization, own = ada.connect("oidc"), mallory.connect("oidc")
        stolen = query_of(ada.consent(authorization["authorization_url"]))
        state = query_of(own["authorization_url"])["state"]
        before = world.a.stats()
        refused(world.callback(stolen | {"state": state}, mallory), 400, "code_refused")
        assert world.a.stats().since(before).refused == {"authorization_code": {"invalid_grant": 1}}
        assert world.status(own["integration_id"])["status"] == "pending"


def test_a_code_of_another_server_connects_nothing(world: World) -> None:
    """Mix-up: the attacker's server sends a victim on to an honest one, with the challenge of his own dance.

    The hub gives the code to the attacker's server, whose the state is. Only his own state can make tokens of
    that code, and the hub does not take a code that it has seen.
    """
    with world.person("mallory") as mallory, world.person("ada", world.third) as ada:
        own, authorization = mallory.connect("oidc"), ada.connect("oidc")
        state = query_of(authorization["authorization_url"])["state"]
        honest = query_of(own["authorization_url"]) | {"state": state}
        came = query_of(ada.consent(f"{world.a.authorize_url}?{urlencode(honest)}"))
        assert came["state"] == state
        before = world.a.stats()
        assert world.callback(came, ada).status_code == 400
        assert world.mirror.got[-1].body, "he has it"
        mine = query_of(own["authorization_url"])["state"]
        refused(world.callback(came | {"state": mine}, mallory), 400, "code_refused")
        assert world.a.stats().since(before).granted == {}
        assert world.status(own["integration_id"])["status"] == "pending"


def test_a_response_of_another_server_is_refused(world: World) -> None:
    """Mix-up, where servers say who they are (RFC 9207): neither server sees the code."""
    before = world.a.stats(), world.b.stats()
    with world.person("ada") as ada, world.person("ada", world.second) as there:
        for change in ({"iss": world.b.url}, {"iss": None}, {"iss": ""}, {"iss": world.a.url + "/"}):
            authorization = ada.connect("oidc")
            came: dict[str, Any] = query_of(ada.consent(authorization["authorization_url"])) | change
            sent = {name: value for name, value in came.items() if value is not None}
            refused(world.callback(sent, ada), 400, "wrong_issuer")
        code = query_of(ada.consent(ada.connect("oidc")["authorization_url"]))
        authorization = there.connect("oidc")
        state = query_of(authorization["authorization_url"])["state"]
        refused(world.callback(code | {"state": state}, there), 400, "wrong_issuer")
        assert [
            server.stats().since(item).called for server, item in zip((world.a, world.b), before, strict=True)
        ] == [
            {},
            {},
        ]
        authorization = there.connect("oidc")
        forged = code | {"state": query_of(authorization["authorization_url"])["state"], "iss": world.b.url}
        refused(world.callback(forged, there), 400, "code_refused")
        assert world.status(authorization["integration_id"], world.second)["status"] == "pending"


def test_an_error_of_another_server_ends_no_authorization(world: World) -> None:
    with world.person("ada") as ada:
        authorization = ada.connect("oidc")
        state = query_of(authorization["authorization_url"])["state"]
        forged = {"state": state, "error": "access_denied", "iss": world.b.url}
        refused(world.callback(forged, ada), 400, "wrong_issuer")
        assert world.status(authorization["integration_id"])["status"] == "pending"


def test_an_app_that_changed_since_the_start_gets_no_code(world: World) -> None:
    """Whoever set out to one server does not bring its code to another one."""
    with world.person("ada", world.second) as ada:
        authorization = ada.connect("oidc")
        came = query_of(ada.consent(authorization["authorization_url"]))
        before = len(world.mirror.got)
        world.register(world.b, "b", world.second, token_url=f"{world.mirror.url}/token")
        try:
            refused(world.callback(came, ada), 400, "app_changed")
        finally:
            world.register(world.b, "b", world.second)
        assert len(world.mirror.got) == before


# Parameters


def test_doubled_parameters_are_refused(world: World) -> None:
    with world.person("ada") as ada:
        authorization = ada.connect("oidc")
        came = query_of(ada.consent(authorization["authorization_url"]))
        many = [(f"p{number}", "x") for number in range(60)]
        before = world.a.stats()
        for more in ([("code", "x")], [("state", "x")], [("iss", came["iss"])], [("x", "1"), ("x", "2")]):
            refused(world.callback([*came.items(), *more], ada), 400, "doubled")
            refused(world.callback([*more, *came.items()], ada), 400, "doubled")
        refused(world.callback([*came.items(), *many, ("code", "x")], ada), 400, "doubled")
        refused(world.callback([*came.items(), *many], ada), 400, "too_many")
        assert world.a.stats().since(before).called == {}
        assert world.callback(came, ada).status_code == 303


def test_a_callback_that_is_no_response_is_refused(world: World) -> None:
    """64 KiB of it, bytes that are no text, and a code that is none: an error, never a crash."""
    with world.person("ada") as ada:
        authorization = ada.connect("oidc")
        state = query_of(authorization["authorization_url"])["state"]
        for service, of_much in (("gateway", 414), ("oauth", 404)):
            for size, statuses in ((5_000, (404,)), (40_000, (of_much,)), (64 * 1024, (400, 431))):
                target = CALLBACK.encode() + b"?state=" + b"x" * size
                assert raw_status(world.hub.url(service), target) in statuses, (service, size)
            for target in (
                b"?state=\xff\xfe",
                b"?state=%00",
                b"?state=%ff%ed%a0%80",
                b"?%",
                b"?&&&=;",
                b"?=&state=x",
            ):
                assert raw_status(world.hub.url(service), CALLBACK.encode() + target) in (400, 404), target
        before = world.a.stats()
        refused(
            world.callback({"state": state, "code": "x" * 5_000, "iss": world.a.url}, ada), 400, "no_code"
        )
        assert world.a.stats().since(before).called == {}


def raw_status(url: str, target: bytes) -> int:
    """The status of a request whose target is sent as it is."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), 10) as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        with connection.makefile("rb") as answer:
            return int(answer.readline().split()[1])


def test_scopes_and_params_cannot_inject_parameters(world: World) -> None:
    shop = {"client_id": "shop-app", "client_secret": "shop-secret-1234567890", "verified": True}
    assert world.ask("PUT", "/api/platform-credentials/shopify", shop).status_code == 200
    with world.person("ada") as ada:
        for scope in ("", "a b", 'a"b', "a\\b", "a\nb", "ä", "x" * 201):
            ada.connect("oidc", expect=422, scopes=[scope])
        ada.connect("oidc", expect=422, scopes=["x"] * 101)
        odd = "read&state=evil#x?y%0a;{client_id}+"
        url = ada.connect("oidc", scopes=["openid", odd])["authorization_url"]
        found = parse_qs(urlsplit(url).query, strict_parsing=True)
        assert (found["scope"], len(found["state"])) == ([f"openid {odd}"], 1)
        assert "evil" not in found["state"][0]
        for name in (
            *(
                "evil.example/",
                "evil.example#",
                "evil.example?",
                "x@evil.example",
                "a.b",
                "../x",
                "x\n",
                "\u0131",
            ),
            *("x:443", "-x", "X", "", "x" * 61, "{client_id}", "%2e", "x\\"),
        ):
            ada.connect("shopify", expect=422, params={"shop": name})
        ada.connect("shopify", expect=422, params={"shop": "good", "other": "x"})
        ada.connect("oidc", expect=422, params={"token_url": "https://evil.example"})
        url = ada.connect("shopify", params={"shop": "good"})["authorization_url"]
        assert urlsplit(url).netloc == "good.myshopify.com"
        ada.connect("nobody", expect=422)


# The way back


@pytest.mark.parametrize(
    "place",
    [
        *("//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example"),
        *("https:evil.example", "https:/evil.example", "https:///evil.example", "https://evil.example"),
        *(f"{ORIGIN}.evil.example", f"{ORIGIN}@evil.example", f"https://x@{ORIGIN[8:]}", f"{ORIGIN}:444/"),
        *(
            f"{ORIGIN}\\@evil.example",
            f"{ORIGIN}\n.evil.example",
            f" {ORIGIN}/",
            f"{ORIGIN}/a b",
            f"{ORIGIN[:-1]}",
        ),
        *(
            f"{ORIGIN}%2eevil.example",
            f"{ORIGIN}\u3002evil.example",
            "https://ch\u00e4t.example.com",
            "https://[::1",
        ),
        *(
            "http://chat.example.com/",
            "ftp://chat.example.com/",
            "http://localhost:77777/",
            "http://localhost/",
        ),
        *(
            "javascript:alert(1)//",
            f"javascript://{ORIGIN[8:]}/%0aalert(1)",
            "data:text/html,x",
            "about:blank",
        ),
        *(
            "chat.example.com/",
            "?x",
            "#x",
            f"https://evil.example/#{ORIGIN}",
            f"{ORIGIN}:443@evil.example",
            ".",
        ),
    ],
)
def test_return_to_of_a_foreign_origin_is_refused(world: World, place: str) -> None:
    answer = world.ask("POST", "/api/auth/oauth/connect", {"provider": "oidc", "return_to": place})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "return_to")


def test_return_to_gets_the_outcome(world: World) -> None:
    own = world.hub.url("gateway")
    with world.person("ada") as ada:
        for place, expected in (
            ("/chat?tab=2#top", f"{own}/chat?tab=2&OUT#top"),
            ("/.//evil.example", f"{own}/.//evil.example?OUT"),
            (f"{ORIGIN}/x?status=old&integration_id=old&error=old&a=%26", f"{ORIGIN}/x?a=%26&OUT"),
            ("http://LOCALHOST:7777", "http://LOCALHOST:7777?OUT"),
        ):
            authorization = ada.connect("oidc", return_to=place)
            came = ada.consent(authorization["authorization_url"])
            answer = ada.client.get(came)
            assert (answer.status_code, answer.headers["referrer-policy"]) == (303, "no-referrer")
            out = urlencode({"integration_id": same_account(world, "ada"), "status": "connected"})
            assert answer.headers["location"] == expected.replace("OUT", out)
        authorization = ada.connect("oidc", return_to=ORIGIN)
        answer = ada.client.get(ada.consent(authorization["authorization_url"], deny=True))
        out = urlencode({"error": "access_denied", "integration_id": authorization["integration_id"]})
        assert answer.headers["location"] == f"{ORIGIN}?{out}"
    bad = {"return_to": "//evil.example"}
    answer = world.ask("POST", f"/api/integrations/{same_account(world, 'ada')}/reconnect", bad)
    assert answer.status_code == 422


def same_account(world: World, name: str, key: str | None = None) -> str:
    """The one integration of an account."""
    items = world.ask("GET", "/api/integrations?limit=500", key=key).json()["items"]
    [found] = [item["id"] for item in items if (item["account"] or {}).get("id") == name]
    return str(found)


# At the same moment


def at_once(*calls: Callable[[], httpx.Response]) -> list[httpx.Response]:
    """What they answer when they are made at the same moment."""
    barrier = Barrier(len(calls))

    def one(call: Callable[[], httpx.Response]) -> httpx.Response:
        barrier.wait(60)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def test_two_concurrent_callbacks_exchange_the_code_once(world: World) -> None:
    with world.person("ada") as ada:
        for _ in range(3):
            authorization = ada.connect("oidc")
            came = query_of(ada.consent(authorization["authorization_url"]))
            before = world.a.stats()
            answers = at_once(*[lambda came=came: world.callback(came, ada)] * 4)
            assert [item.status_code for item in answers] == [303] * 4
            assert len({item.headers["location"] for item in answers}) == 1, "a double click ends there, too"
            assert world.a.stats().since(before).called == {"authorization_code": 1}


def test_concurrent_authorizations_of_one_account_make_one_integration(world: World) -> None:
    """Somebody who has two windows open."""
    with world.person("twin") as one, world.person("twin") as two:
        came = [query_of(item.consent(item.connect("oidc")["authorization_url"])) for item in (one, two)]
        answers = at_once(
            *(lambda c=c, p=p: world.callback(c, p) for c, p in zip(came, (one, two), strict=True))
        )
        assert [item.status_code for item in answers] == [303, 303]
    assert world.ask("POST", f"/api/integrations/{same_account(world, 'twin')}/check").status_code == 200


def test_an_integration_that_was_deleted_is_not_connected(world: World) -> None:
    """Before the person comes back, and while the code is exchanged: what was granted is given back."""
    with world.person("zoe") as zoe:
        authorization = zoe.connect("oidc", return_to=ORIGIN)
        came = query_of(zoe.consent(authorization["authorization_url"]))
        path = f"/api/integrations/{authorization['integration_id']}"
        assert world.ask("DELETE", path).status_code == 204
        before = world.a.stats()
        answer = world.callback(came, zoe)
        assert (answer.status_code, query_of(answer.headers["location"])["error"]) == (303, "gone")
        assert world.a.stats().since(before).called == {}

        authorization = zoe.connect("oidc")
        came = query_of(zoe.consent(authorization["authorization_url"]))
        before = world.a.stats()
        world.a.slow(3)
        try:
            with ThreadPoolExecutor(1) as pool:
                coming = pool.submit(world.callback, came, zoe)
                eventually(lambda: used(world, came["state"]), every_s=0.02)
                assert (
                    world.ask("DELETE", f"/api/integrations/{authorization['integration_id']}").status_code
                    == 204
                )
                refused(coming.result(), 410, "gone")
        finally:
            world.a.slow(0)
        done = world.a.stats().since(before)
        assert (done.granted, done.revoked) == ({"authorization_code": 1}, 1)
    assert "zoe" not in str(world.ask("GET", "/api/integrations?limit=500").json())


def used(world: World, state: str) -> bool:
    with world.collection("oauth_states") as states:
        return states.find_one({"_id": digest(state)})["used_at"] is not None


def test_a_refresh_meanwhile_does_not_spoil_a_reconnection(world: World) -> None:
    """The integration changes while the code is exchanged, and is connected anew all the same."""
    with world.person("kim") as kim:
        integration = kim.connected("oidc")
        authorization = kim.reconnect(integration)
        came = query_of(kim.consent(authorization["authorization_url"]))
        world.a.slow(3)
        try:
            with ThreadPoolExecutor(1) as pool:
                coming = pool.submit(world.callback, came, kim)
                eventually(lambda: used(world, came["state"]), every_s=0.02)
                with world.collection("integrations") as found:
                    found.update_one({"_id": integration}, {"$inc": {"version": 1}})
                assert coming.result().status_code == 303
        finally:
            world.a.slow(0)
        assert world.ask("POST", f"/api/integrations/{integration}/check").json()["health"] == "ok"


def test_a_disabled_integration_stays_disabled(world: World) -> None:
    """Connecting an account does not enable the integration that has it: neither anew, nor begun before."""
    with world.person("dan") as dan:
        integration = dan.connected("oidc")
        early = dan.reconnect(integration)
        assert world.ask("POST", f"/api/integrations/{integration}/disable").status_code == 200
        before = world.a.stats()
        refused(dan.go(early["authorization_url"]), 400, "disabled")
        assert world.a.stats().since(before).called == {}
        refused(dan.go(dan.connect("oidc")["authorization_url"]), 400, "disabled")
        assert world.a.stats().since(before).revoked == 1, "what was granted for nothing"
        assert world.status(integration)["status"] == "disabled"
        shown = world.ask("POST", f"/api/integrations/{integration}/enable").json()
        assert shown["status"] == "connected"
        assert world.ask("POST", f"/api/integrations/{integration}/check").json()["health"] == "ok"


def test_an_earlier_authorization_does_not_change_the_account(world: World) -> None:
    """Two authorizations of one integration: the second callback is of another account, and gets an error."""
    with world.person("first") as first, world.person("late") as late:
        authorization = late.connect("oidc")
        again = first.reconnect(authorization["integration_id"])
        assert first.go(again["authorization_url"]).status_code == 200
        before = world.a.stats()
        refused(late.go(authorization["authorization_url"]), 400, "other_account")
        assert world.a.stats().since(before).revoked == 1, "what is not kept is given back"
        assert world.status(authorization["integration_id"])["account"]["id"] == "first"


def test_a_wrong_account_does_not_cost_the_right_integration_its_grant(world: World) -> None:
    """What was granted by mistake is given back, and nothing else; no account is two integrations."""
    with world.person("ann") as ann, world.person("ben") as ben:
        of_ann, of_ben = ann.connected("oidc"), ben.connected("oidc")
        for expected, code in (({}, "other_account"), ({"any_account": True}, "connected_already")):
            before = world.a.stats()
            refused(ann.go(ann.reconnect(of_ben, **expected)["authorization_url"]), 400, code)
            assert world.a.stats().since(before).revoked == 1
        assert world.status(of_ben)["account"]["id"] == "ben"
        for item in (of_ann, of_ben):
            assert world.ask("POST", f"/api/integrations/{item}/refresh").json()["health"] == "ok"


# Workspaces


def test_integrations_of_another_workspace_are_not_found(world: World) -> None:
    """Every route of an integration answers as if there were none."""
    with world.person("ada") as ada:
        integration = ada.connected("oidc") and same_account(world, "ada")
    before = world.status(integration)
    document = httpx.get(world.hub.url("oauth") + "/openapi/oauth.json").json()
    key = world.hub.call(
        "POST",
        "/api/api-keys",
        {"name": "tokens", "scopes": ["tokens:read", "accounts:call", "integrations:write"]},
        key=world.second,
    )["key"]
    tried = 0
    for path, operations in document["paths"].items():
        if "{integration_id}" not in path:
            continue
        for method in map(str.upper, operations):
            body = BODIES.get(path.rpartition("/")[2], BODIES.get(method, {}))
            answers = [
                world.ask(method, path.replace("{integration_id}", name), body, key=key)
                for name in (integration, "int_nobody")
            ]
            assert [item.status_code for item in answers] == [404, 404], (method, path)
            assert answers[0].text == answers[1].text
            tried += 1
    assert tried >= 12
    assert world.status(integration) == before
    assert integration not in world.ids(world.second)
    assert integration in world.ids()


def test_an_account_of_two_workspaces_is_two_integrations(world: World) -> None:
    """Connecting it in one neither takes it from the other nor shows that it is there."""
    world.register(world.a, "a", world.second)
    try:
        with world.person("eve") as eve, world.person("eve", world.second) as there:
            one, two = eve.connected("oidc"), there.connected("oidc")
            assert one != two
            assert world.status(one)["account"] == world.status(two, world.second)["account"]
            assert (
                world.ask("POST", f"/api/integrations/{two}/disconnect", key=world.second).status_code == 200
            )
            assert world.status(one)["status"] == "connected"
    finally:
        world.register(world.b, "b", world.second)


# The store


def closed(world: World, integration: str, key: str | None = None) -> None:
    """Whatever is asked for, the credential is not used."""
    before = world.a.stats()
    for action in ("check", "refresh"):
        answer = world.ask("POST", f"/api/integrations/{integration}/{action}", key=key)
        assert answer.status_code in (409, 500, 503), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    done = world.a.stats().since(before)
    assert (done.called, done.events) == ({}, {})


def test_a_tampered_or_moved_credential_is_not_used(world: World) -> None:
    with ExitStack() as stack:
        names = ("t-c", "t-n", "t-w", "t-k", "t-swap", "t-swapped", "t-moved", "t-well")
        people = {name: stack.enter_context(world.person(name)) for name in names}
        ids = {name: people[name].connected("oidc") for name in names}
        found = stack.enter_context(world.collection("integrations"))
        sealed = {name: found.find_one({"_id": ids[name]})["credential"] for name in names}
        for part in ("c", "n", "w"):
            broken = bytearray(sealed[f"t-{part}"][part])
            broken[len(broken) // 2] ^= 1
            set_(found, ids[f"t-{part}"], {f"credential.{part}": bytes(broken)})
        set_(found, ids["t-k"], {"credential.k": "00000000"})
        set_(found, ids["t-swap"], {"credential": sealed["t-swapped"]})
        set_(found, ids["t-swapped"], {"credential": sealed["t-swap"]})
        for name in names[:6]:
            closed(world, ids[name])
        workspace = world.ask("POST", "/api/auth/oauth/connect", {"provider": "oidc"}, key=world.second)
        theirs = found.find_one({"_id": workspace.json()["integration_id"]})["workspace"]
        set_(found, ids["t-moved"], {"workspace": theirs})
        world.register(world.a, "a", world.second)  # the app that its tokens would be good for
        try:
            closed(world, ids["t-moved"], world.second)
        finally:
            world.register(world.b, "b", world.second)
        assert world.status(ids["t-moved"])["status"] == 404
        assert world.ask("POST", f"/api/integrations/{ids['t-well']}/check").json()["health"] == "ok"
        for name in names[:6]:
            gone = world.ask("POST", f"/api/integrations/{ids[name]}/disconnect")
            assert gone.json()["status"] == "disconnected", "one gets rid of it"
        again = people["t-c"].connected("oidc")
        assert world.ask("POST", f"/api/integrations/{ids['t-c']}/check").json()["health"] == "ok", again


def set_(collection: Any, name: str, change: Mapping[str, Any]) -> None:
    assert collection.update_one({"_id": name}, {"$set": change}).modified_count == 1


def test_a_tampered_state_is_not_used(world: World) -> None:
    """Its verifier is sealed for it alone; nobody is sent where it did not say."""
    with world.person("ada") as ada, world.collection("oauth_states") as states:
        other = digest(query_of(ada.connect("oidc")["authorization_url"])["state"])
        another = world.ask("POST", "/api/auth/oauth/connect", {"provider": "oidc"}, key=world.second).json()
        changes: list[dict[str, Any]] = [
            {"sealed": states.find_one({"_id": other})["sealed"]},
            {"workspace": "another"},
            {"integration_id": another["integration_id"]},
            {"return_to": "https://evil.example"},
            {"any_account": True},
            {"user": "another"},
        ]
        for change in changes:
            authorization = ada.connect("oidc")
            came = query_of(ada.consent(authorization["authorization_url"]))
            before = world.a.stats()
            world.change_state(came["state"], change)
            answer = world.callback(came, ada)
            if "sealed" in change or "workspace" in change:
                refused(answer, 404, "unknown_state")
                assert world.a.stats().since(before).called == {}
            else:
                assert answer.status_code == 303, "what stands beside the sealed part means nothing"
    assert world.status(another["integration_id"], world.second)["status"] == "pending"


# What a hostile platform says


def test_secrets_that_a_provider_repeats_are_redacted(world: World) -> None:
    """Its errors have the code, the verifier and the app's secret in them: neither page nor log has."""
    with world.person("ada", world.third) as ada:
        for place in (None, ORIGIN):
            authorization = ada.connect("oidc", return_to=place)
            code = f"code/{token_hex(16)}"
            answer = world.callback(
                {"state": query_of(authorization["authorization_url"])["state"], "code": code}, ada
            )
            form = parse_qs(world.mirror.got[-1].body.decode())
            assert form["code"] == [code]
            record_secret("a PKCE verifier", *form["code_verifier"])
            if place is None:
                refused(answer, 400, "platform_error")
                assert "[hidden]" in answer.text
            else:
                assert query_of(answer.headers["location"])["error"] == "platform_error"
    for error in ("", "invalid_client"):
        world.mirror_error, asked = error, len(world.mirror.got)
        shown = world.ask("POST", "/api/platform-credentials/oidc/verify", key=world.third).json()
        assert len(world.mirror.got) == asked + 1
        assert "I received" in shown["reason"]
        assert shown["verified"] == (not error)
    with world.person("ada", world.third) as ada:
        world.register_mirror()
        state = query_of(ada.connect("oidc")["authorization_url"])["state"]
        refused(world.callback({"state": state, "code": "x"}, ada), 400, "app_refused")
        shown = world.ask("GET", "/api/platform-credentials/oidc", key=world.third).json()
        assert (shown["verified"], "I received" in shown["reason"]) == (False, True)
        ada.connect("oidc", expect=409)


def test_a_provider_error_is_escaped_on_the_page(world: World) -> None:
    with world.person("ada") as ada:
        state = query_of(ada.connect("oidc")["authorization_url"])["state"]
        detail = "<script>alert(1)</script>\r\nset-cookie: x=y"
        answer = world.callback({"state": state, "error": detail, "iss": world.a.url}, ada)
        refused(answer, 400, "platform_error")
        assert "<script>" not in answer.text
        assert "x" not in answer.cookies
