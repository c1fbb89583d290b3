"""How platforms prove that a webhook is theirs: each way a value with `verify` and `sign`. Pure.

A way looks at a `Request` and at the endpoint's secrets, newest first (several are valid while one is
rotated), and gives a `Verdict`. Comparison is in constant time, over the bytes as they came. `sign` makes
what `verify` accepts: for test deliveries, fixtures and the tests of every provider.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote, urlsplit

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.contracts.errors import Malformed
from shared.wire.bodies import parse_json
from shared.wire.requests import Match, Request, Signed, Template, decoded, path_of, text_of

Encoding = Literal["hex", "base64"]
Algorithm = Literal["sha1", "sha256", "sha512"]
Curve = Literal["ed25519", "ecdsa", "rsa"]
Form = Literal["text", "base64", "hex"]
Moment = Literal["seconds", "milliseconds", "rfc3339"]


_LONGEST_URL: Final = 500


class Verdict(StrEnum):
    """Why a request was accepted or not; the value is the metric's label and stands in executions."""

    VERIFIED = "verified"
    UNSIGNED = "unsigned"
    """Accepted without a proof, because the endpoint says so."""
    MISSING = "missing"
    DOUBLED = "doubled"
    UNREADABLE = "unreadable"
    STALE = "stale"
    MISMATCH = "mismatch"
    BODY_CHANGED = "body_changed"
    NO_SECRET = "no_secret"  # noqa: S105 -- a word
    """The endpoint has no secret yet that this way of signing could use."""


@dataclass(frozen=True, slots=True)
class KeyForm:
    """How an endpoint's secret, as its owner sees it, becomes the bytes of a key.

    `prefix` is what a secret of this way starts with, and is taken away; `otherwise` says what a secret
    without it is: read in this form, or not for this way (None). `except_prefix` leaves secrets to another
    way.
    """

    form: Form = "text"
    prefix: str = ""
    otherwise: Form | None = None
    except_prefix: str = ""

    def key(self, secret: bytes) -> bytes | None:
        """The key, None when the secret is not for this way or cannot be read."""
        if self.except_prefix and secret.startswith(self.except_prefix.encode()):
            return None
        form: Form | None = self.form
        if self.prefix:
            if secret.startswith(self.prefix.encode()):
                secret = secret[len(self.prefix.encode()) :]
            else:
                form = self.otherwise
        if form is None:
            return None
        return secret if form == "text" else decoded(secret, form)

    def written(self, key: bytes) -> str:
        """A secret for these bytes, as its owner would see it."""
        if self.form == "text":
            return self.prefix + key.decode()
        return self.prefix + (key.hex() if self.form == "hex" else base64.b64encode(key).decode())

    def keys(self, secrets: Sequence[bytes]) -> list[bytes]:
        """Those of the endpoint's secrets that are keys of this way."""
        return [key for key in map(self.key, secrets) if key]


@dataclass(frozen=True, slots=True)
class Timestamp:
    """When a request was sent: where it says so, how it is written, and how far off the clock it may be.

    Without `source` the time is in the signature's header. `future_s` is for clocks that are ahead.
    """

    source: Template | None
    moment: Moment = "seconds"
    tolerance_s: float = 300.0
    future_s: float = 300.0

    def verdict(self, text: str, now: float) -> Verdict:
        """Whether a time, as it is written in the request, is near enough to `now` (Unix seconds)."""
        at = self.unix(text)
        if at is None:
            return Verdict.UNREADABLE
        return Verdict.VERIFIED if -self.future_s <= now - at <= self.tolerance_s else Verdict.STALE

    def written(self, now: float) -> str:
        """A moment as the platform writes it."""
        if self.moment == "rfc3339":
            return datetime.fromtimestamp(int(now), UTC).isoformat().replace("+00:00", "Z")
        return str(int(now * 1000 if self.moment == "milliseconds" else now))

    def unix(self, text: str) -> float | None:
        """The moment in Unix seconds; None when it is not written as it should be."""
        if self.moment == "rfc3339":
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                return None
            return moment.timestamp() if moment.tzinfo else None
        if not (text.isascii() and text.isdigit() and len(text) <= 16):
            return None
        return int(text) / (1000 if self.moment == "milliseconds" else 1)


