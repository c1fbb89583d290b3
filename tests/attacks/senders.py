"""Strangers who have the hub call servers, in the name of a provider whose requests name URLs."""

import base64
import json
from typing import Any, Final

from tests.attacks.answers import send
from tests.attacks.attack import Attack
from tests.support.hub import Hub

_TOPIC: Final = "arn:aws:sns:us-west-2:123456789012:MyTopic"
_CERTIFICATE: Final = "/SimpleNotificationService-0000000000000000000000.pem"
_CONFIRMATION: Final = {
    "Type": "SubscriptionConfirmation",
    "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
    "Token": "2336412f37fb",
    "TopicArn": _TOPIC,
    "Message": "You have chosen to subscribe to the topic.",
    "SubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37fb",
    "Timestamp": "2012-04-26T20:45:04.751Z",
    "SignatureVersion": "2",
}
_OTHER_HOSTS: Final = (
    "https://evil.example",
    "https://127.0.0.1",
    "http://sns.us-west-2.amazonaws.com",
    "https://sns.us-west-2.amazonaws.com.evil.example",
    "https://sns.us-west-2.amazonaws.com@evil.example",
    "https://sns.us-west-2.amazonaws.com:8443",
    "https://sns.s3-us-west-2.amazonaws.com",
    "https://evil.us-west-2.amazonaws.com",
    "https://evil.example/https://sns.us-west-2.amazonaws.com",
)


def _endpoint(hub: Hub, **fields: Any) -> dict[str, Any]:
    body = {"provider": "aws-sns", "name": "attack", "settings": {"topic_arn": _TOPIC}, **fields}
    created: dict[str, Any] = hub.call("POST", "/api/inbound-endpoints", body, expect=201)
    return created


def _names_a_certificate_of_its_own(hub: Hub) -> None:
    """A fetch would fail here, where there is no network, and be answered with 503."""
    endpoint = _endpoint(hub)
    for host in _OTHER_HOSTS:
        forged = {**_CONFIRMATION, "Signature": "AAAA", "SigningCertURL": host + _CERTIFICATE}
        answer = send(hub, endpoint, "POST", content=json.dumps(forged).encode())
        assert answer.status_code == 401, (host, answer.text)


def _confirms_without_a_signature(hub: Hub) -> None:
    """The call would fail here, and be answered with 503: the request becomes an event instead."""
    unsigned = {"require_signature": False, "unsigned_reason": "an attack of a stranger"}
    endpoint = _endpoint(hub, **unsigned)
    for url in (_CONFIRMATION["SubscribeURL"], "http://169.254.169.254/latest/meta-data/"):
        body = json.dumps({**_CONFIRMATION, "SubscribeURL": url}).encode()
        answer = send(hub, endpoint, "POST", content=body)
        assert answer.status_code == 200, answer.text
        assert answer.text == "ok"


def _asks_for_ever_new_keys(hub: Hub) -> None:
    """Of a token that no key could verify, the provider is not asked for one: that would be 503 here."""
    settings = {"client_id": "5f" * 12, "client_secret": "0f" * 15}
    body = {"provider": "plaid", "name": "attack", "settings": settings}
    endpoint = hub.call("POST", "/api/inbound-endpoints", body, expect=201)
    for header in ({"alg": "ES256"}, {"alg": "none", "kid": "a"}, {"alg": "ES256", "kid": "../secrets"}):
        token = f"{_encoded(header)}.{_encoded({'iat': 1})}.AAAA"
        answer = send(hub, endpoint, "POST", content=b"{}", headers={"plaid-verification": token})
        assert answer.status_code == 401, (header, answer.text)


def _encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


ATTACKS: Final = (
    Attack("a sender names a certificate of its own", _names_a_certificate_of_its_own),
    Attack("a sender has a subscription confirmed without a signature", _confirms_without_a_signature),
    Attack("a sender has ever new keys requested", _asks_for_ever_new_keys),
)
