"""Several schemes of one webhook definition: which one decides, what it requires, and hostile requests."""

import base64
import hmac
from time import process_time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Rejected
from shared.manifests.models import WebhookSpec
from shared.manifests.webhook import WebhookDefinition
from shared.verification.request import InboundRequest
from shared.verification.scheme import SchemeVerifier, VerificationResult
from tests.verification.builders import (
    BODY,
    CURVE,
    EDWARDS,
    NOW,
    RSA,
    SECRET,
    STRIPE,
    b64,
    check,
    hmac_hex,
    make_scheme,
    public_pem,
    request,
)

LADDER: list[dict[str, Any]] = [
    {"scheme": "hmac", "signature": {"header": "x-new"}, "signed": "{timestamp}{body}"}
    | {"timestamp": {"from": "{header:x-time}"}},
    {"scheme": "hmac", "signature": {"header": "x-old"}, "algorithm": "sha1"},
    {"scheme": "token", "from": "{header:x-token}"},
]


def definition_of(*schemes: dict[str, Any], **webhook: Any) -> WebhookDefinition:
    return WebhookDefinition(
        WebhookSpec.model_validate(
            {
                "verification": schemes,
                "secret": {"source": "ours"},
                "event": "x",
                "setup_steps": [],
                "handled": {},
            }
            | webhook
        )
    )


def at(definition: WebhookDefinition, inbound: InboundRequest, *secrets: bytes) -> VerificationResult:
    selected = definition.select_scheme(inbound)
    return selected.verify(inbound, secrets, NOW) if selected else VerificationResult.MISSING


def test_a_scheme_that_no_secret_is_for_does_not_decide() -> None:
    definition = definition_of(
        {
            "scheme": "hmac",
            "signature": {"header": "x-signature"},
            "key": {"form": "text", "prefix": "whsec_"},
        },
        {"scheme": "token", "from": "{header:x-token}", "key": {"except_prefix": "whsec_"}},
    )
    signing, token = b"whsec_AAAA", b"token"
    both, one = request({"x-signature": "00", "x-token": "token"}), request({"x-signature": "00"})
    signed, plain = definition.schemes
    for inbound, secrets, expected in (
        (both, [token], plain),
        (both, [signing], signed),
        (both, [token, signing], signed),
        (both, [], signed),
        (one, [token], signed),
        (request(), [token], None),
    ):
        assert definition.select_scheme(inbound, secrets) is expected


def test_a_weaker_scheme_never_accepts_what_the_stronger_one_refuses() -> None:
    definition = definition_of(*LADDER)
    old, token = hmac_hex(SECRET, BODY, "sha1"), SECRET.decode()
    weak = {"x-old": old, "x-token": token}
    assert at(definition, request(weak), SECRET) is VerificationResult.VERIFIED
    assert at(definition, request({"x-token": token}), SECRET) is VerificationResult.VERIFIED
    stamp = str(int(NOW))
    for stronger, verdict in (
        ({"x-new": "00" * 32, "x-time": stamp}, VerificationResult.MISMATCH),
        ({"x-new": "", "x-time": stamp}, VerificationResult.UNREADABLE),
        ({"x-new": "garbage", "x-time": stamp}, VerificationResult.UNREADABLE),
        ({"x-new": hmac_hex(SECRET, BODY)}, VerificationResult.UNREADABLE),
        ({"x-new": hmac_hex(SECRET, b"1" + BODY), "x-time": "1"}, VerificationResult.STALE),
        ({"x-new": ["00" * 32, "00" * 32], "x-time": stamp}, VerificationResult.DOUBLED),
    ):
        assert at(definition, request({**weak, **stronger}), SECRET) is verdict, stronger
    assert (
        at(definition, request({"x-old": "00" * 20, "x-token": token}), SECRET) is VerificationResult.MISMATCH
    )


def test_a_secret_of_one_scheme_is_no_key_of_another() -> None:
    """A public key is known to everybody: as the text of an HMAC key it would let everybody sign."""
    private = Ed25519PrivateKey.generate()
    public = b"whpk_" + base64.b64encode(private.public_key().public_bytes_raw())
    signature = {"header": "x-sig", "encoding": "base64", "separator": " "}
    definition = definition_of(
        {"scheme": "ed25519", "signature": {**signature, "prefix": "v1a,"}}
        | {"key": {"form": "base64", "prefix": "whpk_"}, "when": {"header:x-kind": "a"}},
        {"scheme": "hmac", "signature": {**signature, "prefix": "v1,"}}
        | {"key": {"form": "base64", "prefix": "whsec_", "otherwise": "text", "except_prefix": "whpk_"}},
    )
    forged = "v1," + base64.b64encode(hmac.digest(public, BODY, "sha256")).decode()
    assert at(definition, request({"x-sig": forged}), public) is VerificationResult.NO_SECRET
    right = "v1a," + base64.b64encode(private.sign(BODY)).decode()
    assert at(definition, request({"x-sig": right, "x-kind": "a"}), public) is VerificationResult.VERIFIED


