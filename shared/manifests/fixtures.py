"""Recorded requests of a provider, and how to sign them: for the checker, the tests, and test deliveries.

A fixture is a folder below `fixtures/`: `request.json` (method, query and headers without the signature, and
the endpoint's settings where they matter), `body.*` (the raw body, where there is one) and `expected.json`
(the events it becomes, or the answer of a handshake).
"""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jwt
import orjson
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.contracts.errors import Malformed, Misconfigured
from shared.manifests.models import WebhookSpec
from shared.manifests.registry import Provider
from shared.manifests.schemes import JwtScheme, KeyPairScheme
from shared.verification import scheme as wire
from shared.verification.jwt import FIXTURE_KEY_ID
from shared.verification.public_key import KeySource
from shared.verification.request import SECRET_SETTING, Headers, InboundRequest
from shared.verification.scheme import FetchedKey

FIXTURES: Final = "fixtures"
FIXTURE_URL: Final = "https://hub.example.com/api/webhooks/{provider}/ep_fixture"
"""Where fixtures are sent to, as their signatures see it."""

_CERTIFICATE_START: Final = datetime(2000, 1, 1, tzinfo=UTC)
_CERTIFICATE_END: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""A certificate of a fixture is valid whenever its request is said to be sent."""


class _RecordedRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = "POST"
    query: str = ""
    headers: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fixture:
    """A recorded request and what must become of it. Header names are lower case."""

    name: str
    method: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    settings: Mapping[str, str]
    expected: Mapping[str, Any]

    def request(
        self, provider: Provider, settings: Mapping[str, str] | None = None, *, address: str = ""
    ) -> InboundRequest:
        """The request at the provider's door, not signed. `address` is a real endpoint's."""
        assert provider.definition  # noqa: S101 -- only who has webhooks has fixtures
        headers: Headers = {name.encode(): [value.encode()] for name, value in self.headers.items()}
        given = {**default_settings(provider), **self.settings, **(settings or {})}
        address = address or FIXTURE_URL.format(provider=provider.id)
        return provider.definition.request(
            self.method, address, self.query.encode(), headers, self.body, given
        )


@dataclass(frozen=True, slots=True)
class SchemeSigner:
    """One way of a provider with keys to try it: what the endpoint gets, and what the platform signs with.

    `secret` is the endpoint's (a public key for key pairs), `key` the signer's; `fetched` what is at the
    address that the way asks for.
    """

    scheme: wire.SchemeVerifier
    secret: str
    key: bytes = field(repr=False)
    document: bytes = b""
    is_example: bool = False
    """The secret is the manifest's example: there is no other to compare it with."""

    @property
    def secrets(self) -> list[bytes]:
        """The endpoint's secrets as `verify` takes them."""
        return [self.secret.encode()] if self.secret else []

    def sign(self, request: InboundRequest, now: float) -> InboundRequest:
        """The request as the platform sends it."""
        return self.scheme.sign(request, self.key, now)

    def fetched(self, request: InboundRequest) -> FetchedKey | None:
        """What would be fetched for the request."""
        url = self.scheme.key_url(request)
        return FetchedKey(url, self.document) if url else None


def default_settings(provider: Provider) -> dict[str, str]:
    """Example settings of an endpoint: what its manifest gives as default or example."""
    webhook = provider.manifest.webhook
    declared = webhook.settings.items() if webhook else ()
    return {name: each.default or each.example for name, each in declared if each.default or each.example}


def new_secret(webhook: WebhookSpec) -> str:
    """A fresh secret in the form that the platform takes; '' where there is none to make."""
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
    """A fresh user and password, as HTTP Basic has them."""
    return f"interlink:{secrets.token_urlsafe(32)}"


def scheme_signers(provider: Provider) -> list[SchemeSigner]:
    """Fresh keys for each way of a provider, in the manifest's order."""
    webhook = provider.manifest.webhook
    if webhook is None or provider.definition is None:
        return []
    found: list[SchemeSigner] = []
    for declared, way in zip(webhook.verification, provider.definition.schemes, strict=True):
        if isinstance(declared, KeyPairScheme):
            found.append(_key_pair_signer(declared, way))
        elif isinstance(declared, JwtScheme) and declared.keys:
            found.append(_jwt_signer(declared, way))
        else:
            secret = declared.example or new_secret(webhook)
            found.append(SchemeSigner(way, secret, secret.encode(), is_example=bool(declared.example)))
    return found


