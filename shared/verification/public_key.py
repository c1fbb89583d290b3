"""Public-key schemes: Ed25519, ECDSA and RSA signatures that only the provider can make.

The public key is the endpoint's secret, or it is fetched from the provider.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric import utils as asymmetric
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.contracts.errors import Malformed
from shared.verification.match import MATCH_ALL, Match
from shared.verification.provider_urls import allowed_url
from shared.verification.request import InboundRequest
from shared.verification.scheme import (
    TEXT_SECRET,
    Algorithm,
    FetchedKey,
    KeyType,
    SecretFormat,
    SignatureFormat,
    TimestampCheck,
    VerificationResult,
    add_timestamp,
    check_timestamp,
    extract_signatures,
)
from shared.verification.sources import compile_path, scalar_text
from shared.verification.template import SignedContent, SourceTemplate
from shared.wire.bodies import dump_json, parse_json

MIN_RSA_BITS: Final = 2048
"""A shorter key can be broken."""

MAX_RSA_BITS: Final = 4096
MAX_RSA_EXPONENT: Final = 2**32
"""With a longer key or a larger public exponent, each check takes milliseconds."""

_CURVES: Final = ("secp256r1", "secp384r1")

_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
"""A key id that is sent to the provider. The sender of the token chooses it."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """Location of a published key that neither the endpoint nor the request has.

    `url` may come from the request (such as the URL of a certificate), so it must be https, on one of
    `hosts`, below `path`, without user, port, query, fragment or escapes. `json` is the path of the key in a
    JSON document. `subject` is how the common name of a certificate must end. With `post`, the key is
    requested with POST and these fields of a JSON object; the field `key_id` is the id that the token names.
    """

    url: SourceTemplate
    hosts: tuple[str, ...] = ()
    path: str = "/"
    json: str = ""
    subject: str = ""
    post: tuple[tuple[str, SourceTemplate], ...] = ()
    key_id: str = ""

    def fetch_url(self, request: InboundRequest) -> str | None:
        """Return the URL to fetch the key from; None if it is missing or not allowed."""
        return allowed_url(self.url.text(request), self.hosts, self.path)

    def request_body(self, request: InboundRequest, key_id: object) -> bytes | None:
        """Return the body with which a key is requested; None if a field of it is missing."""
        if not (isinstance(key_id, str) and _KEY_ID.fullmatch(key_id)):
            return None
        fields = {name: template.text(request) for name, template in self.post}
        return None if None in fields.values() else dump_json({**fields, self.key_id: key_id})

    def jwks(self, body: bytes) -> bytes:
        """Return a document with the keys, from the body that was fetched.

        With `json`, the body has one key there, which becomes a document of its own.
        """
        if not self.json:
            return body
        try:
            return dump_json({"keys": [compile_path(self.json)(parse_json(body))]})
        except Malformed:
            return b""

    def pem(self, body: bytes) -> bytes | None:
        """Return the key, as PEM or DER, from the body that was fetched; None if it has none."""
        if not self.json:
            return body
        try:
            text = scalar_text(compile_path(self.json)(parse_json(body)))
        except Malformed:
            return None
        return text.encode() if text else None


@dataclass(frozen=True, slots=True)
class PublicKeyVerifier:
    """A signature made with the provider's private key: Ed25519, ECDSA (P-256, P-384) or RSA (PKCS #1).

    The public key is the endpoint's secret (hex, base64 of DER, or PEM), or is fetched from `keys`: PEM, or
    an X.509 certificate that is valid now.
    """

    kind: KeyType
    signature: SignatureFormat
    signed: SignedContent
    algorithm: Algorithm = "sha256"
    key: SecretFormat = TEXT_SECRET
    keys: KeySource | None = None
    timestamp: TimestampCheck | None = None
    when: Match = MATCH_ALL
    require: Match = MATCH_ALL

    @property
    def proof_location(self) -> str:
        return self.signature.location

    @property
    def hash_passes(self) -> int:
        return 1

    @property
    def uses_secrets(self) -> bool:
        return self.keys is None

    def applies(self, request: InboundRequest) -> bool:
        return self.signature.is_present(request) and self.when.holds(request)

    def key_url(self, request: InboundRequest) -> str | None:
        return self.keys.fetch_url(request) if self.keys else None

    def key_body(self, request: InboundRequest) -> bytes | None:
        del request
        return None  # certificates and key pairs are public documents

    def verify(
        self, request: InboundRequest, secrets: Sequence[bytes], now: float, fetched: FetchedKey | None = None
    ) -> VerificationResult:
        parsed = extract_signatures(self.signature, self.timestamp, self.require, request)
        if parsed.result is not VerificationResult.VERIFIED:
            return parsed.result
        content = self._content(request)
        if content is None:
            return VerificationResult.UNREADABLE
        public = self._keys_from_fetched(fetched, now) if self.keys else self._keys_from_secrets(secrets)
        if not public:
            return VerificationResult.UNREADABLE if self.keys else VerificationResult.NO_SECRET
        is_signed = any(
            self._is_signed_by(key, signature, content, request)
            for key in public
            for signature in parsed.signatures
        )
        return check_timestamp(self.timestamp, request, now) if is_signed else VerificationResult.MISMATCH

    def _content(self, request: InboundRequest) -> bytes | None:
        """Return the signed bytes for Ed25519, else their digest, made once for all signatures.

        None if a signed part is missing.
        """
        if self.kind == "ed25519":
            return self.signed.content(request)
        digest = hashlib.new(self.algorithm)
        return digest.digest() if self.signed.feed(request, b"", digest.update) else None

    def _is_signed_by(
        self, key: "PublicKey", signature: bytes, content: bytes, request: InboundRequest
    ) -> bool:
        # Ed25519 hashes the whole content again for each signature; for the others `content` is a digest.
        request.work.count_public_key_check(len(content))
        prehashed = asymmetric.Prehashed(_HASHES[self.algorithm])
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, content)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, content, ec.ECDSA(prehashed))
            else:
                key.verify(signature, content, padding.PKCS1v15(), prehashed)
        except (InvalidSignature, ValueError):
            return False
        return True

    def accepts_secret(self, secret: bytes) -> bool:
        key = self.key.key(secret)
        return self.keys is None and bool(key) and parse_public_key(self.kind, key or b"") is not None

    def _keys_from_secrets(self, secrets: Sequence[bytes]) -> list["PublicKey"]:
        parsed = (parse_public_key(self.kind, key) for key in self.key.keys(secrets))
        return [key for key in parsed if key is not None]

    def _keys_from_fetched(self, fetched: FetchedKey | None, now: float) -> list["PublicKey"]:
        pem = self.keys.pem(fetched.body) if self.keys and fetched else None
        if pem is None or self.keys is None:
            return []
        if b"BEGIN CERTIFICATE" in pem:
            key = _certificate_key(pem, self.keys.subject, now)
        else:
            key = parse_public_key(self.kind, pem)
        return [key] if key else []

    def sign(self, request: InboundRequest, secret: bytes, now: float) -> InboundRequest:
        """Return the signed request. `secret` is the private key as PEM. Raises `Malformed`."""
        request = add_timestamp(self.timestamp, request, now)
        content = self.signed.content(request)
        if content is None:
            raise Malformed("the request lacks a part that is signed")
        private = _private_key(secret)
        if isinstance(private, Ed25519PrivateKey):
            signature = private.sign(content)
        elif isinstance(private, ec.EllipticCurvePrivateKey):
            signature = private.sign(content, ec.ECDSA(_HASHES[self.algorithm]))
        elif isinstance(private, rsa.RSAPrivateKey):
            signature = private.sign(content, padding.PKCS1v15(), _HASHES[self.algorithm])
        else:
            raise Malformed("the key is neither Ed25519, nor ECDSA, nor RSA")
        return self.signature.add_to(request, signature)


@lru_cache(maxsize=16)
def _private_key(pem: bytes) -> Any:
    """Load a private key. Cached, because checking an RSA key takes a hundred times as long as signing."""
    return serialization.load_pem_private_key(pem, None)


PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_HASHES: Final = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha512": hashes.SHA512()}  # noqa: S303


@lru_cache(maxsize=4096)
def parse_public_key(kind: KeyType, raw: bytes) -> PublicKey | None:
    """Parse a public key in 32 raw bytes (Ed25519), DER or PEM.

    None if it cannot be read, is not of this kind, or is not acceptable (see `is_acceptable_key`).
    """
    try:
        key: Any
        if kind == "ed25519" and len(raw) == 32:
            key = Ed25519PublicKey.from_public_bytes(raw)
        elif b"-----BEGIN" in raw:
            key = serialization.load_pem_public_key(raw)
        else:
            key = serialization.load_der_public_key(raw)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return None
    return key if isinstance(key, _KEY_CLASSES[kind]) and is_acceptable_key(key) else None


def is_acceptable_key(key: Any) -> bool:
    """Return whether a public key is strong enough to prove something, and cheap enough to check."""
    if isinstance(key, rsa.RSAPublicKey):
        return MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS and key.public_numbers().e < MAX_RSA_EXPONENT
    return not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name in _CURVES


_KEY_CLASSES: Final[Mapping[str, type]] = {
    "ed25519": Ed25519PublicKey,
    "ecdsa": ec.EllipticCurvePublicKey,
    "rsa": rsa.RSAPublicKey,
}


def _certificate_key(pem: bytes, subject: str, now: float) -> PublicKey | None:
    """Return the key of a chain's first certificate, if it is valid now and its name ends with `subject`.

    The issuer is not checked: the certificate came over TLS from a host that the manifest names.
    """
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
        key = certificate.public_key()
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except (ValueError, IndexError, UnsupportedAlgorithm):
        return None
    valid = certificate.not_valid_before_utc.timestamp() <= now <= certificate.not_valid_after_utc.timestamp()
    has_subject = any(str(name.value).endswith(subject) for name in names)
    if not (valid and has_subject and is_acceptable_key(key)):
        return None
    return key if isinstance(key, Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey) else None
