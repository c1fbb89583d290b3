"""Tenants who describe a sender so that one request of a stranger keeps the gateway busy for everybody."""

import base64
import gzip
import hashlib
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

import httpx
from pymongo import MongoClient

from tests.attacks.answers import make, read, send, stored
from tests.attacks.attack import Attack
from tests.support.eventually import eventually
from tests.support.hub import Hub

_LARGE: Final = b'{"a":"' + b"x" * 900_000 + b'"}'
_SIGNATURE: Final = {"header": "x-sign"}
_MAX_S: Final = 5.0
"""How long anybody may wait for an answer while an attack goes on: it was 46 s, on a busy machine too."""


def _signed(signed: Any, **more: Any) -> dict[str, Any]:
    return {"verification": [{"scheme": "hmac", "signature": _SIGNATURE, "signed": signed, **more}]}


def _refused(hub: Hub, source: dict[str, Any], field: str) -> None:
    faults = make(hub, source, expect=422)["errors"]
    assert any(fault["field"].startswith(field) for fault in faults), faults
    assert all(fault["message"] for fault in faults)
    endpoint = make(hub)
    hub.call("PATCH", f"/api/inbound-endpoints/{endpoint['id']}", {"source": source}, expect=422)


UNBOUNDED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "signs the body 5,000 times": (_signed("{body}" * 5000), "source"),
    "signs the body twice": (_signed("{body}{body}"), "source.verification.0"),
    "signs many sources": (
        _signed("{body}" + "".join(f"{{json:a{n}}}" for n in range(10))),
        "source.verification.0",
    ),
    "signs many texts": (_signed([f"{{body}}{n}" for n in range(4)]), "source.verification.0"),
    "has many schemes": ({"verification": _signed("{body}")["verification"] * 6}, "source.verification"),
    "is large": ({"event": "x" * 16_384}, "source"),
    "has many rules": (
        {"handshakes": [{"about": "x", "when": {f"json:a{n}": "b" for n in range(21)}, "answer": {}}]},
        "source.handshakes.0.when",
    ),
    "has many names": ({"event": [f"{{json:a{n}}}" for n in range(13)]}, "source.event"),
    "decodes many texts": (
        {"body": {"decoded": {f"a{n}": {"path": "a"} for n in range(2)}}},
        "source.body.decoded",
    ),
    "nests optional sources": ({"event": "{" + "optional:" * 900 + "json:a}"}, "source.event"),
    "nests optional and signed sources": (
        {"event": "{" + "optional:hmac_sha256_hex:" * 400 + "json:a}"},
        "source.event",
    ),
    "signs every element by a signature of the whole": (
        {
            "verification": [
                {"scheme": "hmac", "signature": {"from": "{json:s}"}, "each": "a", "covers_body": False}
            ]
        },
        "source.verification.0",
    ),
    "has the hub call a server": (
        {
            "handshakes": [
                {
                    "about": "x",
                    "when": {"json:a": "b"},
                    "verified": True,
                    "confirms": {"url": "{json:url}", "hosts": ["internal.example"]},
                    "answer": {},
                }
            ]
        },
        "source.handshakes",
    ),
    "has the hub post to a server": (
        {
            "verification": [
                {
                    "scheme": "jwt",
                    "algorithms": ["ES256"],
                    "keys": {
                        "url": "https://internal.example/",
                        "hosts": ["internal.example"],
                        "post": {"secret": "{setting:secret}"},
                        "key_id": "kid",
                    },
                }
            ]
        },
        "source.verification",
    ),
    "signs what is signed": ({"event": "{" + "hmac_sha256_hex:" * 900 + "json:a}"}, "source.event"),
    "reads a token of every element": (
        {"verification": [{"scheme": "token", "from": "{json:a}", "each": "b"}]},
        "source.verification.0",
    ),
}


def _is_refused(source: dict[str, Any], field: str) -> Callable[[Hub], None]:
    return lambda hub: _refused(hub, source, field)


def _healthy(hub: Hub) -> Callable[[], None]:
    """Somebody else's endpoint, which answers as it should and soon."""
    endpoint = make(hub)

    def ask() -> None:
        body = b"{}"
        digest = hmac.new(endpoint["secret"].encode(), body, hashlib.sha256).hexdigest()
        started = monotonic()
        answer = send(hub, endpoint, "POST", content=body, headers={"x-webhook-signature": digest})
        assert answer.status_code == 202, answer.text
        assert monotonic() - started < _MAX_S

    return ask


def _while_others_are_served(hub: Hub, endpoint: dict[str, Any], **options: Any) -> list[httpx.Response]:
    """Eight requests to the attacker's endpoint at a time, and all the while others to another one."""
    ask = _healthy(hub)
    with ThreadPoolExecutor(4) as at_once:
        in_progress = [at_once.submit(send, hub, endpoint, "POST", **options) for _ in range(8)]
        while not all(item.done() for item in in_progress):
            ask()
        return [item.result() for item in in_progress]


def _stands_in_the_store(hub: Hub) -> None:
    """It was stored before descriptions were bounded."""
    endpoint = stored(hub, _signed("{body}" * 5000))
    current = eventually(lambda: read(hub, endpoint)["disabled_reason"] and read(hub, endpoint))
    assert current["status"] == "error"
    assert "use at most 16384" in current["disabled_reason"]
    assert "PATCH" in current["disabled_reason"]
    for answer in _while_others_are_served(hub, endpoint, content=_LARGE, headers={"x-sign": "00" * 32}):
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    path = f"/api/inbound-endpoints/{endpoint['id']}"
    hub.call("POST", f"{path}/test", expect=409)
    assert hub.call("PATCH", path, {"source": None})["disabled_reason"] is None
    assert send(hub, endpoint, "POST", content=b"{}").status_code == 401


