"""What the providers' folders bring to their tests: recorded requests, and keys to sign them with."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import shared.providers
from interlink.provider.fixture_result import FIXTURE_TIME
from shared.contracts.errors import Rejected
from shared.manifests.fixtures import Fixture, read_fixtures
from shared.manifests.models import WebhookSpec
from shared.manifests.registry import MANIFEST, Provider, body_reader, provider_folders, read_manifest
from shared.manifests.scheme_signers import SchemeSigner, scheme_signers
from shared.manifests.schemes import (
    BasicScheme,
    DigestScheme,
    HmacScheme,
    JwtScheme,
    KeyPairScheme,
    TokenScheme,
)
from shared.verification.request import InboundRequest
from shared.verification.scheme import FetchedKey, VerificationResult
from shared.wire.bodies import FORM_CONTENT_TYPE, media_type

FOLDER = Path(next(iter(shared.providers.__path__)))
NAMES = [folder.name for folder in provider_folders()]


def having(text: str) -> list[str]:
    """The providers with this in their manifest's text: a broken one must not keep tests from being found."""
    return [name for name in NAMES if text in (FOLDER / name / MANIFEST).read_text("utf-8")]


WITH_WEBHOOKS = having("\nwebhook:")

Declared = HmacScheme | DigestScheme | TokenScheme | BasicScheme | KeyPairScheme | JwtScheme

_OF_THE_BODY = ("{body}", "{sha256}", "{crc32}", "{item_sha256}", "{sorted_form}")


@cache
def provider(name: str) -> Provider:
    """One provider, loaded alone: a folder that is broken fails its own tests only."""
    return Provider(read_manifest(FOLDER / name), body_reader(name))


@cache
def recorded(name: str) -> Sequence[Fixture]:
    """The fixtures of a provider, by name."""
    return read_fixtures(FOLDER / name)


def webhook_of(name: str) -> WebhookSpec:
    webhook = provider(name).manifest.webhook
    assert webhook
    return webhook


@dataclass(frozen=True)
class Keyed:
    """A way of a provider with keys to try it, and other keys, which have to be refused."""

    provider: Provider
    position: int
    declared: Declared
    signing: SchemeSigner
    other: SchemeSigner

    @property
    def name(self) -> str:
        return f"{self.provider.id}, way {self.position} ({self.declared.name or self.declared.scheme})"

    @property
    def headers(self) -> list[bytes]:
        """The headers that carry the proof; none where it is in the query or the body."""
        declared = self.declared
        if isinstance(declared, TokenScheme):
            kind, _, argument = declared.source.strip("{}").partition(":")
            return [argument.lower().encode()] if kind == "header" else []
        if isinstance(declared, BasicScheme):
            return [b"authorization"]
        if isinstance(declared, JwtScheme):
            return [declared.header.encode()]
        return [name.encode() for name in declared.signature.header]

    @property
    def hosts(self) -> Sequence[str]:
        """The hosts that keys may be fetched from."""
        declared = self.declared
        return (
            declared.keys.hosts if isinstance(declared, KeyPairScheme | JwtScheme) and declared.keys else ()
        )

    @property
    def covers_body(self) -> bool:
        """Whether a changed body has to be refused."""
        declared = self.declared
        if isinstance(declared, TokenScheme | BasicScheme):
            return False
        if isinstance(declared, JwtScheme):
            return declared.body_hash is not None
        texts = [declared.signed] if isinstance(declared, KeyPairScheme) else [*declared.signed]
        digest = not isinstance(declared, KeyPairScheme) and declared.body_hash is not None
        return digest or all(any(part in text for part in _OF_THE_BODY) for text in texts)

    @property
    def window(self) -> tuple[float, float] | None:
        """How many seconds old, and how many ahead, a request may be; None where it has no time."""
        if isinstance(self.declared, JwtScheme):
            return 300 + self.declared.leeway_s, self.declared.leeway_s
        if isinstance(self.declared, TokenScheme | BasicScheme) or self.declared.timestamp is None:
            return None
        return self.declared.timestamp.tolerance_s, self.declared.timestamp.future_s

    def verdict(
        self,
        request: InboundRequest,
        keys: Sequence[str] | None = None,
        now: float = FIXTURE_TIME,
        signing: SchemeSigner | None = None,
    ) -> VerificationResult:
        """What the way says, with these secrets (its own when none are given)."""
        used = signing or self.signing
        texts = [used.secret] if keys is None and used.secret else keys or []
        return used.scheme.verify(request, [text.encode() for text in texts], now, used.fetched(request))

    def at_the_door(self, request: InboundRequest, now: float = FIXTURE_TIME) -> VerificationResult:
        """What the whole door says, whichever way it takes: no way around this one may be open."""
        assert self.provider.definition
        try:
            way = self.provider.definition.select_scheme(request)
            if way is None:
                return VerificationResult.MISSING
            url = way.key_url(request)
            document = FetchedKey(url, self.signing.document) if url else None
            return way.verify(
                request, [self.signing.secret.encode()] if self.signing.secret else [], now, document
            )
        except Rejected:
            return VerificationResult.UNREADABLE