def test_a_scheme_applies_to_the_requests_that_its_match_names() -> None:
    definition = definition_of(
        {"scheme": "hmac", "signature": {"header": "x-sig"}, "when": {"setting:mode": "signed"}},
        {"scheme": "token", "from": "{header:x-sig}", "when": {"setting:mode": "token"}},
    )
    token, signature = SECRET.decode(), hmac_hex(SECRET, BODY)
    for mode, value, verdict in (
        ("signed", signature, VerificationResult.VERIFIED),
        ("token", token, VerificationResult.VERIFIED),
        ("signed", token, VerificationResult.UNREADABLE),
        ("token", signature, VerificationResult.MISMATCH),
        ("other", token, VerificationResult.MISSING),
    ):
        assert at(definition, request({"x-sig": value}, settings={"mode": mode}), SECRET) is verdict


def test_what_a_scheme_requires_beside_its_signature() -> None:
    scheme = make_scheme(
        scheme="hmac",
        signature={"header": "x-sig"},
        require={"header:x-app": "{setting:app}", "method": "POST"},
    )
    signature = hmac_hex(SECRET, BODY)
    for app, verdict in (
        ("7", VerificationResult.VERIFIED),
        ("8", VerificationResult.UNREADABLE),
        ("", VerificationResult.UNREADABLE),
    ):
        inbound = request({"x-sig": signature, "x-app": app}, settings={"app": "7"})
        assert check(scheme, inbound, SECRET) is verdict
    assert check(scheme, request({"x-sig": signature, "x-app": "7"}), SECRET) is VerificationResult.UNREADABLE


# Anything

SIGNATURE = {"header": "x-sig", "encoding": "base64"}
SCHEMES = [
    STRIPE,
    make_scheme(scheme="jwt", algorithms=["HS256"], issuer=["x"], audience="{setting:audience}"),
    make_scheme(
        scheme="jwt",
        algorithms=["RS256"],
        keys={"url": "https://keys.example.com/", "hosts": ["keys.example.com"]},
    ),
    make_scheme(scheme="basic"),
    make_scheme(scheme="token", **{"from": "{json:token}"}),
    make_scheme(scheme="token", **{"from": "{item:s}"}, each="value"),
    make_scheme(scheme="ed25519", signature=SIGNATURE),
    make_scheme(scheme="ecdsa", signature=SIGNATURE),
    make_scheme(
        scheme="rsa", signature=SIGNATURE, keys={"url": "{header:x-url}", "hosts": ["keys.example.com"]}
    ),
    make_scheme(scheme="hmac", signature=SIGNATURE, signed="{url_with_port}{sorted_form}"),
]


@given(
    st.sampled_from(SCHEMES),
    st.dictionaries(
        st.sampled_from(["x-sig", "authorization", "x-url", "content-type"]),
        st.lists(
            st.text(max_size=40) | st.sampled_from(["Bearer a.b.c", "Basic Og==", "t=1,v1=00"]), max_size=2
        ),
        max_size=3,
    ),
    st.binary(max_size=60) | st.sampled_from([b'{"token":"x"}', b'{"value":[{"s":1}]}', b"a=1"]),
    st.lists(st.sampled_from([b"", SECRET, public_pem(EDWARDS), public_pem(CURVE), b"\xff"]), max_size=2),
    st.none() | st.binary(max_size=40) | st.sampled_from([b'{"keys":[{}]}', public_pem(RSA)]),
)
def test_verifying_anything_is_a_result_or_rejected(
    scheme: SchemeVerifier,
    headers: dict[str, list[str]],
    body: bytes,
    secrets: list[bytes],
    document: bytes | None,
) -> None:
    inbound = request(headers, body)
    try:
        scheme.applies(inbound)
        assert check(scheme, inbound, *secrets, document=document) is not VerificationResult.VERIFIED
    except Rejected:
        return


def test_many_signatures_in_a_header_take_no_time() -> None:
    started = process_time()
    flood = ",".join(["t=1800000000", *(f"v1={'ab' * 32}" for _ in range(900))])
    for _ in range(3):
        assert (
            check(STRIPE, request({"x-sig": flood}, b"x" * 1_000_000), *([SECRET] * 5))
            is VerificationResult.UNREADABLE
        )
    keys = [public_pem(EDWARDS)] * 2
    scheme = make_scheme(scheme="ed25519", signature={**SIGNATURE, "separator": " "})
    flood = " ".join(b64(bytes(64)) for _ in range(700))
    assert check(scheme, request({"x-sig": flood}), *keys) is VerificationResult.UNREADABLE
    assert process_time() - started < 1
