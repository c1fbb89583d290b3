"""The signature schemes of a manifest. Each compiles to a verifier of `shared/verification`."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from shared.manifests.base import ManifestModel, as_list
from shared.verification.hmac import BodyHash, HmacVerifier
from shared.verification.jwt import JwtVerifier
from shared.verification.match import Match
from shared.verification.public_key import KeySource, PublicKeyVerifier
from shared.verification.request import InboundRequest
from shared.verification.scheme import (
    Algorithm,
    KeyEncoding,
    SchemeVerifier,
    SecretFormat,
    SignatureEncoding,
    SignatureFormat,
    TimeFormat,
    TimestampCheck,
)
from shared.verification.sources import SourceTemplateError
from shared.verification.template import SignedContent, SourceTemplate
from shared.verification.token import BasicAuthVerifier, TokenVerifier

HeaderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,60}$")]


MAX_SIGNED_TEXTS: Final = 3
"""Alternative signed texts of a scheme. The body is hashed once for each."""

_MAX_RULES: Final = 20
_MAX_VALUES: Final = 50
_MAX_NAMES: Final = 10
_WEEK_S: Final = 7 * 24 * 3600
_BODY_SOURCES: Final = ("{body}", "{sha256}", "{crc32}", "{sorted_form}")
_TOKEN_SOURCE: Final = re.compile(r"\{(?:header|query|form|json|item):[^{}]+\}")
_EMPTY_REQUEST: Final = InboundRequest("POST", "", b"", {}, b"", {}, lambda _: None)


def _validated_by(compile_value: Callable[[Any], object]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        try:
            compile_value(value)
        except SourceTemplateError as error:
            raise ValueError(str(error)) from None
        return value

    return check


TemplateText = Annotated[str, AfterValidator(_validated_by(SourceTemplate))]
"""A text with sources in braces."""

SignedText = Annotated[str, AfterValidator(_validated_by(SignedContent))]
"""Like `TemplateText`, with `{body}` (raw) and `{secret}` as well."""

MatchRules = Annotated[
    dict[str, str | int | bool | Annotated[list[str | int], Field(max_length=_MAX_VALUES)]],
    Field(max_length=_MAX_RULES),
    AfterValidator(_validated_by(Match)),
]
"""Sources and their expected values; see `shared.verification.request.Match`."""


SignedTexts = Annotated[
    tuple[SignedText, ...], BeforeValidator(as_list), Field(min_length=1, max_length=MAX_SIGNED_TEXTS)
]
"""One signed text, or several of which one has to be signed."""


class SignatureLocation(ManifestModel):
    """Where signatures are: see `shared.verification.scheme.SignatureFormat`."""

    header: Annotated[tuple[HeaderName, ...], BeforeValidator(as_list), Field(max_length=_MAX_NAMES)]
    """One header, or several of which any may match."""
    encoding: SignatureEncoding = "hex"
    prefix: Annotated[tuple[str, ...], BeforeValidator(as_list), Field(max_length=_MAX_NAMES)] = ("",)
    """Text before each signature. Several are alternatives; the provider sends the first."""
    separator: str = ""
    """Separator of several signatures (or pairs) in one value."""
    field: str = ""
    """In a value of pairs (`t=1,v1=ab`), the name of the signatures."""
    time_field: str = ""
    """In a value of pairs, the name of the time."""

    def compile(self) -> SignatureFormat:
        return SignatureFormat(
            tuple(name.encode() for name in self.header),
            self.encoding,
            tuple(prefix.encode() for prefix in self.prefix),
            self.separator.encode(),
            self.field.encode(),
            self.time_field.encode(),
        )


class KeySpec(ManifestModel):
    """How the secret becomes a key: see `shared.verification.scheme.SecretFormat`."""

    form: KeyEncoding = "text"
    prefix: str = ""
    otherwise: KeyEncoding | None = None
    except_prefix: str = ""

    def compile(self) -> SecretFormat:
        return SecretFormat(self.form, self.prefix, self.otherwise, self.except_prefix)


class TimestampSpec(ManifestModel):
    """The time at which the request was sent; without `from`, the `time_field` of the signature's header."""

    source: TemplateText | None = Field(None, alias="from")
    format: TimeFormat = "seconds"
    tolerance_s: Annotated[float, Field(gt=0, le=_WEEK_S)] = 300.0
    future_s: Annotated[float, Field(ge=0, le=_WEEK_S)] = 300.0

    def compile(self) -> TimestampCheck:
        source = SourceTemplate(self.source) if self.source else None
        return TimestampCheck(source, self.format, self.tolerance_s, self.future_s)