@dataclass(frozen=True, slots=True)
class Signature:
    """Where signatures are and how they are written.

    One header or several (each of them may match), a `prefix` before each signature, several of them in one
    value with a `separator`. `field` is for headers of pairs (`t=1614,v1=ab`): which ones are signatures;
    `time_field` which one is the time.
    """

    headers: tuple[bytes, ...]
    encoding: Encoding = "hex"
    prefixes: tuple[bytes, ...] = (b"",)
    separator: bytes = b""
    field: bytes = b""
    time_field: bytes = b""

    def found(self, request: Request) -> "Found":
        """The signatures of a request."""
        texts: list[bytes] = []
        at = ""
        for name in self.headers:
            values = request.headers.get(name)
            if not values:
                continue
            if len(values) > 1:
                return Found(Verdict.DOUBLED)
            pieces = values[0].split(self.separator) if self.separator else values
            for piece in pieces:
                text = piece.strip()
                if self.field:
                    key, _, text = text.partition(b"=")
                    if self.time_field and key == self.time_field:
                        at = text.decode("latin-1")
                    if key != self.field:
                        continue
                texts.append(text)
        if not texts:
            there = any(request.headers.get(name) for name in self.headers)
            return Found(Verdict.UNREADABLE if there else Verdict.MISSING)
        signatures = [signature for signature in map(self._signature, texts) if signature]
        return Found(Verdict.VERIFIED if signatures else Verdict.UNREADABLE, signatures, at)

    def _signature(self, text: bytes) -> bytes | None:
        for prefix in self.prefixes:
            if text.startswith(prefix):
                return decoded(text[len(prefix) :], self.encoding)
        return None

    def there(self, request: Request) -> bool:
        """Whether the request has one of the headers."""
        return any(name in request.headers for name in self.headers)

    def signed(self, request: Request, signature: bytes) -> Request:
        """The request with this signature in its header."""
        return request.with_header(self.headers[0], self._written(signature, request.timestamp))

    def _written(self, signature: bytes, at: str) -> bytes:
        text = signature.hex().encode() if self.encoding == "hex" else base64.b64encode(signature)
        text = self.prefixes[0] + text
        if not self.field:
            return text
        pairs = [self.field + b"=" + text]
        if self.time_field:
            pairs.insert(0, self.time_field + b"=" + at.encode())
        return self.separator.join(pairs)


@dataclass(frozen=True, slots=True)
class Found:
    """The signatures of a request, or why there are none; `at` is the time in a header of pairs."""

    verdict: Verdict
    signatures: Sequence[bytes] = ()
    at: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A key or certificate that a way needs and a request does not have: where it is, and what is there.

    Whoever does I/O gets `wanted` from the way, fetches it, and calls `verify` with what came.
    """

    url: str
    body: bytes


class Way(Protocol):
    """One way of signing, as a manifest compiles it."""

    @property
    def about(self) -> str:
        """The part of the request that carries the proof, as error messages name it."""

    def applies(self, request: Request) -> bool:
        """Whether the request carries this way's proof: the first way that applies decides."""

    def wanted(self, request: Request) -> str | None:
        """The address of a key that `verify` needs fetched, None when it needs none."""

    def verify(
        self, request: Request, secrets: Sequence[bytes], now: float, fetched: Fetched | None = None
    ) -> Verdict:
        """Whether one of `secrets` (or the fetched key) made the proof. `now` is in Unix seconds.

        Raises `Malformed` when a part that is signed cannot be read.
        """

    def sign(self, request: Request, secret: bytes, now: float) -> Request:
        """The request as the platform would send it. For key pairs `secret` is the private key as PEM."""


_ALWAYS: Final = Match({})


