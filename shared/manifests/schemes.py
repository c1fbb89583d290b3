"""The signature schemes of a manifest. Each compiles to a verifier of `shared/verification`.

The descriptions are for the authors of manifests: they make this file longer than 400 lines.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
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
from shared.verification.template import SignedContent, SourceTemplate
from shared.verification.token import BasicAuthVerifier, TokenVerifier
from shared.wire.template import TEMPLATE_PATTERN, TemplateError

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
        except TemplateError as error:
            raise ValueError(str(error)) from None
        return value

    return check


_TEMPLATE_SCHEMA: Final = WithJsonSchema({"type": "string", "pattern": TEMPLATE_PATTERN})

TemplateText = Annotated[str, AfterValidator(_validated_by(SourceTemplate)), _TEMPLATE_SCHEMA]
"""A text with sources in braces."""

SignedText = Annotated[str, AfterValidator(_validated_by(SignedContent)), _TEMPLATE_SCHEMA]
"""Like `TemplateText`, with `{body}` (raw) and `{secret}` as well."""

MatchRules = Annotated[
    dict[str, str | int | bool | Annotated[list[str | int], Field(max_length=_MAX_VALUES)]],
    Field(max_length=_MAX_RULES),
    AfterValidator(_validated_by(Match)),
]
"""Sources and their expected values; see `shared.verification.match.Match`."""


_SignedTextList = Annotated[tuple[SignedText, ...], Field(min_length=1, max_length=MAX_SIGNED_TEXTS)]
SignedTexts = Annotated[
    _SignedTextList, BeforeValidator(as_list, json_schema_input_type=SignedText | _SignedTextList)
]
"""One signed text, or several of which one has to be signed."""


_AudienceList = Annotated[tuple[TemplateText, ...], Field(max_length=_MAX_NAMES)]
Audiences = Annotated[
    _AudienceList, BeforeValidator(as_list, json_schema_input_type=TemplateText | _AudienceList)
]
"""Templates of a token's audience, in order."""
_HeaderNames = Annotated[tuple[HeaderName, ...], Field(max_length=_MAX_NAMES)]
_Prefixes = Annotated[tuple[str, ...], Field(max_length=_MAX_NAMES)]


class SignatureLocation(ManifestModel):
    """Location of signatures: see `shared.verification.scheme.SignatureFormat`."""

    header: Annotated[
        _HeaderNames, BeforeValidator(as_list, json_schema_input_type=HeaderName | _HeaderNames)
    ] = Field(default=(), description="One header, or several of which any may match.")
    source: TemplateText | None = Field(
        default=None,
        alias="from",
        description="Where the signature is, if not in a header: one source of the request.",
    )
    encoding: SignatureEncoding = Field(default="hex", description="How a signature is written.")
    prefix: Annotated[_Prefixes, BeforeValidator(as_list, json_schema_input_type=str | _Prefixes)] = Field(
        default=("",),
        description="Text before each signature. Several are alternatives; the provider sends the first.",
    )
    separator: str = Field(default="", description="Separator of several signatures (or pairs) in one value.")
    field: str = Field(
        default="", description="In a value of pairs (`t=1,v1=ab`), the name of the signatures."
    )
    time_field: str = Field(default="", description="In a value of pairs, the name of the time.")

    @model_validator(mode="after")
    def _is_somewhere(self) -> "SignatureLocation":
        if bool(self.header) == bool(self.source):
            raise ValueError("signature: use either header or from")
        if self.source and not _TOKEN_SOURCE.fullmatch(self.source):
            raise ValueError("from: use one source of the request, in braces: {json:signature}")
        if self.source and (self.separator or self.field or self.time_field):
            raise ValueError("from: separator, field and time_field are for headers: remove them")
        return self

    def compile(self) -> SignatureFormat:
        return SignatureFormat(
            tuple(name.encode() for name in self.header),
            self.encoding,
            tuple(prefix.encode() for prefix in self.prefix),
            self.separator.encode(),
            self.field.encode(),
            self.time_field.encode(),
            SourceTemplate(self.source) if self.source else None,
        )


class KeySpec(ManifestModel):
    """Rules to make a key of the secret: see `shared.verification.scheme.SecretFormat`."""

    form: KeyEncoding = Field(default="text", description="How the key is written in the secret.")
    prefix: str = Field(
        default="", description="Text that secrets of this scheme start with; it is not part of the key."
    )
    otherwise: KeyEncoding | None = Field(
        default=None,
        description="How a secret without the prefix is read; without this, it is for another scheme.",
    )
    except_prefix: str = Field(default="", description="Secrets that start with this are for another scheme.")

    def compile(self) -> SecretFormat:
        return SecretFormat(self.form, self.prefix, self.otherwise, self.except_prefix)


