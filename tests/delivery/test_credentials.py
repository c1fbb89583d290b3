"""How a receiver knows that it is us: signature profiles and rotation, static headers, auth, certificates.

And that what is secret of it reaches the receiver and nobody else.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from threading import Barrier
from time import time
from typing import Any

import bson
import httpx
import pymongo
import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey
from standardwebhooks import Webhook, WebhookVerificationError
from svix.webhooks import Webhook as SvixWebhook
from svix.webhooks import WebhookVerificationError as SvixVerificationError

from tests.support.backends import Bus, Store
from tests.support.certificates import Authority, server_tls
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.outgoing import ONCE, finished, in_turn, new_type, numbered, path_of, read
from tests.support.subscriber import Subscriber, WebhookRequest
from tests.support.tap import Tap

SERVERS, CLIENTS = Authority("servers of the test"), Authority("clients of the test")
HIDDEN = "[hidden]"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    """Gateway and delivery in a workspace of their own; the authority of the tests' servers is trusted."""
    folder = tmp_path_factory.mktemp("hub")
    authorities = folder / "authorities.pem"
    authorities.write_text(SERVERS.pem)
    services, env = ("gateway", "delivery"), {"INTERLINK_EGRESS_CA_FILE": str(authorities)}
    with Hub(folder, bus, store, services=services, env=env, workspace="credentials") as started:
        yield started


def sent(
    hub: Hub, subscriber: Subscriber, **fields: Any
) -> tuple[dict[str, Any], dict[str, Any], list[WebhookRequest]]:
    """A webhook, the delivery of one event to it when that has ended, and its requests."""
    kind = new_type()
    webhook = hub.outgoing_webhook(subscriber.url, events=[kind], **({"retry": ONCE} | fields))
    numbered(hub, kind)
    [delivery] = finished(hub, webhook["id"])
    return webhook, delivery, list(subscriber.got)


def verified_v1a(got: WebhookRequest, public: str) -> bool:
    """Whether one of the signatures is by this key, as the Standard Webhooks specification writes both."""
    key = VerifyKey(base64.b64decode(public.removeprefix("whpk_"), validate=True))
    signed = b".".join(
        (got.headers["webhook-id"].encode(), got.headers["webhook-timestamp"].encode(), got.body)
    )
    good = 0
    for part in got.headers["webhook-signature"].split(" "):
        version, _, signature = part.partition(",")
        assert version == "v1a"
        try:
            key.verify(signed, base64.b64decode(signature, validate=True))
        except BadSignatureError:
            continue
        good += 1
    return good == 1


# Profiles


def test_the_standard_profile_satisfies_both_official_libraries_at_every_attempt(hub: Hub) -> None:
    """One id and fresh time: the second attempt is later than the clock's next second."""
    before = int(time())
    with Subscriber(in_turn(500, 204)) as subscriber:
        webhook, delivery, got = sent(hub, subscriber, retry={"schedule": [0, 1.1], "jitter": 0})
    assert delivery["status"] == "delivered"
    for request in got:
        Webhook(webhook["secret"]).verify(request.body, request.headers)
        SvixWebhook(webhook["secret"]).verify(request.body, request.headers)
        with pytest.raises(SvixVerificationError):
            SvixWebhook(webhook["secret"]).verify(request.body + b" ", request.headers)
        assert request.headers["webhook-id"] == delivery["id"]
    first, second = (int(request.headers["webhook-timestamp"]) for request in got)
    assert before <= first < second <= time()
    assert got[0].headers["webhook-signature"] != got[1].headers["webhook-signature"]
    assert got[0].body == got[1].body