@dataclass(frozen=True, slots=True)
class BodyHash:
    """A digest of the body that the signature covers, in a part of the request."""

    source: Template
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"

    def holds(self, request: Request) -> bool:
        """Whether the body is the one that the digest was made of."""
        said = self.source.text(request)
        given = decoded(said, self.encoding) if said else None
        return given is not None and hmac.compare_digest(given, self._digest(request))

    def made(self, request: Request) -> str:
        """The digest, as it is written."""
        digest = self._digest(request)
        return digest.hex() if self.encoding == "hex" else base64.b64encode(digest).decode()

    def _digest(self, request: Request) -> bytes:
        return hashlib.new(self.algorithm, request.body).digest()


@dataclass(frozen=True, slots=True)
class Mac:
    """HMAC of `signed`, or, with `plain`, a bare digest of a text that has `{secret}` in it.

    Several `signed` are alternatives: one of them has to match.
    """

    signature: Signature
    signed: tuple[Signed, ...]
    algorithm: Algorithm = "sha256"
    plain: bool = False
    key: KeyForm = KeyForm()
    timestamp: Timestamp | None = None
    body_hash: BodyHash | None = None
    when: Match = _ALWAYS
    require: Match = _ALWAYS

    @property
    def about(self) -> str:
        return f"the header {self.signature.headers[0].decode()}"

    def applies(self, request: Request) -> bool:
        return self.signature.there(request) and self.when.holds(request)

    def wanted(self, request: Request) -> str | None:
        del request
        return None

    def verify(
        self, request: Request, secrets: Sequence[bytes], now: float, fetched: Fetched | None = None
    ) -> Verdict:
        del fetched
        found = self.signature.found(request)
        if found.verdict is not Verdict.VERIFIED:
            return found.verdict
        if not _is_stamped(self.timestamp, request, found.at) or not self.require.holds(request):
            return Verdict.UNREADABLE
        keys = self.key.keys(secrets)
        if not keys:
            return Verdict.NO_SECRET
        verified = False
        for key in keys:
            for signed in self.signed:
                made = self._digest(request, key, signed)
                if made is not None:
                    for signature in found.signatures:
                        verified |= hmac.compare_digest(made, signature)
        if not verified:
            return Verdict.MISMATCH
        if self.body_hash and not self.body_hash.holds(request):
            return Verdict.BODY_CHANGED
        return _in_time(self.timestamp, request, now)

    def sign(self, request: Request, secret: bytes, now: float) -> Request:
        request = _stamped(self.timestamp, request, now)
        if self.body_hash:
            request = request.with_part(self.body_hash.source.source, self.body_hash.made(request))
        key = self.key.key(secret)
        made = self._digest(request, key, self.signed[0]) if key else None
        if made is None:
            raise Malformed("the request lacks a part that is signed, or the secret is not for this way")
        return self.signature.signed(request, made)

    def _digest(self, request: Request, key: bytes, signed: Signed) -> bytes | None:
        content = signed.of(request, key)
        if content is None:
            return None
        if self.plain:
            return hashlib.new(self.algorithm, content).digest()
        return hmac.digest(key, content, self.algorithm)


