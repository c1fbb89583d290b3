"""The ways of signing as a manifest writes them, each of which compiles to one of `shared/wire`."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from shared.wire import verification as wire
from shared.wire.jwts import Jwt
from shared.wire.keypairs import KeyPair, KeySource
from shared.wire.macs import BodyHash, Mac
from shared.wire.requests import Match, Request, Signed, Template, Unreadable
from shared.wire.tokens import Basic, Token
from shared.wire.verification import Algorithm, Encoding, Form, KeyForm, Moment

HeaderName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,60}$")]


MOST_TEXTS: Final = 3
"""Texts of which one has to be signed: the body is hashed for each of them."""

_MOST_RULES: Final = 20
_MOST_VALUES: Final = 50
_MOST_NAMES: Final = 10
_WEEK_S: Final = 7 * 24 * 3600
_OF_THE_BODY: Final = ("{body}", "{sha256}", "{crc32}", "{sorted_form}")
_TOKEN_SOURCE: Final = re.compile(r"\{(?:header|query|form|json|item):[^{}]+\}")
_NOTHING: Final = Request("POST", "", b"", {}, b"", {}, lambda _: None)


class Part(BaseModel):
    """A piece of a manifest: a field that the model does not know is a mistake, not an extension."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


def _compiles(compile_it: Callable[[Any], object]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        try:
            compile_it(value)
        except Unreadable as error:
            raise ValueError(str(error)) from None
        return value

    return check


TemplateText = Annotated[str, AfterValidator(_compiles(Template))]
"""A text with sources in braces."""

SignedText = Annotated[str, AfterValidator(_compiles(Signed))]
"""As `TemplateText`, with `{body}` (raw) and `{secret}` besides."""

Rules = Annotated[
    dict[str, str | int | bool | Annotated[list[str | int], Field(max_length=_MOST_VALUES)]],
    Field(max_length=_MOST_RULES),
    AfterValidator(_compiles(Match)),
]
"""Sources and what each has to be; see `shared.wire.requests.Match`."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


SignedTexts = Annotated[
    tuple[SignedText, ...], BeforeValidator(_listed), Field(min_length=1, max_length=MOST_TEXTS)
]
"""One text that is signed, or several of which one has to be."""


class Signatures(Part):
    """Where signatures are: see `shared.wire.verification.Signature`."""

    header: Annotated[tuple[HeaderName, ...], BeforeValidator(_listed), Field(max_length=_MOST_NAMES)]
    """One header, or several of which any may match."""
    encoding: Encoding = "hex"
    prefix: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(max_length=_MOST_NAMES)] = ("",)
    """What stands before each signature; several are alternatives, the first is the platform's."""
    separator: str = ""
    """Between several signatures (or pairs) in one value."""
    field: str = ""
    """In a value of pairs (`t=1,v1=ab`), which are signatures."""
    time_field: str = ""
    """In a value of pairs, which one is the time."""

    def compiled(self) -> wire.Signature:
        return wire.Signature(
            tuple(name.encode() for name in self.header),
            self.encoding,
            tuple(prefix.encode() for prefix in self.prefix),
            self.separator.encode(),
            self.field.encode(),
            self.time_field.encode(),
        )


class Key(Part):
    """How the secret becomes a key: see `shared.wire.verification.KeyForm`."""

    form: Form = "text"
    prefix: str = ""
    otherwise: Form | None = None
    except_prefix: str = ""

    def compiled(self) -> KeyForm:
        return KeyForm(self.form, self.prefix, self.otherwise, self.except_prefix)


class Stamp(Part):
    """When the request was sent; without `from` it is the `time_field` of the signature's header."""

    source: TemplateText | None = Field(None, alias="from")
    format: Moment = "seconds"
    tolerance_s: Annotated[float, Field(gt=0, le=_WEEK_S)] = 300.0
    future_s: Annotated[float, Field(ge=0, le=_WEEK_S)] = 300.0

    def compiled(self) -> wire.Timestamp:
        source = Template(self.source) if self.source else None
        return wire.Timestamp(source, self.format, self.tolerance_s, self.future_s)


class Digest(Part):
    """A digest of the body in another part of the request."""

    source: TemplateText = Field(alias="from")
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"


class RemoteKey(Part):
    """A key that has to be fetched: see `shared.wire.verification.KeySource`."""

    url: TemplateText
    hosts: Annotated[tuple[str, ...], Field(max_length=_MOST_NAMES)]
    path: str = "/"
    json_: str = Field("", alias="json")
    subject: str = ""

    @model_validator(mode="after")
    def _may_be_fetched(self) -> "RemoteKey":
        source = self.compiled()
        if source.url.constant and source.address(_NOTHING) is None:
            raise ValueError("url: https, on one of hosts (in lower case), without user, port and query")
        return self

    def compiled(self) -> KeySource:
        return KeySource(Template(self.url), self.hosts, self.path, self.json_, self.subject)


class _Way(Part):
    name: str = ""
    """As the platform calls it, where there are several."""
    when: Rules = {}
    """Which requests are signed in this way, beside having its header."""
    require: Rules = {}
    """What else has to hold, else the request is unreadable."""
    example: str = ""
    """A secret of this way that is not a real one, for its tests, where any random text will not do."""


def _covers_the_body(signed: tuple[str, ...], body_hash: object) -> bool:
    """Whether a signature over these texts is of this request and no other."""
    return body_hash is not None or all(any(part in text for part in _OF_THE_BODY) for text in signed)


class HmacWay(_Way):
    """HMAC over `signed`, which may be several alternatives."""

    scheme: Literal["hmac"]
    signature: Signatures
    signed: SignedTexts = ("{body}",)
    algorithm: Algorithm = "sha256"
    key: Key = Key()
    timestamp: Stamp | None = None
    body_hash: Digest | None = None

    @model_validator(mode="after")
    def _signs_the_body(self) -> "HmacWay":
        if not _covers_the_body(self.signed, self.body_hash):
            raise ValueError(f"signed: has nothing of the body: one of {', '.join(_OF_THE_BODY)}")
        return self

    def compiled(self) -> wire.Way:
        return _mac(self, plain=False)


class DigestWay(_Way):
    """A plain digest of a text that has `{secret}` in it."""

    scheme: Literal["digest"]
    signature: Signatures
    signed: SignedTexts
    algorithm: Algorithm = "sha256"
    key: Key = Key()
    timestamp: Stamp | None = None
    body_hash: Digest | None = None

    @model_validator(mode="after")
    def _signs_the_body(self) -> "DigestWay":
        if not all("{secret}" in text for text in self.signed):
            raise ValueError("signed: without {secret} anybody can make the digest")
        if not _covers_the_body(self.signed, self.body_hash):
            raise ValueError(f"signed: has nothing of the body: one of {', '.join(_OF_THE_BODY)}")
        return self

    def compiled(self) -> wire.Way:
        return _mac(self, plain=True)


class TokenWay(_Way):
    """The secret itself in a header, the query, or the body (with `each`, in every element of a list)."""

    scheme: Literal["token"]
    source: TemplateText = Field(alias="from")
    prefix: str = ""
    each: str = ""
    key: Key = Key()

    @field_validator("source")
    @classmethod
    def _of_the_request(cls, text: str) -> str:
        if not _TOKEN_SOURCE.fullmatch(text):
            raise ValueError("from: one source of the request, in braces: {header:x-token}, {json:token}")
        return text

    @model_validator(mode="after")
    def _is_in_each(self) -> "TokenWay":
        if self.each and not self.source.startswith("{item:"):
            raise ValueError("from: with each, the token is in every element: {item:token}")
        return self

    def compiled(self) -> wire.Way:
        return Token(
            Template(self.source),
            self.prefix,
            self.each,
            self.key.compiled(),
            Match(self.when),
            Match(self.require),
        )


class BasicWay(_Way):
    """HTTP Basic; the secret is `user:password`."""

    scheme: Literal["basic"]

    def compiled(self) -> wire.Way:
        return Basic(Match(self.when), Match(self.require))


class KeyPairWay(_Way):
    """A signature by the platform's private key; the public key is the secret, or is fetched."""

    scheme: Literal["ed25519", "ecdsa", "rsa"]
    signature: Signatures
    signed: SignedText = "{body}"
    algorithm: Algorithm = "sha256"
    key: Key = Key()
    keys: RemoteKey | None = None
    timestamp: Stamp | None = None

    def compiled(self) -> wire.Way:
        return KeyPair(
            self.scheme,
            self.signature.compiled(),
            Signed(self.signed),
            self.algorithm,
            self.key.compiled(),
            self.keys.compiled() if self.keys else None,
            self.timestamp.compiled() if self.timestamp else None,
            Match(self.when),
            Match(self.require),
        )


class ClaimHash(Part):
    """A claim with a digest of the body."""

    claim: str
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"


class JwtWay(_Way):
    """A JSON Web Token in a header."""

    scheme: Literal["jwt"]
    header: HeaderName = "authorization"
    prefix: str = "Bearer "
    algorithms: tuple[Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "EdDSA"], ...]
    keys: RemoteKey | None = None
    """A JWKS document; without it the secret is the HMAC key."""
    key: Key = Key()
    issuer: Annotated[tuple[str, ...], Field(max_length=_MOST_NAMES)] = ()
    audience: TemplateText | None = None
    claims: Annotated[dict[str, TemplateText], Field(max_length=_MOST_NAMES)] = {}
    body_hash: ClaimHash | None = None
    query_hash: str = ""
    leeway_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    expires: bool = True
    """The platform's tokens have an end (`exp`); where they have none, a token is valid for good."""

    @model_validator(mode="after")
    def _has_keys(self) -> "JwtWay":
        shared = {name for name in self.algorithms if name.startswith("HS")}
        if self.keys and shared:
            raise ValueError("keys that are published sign with RS, ES or EdDSA, not with HS")
        if not self.keys and len(shared) < len(self.algorithms):
            raise ValueError("RS, ES and EdDSA need keys: the address of a JWKS document")
        return self

    def compiled(self) -> wire.Way:
        body = self.body_hash
        return Jwt(
            self.header.encode(),
            self.prefix,
            self.algorithms,
            self.keys.compiled() if self.keys else None,
            self.key.compiled(),
            self.issuer,
            Template(self.audience) if self.audience else None,
            tuple((name, Template(text)) for name, text in self.claims.items()),
            (body.claim, body.algorithm, body.encoding) if body else None,
            self.query_hash,
            self.leeway_s,
            self.expires,
            Match(self.when),
            Match(self.require),
        )


Way = Annotated[
    HmacWay | DigestWay | TokenWay | BasicWay | KeyPairWay | JwtWay, Field(discriminator="scheme")
]


def _mac(way: HmacWay | DigestWay, *, plain: bool) -> wire.Way:
    body = way.body_hash
    return Mac(
        way.signature.compiled(),
        tuple(Signed(text) for text in way.signed),
        way.algorithm,
        plain,
        way.key.compiled(),
        way.timestamp.compiled() if way.timestamp else None,
        BodyHash(Template(body.source), body.algorithm, body.encoding) if body else None,
        Match(way.when),
        Match(way.require),
    )