def test_v1a_is_verified_with_the_public_key_of_the_api_through_a_rotation(hub: Hub) -> None:
    with Subscriber(in_turn(500, 204)) as subscriber:
        webhook, _, got = sent(
            hub, subscriber, profile="standard_v1a", retry={"schedule": [0, 1.1], "jitter": 0}
        )
        [public] = webhook["public_keys"]
        assert [verified_v1a(request, public) for request in got] == [True, True]
        assert int(got[0].headers["webhook-timestamp"]) < int(got[1].headers["webhook-timestamp"])

        rotated = hub.call("POST", f"{path_of(webhook)}/rotate-secret", {"overlap_hours": 1})
        newer, older = rotated["public_keys"]
        assert older == public
        assert newer != public
        assert hub.call("GET", path_of(webhook))["public_keys"] == [newer, older]
        numbered(hub, webhook["events"][0])
        both = subscriber.wait_for(3)[2]
        assert verified_v1a(both, newer)
        assert verified_v1a(both, older)

        newest = hub.call("POST", f"{path_of(webhook)}/rotate-secret", {"overlap_hours": 0})
        assert newest["public_keys"][1:] == [], "what no longer signs is nothing to verify with"
        numbered(hub, webhook["events"][0])
        newest_only = subscriber.wait_for(4)[3]
    assert verified_v1a(newest_only, newest["public_keys"][0])
    assert not verified_v1a(newest_only, newer)
    assert not verified_v1a(newest_only, older)
    for secret in (webhook["secret"], rotated["secret"], newest["secret"]):
        assert secret.startswith("whsk_")


def test_the_chatwoot_profile(hub: Hub) -> None:
    with Subscriber(in_turn(500, 204)) as subscriber:
        webhook, delivery, got = sent(
            hub, subscriber, profile="chatwoot", retry={"schedule": [0, 1.1], "jitter": 0}
        )
    for request in got:
        assert request.headers["x-chatwoot-signature"] == by_one_header(
            "chatwoot", webhook["secret"], request
        )
        assert "x-chatwoot-signature-next" not in request.headers
    assert {request.headers["x-chatwoot-delivery"] for request in got} == {delivery["id"]}
    first, second = (int(request.headers["x-chatwoot-timestamp"]) for request in got)
    assert first < second


def by_one_header(profile: str, secret: str, request: WebhookRequest) -> str:
    """What the profile's signature header has if this secret signs."""
    at = request.headers["x-chatwoot-timestamp"].encode() + b"." if profile == "chatwoot" else b""
    return "sha256=" + hmac.new(secret.encode(), at + request.body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("profile", "header"),
    [
        ("nchat", "x-webhook-signature"),
        ("chatwoot", "x-chatwoot-signature"),
        ("chatwoot_body", "x-chatwoot-signature"),
    ],
)
def test_the_old_secret_of_a_profile_with_one_signature_verifies_until_it_ends(
    hub: Hub, profile: str, header: str
) -> None:
    with Subscriber() as subscriber:
        webhook, _, _ = sent(hub, subscriber, profile=profile)
        [kind] = webhook["events"]
        new = hub.call("POST", f"{path_of(webhook)}/rotate-secret", {"overlap_hours": 1})["secret"]
        numbered(hub, kind)
        during = subscriber.wait_for(2)[1]
        assert during.headers[header] == by_one_header(profile, webhook["secret"], during)
        assert during.headers[header + "-next"] == by_one_header(profile, new, during)

        newest = hub.call("POST", f"{path_of(webhook)}/rotate-secret", {"overlap_hours": 0})["secret"]
        numbered(hub, kind)
        after = subscriber.wait_for(3)[2]
    assert after.headers[header] == by_one_header(profile, newest, after)
    assert header + "-next" not in after.headers


@pytest.mark.parametrize("profile", ["nchat", "chatwoot", "chatwoot_body"])
def test_a_secret_of_eight_characters(hub: Hub, profile: str) -> None:
    """As the chats that it is for allow it."""
    header = "x-webhook-signature" if profile == "nchat" else "x-chatwoot-signature"
    secret = token_hex(4)
    with Subscriber() as subscriber:
        webhook, _, [got] = sent(hub, subscriber, profile=profile, secret=secret)
        assert got.headers[header] == by_one_header(profile, secret, got)
        short = hub.call("POST", f"{path_of(webhook)}/rotate-secret", {"secret": "7 chars"}, expect=422)
        assert [error["field"] for error in short["errors"]] == ["secret"]
        given = hub.call("POST", f"{path_of(webhook)}/rotate-secret", {"secret": token_hex(4)})
        assert len(given["secret"]) == 8


