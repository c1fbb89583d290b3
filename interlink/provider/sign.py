"""Signs a request as a provider does, to try an endpoint by hand."""

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
from shared.manifests.fixtures import default_settings, read_fixture, settings_with_secret
from shared.manifests.models import WebhookSpec
from shared.manifests.registry import Provider
from shared.manifests.scheme_signers import SchemeSigner, scheme_signers, signer_from_private_key
from shared.manifests.schemes import JwtScheme, KeyPairScheme, SchemeSpec
from shared.verification.request import Headers, InboundRequest
from shared.verification.scheme import VerificationResult
from shared.verification.sources import replace_source
from shared.verification.template import SourceTemplate
from shared.wire.bodies import FORM_CONTENT_TYPE

DEFAULT_URL: Final = "http://127.0.0.1:8080/api/webhooks/{provider}/ENDPOINT_ID"
"""Default URL of the request: the hub as `interlink up` starts it."""

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
    """Request to sign. `file` is a body or a fixture's folder; `event` is the provider's name of the event.

    `headers` are `name: value`, `settings` are `name=value`. `secret` may be `@file`; '' generates one. `way`
    is the position or the name of a signature scheme; '' means the first that can sign this request.
    """

    file: Path
    secret: str = ""
    event: str = ""
    headers: Sequence[str] = ()
    settings: Sequence[str] = ()
    query: str = ""
    url: str = ""
    scheme: str = ""
    method: str = ""


@dataclass(frozen=True, slots=True)
class SigningResult:
    """A signed request, the file with its body (None if signing changed the body), and notes."""

    request: InboundRequest
    file: Path | None
    notes: tuple[str, ...]


def sign(provider: Provider, options: SignOptions, now: float) -> SigningResult:
    """Sign a request. Raises `Misconfigured`, which says what is missing or cannot be signed."""
    webhook = provider.manifest.webhook
    if webhook is None or provider.definition is None:
        raise Misconfigured(f"{provider.id} has no webhooks")
    unsigned, file = _request(provider, webhook, options)
    notes: list[str] = []
    reasons: list[str] = []
    for spec, signer in _candidates(provider, webhook, options):
        title = spec.name or spec.scheme
        key_location = _key_location(spec)
        if key_location:
            reasons.append(
                f"{title}: only {provider.manifest.name} can sign: the key is fetched from {key_location}"
            )
            continue
        # A signature over the default URL would never verify.
        if not options.url and _USES_URL.search(spec.model_dump_json(by_alias=True)):
            reasons.append(f"{title}: the URL is signed: name it with --url")
            continue
        try:
            signed = _signed(provider, unsigned, signer, now)
        except Rejected as error:
            reasons.append(f"{title}: {error}")
            continue
        if isinstance(spec, KeyPairScheme):
            notes.append(f"public key, to enter as the endpoint's secret: {signer.secret}")
        elif not options.secret:
            notes.append(f"generated secret, to enter at the endpoint: {signer.secret}")
        notes += _describe(provider, signed, title)
        return SigningResult(signed, file if file and signed.body == unsigned.body else None, tuple(notes))
    if provider.definition.handshake(unsigned):
        return SigningResult(unsigned, file, tuple(_describe(provider, unsigned, "")))
    raise Misconfigured("; ".join(reasons) or "no such signature scheme: see --way")


def _candidates(
    provider: Provider, webhook: WebhookSpec, options: SignOptions
) -> Iterator[tuple[SchemeSpec, SchemeSigner]]:
    """Yield the schemes that may sign, each with its signer."""
    if options.scheme and options.scheme not in _scheme_names(webhook):
        raise Misconfigured(f"--way {options.scheme}: use one of {', '.join(_scheme_names(webhook))}")
    secret = _read_secret(options.secret)
    # Generate keys only without a secret: RSA keys are slow.
    generated = scheme_signers(provider) if not secret else []
    for position, spec in enumerate(webhook.verification):
        if options.scheme and options.scheme not in (str(position), spec.name):
            continue
        if not secret:
            yield spec, generated[position]
            continue
        assert provider.definition  # noqa: S101 -- see sign
        scheme = provider.definition.schemes[position]
        if isinstance(spec, KeyPairScheme) and not spec.keys:
            try:
                yield spec, signer_from_private_key(spec, scheme, secret.encode())
            except Malformed as error:
                raise Misconfigured(f"--secret: {spec.scheme} needs a private key: {error}") from None
        else:
            yield spec, SchemeSigner(scheme, secret, secret.encode())


def _scheme_names(webhook: WebhookSpec) -> list[str]:
    numbers = [str(position) for position in range(len(webhook.verification))]
    return numbers + [scheme.name for scheme in webhook.verification if scheme.name]


def _key_location(spec: SchemeSpec) -> str:
    """Return where a scheme's key is fetched from; '' if it is not fetched."""
    if not isinstance(spec, KeyPairScheme | JwtScheme) or spec.keys is None:
        return ""
    return spec.keys.url if "{" not in spec.keys.url else ", ".join(spec.keys.hosts)


def _signed(provider: Provider, unsigned: InboundRequest, signer: SchemeSigner, now: float) -> InboundRequest:
    """Return the signed request.

    Raises `Rejected` if the request lacks what is signed, or if an endpoint would reject it.
    """
    assert provider.definition  # noqa: S101 -- see sign
    headers, settings = unsigned.headers, settings_with_secret(signer.secret, unsigned.settings)
    address, query = unsigned.address, unsigned.query_string
    request = provider.definition.request(unsigned.method, address, query, headers, unsigned.body, settings)
    signed = signer.sign(request, now)
    if provider.definition.select_scheme(signed) is not signer.scheme:
        raise Malformed("the request does not use this scheme")
    # Never print a request that an endpoint would reject.
    verdict = signer.scheme.verify(signed, signer.secrets, now)
    if verdict is not VerificationResult.VERIFIED:
        raise Malformed(f"the request would be rejected ({verdict})")
    if any(_INVALID_HEADER_BYTES.search(value) for values in signed.headers.values() for value in values):
        raise Malformed("a header would have characters that are not allowed in headers")
    return signed