@dataclass(frozen=True, slots=True)
class Token:
    """The secret itself, in a part of the request, or in every element of a batch.

    `each` is the path of the batch (`value`) whose elements each carry it at `source`.
    """

    source: Template
    prefix: str = ""
    each: str = ""
    key: KeyForm = KeyForm()
    when: Match = _ALWAYS
    require: Match = _ALWAYS

    @property
    def about(self) -> str:
        return f"the token ({self.source.source.strip('{}').replace(':', ' ')})"

    def applies(self, request: Request) -> bool:
        return (bool(self.each) or self.source.text(request) is not None) and self.when.holds(request)

    def wanted(self, request: Request) -> str | None:
        del request
        return None

    def verify(
        self, request: Request, secrets: Sequence[bytes], now: float, fetched: Fetched | None = None
    ) -> Verdict:
        del now, fetched
        given = self._given(request)
        if given is None:
            return Verdict.MISSING
        if not self.require.holds(request):
            return Verdict.UNREADABLE
        keys = self.key.keys(secrets)
        if not keys:
            return Verdict.NO_SECRET
        verified = True
        for token in given:
            raw = token.removeprefix(self.prefix).encode("utf-8", "surrogatepass")
            same = False
            for key in keys:
                same |= hmac.compare_digest(raw, key)
            verified &= same and token.startswith(self.prefix)
        return Verdict.VERIFIED if verified else Verdict.MISMATCH

    def _given(self, request: Request) -> list[str] | None:
        """Every token of the request; None when one is missing: an element without it would ride along."""
        if not self.each:
            token = self.source.text(request)
            return None if token is None else [token]
        elements = path_of(self.each)(request.payload)
        if not isinstance(elements, list) or not elements:
            return None
        given = [self.source.text(request.of(request.payload, element)) for element in elements]
        return None if None in given else [token for token in given if token]

    def sign(self, request: Request, secret: bytes, now: float) -> Request:
        del now
        if not self.each:
            return request.with_part(self.source.source, self.prefix + secret.decode())
        tokens = self._given(request)
        if not tokens:
            raise Malformed(f"an element of {self.each} has no token to exchange")
        body = request.body
        for token in set(tokens):
            body = body.replace(token.encode(), secret)
        return request.with_body(body)