class BodyDigest(ManifestModel):
    """A digest of the body in another part of the request."""

    source: TemplateText = Field(alias="from")
    algorithm: Algorithm = "sha256"
    encoding: SignatureEncoding = "hex"


class RemoteKey(ManifestModel):
    """A key that has to be fetched: see `shared.verification.public_key.KeySource`."""

    url: TemplateText
    hosts: Annotated[tuple[str, ...], Field(max_length=_MAX_NAMES)]
    path: str = "/"
    json_: str = Field("", alias="json")
    subject: str = ""

    @model_validator(mode="after")
    def _may_be_fetched(self) -> "RemoteKey":
        source = self.compile()
        if source.url.constant and source.address(_EMPTY_REQUEST) is None:
            raise ValueError("url: use https and one of hosts (in lower case), without user, port and query")
        return self

    def compile(self) -> KeySource:
        return KeySource(SourceTemplate(self.url), self.hosts, self.path, self.json_, self.subject)


class _SchemeBase(ManifestModel):
    name: str = ""
    """The provider's name for it, if there are several."""
    when: MatchRules = {}
    """Requests that are signed by this scheme, besides having its header."""
    require: MatchRules = {}
    """Further conditions; a request that breaks one is malformed."""
    example: str = ""
    """A secret that is not real, for the scheme's tests, if random text would not be accepted."""


def _covers_the_body(signed: tuple[str, ...], body_hash: object) -> bool:
    """Return whether a signature over these texts covers the body."""
    return body_hash is not None or all(any(source in text for source in _BODY_SOURCES) for text in signed)


class HmacScheme(_SchemeBase):
    """HMAC over `signed`, which may be several alternatives."""

    scheme: Literal["hmac"]
    signature: SignatureLocation
    signed: SignedTexts = ("{body}",)
    algorithm: Algorithm = "sha256"
    key: KeySpec = KeySpec()
    timestamp: TimestampSpec | None = None
    body_hash: BodyDigest | None = None

    @model_validator(mode="after")
    def _signs_the_body(self) -> "HmacScheme":
        if not _covers_the_body(self.signed, self.body_hash):
            raise ValueError(f"signed: does not cover the body: add one of {', '.join(_BODY_SOURCES)}")
        return self

    def compile(self) -> SchemeVerifier:
        return _compile_hmac(self, plain=False)


class DigestScheme(_SchemeBase):
    """A plain digest of a text that contains `{secret}`."""

    scheme: Literal["digest"]
    signature: SignatureLocation
    signed: SignedTexts
    algorithm: Algorithm = "sha256"
    key: KeySpec = KeySpec()
    timestamp: TimestampSpec | None = None
    body_hash: BodyDigest | None = None

    @model_validator(mode="after")
    def _signs_the_body(self) -> "DigestScheme":
        if not all("{secret}" in text for text in self.signed):
            raise ValueError("signed: without {secret} anybody can compute the digest: add it")
        if not _covers_the_body(self.signed, self.body_hash):
            raise ValueError(f"signed: does not cover the body: add one of {', '.join(_BODY_SOURCES)}")
        return self

    def compile(self) -> SchemeVerifier:
        return _compile_hmac(self, plain=True)


class TokenScheme(_SchemeBase):
    """The secret itself in a header, the query, or the body (with `each`, in every element of a list)."""

    scheme: Literal["token"]
    source: TemplateText = Field(alias="from")
    prefix: str = ""
    each: str = ""
    key: KeySpec = KeySpec()

    @field_validator("source")
    @classmethod
    def _of_the_request(cls, text: str) -> str:
        if not _TOKEN_SOURCE.fullmatch(text):
            raise ValueError("from: use one source of the request, in braces: {header:x-token}, {json:token}")
        return text

    @model_validator(mode="after")
    def _is_in_each(self) -> "TokenScheme":
        if self.each and not self.source.startswith("{item:"):
            raise ValueError("from: with each, the token is in every element: use {item:token}")
        return self

    def compile(self) -> SchemeVerifier:
        return TokenVerifier(
            SourceTemplate(self.source),
            self.prefix,
            self.each,
            self.key.compile(),
            Match(self.when),
            Match(self.require),
        )


