"""The providers' own libraries verify what the hub signs, and the hub verifies what they sign.

Without Twilio's and HubSpot's, which are more than 20 MB each for one function, and LINE's, which wants an
older python-dateutil than our templates: their published signatures are in the folders' `vectors.json`.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from time import time

import pytest
import stripe
from box_sdk_gen.managers.webhooks import WebhooksManager
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from openai import InvalidWebhookSignatureError, OpenAI
from sendgrid.helpers.eventwebhook import EventWebhook  # type: ignore[import-untyped]
from slack_sdk.signature import SignatureVerifier
from square.utils.webhooks_helper import verify_signature
from standardwebhooks import Webhook, WebhookVerificationError
from svix.webhooks import Webhook as SvixWebhook
from svix.webhooks import WebhookVerificationError as SvixVerificationError

from shared.manifests.fixtures import Fixture
from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult
from tests.providers.recorded import Keyed, keyed, recorded, signed, with_changed_body, with_headers

ADDRESS = "https://hub.example.com/api/webhooks/{name}/ep_1"
ODD = '{"type":"a","odd":"\\u00e4 \\/ ä 😀 \\ud83d\\ude00","empty":{}}'.encode()

Says = Callable[[Keyed, InboundRequest], bool]
"""Whether the library accepts a request at an endpoint with the secret of this scheme."""


def _header(request: InboundRequest, name: str) -> str:
    [value] = request.headers[name.encode()]
    return value.decode()


def _headers(request: InboundRequest) -> dict[str, str]:
    return {name.decode(): values[0].decode() for name, values in request.headers.items()}


def _slack(case: Keyed, request: InboundRequest) -> bool:
    return bool(SignatureVerifier(case.signer.secret).is_valid_request(request.body, _headers(request)))


def _stripe(case: Keyed, request: InboundRequest) -> bool:
    header = _header(request, "stripe-signature")
    try:
        return bool(
            stripe.WebhookSignature.verify_header(request.body.decode(), header, case.signer.secret, 300)
        )
    except stripe.SignatureVerificationError:
        return False


def _sendgrid(case: Keyed, request: InboundRequest) -> bool:
    library = EventWebhook(case.signer.secret)
    signature = _header(request, "x-twilio-email-event-webhook-signature")
    stamp = _header(request, "x-twilio-email-event-webhook-timestamp")
    return bool(library.verify_signature(request.body.decode(), signature, stamp, library.public_key))


def _square(case: Keyed, request: InboundRequest) -> bool:
    return verify_signature(
        request_body=request.body.decode(),
        signature_header=_header(request, "x-square-hmacsha256-signature"),
        signature_key=case.signer.secret,
        notification_url=request.url,
    )


def _box(case: Keyed, request: InboundRequest) -> bool:
    return WebhooksManager.validate_message(request.body.decode(), _headers(request), case.signer.secret)


def _openai(case: Keyed, request: InboundRequest) -> bool:
    try:
        _openai_client(case.signer.secret).webhooks.verify_signature(request.body.decode(), _headers(request))
    except InvalidWebhookSignatureError:
        return False
    return True


@cache
def _openai_client(secret: str) -> OpenAI:
    return OpenAI(api_key="of no use", webhook_secret=secret)


def _standard(case: Keyed, request: InboundRequest) -> bool:
    try:
        Webhook(case.signer.secret).verify(request.body, _headers(request))
    except WebhookVerificationError:
        return False
    return True


def _svix(case: Keyed, request: InboundRequest) -> bool:
    try:
        SvixWebhook(case.signer.secret).verify(request.body, _headers(request))
    except SvixVerificationError:
        return False
    return True


def _discord(case: Keyed, request: InboundRequest) -> bool:
    """As Discord's documentation does it with PyNaCl."""
    text = _header(request, "x-signature-timestamp").encode() + request.body
    try:
        VerifyKey(bytes.fromhex(case.signer.secret)).verify(
            text, bytes.fromhex(_header(request, "x-signature-ed25519"))
        )
    except BadSignatureError:
        return False
    return True


ORACLES: Mapping[str, tuple[str, str, Says]] = {
    "slack": ("slack", "x-slack-signature", _slack),
    "stripe": ("stripe", "stripe-signature", _stripe),
    "sendgrid": ("sendgrid", "x-twilio-email-event-webhook-signature", _sendgrid),
    "square": ("square", "x-square-hmacsha256-signature", _square),
    "box": ("box", "box-signature-primary", _box),
    "openai": ("openai", "webhook-signature", _openai),
    "standardwebhooks": ("standard-webhooks", "webhook-signature", _standard),
    "svix": ("standard-webhooks", "svix-signature", _svix),
    "svix, as Clerk uses it": ("clerk", "svix-signature", _svix),
    "svix, as Resend uses it": ("resend", "svix-signature", _svix),
    "discord_interactions": ("discord_interactions", "x-signature-ed25519", _discord),
    "discord_webhook_events": ("discord_webhook_events", "x-signature-ed25519", _discord),
}
"""By library: the provider, the header of the scheme that the library knows, and its verdict."""


def _requests(name: str, header: str) -> Iterator[tuple[Keyed, Fixture, InboundRequest]]:
    """Yield recorded requests, also with an odd body, signed now by the scheme with this header."""
    for case in keyed(name):
        if header.encode() not in case.headers or not _is_of_the_library(case):
            continue
        found = [(each, request) for each in recorded(name) if (request := _signed(case, each)) is not None]
        for fixture, request in found:
            yield case, fixture, request
        odd = replace(found[0][0], body=ODD)
        request = _signed(case, odd)
        assert request
        yield case, odd, request