def test_a_rotation_that_would_end_a_valid_secret_early_is_refused(hub: Hub) -> None:
    with Subscriber() as subscriber:
        webhook, _, _ = sent(hub, subscriber)
        rotate = f"{path_of(webhook)}/rotate-secret"
        for _ in range(4):
            hub.call("POST", rotate, {"overlap_hours": 1})
        refused = hub.call("POST", rotate, {"overlap_hours": 1}, expect=409)
        assert "overlap_hours 0" in refused["detail"]
        numbered(hub, webhook["events"][0])
        got = subscriber.wait_for(2)[1]
        Webhook(webhook["secret"]).verify(got.body, got.headers)
        newest = hub.call("POST", rotate, {"overlap_hours": 0})["secret"]
        numbered(hub, webhook["events"][0])
        got = subscriber.wait_for(3)[2]
        assert len(got.headers["webhook-signature"].split(" ")) == 1
        Webhook(newest).verify(got.body, got.headers)
        hub.call("POST", rotate, {"overlap_hours": 1})


def test_rotations_at_the_same_time_lose_no_secret(hub: Hub) -> None:
    with Subscriber() as subscriber:
        webhook, _, _ = sent(hub, subscriber)
        headers = {"authorization": f"Bearer {hub.admin_key}"}

        def rotate(client: httpx.Client) -> httpx.Response:
            client.get(path_of(webhook))
            ready.wait(60)
            return client.post(f"{path_of(webhook)}/rotate-secret", json={"overlap_hours": 1})

        ready = Barrier(4)
        with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
            clients = [
                stack.enter_context(httpx.Client(base_url=hub.url("delivery"), headers=headers, timeout=60))
                for _ in range(4)
            ]
            answers = list(pool.map(rotate, clients))
        assert {answer.status_code for answer in answers} <= {200, 409}
        secrets = [answer.json()["secret"] for answer in answers if answer.is_success]
        assert secrets
        numbered(hub, webhook["events"][0])
        got = subscriber.wait_for(2)[1]
    for secret in (webhook["secret"], *secrets):
        assert Webhook(secret).verify(got.body, got.headers)


def test_no_profile_signs_nothing_and_has_no_secret_to_rotate(hub: Hub) -> None:
    with Subscriber() as subscriber:
        webhook, delivery, [got] = sent(hub, subscriber, profile="none")
    assert webhook["secret"] is None
    assert got.headers["webhook-id"] == delivery["id"]
    assert not [name for name in got.headers if "signature" in name or "timestamp" in name]
    hub.call("POST", f"{path_of(webhook)}/rotate-secret", {}, expect=409)