def _key_pair_signer(declared: KeyPairScheme, scheme: wire.SchemeVerifier) -> SchemeSigner:
    private: Any
    if declared.scheme == "ed25519":
        private = Ed25519PrivateKey.generate()
    elif declared.scheme == "ecdsa":
        private = ec.generate_private_key(ec.SECP256R1())
    else:
        private = rsa.generate_private_key(65537, 2048)
    if declared.keys:
        return SchemeSigner(
            scheme, "", _encode_private_key(private), _published_key(declared.keys.compile(), private)
        )
    return SchemeSigner(scheme, _encode_public_key(declared, private), _encode_private_key(private))


def signer_from_private_key(declared: KeyPairScheme, scheme: wire.SchemeVerifier, pem: bytes) -> SchemeSigner:
    """A private key that there is already, for a way of key pairs. Raises `Malformed` when it is none."""
    try:
        private: Any = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Malformed("it is not a private key as PEM without a password") from None
    kinds = {"ed25519": Ed25519PrivateKey, "ecdsa": ec.EllipticCurvePrivateKey, "rsa": rsa.RSAPrivateKey}
    if not isinstance(private, kinds[declared.scheme]):
        raise Malformed(f"it is not a key for {declared.scheme}")
    return SchemeSigner(scheme, _encode_public_key(declared, private), pem)


def _encode_public_key(declared: KeyPairScheme, private: Any) -> str:
    """The public key as the endpoint's secret: PEM, or the form that the platform shows."""
    public = private.public_key()
    if declared.key.form == "text":
        pem: bytes = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return pem.decode()
    if declared.scheme == "ed25519":
        raw = public.public_bytes_raw()
    else:
        raw = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return declared.key.compile().encode(raw)


def _jwt_signer(declared: JwtScheme, scheme: wire.SchemeVerifier) -> SchemeSigner:
    """A JWKS document with one key, for RS256 or ES256."""
    private: Any
    if declared.algorithms[0].startswith("ES"):
        private = ec.generate_private_key(ec.SECP256R1())
        public = jwt.algorithms.ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    else:
        private = rsa.generate_private_key(65537, 2048)
        public = jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    document = orjson.dumps({"keys": [{**public, "kid": FIXTURE_KEY_ID, "use": "sig"}]})
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
    """The public key as it is fetched: a certificate where a subject is asked for, else PEM."""
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
    document: Any = pem.decode()
    for step in reversed(keys.json.split(".")):
        document = {step: document}
    return orjson.dumps(document)


def read_fixtures(folder: Path) -> list[Fixture]:
    """The fixtures of a provider's folder, by name. Raises `Misconfigured` for one that cannot be read."""
    return [read_fixture(case) for case in fixture_folders(folder)]


def fixture_folders(folder: Path) -> list[Path]:
    """The folders of a provider's fixtures, by name."""
    return sorted(entry for entry in folder.joinpath(FIXTURES).glob("*") if entry.is_dir())


def read_fixture(case: Path, *, allow_missing_expected: bool = False) -> Fixture:
    """One fixture. With `expected_later` it may lack `expected.json`. Raises `Misconfigured`."""
    where = f"{FIXTURES}/{case.name}"
    try:
        told = _RecordedRequest.model_validate_json(case.joinpath("request.json").read_bytes())
        file = case.joinpath("expected.json")
        expected = {} if allow_missing_expected and not file.exists() else orjson.loads(file.read_bytes())
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise Misconfigured(
            f"{where}: {missing} is missing: a fixture has request, body and expected"
        ) from None
    except ValidationError as error:
        fault = error.errors()[0]
        raise Misconfigured(
            f"{where}/request.json: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        ) from None
    except orjson.JSONDecodeError as error:
        raise Misconfigured(f"{where}/expected.json is not JSON: {error}") from None
    bodies = sorted(case.glob("body.*"))
    if len(bodies) > 1 or not isinstance(expected, dict):
        raise Misconfigured(f"{where}: one body.* at most, and expected.json is an object")
    events = expected.get("events", [])
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise Misconfigured(f"{where}/expected.json: events is a list of objects")
    return Fixture(
        case.name,
        told.method,
        told.query,
        {name.lower(): value for name, value in told.headers.items()},
        bodies[0].read_bytes() if bodies else b"",
        told.settings,
        expected,
    )


def settings_with_secret(secret: str, settings: Mapping[str, str]) -> dict[str, str]:
    """An endpoint's settings as templates see them: with its newest secret, which handshakes sign with."""
    return {**settings, SECRET_SETTING: secret} if secret else dict(settings)