class BasicScheme(_SchemeBase):
    """HTTP Basic; the secret is `user:password`."""

    scheme: Literal["basic"]

    def compile(self) -> SchemeVerifier:
        return BasicAuthVerifier(Match(self.when), Match(self.require))


class KeyPairScheme(_SchemeBase):
    """A signature by the provider's private key. The public key is the secret, or it is fetched."""

    scheme: Literal["ed25519", "ecdsa", "rsa"]
    signature: SignatureLocation
    signed: SignedText = "{body}"
    algorithm: Algorithm = "sha256"
    key: KeySpec = KeySpec()
    keys: RemoteKey | None = None
    timestamp: TimestampSpec | None = None

    def compile(self) -> SchemeVerifier:
        return PublicKeyVerifier(
            self.scheme,
            self.signature.compile(),
            SignedContent(self.signed),
            self.algorithm,
            self.key.compile(),
            self.keys.compile() if self.keys else None,
            self.timestamp.compile() if self.timestamp else None,
            Match(self.when),
            Match(self.require),
        )


class BodyHashClaim(ManifestModel):
    """A claim with a digest of the body."""

    claim: str
    algorithm: Algorithm = "sha256"
    encoding: SignatureEncoding = "hex"


class JwtScheme(_SchemeBase):
    """A JSON Web Token in a header."""

    scheme: Literal["jwt"]
    header: HeaderName = "authorization"
    prefix: str = "Bearer "
    algorithms: tuple[Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "EdDSA"], ...]
    keys: RemoteKey | None = None
    """A JWKS document; without it the secret is the HMAC key."""
    key: KeySpec = KeySpec()
    issuer: Annotated[tuple[str, ...], Field(max_length=_MAX_NAMES)] = ()
    audience: TemplateText | None = None
    claims: Annotated[dict[str, TemplateText], Field(max_length=_MAX_NAMES)] = {}
    body_hash: BodyHashClaim | None = None
    query_hash: str = ""
    leeway_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    expires: bool = True
    """Whether the provider's tokens have an expiry (`exp`); without it, a token is valid for ever."""

    @model_validator(mode="after")
    def _has_keys(self) -> "JwtScheme":
        shared = {name for name in self.algorithms if name.startswith("HS")}
        if self.keys and shared:
            raise ValueError("keys: published keys are for RS, ES and EdDSA, not for HS")
        if not self.keys and len(shared) < len(self.algorithms):
            raise ValueError("keys: missing: RS, ES and EdDSA need the URL of a JWKS document")
        return self

    def compile(self) -> SchemeVerifier:
        body = self.body_hash
        return JwtVerifier(
            self.header.encode(),
            self.prefix,
            self.algorithms,
            self.keys.compile() if self.keys else None,
            self.key.compile(),
            self.issuer,
            SourceTemplate(self.audience) if self.audience else None,
            tuple((name, SourceTemplate(text)) for name, text in self.claims.items()),
            (body.claim, body.algorithm, body.encoding) if body else None,
            self.query_hash,
            self.leeway_s,
            self.expires,
            Match(self.when),
            Match(self.require),
        )


SchemeSpec = Annotated[
    HmacScheme | DigestScheme | TokenScheme | BasicScheme | KeyPairScheme | JwtScheme,
    Field(discriminator="scheme"),
]


def _compile_hmac(spec: HmacScheme | DigestScheme, *, plain: bool) -> SchemeVerifier:
    digest = spec.body_hash
    return HmacVerifier(
        spec.signature.compile(),
        tuple(SignedContent(text) for text in spec.signed),
        spec.algorithm,
        plain,
        spec.key.compile(),
        spec.timestamp.compile() if spec.timestamp else None,
        BodyHash(SourceTemplate(digest.source), digest.algorithm, digest.encoding) if digest else None,
        Match(spec.when),
        Match(spec.require),
    )