class TimestampSpec(ManifestModel):
    """The time at which the request was sent; without `from`, the `time_field` of the signature's header."""

    source: TemplateText | None = Field(
        default=None,
        alias="from",
        description="Template of the time; without it, the `time_field` of the signature's header.",
    )
    format: TimeFormat = Field(default="seconds", description="How the time is written.")
    tolerance_s: Annotated[float, Field(gt=0, le=_WEEK_S)] = Field(
        default=300.0, description="Seconds that a request may be old."
    )
    future_s: Annotated[float, Field(ge=0, le=_WEEK_S)] = Field(
        default=300.0, description="Seconds that a request may be ahead of the hub's clock."
    )

    def compile(self) -> TimestampCheck:
        source = SourceTemplate(self.source) if self.source else None
        return TimestampCheck(source, self.format, self.tolerance_s, self.future_s)


class BodyDigest(ManifestModel):
    """A digest of the body in another part of the request."""

    source: TemplateText = Field(alias="from", description="Template of the digest.")
    algorithm: Algorithm = Field(default="sha256", description="The hash function.")
    encoding: SignatureEncoding = Field(default="hex", description="How the digest is written.")


class RemoteKey(ManifestModel):
    """A key that has to be fetched: see `shared.verification.public_key.KeySource`."""

    url: TemplateText = Field(description="URL of the key, a template: it may come from the request.")
    hosts: Annotated[tuple[str, ...], Field(max_length=_MAX_NAMES)] = Field(
        description="The only hosts that the URL may have. `{region}` is the name of an AWS region."
    )
    path: str = Field(default="/", description="Beginning of the URL's path.")
    json_: str = Field(default="", alias="json", description="Path of the key in a JSON document.")
    subject: str = Field(default="", description="End of the subject's name in a certificate.")
    post: Annotated[dict[str, TemplateText], Field(max_length=_MAX_NAMES)] = Field(
        default={},
        description="For jwt: the key is requested with POST and these fields of a JSON object, templates.",
    )
    key_id: str = Field(default="", description="The field of that object with the id that the token names.")

    @model_validator(mode="after")
    def _may_be_fetched(self) -> "RemoteKey":
        source = self.compile()
        if source.url.constant and source.fetch_url(_EMPTY_REQUEST) is None:
            raise ValueError("url: use https and one of hosts (in lower case), without user, port and query")
        if bool(self.post) != bool(self.key_id):
            raise ValueError("post and key_id belong together: add the other one")
        return self

    def compile(self) -> KeySource:
        return KeySource(
            SourceTemplate(self.url),
            self.hosts,
            self.path,
            self.json_,
            self.subject,
            tuple((name, SourceTemplate(text)) for name, text in self.post.items()),
            self.key_id,
        )


class _SchemeBase(ManifestModel):
    name: str = Field(default="", description="The provider's name for it, if there are several.")
    when: MatchRules = Field(
        default={}, description="Requests that are signed by this scheme, besides having its header."
    )
    require: MatchRules = Field(
        default={}, description="Further conditions; a request that breaks one is malformed."
    )
    example: str = Field(
        default="",
        description=(
            "A secret that is not real, for the scheme's tests, if random text would not be accepted."
        ),
    )


def _covers_the_body(signed: tuple[str, ...], body_hash: object) -> bool:
    """Return whether a signature over these texts covers the body."""
    return body_hash is not None or all(any(source in text for source in _BODY_SOURCES) for text in signed)


class HmacScheme(_SchemeBase):
    """HMAC over `signed`, which may be several alternatives."""

    scheme: Literal["hmac"] = Field(description="HMAC with the secret.")
    signature: SignatureLocation = Field(description="Where signatures are.")
    signed: SignedTexts = Field(
        default=("{body}",), description="What is signed: a template, or up to 3 of which one has to match."
    )
    algorithm: Algorithm = Field(default="sha256", description="The hash function.")
    key: KeySpec = Field(default=KeySpec(), description="How the secret becomes the key.")
    timestamp: TimestampSpec | None = Field(
        default=None, description="When the request was sent, and how old it may be."
    )
    body_hash: BodyDigest | None = Field(
        default=None, description="A digest of the body in another part of the request."
    )

    each: str = Field(
        default="",
        description="Path of a list in the payload: every element has its own signature, in `{item:...}`.",
    )
    covers_body: bool = Field(
        default=True,
        description="False for a provider that does not sign the whole body: the rest is not proved.",
    )

    @model_validator(mode="after")
    def _signs_the_body(self) -> "HmacScheme":
        if self.covers_body and not _covers_the_body(self.signed, self.body_hash):
            raise ValueError(
                f"signed: does not cover the body: add one of {', '.join(_BODY_SOURCES)}, or set covers_body"
            )
        if self.each and not (self.signature.source or "").startswith("{item:"):
            raise ValueError("signature.from: with each, every element has its own: use {item:signature}")
        if self.each and (self.timestamp or self.body_hash):
            raise ValueError("each: timestamp and body_hash are of the whole request: remove them")
        return self

    def compile(self) -> SchemeVerifier:
        return _compile_hmac(self, plain=False)