@dataclass(frozen=True, slots=True)
class Basic:
    """HTTP Basic: the secret is `user:password`."""

    when: Match = _ALWAYS
    require: Match = _ALWAYS

    @property
    def about(self) -> str:
        return "the header authorization (Basic)"

    def applies(self, request: Request) -> bool:
        return _scheme(request) == "basic" and self.when.holds(request)

    def wanted(self, request: Request) -> str | None:
        del request
        return None

    def verify(
        self, request: Request, secrets: Sequence[bytes], now: float, fetched: Fetched | None = None
    ) -> Verdict:
        del now, fetched
        said = request.header(b"authorization")
        if said is None:
            return _how_missing(request, b"authorization")
        given = decoded(said.partition(" ")[2].strip(), "base64")
        if given is None or b":" not in given:
            return Verdict.UNREADABLE
        if not secrets:
            return Verdict.NO_SECRET
        verified = False
        for secret in secrets:
            verified |= hmac.compare_digest(given, secret)
        return Verdict.VERIFIED if verified else Verdict.MISMATCH

    def sign(self, request: Request, secret: bytes, now: float) -> Request:
        del now
        return request.with_header(b"authorization", b"Basic " + base64.b64encode(secret))


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a key is that neither the endpoint nor the request has: at `url`, on one of `hosts` only.

    The address may come from the request (a certificate's) and then has to be https, on one of `hosts`,
    below `path`, without user, port or query. `json` is the path of the key in a JSON document; `subject`
    what the name of a certificate has to end with.
    """

    url: Template
    hosts: tuple[str, ...] = ()
    path: str = "/"
    json: str = ""
    subject: str = ""

    def address(self, request: Request) -> str | None:
        """Where to fetch from; None for an address that is not allowed."""
        url = self.url.text(request)
        if url is None or len(url) > _LONGEST_URL:
            return None
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            return None
        allowed = (
            parts.scheme == "https" and parts.hostname in self.hosts and parts.path.startswith(self.path)
        )
        plain = parts.username is None and port is None and not parts.query and ".." not in parts.path
        return url if allowed and plain else None

    def pem(self, body: bytes) -> bytes | None:
        """The key in what was fetched."""
        if not self.json:
            return body
        said = text_of(path_of(self.json)(parse_json(body)))
        return said.encode() if said else None


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A signature that only the platform's private key can make: Ed25519, ECDSA (P-256) or RSA (PKCS #1).

    The public key is the endpoint's secret (hex, base64 of DER, or PEM), or is fetched from `keys`: PEM, or
    an X.509 certificate, which has to be valid now.
    """

    kind: Curve
    signature: Signature
    signed: Signed
    algorithm: Algorithm = "sha256"
    key: KeyForm = KeyForm()
    keys: KeySource | None = None
    timestamp: Timestamp | None = None
    when: Match = _ALWAYS
    require: Match = _ALWAYS

    @property
    def about(self) -> str:
        return f"the header {self.signature.headers[0].decode()}"

    def applies(self, request: Request) -> bool:
        return self.signature.there(request) and self.when.holds(request)

    def wanted(self, request: Request) -> str | None:
        return self.keys.address(request) if self.keys else None

    def verify(
        self, request: Request, secrets: Sequence[bytes], now: float, fetched: Fetched | None = None
    ) -> Verdict:
        found = self.signature.found(request)
        if found.verdict is not Verdict.VERIFIED:
            return found.verdict
        if not _is_stamped(self.timestamp, request, found.at) or not self.require.holds(request):
            return Verdict.UNREADABLE
        content = self.signed.of(request)
        if content is None:
            return Verdict.UNREADABLE
        public = self._fetched(fetched, now) if self.keys else self._own(secrets)
        if not public:
            return Verdict.UNREADABLE if self.keys else Verdict.NO_SECRET
        right = any(
            _is_signed_by(key, signature, content, self.algorithm)
            for key in public
            for signature in found.signatures
        )
        return _in_time(self.timestamp, request, now) if right else Verdict.MISMATCH

    def _own(self, secrets: Sequence[bytes]) -> list["PublicKey"]:
        found = (public_key(self.kind, key) for key in self.key.keys(secrets))
        return [key for key in found if key is not None]

    def _fetched(self, fetched: Fetched | None, now: float) -> list["PublicKey"]:
        pem = self.keys.pem(fetched.body) if self.keys and fetched else None
        if pem is None or self.keys is None:
            return []
        if b"BEGIN CERTIFICATE" in pem:
            key = _certified(pem, self.keys.subject, now)
        else:
            key = public_key(self.kind, pem)
        return [key] if key else []

    def sign(self, request: Request, secret: bytes, now: float) -> Request:
        """`secret` is the private key as PEM."""
        request = _stamped(self.timestamp, request, now)
        content = self.signed.of(request)
        if content is None:
            raise Malformed("the request lacks a part that is signed")
        private = serialization.load_pem_private_key(secret, None)
        if isinstance(private, Ed25519PrivateKey):
            made = private.sign(content)
        elif isinstance(private, ec.EllipticCurvePrivateKey):
            made = private.sign(content, ec.ECDSA(_HASHES[self.algorithm]))
        elif isinstance(private, rsa.RSAPrivateKey):
            made = private.sign(content, padding.PKCS1v15(), _HASHES[self.algorithm])
        else:
            raise Malformed("the key is neither Ed25519, nor ECDSA, nor RSA")
        return self.signature.signed(request, made)


PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_HASHES: Final = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha512": hashes.SHA512()}  # noqa: S303


@lru_cache(maxsize=4096)
def public_key(kind: Curve, raw: bytes) -> PublicKey | None:
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
    return key if isinstance(key, _KINDS[kind]) and not _is_short(key) else None


def _is_short(key: Any) -> bool:
    return isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048


_KINDS: Final[Mapping[str, type]] = {
    "ed25519": Ed25519PublicKey,
    "ecdsa": ec.EllipticCurvePublicKey,
    "rsa": rsa.RSAPublicKey,
}


def _is_signed_by(key: PublicKey, signature: bytes, content: bytes, algorithm: Algorithm) -> bool:
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, content)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, content, ec.ECDSA(_HASHES[algorithm]))
        else:
            key.verify(signature, content, padding.PKCS1v15(), _HASHES[algorithm])
    except (InvalidSignature, ValueError):
        return False
    return True


def _certified(pem: bytes, subject: str, now: float) -> PublicKey | None:
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
    if not (valid and ours) or _is_short(key):
        return None
    return key if isinstance(key, Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey) else None


