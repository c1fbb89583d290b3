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
from shared.manifests.provider_code import body_reader
from shared.manifests.registry import MANIFEST, Provider, provider_folders, read_manifest
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
    """A scheme of a provider with a signer, and another signer that must be rejected."""

    provider: Provider
    position: int
    spec: Declared
    signer: SchemeSigner
    other: SchemeSigner

    @property
    def name(self) -> str:
        return f"{self.provider.id}, scheme {self.position} ({self.spec.name or self.spec.scheme})"

    @property
    def headers(self) -> list[bytes]:
        """The headers that carry the proof; none where it is in the query or the body."""
        spec = self.spec
        if isinstance(spec, TokenScheme):
            kind, _, argument = spec.source.strip("{}").partition(":")
            return [argument.lower().encode()] if kind == "header" else []
        if isinstance(spec, BasicScheme):
            return [b"authorization"]
        if isinstance(spec, JwtScheme):
            return [spec.header.encode()]
        return [name.encode() for name in spec.signature.header]

    @property
    def hosts(self) -> Sequence[str]:
        """The hosts that keys may be fetched from, in the region of the fixtures."""
        spec = self.spec
        hosts = spec.keys.hosts if isinstance(spec, KeyPairScheme | JwtScheme) and spec.keys else ()
        return [host.replace("{region}", "us-west-2") for host in hosts]

    @property
    def covers_body(self) -> bool:
        """Whether a changed body has to be refused."""
        spec = self.spec
        if isinstance(spec, TokenScheme | BasicScheme):
            return False
        if isinstance(spec, JwtScheme):
            return spec.body_hash is not None
        texts = [spec.signed] if isinstance(spec, KeyPairScheme) else [*spec.signed]
        digest = not isinstance(spec, KeyPairScheme) and spec.body_hash is not None
        return digest or all(any(part in text for part in _OF_THE_BODY) for text in texts)

    @property
    def window(self) -> tuple[float, float] | None:
        """How many seconds old, and how many ahead, a request may be; None where it has no time."""
        if isinstance(self.spec, JwtScheme):
            age = 300 if self.spec.expires else self.spec.max_age_s
            return (age + self.spec.leeway_s, self.spec.leeway_s) if age else None
        if isinstance(self.spec, TokenScheme | BasicScheme) or self.spec.timestamp is None:
            return None
        return self.spec.timestamp.tolerance_s, self.spec.timestamp.future_s

    def verdict(
        self,
        request: InboundRequest,
        keys: Sequence[str] | None = None,
        now: float = FIXTURE_TIME,
        signer: SchemeSigner | None = None,
    ) -> VerificationResult:
        """Verify with the scheme. `signer` is another one than the case's own."""
        used = signer or self.signer
        texts = [used.secret] if keys is None and used.secret else keys or []
        return used.scheme.verify(request, [text.encode() for text in texts], now, used.fetched(request))

    def definition_verdict(self, request: InboundRequest, now: float = FIXTURE_TIME) -> VerificationResult:
        """Verify with the whole definition: no other scheme may accept the request."""
        assert self.provider.definition
        try:
            scheme = self.provider.definition.select_scheme(request)
            if scheme is None:
                return VerificationResult.MISSING
            url = scheme.key_url(request)
            document = FetchedKey(url, self.signer.document) if url else None
            return scheme.verify(
                request, [self.signer.secret.encode()] if self.signer.secret else [], now, document
            )
        except Rejected:
            return VerificationResult.UNREADABLE


@cache
def keyed(name: str) -> Sequence[Keyed]:
    """Return every scheme of a provider with fresh keys, in the manifest's order."""
    own = provider(name)
    assert own.definition
    found: list[Keyed] = []
    both = zip(webhook_of(name).verification, scheme_signers(own), scheme_signers(own), strict=True)
    for position, (spec, signer, other) in enumerate(both):
        found.append(Keyed(own, position, spec, signer, _another(spec, other)))
    return found


def _another(spec: Declared, signer: SchemeSigner) -> SchemeSigner:
    if not signer.is_example:
        return signer
    secret = another_secret(spec)
    return SchemeSigner(signer.scheme, secret, secret.encode())


def another_secret(spec: Declared) -> str:
    """Return a new secret in the format of a scheme with an example."""
    if isinstance(spec, BasicScheme):
        return f"user:{secrets.token_hex(16)}"
    form = spec.key.compile()
    return form.encode(secrets.token_hex(16).encode() if form.form == "text" else secrets.token_bytes(32))


def signed(
    case: Keyed,
    fixture: Fixture,
    now: float = FIXTURE_TIME,
    *,
    address: str = "",
) -> InboundRequest | None:
    """Return a recorded request signed by this scheme; None if the scheme does not sign it."""
    definition = case.provider.definition
    assert definition
    plain = fixture.request(case.provider, address=address)
    if definition.handshake(plain):
        return None
    try:
        request = case.signer.sign(plain, now)
        return request if definition.select_scheme(request) is case.signer.scheme else None
    except Rejected:
        return None  # without what this scheme signs: it belongs to another scheme


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
        for webhook_event in own.definition.events(fixture.request(own)):
            if webhook_event.event in own.messages:
                yield (
                    fixture.name,
                    webhook_event.event,
                    own.payload(webhook_event.content_type, webhook_event.data),
                )