def _is_of_the_library(case: Keyed) -> bool:
    """Not of senders that sign with the text of the secret, or with a key pair."""
    return case.provider.id != "standard-webhooks" or case.spec.name.startswith("v1, ")


def _signed(case: Keyed, fixture: Fixture) -> InboundRequest | None:
    fresh = replace(fixture, headers={**fixture.headers, **_FRESH.get(case.provider.id, dict)()})
    return signed(case, fresh, time(), address=ADDRESS.format(name=case.provider.id))


_FRESH: Mapping[str, Callable[[], dict[str, str]]] = {
    "sendgrid": lambda: {"x-twilio-email-event-webhook-timestamp": str(int(time()))},
    "discord_interactions": lambda: {"x-signature-timestamp": str(int(time()))},
}


@pytest.mark.parametrize("library", ORACLES)
def test_the_library_accepts_what_we_sign_and_refuses_what_we_refuse(library: str) -> None:
    name, header, says = ORACLES[library]
    faults: list[str] = []
    tried = 0
    for case, fixture, request in _requests(name, header):
        tried += 1
        value = request.headers[header.encode()][0]
        wrong = value[:-8] + (b"AAAAAAA=" if value.endswith(b"=") else b"00000000")
        for what, changed, good in (
            ("as it is", request, True),
            ("another body", with_changed_body(request), False),
            ("another signature", with_headers(request, {header.encode(): [wrong]}), False),
        ):
            ours = case.verdict(changed, now=time()) is VerificationResult.VERIFIED
            theirs = says(case, changed)
            if (ours, theirs) != (good, good):
                faults.append(f"{case.name}, {fixture.name}, {what}: ours {ours}, theirs {theirs}")
    assert tried > 1
    assert not faults, "\n".join(faults)


def _by_slack(secret: str, _identity: str, body: bytes) -> dict[str, str]:
    stamp = str(int(time()))
    signature = SignatureVerifier(secret).generate_signature(timestamp=stamp, body=body)
    return {"x-slack-signature": signature or "", "x-slack-request-timestamp": stamp}


def _by_stripe(secret: str, _identity: str, body: bytes) -> dict[str, str]:
    return {"stripe-signature": stripe.WebhookSignature.generate_signature_header(body.decode(), secret)}


def _by_standard(secret: str, identity: str, body: bytes) -> dict[str, str]:
    now = datetime.now(UTC)
    signature = Webhook(secret).sign(identity, now, body.decode())
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": f"v1,{base64.b64encode(bytes(32)).decode()} {signature}",
    }


def _by_svix(secret: str, identity: str, body: bytes) -> dict[str, str]:
    now = datetime.now(UTC)
    signature = SvixWebhook(secret).sign(identity, now, body.decode())
    return {"svix-id": identity, "svix-timestamp": str(int(now.timestamp())), "svix-signature": signature}


SIGNERS: Mapping[str, tuple[str, Callable[[str, str, bytes], dict[str, str]]]] = {
    "slack": ("slack", _by_slack),
    "stripe": ("stripe", _by_stripe),
    "openai": ("openai", _by_standard),
    "standardwebhooks": ("standard-webhooks", _by_standard),
    "svix": ("standard-webhooks", _by_svix),
    "svix, as Clerk uses it": ("clerk", _by_svix),
    "svix, as Resend uses it": ("resend", _by_svix),
}


@pytest.mark.parametrize("library", SIGNERS)
def test_we_accept_what_the_library_signs(library: str) -> None:
    name, sign = SIGNERS[library]
    verified = 0
    for case in keyed(name):
        definition = case.provider.definition
        assert definition
        for fixture in recorded(name):
            if "handshake" in fixture.expected:
                continue
            for body in (fixture.body, ODD):
                plain = replace(fixture, body=body).request(case.provider)
                headers = sign(case.signer.secret, "msg_1", body) if _is_of_the_library(case) else {}
                request = with_headers(
                    plain, {key.encode(): [value.encode()] for key, value in headers.items()}
                )
                if headers and definition.select_scheme(request) is case.signer.scheme:
                    assert case.verdict(request, now=time()) is VerificationResult.VERIFIED, (
                        case.name,
                        fixture.name,
                    )
                    assert case.verdict(with_changed_body(request), now=time()) is VerificationResult.MISMATCH
                    verified += 1
    assert verified > 1


@pytest.mark.parametrize("name", ["discord_interactions", "discord_webhook_events"])
def test_we_accept_what_pynacl_signs(name: str) -> None:
    private = SigningKey.generate()
    [case] = keyed(name)
    for fixture in recorded(name):
        request = fixture.request(case.provider)
        stamp = str(int(time())).encode()
        signature = private.sign(stamp + request.body).signature.hex().encode()
        headers = {b"x-signature-ed25519": [signature], b"x-signature-timestamp": [stamp]}
        public = private.verify_key.encode().hex()
        assert case.verdict(with_headers(request, headers), [public], time()) is VerificationResult.VERIFIED
        changed = with_changed_body(with_headers(request, headers))
        assert case.verdict(changed, [public], time()) is VerificationResult.MISMATCH