@dataclass(frozen=True, slots=True)
class Jwt:
    """A signed token in a header: who sent it, to whom, when; and of the body only what it has a hash of.

    `claims` have to be as they say; `issuer` and `audience` too, where they are given. With `keys`, the
    signing keys are a JWKS document that is fetched; else the secret is the HMAC key. `body_hash` is a claim
    with a digest of the body, `query_hash` one with Atlassian's digest of method, path and query (`qsh`).
    """

    header: bytes
    prefix: str
    algorithms: tuple[str, ...]
    keys: KeySource | None = None
    key: KeyForm = KeyForm()
    issuers: tuple[str, ...] = ()
    audience: Template | None = None
    claims: tuple[tuple[str, Template], ...] = ()
    body_hash: tuple[str, Algorithm, Encoding] | None = None
    query_hash: str = ""
    leeway_s: float = 60.0
    when: Match = _ALWAYS
    require: Match = _ALWAYS

    @property
    def about(self) -> str:
        return f"the token in the header {self.header.decode()}"

    def applies(self, request: Request) -> bool:
        said = request.header(self.header) or ""
        return said.lower().startswith(self.prefix.lower()) and self.when.holds(request)

    def wanted(self, request: Request) -> str | None:
        return self.keys.address(request) if self.keys else None

    def verify(
        self, request: Request, secrets: Sequence[bytes], now: float, fetched: Fetched | None = None
    ) -> Verdict:
        said = request.header(self.header)
        if said is None:
            return _how_missing(request, self.header)
        token = said[len(self.prefix) :].strip()
        if not self.require.holds(request) or not token:
            return Verdict.UNREADABLE
        candidates: list[Any] = list(self.key.keys(secrets))
        if self.keys:
            try:
                candidates = _from_jwks(token, fetched.body if fetched else b"")
            except jwt.PyJWTError:
                return Verdict.UNREADABLE
        if not candidates:
            return Verdict.MISMATCH if self.keys else Verdict.NO_SECRET
        worst = Verdict.MISMATCH
        for candidate in candidates:
            verdict = self._verdict(request, token, candidate, now)
            if verdict is not Verdict.MISMATCH:
                worst = verdict
            if verdict is Verdict.VERIFIED:
                break
        return worst

    def _verdict(self, request: Request, token: str, key: Any, now: float) -> Verdict:
        try:
            claims = jwt.decode(token, key, algorithms=list(self.algorithms), options=_ONLY_SIGNATURE)
        except jwt.InvalidSignatureError:
            return Verdict.MISMATCH
        except (jwt.PyJWTError, ValueError, TypeError):
            return Verdict.UNREADABLE
        if not self._is_for_us(request, claims):
            return Verdict.MISMATCH
        if not self._covers(request, claims):
            return Verdict.BODY_CHANGED
        return self._age(claims, now)

    def _is_for_us(self, request: Request, claims: Mapping[str, Any]) -> bool:
        if self.issuers and claims.get("iss") not in self.issuers:
            return False
        if self.audience:
            wanted, given = self.audience.text(request), claims.get("aud")
            if not wanted or wanted not in (given if isinstance(given, list) else [given]):
                return False
        for name, template in self.claims:
            wanted = template.text(request)
            if not wanted or text_of(claims.get(name)) != wanted:
                return False
        return True

    def _covers(self, request: Request, claims: Mapping[str, Any]) -> bool:
        if self.query_hash:
            given = text_of(claims.get(self.query_hash)) or ""
            if not hmac.compare_digest(given.encode(), query_string_hash(request).encode()):
                return False
        if self.body_hash is None:
            return True
        name, algorithm, encoding = self.body_hash
        digest = decoded(text_of(claims.get(name)) or "", encoding) or b""
        return hmac.compare_digest(digest, hashlib.new(algorithm, request.body).digest())

    def _age(self, claims: Mapping[str, Any], now: float) -> Verdict:
        """A token without an end is refused: it would be valid for good."""
        ends, starts = claims.get("exp"), claims.get("nbf", claims.get("iat"))
        if isinstance(ends, bool) or not isinstance(ends, int | float):
            return Verdict.UNREADABLE
        early = isinstance(starts, int | float) and starts > now + self.leeway_s
        return Verdict.STALE if early or now > ends + self.leeway_s else Verdict.VERIFIED

    def sign(self, request: Request, secret: bytes, now: float) -> Request:
        """`secret` is the HMAC key, or the private key as PEM; its key id in a JWKS is `fixture`."""
        claims: dict[str, Any] = {"iat": int(now), "exp": int(now) + 300}
        if self.issuers:
            claims["iss"] = self.issuers[0]
        if self.audience:
            claims["aud"] = self.audience.text(request)
        for name, template in self.claims:
            said = template.text(request)
            claims[name] = {"true": True, "false": False}.get(said or "", said)
        if self.query_hash:
            claims[self.query_hash] = query_string_hash(request)
        if self.body_hash:
            name, algorithm, encoding = self.body_hash
            digest = hashlib.new(algorithm, request.body).digest()
            claims[name] = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
        key: Any = secret if self.keys else self.key.key(secret)
        token = jwt.encode(claims, key, algorithm=self.algorithms[0], headers={"kid": FIXTURE_KEY})
        return request.with_header(self.header, (self.prefix + token).encode())