def _has_ten_secrets(hub: Hub) -> None:
    """Each is tried with each text, and the body is large."""
    endpoint = make(hub, _signed(["{body}{method}", "{body}.{url}", "{url}{body}"], algorithm="sha512"))
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        endpoints = mongo.get_default_database()["inbound_endpoints"]
        document = endpoints.find_one({"_id": endpoint["id"]})
        assert document
        change = {"secrets": document["secrets"] * 10, "changed_at": datetime.now(UTC)}
        endpoints.update_one({"_id": endpoint["id"]}, {"$set": change})

    def too_costly() -> bool:
        answer = send(hub, endpoint, "POST", content=_LARGE, headers={"x-sign": "00" * 64})
        assert answer.status_code == 401
        return "too large for so many secrets" in answer.json()["detail"]

    eventually(too_costly)
    rejected = _while_others_are_served(hub, endpoint, content=_LARGE, headers={"x-sign": "00" * 64})
    assert {answer.status_code for answer in rejected} == {401}
    path = f"/api/inbound-endpoints/{endpoint['id']}/events"
    eventually(lambda: any(item["verdict"] == "too_costly" for item in hub.call("GET", path)["items"]))


def _costs_much(source: dict[str, Any], body: bytes, **headers: str) -> Callable[[Hub], None]:
    """A description within its bounds, at which a large body arrives that costs as much as any."""

    def attempt(hub: Hub) -> None:
        endpoint = make(hub, source)
        for answer in _while_others_are_served(hub, endpoint, content=body, headers=headers):
            assert 400 <= answer.status_code < 500, answer.text

    return attempt


_FORM: Final = {"content-type": "application/x-www-form-urlencoded", "x-sign": "00" * 32}
_RULES: Final = {
    "handshakes": [
        {"about": "x", "when": {f"json:a{n}": "b", "item_sha256": "x", "sorted_form": "x"}, "answer": {}}
        for n in range(5)
    ]
}
_FORM_SIGNED: Final = {**_RULES, **_signed("{sorted_form}")}
_KEYS: Final = {
    "verification": [
        {
            "scheme": "ed25519",
            "signature": {"header": "x-sign", "separator": " ", "encoding": "base64"},
            "key": {"form": "hex"},
        }
    ]
}


def _sends_many_signatures(hub: Hub) -> None:
    """Of a public key: the whole body is hashed for each of them."""
    body = {"provider": "generic", "name": "x", "secret": "d75a980182b10ab7" * 4, "source": _KEYS}
    created = hub.call("POST", "/api/inbound-endpoints", body)
    signatures = " ".join([base64.b64encode(bytes(64)).decode()] * 600)
    for answer in _while_others_are_served(hub, created, content=_LARGE, headers={"x-sign": signatures}):
        assert answer.status_code == 401


_EACH_SIGNED: Final = {
    "verification": [
        {
            "scheme": "hmac",
            "each": "a",
            "signature": {"from": "{item:s}"},
            "signed": ["{item:b}1", "{item:b}2", "{item:b}3"],
            "covers_body": False,
        }
    ]
}


def _sends_many_signed_elements(hub: Hub) -> None:
    """Each of them would be hashed with every secret and signed text."""
    endpoint = make(hub, _EACH_SIGNED)
    elements = b",".join([b'{"b":"x","s":"' + b"00" * 32 + b'"}'] * 10_000)
    for answer in _while_others_are_served(hub, endpoint, content=b'{"a":[' + elements + b"]}"):
        assert answer.status_code == 401


ATTACKS: Final = (
    *(Attack(f"a description {what}", _is_refused(*item)) for what, item in UNBOUNDED.items()),
    Attack("a description that signs the body 5,000 times is stored", _stands_in_the_store),
    Attack("an endpoint has ten secrets", _has_ten_secrets),
    Attack("a request has many signatures of a public key", _sends_many_signatures),
    Attack("a request has many elements that are signed", _sends_many_signed_elements),
    Attack(
        "a form of escapes",
        _costs_much(_FORM_SIGNED, b"a=" + b"%41" * 300_000, **_FORM),
    ),
    Attack(
        "a form of broken escapes",
        _costs_much(_FORM_SIGNED, b"a=" + b"%" * 900_000, **_FORM),
    ),
    Attack(
        "JSON that ends too soon",
        _costs_much(
            {**_RULES, **_signed("{body}{json:a}")}, b'{"a":[' + b"{}," * 300_000, **{"x-sign": "00"}
        ),
    ),
    Attack(
        "a batch whose every element should have the token",
        _costs_much(
            {"verification": [{"scheme": "token", "from": "{item:token}", "each": "value"}]},
            b'{"value":[' + b"{}," * 300_000 + b"{}]}",
        ),
    ),
    Attack(
        "a compressed body that is tried in both forms",
        _costs_much(
            _signed(["{body}", "{body}{method}"]),
            gzip.compress(_LARGE),
            **{"x-sign": "00" * 32, "content-encoding": "gzip"},
        ),
    ),
)
