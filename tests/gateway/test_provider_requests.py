"""Requests as some providers really send them: by GET, with a header by chance, without a time, once more."""

import base64
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from shared.manifests.fixtures import read_fixture
from tests.gateway.test_endpoints import executions, make, put, send
from tests.support.backends import Bus
from tests.support.hub import Hub, hub_with
from tests.support.tap import Tap

FIXTURES = Path("shared/providers/manychat/fixtures")

hub = hub_with(services=("gateway",), workspace="requests")


@pytest.fixture(autouse=True)
def unbroken(hub: Hub) -> Iterator[None]:
    with hub.unbroken("gateway"):
        yield


@pytest.fixture(scope="module")
def tap(hub: Hub, bus: Bus) -> Tap:
    return Tap(bus, "webhooks.received")


def test_twilio_by_get(hub: Hub, tap: Tap) -> None:
    secret = token_hex(16)
    endpoint = make(hub, "twilio", secret=secret)
    fields = {"MessageSid": "SM1", "SmsStatus": "received", "From": "+15550100001", "Body": 'Grüße & "you"'}

    def called(query: str, signed: str) -> httpx.Response:
        digest = hmac.digest(secret.encode(), f"{endpoint['url']}?{signed}".encode(), "sha1")
        headers = {"x-twilio-signature": base64.b64encode(digest).decode()}
        path = endpoint["url"].partition("/api/")[2]
        return httpx.get(f"{hub.url('gateway')}/api/{path}?{query}", headers=headers, timeout=10)

    query = urlencode(fields)
    answer = called(query, query)
    assert (answer.status_code, answer.text) == (200, "<Response/>")
    assert called(query + "&Body=more", query).status_code == 401
    execution = executions(hub, endpoint, 2)[1]
    record = put(tap, execution["event_ids"][0])
    assert record.attributes["ce_type"] == "twilio.message.received"
    assert json.loads(record.value or b"") == fields


@pytest.mark.parametrize("stray", ["v1,AAAA", "anything", ""])
def test_gitlab_with_a_header_of_another_scheme(hub: Hub, stray: str) -> None:
    """A secret token cannot sign, so a signature's header is there by chance; a signing token can."""
    token, signing = "a-secret-token", "whsec_" + base64.b64encode(bytes(32)).decode()
    body = b'{"object_kind":"push"}'

    def answered(secret: str, presented: str) -> int:
        headers = {"x-gitlab-token": presented, "webhook-signature": stray, "webhook-timestamp": "1"}
        return send(hub, make(hub, "gitlab", secret=secret), body, headers=headers).status_code

    assert answered(token, token) == 202
    assert answered(token, "another-token") == 401
    assert answered(signing, signing) == 401


def test_manychat_sends_the_same_again(hub: Hub) -> None:
    for name in ("message_received", "request_without_event", "new_subscriber_who_never_wrote"):
        endpoint = make(hub, "manychat")
        fixture = read_fixture(FIXTURES / name)
        headers = {"authorization": f"Bearer {endpoint['secret']}", "content-type": "application/json"}
        for _ in range(2):
            answer = send(hub, endpoint, fixture.body, headers=headers, params=fixture.query)
            assert answer.status_code == 200
        other: dict[str, Any] = json.loads(fixture.body) | {"last_interaction": "2025-06-01T12:31:00+00:00"}
        assert send(hub, endpoint, json.dumps(other).encode(), headers=headers).status_code == 200
        outcomes = [item["outcome"] for item in executions(hub, endpoint, 3)]
        assert outcomes == ["accepted", "duplicate", "accepted"], name