FIXTURE_KEY: Final = "fixture"
_ONLY_SIGNATURE: Final[Any] = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
"""What a token claims is compared here, with the time as a parameter."""


def _from_jwks(token: str, document: bytes) -> list[Any]:
    """The key that the token names; every key when it names none."""
    keys = _jwks(document)
    name = jwt.get_unverified_header(token).get("kid")
    return [key for key_id, key in keys if name is None or key_id == name]


@lru_cache(maxsize=64)
def _jwks(document: bytes) -> list[tuple[str | None, Any]]:
    try:
        found = parse_json(document).get("keys", [])
    except (Malformed, AttributeError):
        return []
    keys: list[tuple[str | None, Any]] = []
    for each in found[:100] if isinstance(found, list) else []:
        try:
            key = jwt.PyJWK(each)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            continue
        if key.key_type != "oct":  # a public document has no use for a shared key
            keys.append((key.key_id, key.key))
    return keys


def query_string_hash(request: Request) -> str:
    """Atlassian's `qsh`: SHA-256 of method, path and the sorted query, each percent-encoded.

    https://developer.atlassian.com/cloud/jira/platform/understanding-jwt-for-connect-apps/ ("Creating a
    query string hash"): values of one name are joined by a comma, and the parameter `jwt` is left out.
    """
    values: dict[str, list[str]] = {}
    for name, value in request.query:
        if name != "jwt":
            values.setdefault(quote(name, safe="-._~"), []).append(quote(value, safe="-._~"))
    query = "&".join(f"{name}={','.join(sorted(each))}" for name, each in sorted(values.items()))
    path = urlsplit(request.address).path.rstrip("/") or "/"
    return hashlib.sha256(f"{request.method.upper()}&{path}&{query}".encode()).hexdigest()


def _scheme(request: Request) -> str:
    return (request.header(b"authorization") or "").partition(" ")[0].lower()


def _how_missing(request: Request, header: bytes) -> Verdict:
    return Verdict.DOUBLED if len(request.headers.get(header, ())) > 1 else Verdict.MISSING


def _is_stamped(timestamp: Timestamp | None, request: Request, in_signature: str) -> bool:
    """Note the request's time, as it is written, in the request: signatures cover that text."""
    if timestamp is None:
        return True
    said = in_signature or (timestamp.source.text(request) if timestamp.source else None)
    request.timestamp = said or ""
    return bool(said)


def _in_time(timestamp: Timestamp | None, request: Request, now: float) -> Verdict:
    return timestamp.verdict(request.timestamp, now) if timestamp else Verdict.VERIFIED


def _stamped(timestamp: Timestamp | None, request: Request, now: float) -> Request:
    if timestamp is None:
        return request
    text = timestamp.written(now)
    if timestamp.source:
        request = request.with_part(timestamp.source.source, text)
    request.timestamp = text
    return request
