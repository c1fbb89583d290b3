"""Signs recorded requests as a provider does: for the checker, the tests, and test deliveries."""

import base64
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import ECKey, RSAKey

from shared.contracts.errors import Malformed
from shared.manifests.models import WebhookSpec
from shared.manifests.registry import Provider
from shared.manifests.schemes import JwtScheme, KeyPairScheme
from shared.verification.jwt import FIXTURE_KEY_ID
from shared.verification.public_key import KeySource
from shared.verification.request import InboundRequest
from shared.verification.scheme import FetchedKey, SchemeVerifier

_CERTIFICATE_START: Final = datetime(2000, 1, 1, tzinfo=UTC)
_CERTIFICATE_END: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""A fixture's certificate is valid at any time at which its request may be sent."""


@dataclass(frozen=True, slots=True)
class SchemeSigner:
    """One signature scheme of a provider with keys to test it.

    `secret` is the endpoint's secret: a public key for key pairs, '' if the key is fetched. `key` is the
    signer's. `document` is the content of the URL that a fetched key comes from.
    """

    scheme: SchemeVerifier
    secret: str
    key: bytes = field(repr=False)
    document: bytes = b""
    is_example: bool = False
    """The secret is the manifest's example, so there is no second one to compare it with."""

    @property
    def secrets(self) -> list[bytes]:
        """The endpoint's secrets as `verify` takes them."""
        return [self.secret.encode()] if self.secret else []

    def sign(self, request: InboundRequest, now: float) -> InboundRequest:
        """Return the request with the provider's signature. `now` is in Unix seconds."""
        return self.scheme.sign(request, self.key, now)

    def fetched(self, request: InboundRequest) -> FetchedKey | None:
        """Return the key document of the request; None if the scheme fetches none."""
        url = self.scheme.key_url(request)
        return FetchedKey(url, self.document) if url else None


def new_secret(webhook: WebhookSpec) -> str:
    """Generate a secret in the provider's format; '' if the provider needs none."""
    kind = webhook.secret.kind
    if webhook.secret.source == "none":
        return ""
    if kind == "token":
        return secrets.token_urlsafe(32)
    if kind == "whsec":
        return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    if kind == "basic":
        return new_basic_secret()
    return secrets.token_hex(32)


def new_basic_secret() -> str:
    """Generate a user and password for HTTP Basic."""
    return f"interlink:{secrets.token_urlsafe(32)}"


def scheme_signers(provider: Provider) -> list[SchemeSigner]:
    """Return a signer with fresh keys for each scheme of a provider, in the manifest's order."""
    webhook = provider.manifest.webhook
    if webhook is None or provider.definition is None:
        return []
    signers: list[SchemeSigner] = []
    for spec, scheme in zip(webhook.verification, provider.definition.schemes, strict=True):
        if isinstance(spec, KeyPairScheme):
            signers.append(_key_pair_signer(spec, scheme))
        # A JWT with a shared secret is signed like HMAC, below.
        elif isinstance(spec, JwtScheme) and spec.keys:
            signers.append(_jwt_signer(spec, scheme))
        else:
            secret = spec.example or new_secret(webhook)
            signers.append(SchemeSigner(scheme, secret, secret.encode(), is_example=bool(spec.example)))
    return signers


def _key_pair_signer(spec: KeyPairScheme, scheme: SchemeVerifier) -> SchemeSigner:
    private: Any
    if spec.scheme == "ed25519":
        private = Ed25519PrivateKey.generate()
    elif spec.scheme == "ecdsa":
        private = ec.generate_private_key(ec.SECP256R1())
    else:
        private = rsa.generate_private_key(65537, 2048)
    if spec.keys:
        return SchemeSigner(
            scheme, "", _encode_private_key(private), _published_key(spec.keys.compile(), private)
        )
    return SchemeSigner(scheme, _encode_public_key(spec, private), _encode_private_key(private))


def signer_from_private_key(spec: KeyPairScheme, scheme: SchemeVerifier, pem: bytes) -> SchemeSigner:
    """Return the signer of a key pair scheme with an existing private key.

    Raises `Malformed` if `pem` is not a private key for this scheme.
    """
    try:
        private: Any = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Malformed("the key has to be a private key in PEM format without a password") from None
    key_types = {"ed25519": Ed25519PrivateKey, "ecdsa": ec.EllipticCurvePrivateKey, "rsa": rsa.RSAPrivateKey}
    if not isinstance(private, key_types[spec.scheme]):
        raise Malformed(f"the key is not for {spec.scheme}")
    return SchemeSigner(scheme, _encode_public_key(spec, private), pem)


def _encode_public_key(spec: KeyPairScheme, private: Any) -> str:
    """Return the public key as the endpoint's secret: PEM, or the provider's own format."""
    public = private.public_key()
    if spec.key.form == "text":
        pem: bytes = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return pem.decode()
    if spec.scheme == "ed25519":
        raw = public.public_bytes_raw()
    else:
        raw = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return spec.key.compile().encode(raw)


def _jwt_signer(spec: JwtScheme, scheme: SchemeVerifier) -> SchemeSigner:
    """Return a signer with a JWKS document of one key, for RS256 or ES256."""
    private: Any
    if spec.algorithms[0].startswith("ES"):
        private = ec.generate_private_key(ec.SECP256R1())
        public = ECKey.import_key(private.public_key()).as_dict()
    else:
        private = rsa.generate_private_key(65537, 2048)
        public = RSAKey.import_key(private.public_key()).as_dict()
    key = {**public, "kid": FIXTURE_KEY_ID, "use": "sig"}
    json_path = spec.keys.json_ if spec.keys else ""
    document = _nest(key, json_path) if json_path else orjson.dumps({"keys": [key]})
    return SchemeSigner(scheme, "", _encode_private_key(private), document)


def _encode_private_key(private: Any) -> bytes:
    return bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _published_key(keys: KeySource, private: Any) -> bytes:
    """Return the public key as it is published: a certificate if a subject is expected, else PEM."""
    if keys.subject:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "webhooks" + keys.subject)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_CERTIFICATE_START)
            .not_valid_after(_CERTIFICATE_END)
            .sign(private, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)
    pem: bytes = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if not keys.json:
        return pem
    return _nest(pem.decode(), keys.json)


def _nest(document: Any, path: str) -> bytes:
    """Return a document that has a key where the manifest's path expects it."""
    for step in reversed(path.split(".")):
        document = {step: document}
    return orjson.dumps(document)
