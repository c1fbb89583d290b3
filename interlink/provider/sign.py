"""A request as a platform would send it, signed: to try an endpoint by hand."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

from shared.contracts.envelope import JSON_CONTENT_TYPE
from shared.contracts.errors import Malformed, Misconfigured, Rejected
from shared.manifests.fixtures import (
    SchemeSigner,
    default_settings,
    read_fixture,
    scheme_signers,
    settings_with_secret,
    signer_from_private_key,
)
from shared.manifests.models import WebhookSpec
from shared.manifests.registry import Provider
from shared.manifests.schemes import JwtScheme, KeyPairScheme, SchemeSpec
from shared.verification.request import Headers, InboundRequest
from shared.verification.scheme import VerificationResult
from shared.verification.sources import replace_source
from shared.verification.template import SourceTemplate
from shared.wire.bodies import FORM_CONTENT_TYPE

DEFAULT_URL: Final = "http://127.0.0.1:8080/api/webhooks/{provider}/ENDPOINT_ID"
"""Where the request goes when nobody says: the hub as `interlink up` starts it."""

_HEADER: Final = re.compile(r"\s*([A-Za-z0-9_-]+)\s*:\s*([^\x00-\x1f\x7f]*?)\s*")
_SETTING: Final = re.compile(r"([a-z][a-z0-9_]*)=(.*)", re.DOTALL)
_INVALID_HEADER_BYTES: Final = re.compile(rb"[\x00-\x1f\x7f]")
_SINGLE_SOURCE: Final = re.compile(r"\{((?:header|query):[^{}]+)\}")
_USES_URL: Final = re.compile(r"\{(?:url|path)|\"query_hash\":\"[^\"]")
_CONTENT_TYPES: Final = {
    ".json": JSON_CONTENT_TYPE,
    ".form": FORM_CONTENT_TYPE,
    ".xml": "application/xml",
    ".txt": "text/plain",
}


@dataclass(frozen=True, slots=True)
class SignOptions:
    """What to sign. `file` is a body, or a fixture's folder; `event` what the platform calls the event.

    `headers` are `name: value`, `settings` are `name=value`. `secret` may be `@file`; empty: one is made.
    `way` is the position or the name of a way of signing; empty: the first that can sign this request.
    """

    file: Path
    secret: str = ""
    event: str = ""
    headers: Sequence[str] = ()
    settings: Sequence[str] = ()
    query: str = ""
    url: str = ""
    way: str = ""
    method: str = ""


@dataclass(frozen=True, slots=True)
class SigningResult:
    """A signed request, the file that has its body (None: signing changed the body), and notes."""

    request: InboundRequest
    file: Path | None
    notes: tuple[str, ...]


def sign(provider: Provider, wanted: SignOptions, now: float) -> SigningResult:
    """Sign what is wanted. Raises `Misconfigured`, which says what is missing or cannot be."""
    webhook = provider.manifest.webhook
    if webhook is None or provider.definition is None:
        raise Misconfigured(f"{provider.id} has no webhooks")
    plain, file = _request(provider, webhook, wanted)
    notes: list[str] = []
    reasons: list[str] = []
    for declared, signing in _candidates(provider, webhook, wanted):
        what = declared.name or declared.scheme
        remote = _key_location(declared)
        if remote:
            reasons.append(
                f"{what}: only {provider.manifest.name} can sign: its key is fetched from {remote}"
            )
            continue
        if not wanted.url and _USES_URL.search(declared.model_dump_json(by_alias=True)):
            reasons.append(f"{what}: the address is signed: say which with --url")
            continue
        try:
            signed = _signed(provider, plain, signing, now)
        except Rejected as error:
            reasons.append(f"{what}: {error}")
            continue
        if isinstance(declared, KeyPairScheme):
            notes.append(f"public key to enter at the endpoint as its secret: {signing.secret}")
        elif not wanted.secret:
            notes.append(f"secret to enter at the endpoint, made now: {signing.secret}")
        notes += _describe(provider, signed, what)
        return SigningResult(signed, file if file and signed.body == plain.body else None, tuple(notes))
    if provider.definition.handshake(plain):
        return SigningResult(plain, file, tuple(_describe(provider, plain, "")))
    raise Misconfigured("; ".join(reasons) or "no way of signing is called so: see --way")


def _candidates(
    provider: Provider, webhook: WebhookSpec, wanted: SignOptions
) -> Iterator[tuple[SchemeSpec, SchemeSigner]]:
    """The ways that may sign, each with its keys."""
    if wanted.way and wanted.way not in _scheme_names(webhook):
        raise Misconfigured(f"--way {wanted.way}: one of {', '.join(_scheme_names(webhook))}")
    secret = _read_secret(wanted.secret)
    made = scheme_signers(provider) if not secret else []
    for position, declared in enumerate(webhook.verification):
        if wanted.way and wanted.way not in (str(position), declared.name):
            continue
        if not secret:
            yield declared, made[position]
            continue
        assert provider.definition  # noqa: S101 -- see sign
        way = provider.definition.schemes[position]
        if isinstance(declared, KeyPairScheme) and not declared.keys:
            try:
                yield declared, signer_from_private_key(declared, way, secret.encode())
            except Malformed as error:
                raise Misconfigured(
                    f"--secret: {declared.scheme} is signed with a key pair: {error}"
                ) from None
        else:
            yield declared, SchemeSigner(way, secret, secret.encode())


def _scheme_names(webhook: WebhookSpec) -> list[str]:
    numbers = [str(position) for position in range(len(webhook.verification))]
    return numbers + [way.name for way in webhook.verification if way.name]


def _key_location(declared: SchemeSpec) -> str:
    """Where the key of a way is fetched from; '' for the others."""
    if not isinstance(declared, KeyPairScheme | JwtScheme) or declared.keys is None:
        return ""
    return declared.keys.url if "{" not in declared.keys.url else ", ".join(declared.keys.hosts)


def _signed(provider: Provider, plain: InboundRequest, signing: SchemeSigner, now: float) -> InboundRequest:
    """Raises `Rejected` when the request lacks what is signed, or would not be taken."""
    assert provider.definition  # noqa: S101 -- see sign
    headers, settings = plain.headers, settings_with_secret(signing.secret, plain.settings)
    address, query = plain.address, plain.query_string
    request = provider.definition.request(plain.method, address, query, headers, plain.body, settings)
    signed = signing.sign(request, now)
    if provider.definition.select_scheme(signed) is not signing.scheme:
        raise Malformed("the request is not of this way")
    verdict = signing.scheme.verify(signed, signing.secrets, now)
    if verdict is not VerificationResult.VERIFIED:
        raise Malformed(f"the request would be refused ({verdict})")
    if any(_INVALID_HEADER_BYTES.search(value) for values in signed.headers.values() for value in values):
        raise Malformed("a header would have characters that headers cannot have")
    return signed


def _describe(provider: Provider, request: InboundRequest, way: str) -> Iterator[str]:
    """What the hub takes the request for. Raises `Misconfigured` when it would refuse it."""
    assert provider.definition  # noqa: S101 -- see sign
    by = f", signed in the way {way}" if way else ", which is not signed"
    handshake = provider.definition.handshake(request) or provider.definition.verified_handshake(request)
    if handshake:
        yield f"a handshake{by}: {handshake.about}"
        return
    try:
        events = provider.definition.events(request)
    except Rejected as error:
        hint = " (--event and --header say what headers have)" if "header:" in str(error) else ""
        raise Misconfigured(f"it would be refused: {error}{hint}") from None
    for arrived in events[:20]:
        triggers = f" ({', '.join(arrived.triggers)})" if arrived.triggers else ""
        yield f"the event {provider.id}.{arrived.event}{triggers}{by}"
    if not events:
        yield f"no event at all{by}"


def _request(
    provider: Provider, webhook: WebhookSpec, wanted: SignOptions
) -> tuple[InboundRequest, Path | None]:
    """The request without its signature, and the file of its body."""
    assert provider.definition  # noqa: S101 -- see sign
    headers: dict[str, str] = {}
    settings = default_settings(provider)
    method, query = wanted.method, wanted.query
    file: Path | None = wanted.file
    if wanted.file.is_dir():
        fixture = read_fixture(wanted.file, allow_missing_expected=True)
        file = next(iter(sorted(wanted.file.glob("body.*"))), None)
        headers, settings = dict(fixture.headers), {**settings, **fixture.settings}
        method, query = method or fixture.method, query or fixture.query
    body = _read(file) if file else b""
    headers |= dict(_header(text) for text in wanted.headers)
    if body and file:
        headers.setdefault("content-type", _CONTENT_TYPES.get(file.suffix.lower(), JSON_CONTENT_TYPE))
    settings |= dict(_setting(webhook, text) for text in wanted.settings)
    parts = urlsplit(wanted.url or DEFAULT_URL.format(provider=provider.id))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misconfigured(f"--url {wanted.url}: an address starts with http:// or https://")
    query = "&".join(each for each in (parts.query, query.removeprefix("?")) if each)
    raw: Headers = {name: [value] for name, value in _raw_headers(headers)}
    address = parts._replace(query="", fragment="").geturl()
    if not query.isascii():
        raise Misconfigured("--query: only ASCII: write other characters as %XX")
    request = provider.definition.request(
        method.upper() or webhook.methods[0], address, query.encode(), raw, body, settings
    )
    return _with_delivery(webhook, _with_event(webhook, request, wanted.event)), file


def _raw_headers(headers: dict[str, str]) -> Iterator[tuple[bytes, bytes]]:
    return (
        (name.lower().encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers.items()
    )


def _with_event(webhook: WebhookSpec, request: InboundRequest, event: str) -> InboundRequest:
    if not event:
        return request
    for template in webhook.event.source:
        part = _SINGLE_SOURCE.fullmatch(template)
        if part:
            return replace_source(request, part[1], event)
    raise Misconfigured(f"--event: the platform says it in the body: {' or '.join(webhook.event.source)}")


def _with_delivery(webhook: WebhookSpec, request: InboundRequest) -> InboundRequest:
    """With a new id of the delivery, where the platform gives one beside the body and there is none yet."""
    try:
        there = any(SourceTemplate(template).text(request) for template in webhook.delivery_id)
    except Malformed:
        return request
    parts = (
        [] if there else [found for each in webhook.delivery_id if (found := _SINGLE_SOURCE.fullmatch(each))]
    )
    return replace_source(request, parts[0][1], str(uuid4())) if parts else request


def _header(text: str) -> tuple[str, str]:
    found = _HEADER.fullmatch(text)
    if not found:
        raise Misconfigured(f"--header {text!r}: write it as name: value")
    return found[1].lower(), found[2]


def _setting(webhook: WebhookSpec, text: str) -> tuple[str, str]:
    found = _SETTING.fullmatch(text)
    if not found or found[1] not in webhook.settings:
        known = ", ".join(webhook.settings) or "there are none"
        raise Misconfigured(f"--setting {text!r}: write it as name=value; names: {known}")
    return found[1], found[2]


def _read_secret(given: str) -> str:
    if not given.startswith("@"):
        return given
    raw = _read(Path(given[1:]))
    try:
        secret = raw.decode().strip()
    except UnicodeDecodeError:
        raise Misconfigured(f"--secret {given}: it is not text") from None
    if not secret:
        raise Misconfigured(f"--secret {given}: it is empty")
    return secret


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{file}: {error.strerror}") from None


def curl(signed: SigningResult) -> str:
    """A command that sends it, for any shell of the Bourne family."""
    request = signed.request
    lines = [f"curl -sS -i -g -X {request.method} {shlex.quote(request.url)}"]
    for name, values in request.headers.items():
        for value in values:
            text = value.decode("utf-8", "surrogateescape")
            lines.append("-H " + shlex.quote(f"{name.decode()}: {text}" if text else f"{name.decode()};"))
    if b"content-type" not in request.headers:
        lines.append("-H 'content-type:'")
    if signed.file and request.body:
        lines.append("--data-binary " + shlex.quote(f"@{signed.file.resolve()}"))
    elif request.body or request.method != "GET":
        lines.append("--data-raw " + shlex.quote(request.body.decode()))
    return " \\\n  ".join(lines)


def http(signed: SigningResult) -> bytes:
    """The same as it goes over the wire."""
    request = signed.request
    parts = urlsplit(request.url)
    target = parts._replace(scheme="", netloc="").geturl() or "/"
    lines = [f"{request.method} {target} HTTP/1.1".encode(), b"host: " + parts.netloc.encode()]
    lines += [name + b": " + value for name, values in request.headers.items() for value in values]
    if request.body or request.method != "GET":
        lines.append(b"content-length: " + str(len(request.body)).encode())
    return b"\r\n".join([*lines, b"", request.body])