def _describe(provider: Provider, request: InboundRequest, scheme: str) -> Iterator[str]:
    """Yield what the hub reads in the request. Raises `Misconfigured` if it would reject it."""
    assert provider.definition  # noqa: S101 -- see sign
    signature = f", signed by the scheme {scheme}" if scheme else ", not signed"
    handshake = provider.definition.handshake(request) or provider.definition.verified_handshake(request)
    if handshake:
        yield f"a handshake{signature}: {handshake.about}"
        return
    try:
        events = provider.definition.events(request)
    except Rejected as error:
        hint = " (set headers with --event and --header)" if "header:" in str(error) else ""
        raise Misconfigured(f"the hub would reject it: {error}{hint}") from None
    for webhook_event in events[:20]:
        triggers = f" ({', '.join(webhook_event.triggers)})" if webhook_event.triggers else ""
        yield f"the event {provider.id}.{webhook_event.event}{triggers}{signature}"
    if not events:
        yield f"no event{signature}"


def _request(
    provider: Provider, webhook: WebhookSpec, options: SignOptions
) -> tuple[InboundRequest, Path | None]:
    """Return the request without its signature, and the file of its body."""
    assert provider.definition  # noqa: S101 -- see sign
    headers: dict[str, str] = {}
    settings = default_settings(provider)
    method, query = options.method, options.query
    file: Path | None = options.file
    if options.file.is_dir():
        fixture = read_fixture(options.file, allow_missing_expected=True)
        file = next(iter(sorted(options.file.glob("body.*"))), None)
        headers, settings = dict(fixture.headers), {**settings, **fixture.settings}
        method, query = method or fixture.method, query or fixture.query
    body = _read(file) if file else b""
    headers |= dict(_header(text) for text in options.headers)
    if body and file:
        headers.setdefault("content-type", _CONTENT_TYPES.get(file.suffix.lower(), JSON_CONTENT_TYPE))
    settings |= dict(_setting(webhook, text) for text in options.settings)
    parts = urlsplit(options.url or DEFAULT_URL.format(provider=provider.id))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misconfigured(f"--url {options.url}: a URL has to begin with http:// or https://")
    query = "&".join(part for part in (parts.query, query.removeprefix("?")) if part)
    raw: Headers = {name: [value] for name, value in _raw_headers(headers)}
    address = parts._replace(query="", fragment="").geturl()
    if not query.isascii():
        raise Misconfigured("--query: not ASCII: write other characters as %XX")
    request = provider.definition.request(
        method.upper() or webhook.methods[0], address, query.encode(), raw, body, settings
    )
    return _with_delivery(webhook, _with_event(webhook, request, options.event)), file


def _raw_headers(headers: dict[str, str]) -> Iterator[tuple[bytes, bytes]]:
    return (
        (name.lower().encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers.items()
    )


def _with_event(webhook: WebhookSpec, request: InboundRequest, event: str) -> InboundRequest:
    if not event:
        return request
    for template in webhook.event.source:
        source = _SINGLE_SOURCE.fullmatch(template)
        if source:
            return replace_source(request, source[1], event)
    raise Misconfigured(f"--event: the provider sends it in the body: {' or '.join(webhook.event.source)}")


def _with_delivery(webhook: WebhookSpec, request: InboundRequest) -> InboundRequest:
    """Add a new delivery id if the provider sends one outside the body and the request has none."""
    try:
        has_id = any(SourceTemplate(template).text(request) for template in webhook.delivery_id)
    except Malformed:
        return request
    sources = (
        []
        if has_id
        else [source for template in webhook.delivery_id if (source := _SINGLE_SOURCE.fullmatch(template))]
    )
    return replace_source(request, sources[0][1], str(uuid4())) if sources else request


def _header(text: str) -> tuple[str, str]:
    match = _HEADER.fullmatch(text)
    if not match:
        raise Misconfigured(f"--header {text!r}: write it as name: value")
    return match[1].lower(), match[2]


def _setting(webhook: WebhookSpec, text: str) -> tuple[str, str]:
    match = _SETTING.fullmatch(text)
    if not match or match[1] not in webhook.settings:
        known = ", ".join(webhook.settings) or "none"
        raise Misconfigured(f"--setting {text!r}: write it as name=value; names: {known}")
    return match[1], match[2]


def _read_secret(option: str) -> str:
    if not option.startswith("@"):
        return option
    raw = _read(Path(option[1:]))
    try:
        secret = raw.decode().strip()
    except UnicodeDecodeError:
        raise Misconfigured(f"--secret {option}: the file is not text") from None
    if not secret:
        raise Misconfigured(f"--secret {option}: the file is empty")
    return secret


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{file}: {error.strerror}") from None


def curl(signed: SigningResult) -> str:
    """Return a shell command that sends the request, for any Bourne-like shell."""
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
    """Return the request as it is sent over HTTP/1.1."""
    request = signed.request
    parts = urlsplit(request.url)
    target = parts._replace(scheme="", netloc="").geturl() or "/"
    lines = [f"{request.method} {target} HTTP/1.1".encode(), b"host: " + parts.netloc.encode()]
    lines += [name + b": " + value for name, values in request.headers.items() for value in values]
    if request.body or request.method != "GET":
        lines.append(b"content-length: " + str(len(request.body)).encode())
    return b"\r\n".join([*lines, b"", request.body])