@cache
def keyed(name: str) -> Sequence[Keyed]:
    """Every way of a provider with fresh keys, in the manifest's order."""
    own = provider(name)
    assert own.definition
    found: list[Keyed] = []
    both = zip(webhook_of(name).verification, scheme_signers(own), scheme_signers(own), strict=True)
    for position, (declared, signing, other) in enumerate(both):
        found.append(Keyed(own, position, declared, signing, _another(declared, other)))
    return found


def _another(declared: Declared, signing: SchemeSigner) -> SchemeSigner:
    if not signing.is_example:
        return signing
    secret = another_secret(declared)
    return SchemeSigner(signing.scheme, secret, secret.encode())


def another_secret(declared: Declared) -> str:
    """A fresh secret of the form that a way with an example takes."""
    if isinstance(declared, BasicScheme):
        return f"user:{secrets.token_hex(16)}"
    form = declared.key.compile()
    return form.encode(secrets.token_hex(16).encode() if form.form == "text" else secrets.token_bytes(32))


def signed(
    case: Keyed,
    fixture: Fixture,
    now: float = FIXTURE_TIME,
    *,
    address: str = "",
) -> InboundRequest | None:
    """A recorded request as the platform signs it in this way; None where it is not signed in it."""
    door = case.provider.definition
    assert door
    plain = fixture.request(case.provider, address=address)
    if door.handshake(plain):
        return None
    try:
        request = case.signing.sign(plain, now)
        return request if door.select_scheme(request) is case.signing.scheme else None
    except Rejected:
        return None  # it lacks what this way signs: it is of another way


def with_headers(request: InboundRequest, changed: Mapping[bytes, Sequence[bytes]]) -> InboundRequest:
    """The same request with some headers exchanged; an empty list takes one away."""
    headers = {name: values for name, values in {**request.headers, **changed}.items() if values}
    return _again(request, headers, request.body)


def with_changed_body(request: InboundRequest) -> InboundRequest:
    """A body that means more or less the same, and is another."""
    kind = media_type(request.header(b"content-type") or "")
    return _again(request, request.headers, request.body + (b"&zz=1" if kind == FORM_CONTENT_TYPE else b" "))


def _again(request: InboundRequest, headers: Mapping[bytes, Sequence[bytes]], body: bytes) -> InboundRequest:
    return InboundRequest(
        request.method,
        request.address,
        request.query_string,
        headers,
        body,
        request.settings,
        request._reader,
    )


def payloads(name: str) -> Iterator[tuple[str, str, Any]]:
    """Every event of the fixtures that makes a message: the fixture's name, the event, the payload."""
    own = provider(name)
    assert own.definition
    for fixture in recorded(name):
        if "events" not in fixture.expected:
            continue
        for arrived in own.definition.events(fixture.request(own)):
            if arrived.event in own.messages:
                yield fixture.name, arrived.event, own.payload(arrived.content_type, arrived.data)
