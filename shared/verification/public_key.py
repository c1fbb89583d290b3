"""Signatures that only the platform can make: Ed25519, ECDSA and RSA, by keys entered or fetched."""

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
from shared.verification.request import (
    InboundRequest,
    Match,
    SignedContent,
    SourceTemplate,
    compile_path,
    scalar_text,
)
from shared.verification.scheme import (
    MATCH_ALL,
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
from shared.wire.bodies import parse_json

MIN_RSA_BITS: Final = 2048
"""Bits: a shorter key can be broken."""

MAX_RSA_BITS: Final = 4096
MAX_RSA_EXPONENT: Final = 2**32
"""A longer key or a larger public exponent makes each check take milliseconds."""

_CURVES: Final = ("secp256r1", "secp384r1")

_MAX_URL_CHARACTERS: Final = 500
_PLAIN_URL: Final = re.compile(r"https://([a-z0-9.-]+)(/[A-Za-z0-9._~/-]*)")
"""Host and path; what is not in it (escapes, a port, a user, other letters) might be read in two ways."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a key is that neither the endpoint nor the request has: at `url`, on one of `hosts` only.

    The address may come from the request (a certificate's) and then has to be https, on one of `hosts`,
    below `path`, without user, port, query, fragment or escapes. `json` is the path of the key in a JSON
    document; `subject` what the name of a certificate has to end with.
    """

    url: SourceTemplate
    hosts: tuple[str, ...] = ()
    path: str = "/"
    json: str = ""
    subject: str = ""

    def address(self, request: InboundRequest) -> str | None:
        """Where to fetch from; None for an address that is not allowed."""
        url = self.url.text(request)
        found = _PLAIN_URL.fullmatch(url) if url and len(url) <= _MAX_URL_CHARACTERS else None
        if found is None or found[1] not in self.hosts:
            return None
        return url if found[2].startswith(self.path) and ".." not in found[2] else None

    def pem(self, body: bytes) -> bytes | None:
        """The key in what was fetched."""
        if not self.json:
            return body
        try:
            said = scalar_text(compile_path(self.json)(parse_json(body)))
        except Malformed:
            return None
        return said.encode() if said else None


@dataclass(frozen=True, slots=True)
class PublicKeyVerifier:
    """A signature that only the platform's private key can make: Ed25519, ECDSA (P-256) or RSA (PKCS #1).

    The public key is the endpoint's secret (hex, base64 of DER, or PEM), or is fetched from `keys`: PEM, or
    an X.509 certificate, which has to be valid now.
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
        return f"the header {self.signature.headers[0].decode()}"

    @property
    def hash_passes(self) -> int:
        return 1

    def applies(self, request: InboundRequest) -> bool:
        return self.signature.is_present(request) and self.when.holds(request)

    def key_url(self, request: InboundRequest) -> str | None:
        return self.keys.address(request) if self.keys else None

    def verify(
        self, request: InboundRequest, secrets: Sequence[bytes], now: float, fetched: FetchedKey | None = None
    ) -> VerificationResult:
        found = extract_signatures(self.signature, self.timestamp, self.require, request)
        if found.verdict is not VerificationResult.VERIFIED:
            return found.verdict
        content = self._content(request)
        if content is None:
            return VerificationResult.UNREADABLE
        public = self._keys_from_fetched(fetched, now) if self.keys else self._keys_from_secrets(secrets)
        if not public:
            return VerificationResult.UNREADABLE if self.keys else VerificationResult.NO_SECRET
        right = any(
            self._is_signed_by(key, signature, content, request)
            for key in public
            for signature in found.signatures
        )
        return check_timestamp(self.timestamp, request, now) if right else VerificationResult.MISMATCH

    def _content(self, request: InboundRequest) -> bytes | None:
        """What is signed: for Ed25519 itself, else its digest, which is made once for all signatures."""
        if self.kind == "ed25519":
            return self.signed.of(request)
        digest = hashlib.new(self.algorithm)
        return digest.digest() if self.signed.feed(request, b"", digest.update) else None

    def _is_signed_by(
        self, key: "PublicKey", signature: bytes, content: bytes, request: InboundRequest
    ) -> bool:
        request.work.count_public_key_check(len(content))  # Ed25519 hashes all of it for each signature
        made = asymmetric.Prehashed(_HASHES[self.algorithm])
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, content)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, content, ec.ECDSA(made))
            else:
                key.verify(signature, content, padding.PKCS1v15(), made)
        except (InvalidSignature, ValueError):
            return False
        return True

    def accepts_secret(self, secret: bytes) -> bool:
        key = self.key.key(secret)
        return self.keys is None and bool(key) and parse_public_key(self.kind, key or b"") is not None

    def _keys_from_secrets(self, secrets: Sequence[bytes]) -> list["PublicKey"]:
        found = (parse_public_key(self.kind, key) for key in self.key.keys(secrets))
        return [key for key in found if key is not None]

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
        """`secret` is the private key as PEM."""
        request = add_timestamp(self.timestamp, request, now)
        content = self.signed.of(request)
        if content is None:
            raise Malformed("the request lacks a part that is signed")
        private = _private_key(secret)
        if isinstance(private, Ed25519PrivateKey):
            made = private.sign(content)
        elif isinstance(private, ec.EllipticCurvePrivateKey):
            made = private.sign(content, ec.ECDSA(_HASHES[self.algorithm]))
        elif isinstance(private, rsa.RSAPrivateKey):
            made = private.sign(content, padding.PKCS1v15(), _HASHES[self.algorithm])
        else:
            raise Malformed("the key is neither Ed25519, nor ECDSA, nor RSA")
        return self.signature.signed(request, made)


@lru_cache(maxsize=16)
def _private_key(pem: bytes) -> Any:
    """Kept from one signature to the next: to check an RSA key takes a hundred times as long as to sign."""
    return serialization.load_pem_private_key(pem, None)


PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_HASHES: Final = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha512": hashes.SHA512()}  # noqa: S303


@lru_cache(maxsize=4096)
def parse_public_key(kind: KeyType, raw: bytes) -> PublicKey | None:
    """A key as platforms write it: 32 bytes (Ed25519), DER, or PEM; None when it is of another kind."""
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
    """Whether a public key is neither too weak to prove anything nor too slow to be checked for strangers."""
    if isinstance(key, rsa.RSAPublicKey):
        return MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS and key.public_numbers().e < MAX_RSA_EXPONENT
    return not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name in _CURVES


_KEY_CLASSES: Final[Mapping[str, type]] = {
    "ed25519": Ed25519PublicKey,
    "ecdsa": ec.EllipticCurvePublicKey,
    "rsa": rsa.RSAPublicKey,
}


def _certificate_key(pem: bytes, subject: str, now: float) -> PublicKey | None:
    """The key of a certificate that is valid now and is made out to `subject`; the first of a chain counts.

    Who issued it is not looked at: it came over TLS from a host that the manifest names.
    """
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
        key = certificate.public_key()
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except (ValueError, IndexError, UnsupportedAlgorithm):
        return None
    valid = certificate.not_valid_before_utc.timestamp() <= now <= certificate.not_valid_after_utc.timestamp()
    ours = any(str(name.value).endswith(subject) for name in names)
    if not (valid and ours and is_acceptable_key(key)):
        return None
    return key if isinstance(key, Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey) else None