def test_a_rotated_secret_ends_by_itself(hub: Hub) -> None:
    """Its end is a time in the store: moved to now, it has come."""
    with Subscriber() as subscriber:
        kind = new_type()
        webhook = hub.outgoing_webhook(subscriber.url, events=[kind])
        new = hub.call("POST", f"{path_of(webhook)}/rotate-secret", {"overlap_hours": 168})["secret"]
        numbered(hub, kind)
        [both] = subscriber.wait_for(1)
        now = datetime.now(UTC)
        with closing(pymongo.MongoClient[Any](hub.env["MONGODB_URI"], tz_aware=True)) as client:
            stored_webhook = client.get_default_database()["outgoing_webhooks"].find_one(
                {"_id": webhook["id"]}
            )
            assert stored_webhook
            stored_values, ends = stored_webhook["secrets"], stored_webhook["secrets"][1]["expires_at"]
            assert stored_values[0]["expires_at"] is None
            assert abs(ends - now - timedelta(days=7)) < timedelta(minutes=1)
            stored_values[1]["expires_at"] = now
            client.get_default_database()["outgoing_webhooks"].update_one(
                {"_id": webhook["id"]}, {"$set": {"secrets": stored_values, "changed_at": now}}
            )

        def alone() -> WebhookRequest | None:
            """The old secret no longer signs, once the hub has looked at the store."""
            before = len(subscriber.got)
            numbered(hub, kind)
            last = subscriber.wait_for(before + 1)[-1]
            return last if len(last.headers["webhook-signature"].split(" ")) == 1 else None

        last = eventually(alone)
        assert last
    for secret in (webhook["secret"], new):
        Webhook(secret).verify(both.body, both.headers)
    Webhook(new).verify(last.body, last.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(webhook["secret"]).verify(last.body, last.headers)


# Headers and auth


def everything_visible_of(hub: Hub, webhook: dict[str, Any], delivery_id: str) -> str:
    """What anybody can read of a webhook and its delivery: answers, logs, and the whole store."""
    answers = [
        hub.call("GET", path_of(webhook)),
        hub.call("GET", "/api/outgoing-webhooks?limit=500"),
        hub.call("PATCH", path_of(webhook), {"description": "looked at"}),
        hub.call("POST", f"{path_of(webhook)}/pause"),
        hub.call("POST", f"{path_of(webhook)}/resume"),
        read(hub, delivery_id),
        hub.deliveries(webhook_id=webhook["id"]),
    ]
    stored: list[bytes] = []
    with closing(pymongo.MongoClient[Any](hub.env["MONGODB_URI"])) as client:
        database = client.get_default_database()
        for name in database.list_collection_names():
            stored += [bson.encode(document) for document in database[name].find()]
    assert any(delivery_id.encode() in item for item in stored)
    text = b"".join(stored).decode("utf-8", "replace")
    return "\n".join((*map(json.dumps, answers), hub.log_text("delivery"), hub.log_text("gateway"), text))


USER, WORD, STATIC = f"user-{token_hex(8)}", f"word-{token_hex(8)}", f"static-{token_hex(8)}"
BASIC = base64.b64encode(f"{USER}:{WORD}".encode()).decode()
AUTHS: dict[str, tuple[dict[str, str], tuple[str, str], dict[str, str | None], list[str]]] = {
    "basic": (
        {"type": "basic", "username": USER, "password": WORD},
        ("Authorization", f"Basic {BASIC}"),
        {"type": "basic", "username": USER, "name": None},
        [WORD, BASIC],
    ),
    "bearer": (
        {"type": "bearer", "token": WORD},
        ("Authorization", f"Bearer {WORD}"),
        {"type": "bearer", "username": None, "name": None},
        [WORD],
    ),
    "header": (
        {"type": "header", "name": "X-Api-Key", "value": WORD},
        ("X-Api-Key", WORD),
        {"type": "header", "username": None, "name": "X-Api-Key"},
        [WORD],
    ),
}


@pytest.mark.parametrize("name", AUTHS)
def test_headers_and_auth_reach_the_receiver_and_nobody_else(hub: Hub, bus: Bus, name: str) -> None:
    auth, (header, value), public_auth, secrets = AUTHS[name]
    requests = Tap(bus, "delivery.requested")
    with Subscriber(in_turn(500, 204)) as subscriber:
        webhook, delivery, got = sent(
            hub,
            subscriber,
            headers={"X-Team": STATIC, "X-Empty": ""},
            auth=auth,
            retry={"schedule": [0, 0.1]},
            ordering="strict",  # its requests go by Kafka
        )
    assert len(got) == 2
    for request in got:
        assert (request.headers["x-team"], request.headers["x-empty"], request.headers[header.lower()]) == (
            STATIC,
            "",
            value,
        )
        Webhook(webhook["secret"]).verify(request.body, request.headers)
    assert (webhook["headers"], webhook["auth"]) == (["X-Empty", "X-Team"], public_auth)
    for attempt in delivery["attempts"]:
        stored_values = attempt["request_headers"]
        assert (stored_values["X-Team"], stored_values["X-Empty"], stored_values[header]) == (
            HIDDEN,
            HIDDEN,
            HIDDEN,
        )
        assert stored_values["webhook-id"] == delivery["id"]
    visible = everything_visible_of(hub, webhook, delivery["id"])
    assert HIDDEN in visible
    for secret in (STATIC, *secrets, webhook["secret"], webhook["secret"].removeprefix("whsec_")):
        assert secret not in visible
        assert all(secret.encode() not in (record.value or b"") for record in requests.look())
    assert requests.records


def test_changed_headers_and_auth_hold_for_the_next_event_and_none_takes_them_away(hub: Hub) -> None:
    with Subscriber() as subscriber:
        webhook, _, _ = sent(hub, subscriber, headers={"X-A": "1"}, auth={"type": "bearer", "token": "one"})
        kind = webhook["events"][0]
        hub.call("PATCH", path_of(webhook), {"auth": {"type": "bearer", "token": "two"}})
        numbered(hub, kind)
        subscriber.wait_for(2)
        hub.call("PATCH", path_of(webhook), {"headers": {"X-B": "2"}, "auth": {"type": "none"}})
        numbered(hub, kind)
        got = [request.headers for request in subscriber.wait_for(3)]
    credentials = [(request.get("x-a"), request.get("x-b"), request.get("authorization")) for request in got]
    assert credentials == [("1", None, "Bearer one"), ("1", None, "Bearer two"), (None, "2", None)]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"headers": {"Host": "x"}}, "headers.Host"),
        ({"headers": {"webhook-signature": "x"}}, "headers.webhook-signature"),
        ({"headers": {"Authorization": "x"}}, "headers"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "headers"),
        ({"headers": {"X A": "1"}}, "headers.X A"),
        ({"headers": {"$ref": "x", "$id": "1"}}, "headers.$ref"),
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, "headers.X-A"),
        ({"headers": {"X-A": "ü"}}, "headers.X-A"),
        ({"auth": {"type": "basic", "username": "a:b", "password": "c"}}, "auth.basic.username"),
        ({"auth": {"type": "bearer", "token": "a\nb"}}, "auth.bearer.token"),
        ({"auth": {"type": "header", "name": "Content-Length", "value": "1"}}, "auth.header.name"),
        ({"auth": {"type": "mtls", "certificate": "x", "private_key": "y"}}, "auth"),
        ({"auth": {"type": "digest"}}, "auth"),
    ],
)
def test_what_no_header_or_auth_can_be(hub: Hub, fields: dict[str, Any], field: str) -> None:
    body = {"name": "x", "url": "http://127.0.0.1:9/", "events": ["*"], **fields}
    problem = hub.call("POST", "/api/outgoing-webhooks?force=true", body, expect=422)
    faults = [fault["field"] for fault in problem["errors"]]
    assert any(fault == field or fault.startswith(f"{field}.") for fault in faults), faults