class DigestScheme(_SchemeBase):
    """A plain digest of a text that contains `{secret}`."""

    scheme: Literal["digest"] = Field(description="A digest of a text with the secret in it.")
    signature: SignatureLocation = Field(description="Where digests are.")
    signed: SignedTexts = Field(
        description="What is digested: a template with `{secret}`, or up to 3 of which one has to match."
    )
    algorithm: Algorithm = Field(default="sha256", description="The hash function.")
    key: KeySpec = Field(default=KeySpec(), description="How the secret becomes the key.")
    timestamp: TimestampSpec | None = Field(
        default=None, description="When the request was sent, and how old it may be."
    )
    body_hash: BodyDigest | None = Field(
        default=None, description="A digest of the body in another part of the request."
    )

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

    scheme: Literal["token"] = Field(description="The secret itself is in the request.")
    source: TemplateText = Field(alias="from", description="Where the token is: one source of the request.")
    prefix: str = Field(default="", description="Text before the token: `Bearer `.")
    each: str = Field(
        default="", description="Path of a list in the payload: every element has to carry the token."
    )
    key: KeySpec = Field(default=KeySpec(), description="Which secrets are for this scheme.")

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

    scheme: Literal["basic"] = Field(description="HTTP Basic; the secret is `user:password`.")

    def compile(self) -> SchemeVerifier:
        return BasicAuthVerifier(Match(self.when), Match(self.require))


class KeyPairScheme(_SchemeBase):
    """A signature by the provider's private key. The public key is the secret, or it is fetched."""

    scheme: Literal["ed25519", "ecdsa", "rsa"] = Field(
        description="A signature by the provider's private key."
    )
    signature: SignatureLocation = Field(description="Where signatures are.")
    signed: SignedText = Field(default="{body}", description="What is signed: a template.")
    algorithm: Algorithm = Field(default="sha256", description="The hash function, for ecdsa and rsa.")
    key: KeySpec = Field(
        default=KeySpec(), description="How the endpoint's secret, which is the public key, is written."
    )
    keys: RemoteKey | None = Field(
        default=None, description="Where the public key is fetched from, if it is not the endpoint's secret."
    )
    timestamp: TimestampSpec | None = Field(
        default=None, description="When the request was sent, and how old it may be."
    )

    @model_validator(mode="after")
    def _fetches_a_document(self) -> "KeyPairScheme":
        if self.keys and self.keys.post:
            raise ValueError("keys.post: only a jwt names the key that it needs: remove it")
        return self

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

    claim: str = Field(description="Name of the claim.")
    algorithm: Algorithm = Field(default="sha256", description="The hash function.")
    encoding: SignatureEncoding = Field(default="hex", description="How the digest is written.")


class JwtScheme(_SchemeBase):
    """A JSON Web Token in a header."""

    scheme: Literal["jwt"] = Field(description="A JSON Web Token in a header.")
    header: HeaderName = Field(default="authorization", description="The header of the token.")
    prefix: str = Field(default="Bearer ", description="Text before the token.")
    algorithms: tuple[
        Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "EdDSA"], ...
    ] = Field(description="Accepted algorithms.")
    keys: RemoteKey | None = Field(
        default=None, description="A JWKS document; without it the secret is the HMAC key."
    )
    key: KeySpec = Field(default=KeySpec(), description="How the secret becomes the HMAC key.")
    issuer: Annotated[tuple[str, ...], Field(max_length=_MAX_NAMES)] = Field(
        default=(), description="Accepted issuers (`iss`)."
    )
    audience: Audiences = Field(
        default=(),
        description=(
            "The required audience (`aud`): a template, or alternatives, of which the first with a value "
            "counts."
        ),
    )
    claims: Annotated[dict[str, TemplateText], Field(max_length=_MAX_NAMES)] = Field(
        default={}, description="Templates of the values that other claims need, by name."
    )
    body_hash: BodyHashClaim | None = Field(default=None, description="A claim with a digest of the body.")
    query_hash: str = Field(
        default="", description="The claim with Atlassian's hash of method, path and query."
    )
    leeway_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=60.0, description="Seconds by which clocks may differ."
    )
    expires: bool = Field(
        default=True,
        description=(
            "Whether the provider's tokens have an expiry (`exp`); without it, a token is valid for ever."
        ),
    )
    max_age_s: Annotated[float, Field(ge=0, le=_WEEK_S)] = Field(
        default=0.0, description="Seconds after `iat` at which a token without an expiry is too old."
    )

    @model_validator(mode="after")
    def _has_keys(self) -> "JwtScheme":
        shared = {name for name in self.algorithms if name.startswith("HS")}
        if self.keys and shared:
            raise ValueError("keys: published keys are for RS, ES and EdDSA, not for HS")
        if not self.keys and len(shared) < len(self.algorithms):
            raise ValueError("keys: missing: RS, ES and EdDSA need the URL of a JWKS document")
        if self.max_age_s and self.expires:
            raise ValueError("max_age_s: is for tokens without an expiry: set expires to false")
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
            tuple(SourceTemplate(text) for text in self.audience),
            tuple((name, SourceTemplate(text)) for name, text in self.claims.items()),
            (body.claim, body.algorithm, body.encoding) if body else None,
            self.query_hash,
            self.leeway_s,
            self.expires,
            Match(self.when),
            Match(self.require),
            self.max_age_s,
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
        spec.each if isinstance(spec, HmacScheme) else "",
    )
