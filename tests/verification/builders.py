"""Requests as a provider sends them, and schemes as a manifest declares them, for these tests."""

import base64
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import TypeAdapter

from shared.manifests.schemes import SchemeSpec as Declared
from shared.verification.request import Headers, InboundRequest
from shared.verification.scheme import FetchedKey, SchemeVerifier, VerificationResult
from shared.wire.bodies import parse_json

NOW = 1_800_000_000.0
ADDRESS = "https://hub.example.com/api/webhooks/x/ep_1"
BODY = b'{"type":"a"}'
SECRET = b"a secret of 32 bytes, as is right"

_SCHEMES: TypeAdapter[Any] = TypeAdapter(Declared)


def make_scheme(**declared: Any) -> SchemeVerifier:
    """Compile a scheme as a manifest declares it."""
    compiled: SchemeVerifier = _SCHEMES.validate_python(declared).compile()
    return compiled


def request(
    headers: Mapping[str, str | Sequence[str]] | None = None,
    body: bytes = BODY,
    *,
    method: str = "POST",
    query: bytes = b"",
    address: str = ADDRESS,
    settings: Mapping[str, str] | None = None,
) -> InboundRequest:
    raw: Headers = {
        name.encode(): [item.encode() for item in ([value] if isinstance(value, str) else value)]
        for name, value in (headers or {}).items()
    }
    return InboundRequest(
        method, address, query, raw, body, settings or {}, lambda inbound: parse_json(inbound.body)
    )


PAIRS = {
    "scheme": "hmac",
    "signature": {"header": "x-sig", "separator": ",", "field": "v1", "time_field": "t"},
}
STRIPE = make_scheme(**PAIRS, signed="{timestamp}.{body}", timestamp={})


def check(
    verifier: SchemeVerifier,
    inbound: InboundRequest,
    *secrets: bytes,
    now: float = NOW,
    document: bytes | None = None,
) -> VerificationResult:
    fetched = FetchedKey("https://keys.example.com/", document) if document is not None else None
    return verifier.verify(inbound, secrets, now, fetched)


def hmac_hex(key: bytes, content: bytes, algorithm: str = "sha256") -> str:
    return hmac.new(key, content, algorithm).hexdigest()


def pem_of(private: Any) -> bytes:
    return bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def public_pem(private: Any) -> bytes:
    return bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


EDWARDS = Ed25519PrivateKey.generate()
CURVE = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