# Client certificates


def test_a_client_certificate_is_shown_to_the_receiver_that_demands_one(hub: Hub) -> None:
    certificate, key = CLIENTS.pair("interlink of the test")
    auth = {"type": "mtls", "certificate": certificate, "private_key": key}
    with Subscriber(tls=server_tls(SERVERS, CLIENTS)) as subscriber:
        webhook, delivery, [got] = sent(hub, subscriber, auth=auth, headers={"X-Team": STATIC})
        assert delivery["status"] == "delivered"
        assert (got.client, got.headers["x-team"]) == ("interlink of the test", STATIC)
        assert webhook["auth"] == {"type": "mtls", "username": None, "name": None}
        visible = everything_visible_of(hub, webhook, delivery["id"])
        lines = [line for line in key.splitlines() if not line.startswith("-----")]
        assert len(lines) >= 2
        assert not [line for line in lines if line in visible or line.encode().hex() in visible]

        _, refused, _ = sent(hub, subscriber)  # without one
        other, other_key = Authority("strangers").pair("somebody else")
        wrong = {"type": "mtls", "certificate": other, "private_key": other_key}
        _, stranger, _ = sent(hub, subscriber, auth=wrong)
        assert len(subscriber.got) == 1
    for dead in (refused, stranger):
        assert dead["status"] == "dead_letter"
        assert dead["error"] in ("tls", "connection", "closed_mid_response")


def test_a_certificate_and_a_key_that_do_not_belong_together(hub: Hub) -> None:
    certificate, _ = CLIENTS.pair("one")
    _, key = CLIENTS.pair("other")
    auth = {"type": "mtls", "certificate": certificate, "private_key": key}
    body = {"name": "x", "url": "https://127.0.0.1:9/", "events": ["*"], "auth": auth}
    problem = hub.call("POST", "/api/outgoing-webhooks?force=true", body, expect=422)
    [fault] = problem["errors"]
    assert (fault["field"], fault["message"]) == (
        "auth",
        "the private key does not belong to the first certificate",
    )
    webhook = hub.outgoing_webhook("https://127.0.0.1:9/", events=[new_type()])
    hub.call("PATCH", path_of(webhook), {"auth": auth}, expect=422)
    assert hub.call("GET", path_of(webhook))["auth"]["type"] == "none"


def test_a_server_whose_authority_nobody_trusts_gets_nothing(hub: Hub) -> None:
    with Subscriber(tls=server_tls(Authority("strangers"))) as subscriber:
        _, delivery, _ = sent(hub, subscriber, headers={"X-Team": STATIC})
        assert subscriber.got == []
    assert (delivery["status"], delivery["error"]) == ("dead_letter", "tls")
