"""Build URL and headers of the request to the provider for a call with an account. Pure."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import quote, unquote_plus, urljoin, urlsplit

from multidict import CIMultiDict

from shared.connections.tokens import Access
from shared.contracts.errors import Conflict, Forbidden, Malformed
from shared.manifests.api_requests import fill_all
from shared.runtime.version import VERSION
from shared.wire.paths import AMBIGUOUS_PATH_ERROR, is_ambiguous
from shared.wire.request_template import MissingValue, RequestTemplate

HeaderPairs = Iterable[tuple[bytes, bytes]]

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-authentication-info",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
    }
)
"""Headers of one connection (RFC 9110, 7.6.1), and the length, which each side sets itself."""
_NOT_SENT: Final = _HOP_BY_HOP | {
    # Credentials for the hub, and what the hub's own proxies say about the caller.
    "authorization",
    "cookie",
    "cookie2",
    "host",
    "expect",
    "forwarded",
    "via",
    "true-client-ip",
    "x-real-ip",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-prefix",
    "x-forwarded-server",
    # The hub's own tracing.
    "traceparent",
    "tracestate",
    "baggage",
    # The provider would take another method than the one that was checked.
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
}
_NOT_RETURNED: Final = _HOP_BY_HOP | {
    # A challenge or a cookie of the provider is not for the caller, whose credentials are the hub's.
    "authorization",
    "www-authenticate",
    "authentication-info",
    "set-cookie",
    "set-cookie2",
    # They would count for the whole host of the hub.
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-expose-headers",
    "access-control-max-age",
    "alt-svc",
    "clear-site-data",
    "content-security-policy",
    "content-security-policy-report-only",
    "nel",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "strict-transport-security",
    "x-content-type-options",
    # A server or cache before the hub would obey them: answer with another location or a file of its own, or
    # store the answer for everybody.
    "x-accel-buffering",
    "x-accel-charset",
    "x-accel-expires",
    "x-accel-limit-rate",
    "x-accel-redirect",
    "x-litespeed-cache-control",
    "x-litespeed-location",
    "x-lighttpd-send-file",
    "x-lighttpd-send-tempfile",
    "x-lighttpd-send2-file",
    "x-reproxy-url",
    "x-sendfile",
    "x-sendfile2",
    "cdn-cache-control",
    "cloudflare-cdn-cache-control",
    "surrogate-control",
    # The hub sets these; `Location` is checked, and `Cache-Control` is made private.
    "cache-control",
    "interlink-provider",
    "date",
    "server",
    "via",
    "location",
}
_FOR_SHARED_CACHES: Final = frozenset({"public", "private", "s-maxage", "proxy-revalidate"})
"""Directives of `Cache-Control` that say what a cache between caller and hub may do."""
_METHOD_PARAMETERS: Final = frozenset({"method", "_method", "x-http-method", "x-http-method-override"})
_MIN_TOKEN_CHARACTERS: Final = 6
_DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


def build_url(access: Access, raw_path: bytes, raw_query: bytes) -> str:
    """Return the URL of a path below the base URL of the account's API.

    Path and query are as the caller sent them. Raises `Malformed` if another program could read the path
    differently, and `Conflict` if the base URL is not known.
    """
    if is_ambiguous(b"/" + raw_path):
        raise Malformed(AMBIGUOUS_PATH_ERROR)
    try:
        path, query = raw_path.decode("ascii"), raw_query.decode("ascii")
    except UnicodeDecodeError:
        raise Malformed("the path or the query is not encoded: percent-encode it") from None
    try:
        base = access.base.rstrip("/")
    except MissingValue as error:
        raise Conflict(f"{error}, which the address of the API needs: connect the account again") from None
    if not base:
        raise Conflict(
            f"the hub does not know the address of the API of {access.provider}: get the token with POST "
            "/api/integrations/{id}/token"
        )
    parameters = fill_all(access.connector.api_for(access.kind).query, access.values)
    if parameters:
        parts = [part for part in query.split("&") if part and _name(part) not in parameters]
        parts += [f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters.items()]
        query = "&".join(parts)
    return f"{base}/{path}" + (f"?{query}" if query else "")


def check_query(raw_query: bytes) -> None:
    """Raise `Forbidden` for a parameter by which some providers take another method than that of the call."""
    for part in raw_query.decode("latin-1").split("&"):
        if _name(part).lower() in _METHOD_PARAMETERS:
            raise Forbidden(
                f"this API key is limited to methods: the query must not have {_name(part)[:40]!r}"
            )


def build_headers(headers: HeaderPairs, access: Access) -> CIMultiDict[str]:
    """Return the headers of the request to the provider.

    The caller's headers replace constants of the manifest, such as a version of the API, but never what
    carries the account's credentials. Raises `Malformed` for a header that cannot be sent.
    """
    pairs = list(headers)
    left_out = _NOT_SENT | _named_by_connection(pairs)
    sent: CIMultiDict[str] = CIMultiDict()
    for raw_name, raw_value in pairs:
        name = raw_name.decode("latin-1").lower()
        if name in left_out:
            continue
        try:
            sent.add(name, raw_value.decode("utf-8").strip(" \t"))
        except UnicodeDecodeError:
            raise Malformed(f"the header {name[:80]} is not UTF-8") from None
    sent.setdefault("User-Agent", f"Interlink/{VERSION}")
    templates = access.connector.api_for(access.kind).headers
    for name, value in access.headers.items():
        is_constant = name in templates and not RequestTemplate(templates[name]).names
        if not is_constant or name not in sent:
            sent[name] = value
    return sent


def returned_headers(
    headers: Sequence[tuple[bytes, bytes]], *, url: str, hub: Container[str], access: Access
) -> list[tuple[bytes, bytes]]:
    """Return the headers of a provider's response as the caller gets them, without those of the hub's host.

    A redirect is the caller's to follow: `Location` becomes absolute, so that it leads to the provider. It is
    left out if it leads to the hub (the caller would go there with his API key) or shows the account's token.
    `Cache-Control` becomes private. `hub` are the addresses of the hub, as `host:port`.
    """
    left_out = _NOT_RETURNED | _named_by_connection(headers)
    returned = [
        (name.lower(), value) for name, value in headers if name.decode("latin-1").lower() not in left_out
    ]
    location = next((value for name, value in headers if name.lower() == b"location"), None)
    if location is not None and (absolute := _location(location, url, hub, access.values)):
        returned.append((b"location", absolute))
    caching = b",".join(value for name, value in headers if name.lower() == b"cache-control")
    if caching:
        returned.append((b"cache-control", _private(caching)))
    return returned


def _private(caching: bytes) -> bytes:
    """Return the value of `Cache-Control` for the caller alone: no shared cache may store the answer.

    A cache between the caller and the hub does not check the API key.
    """
    directives = (part.strip() for part in caching.decode("latin-1").split(","))
    own = (item for item in directives if item.partition("=")[0].strip().lower() not in _FOR_SHARED_CACHES)
    return ", ".join(["private", *filter(None, own)]).encode("latin-1")


def hub_addresses(public_base: str, host: str) -> frozenset[str]:
    """Return the addresses of the hub as `host:port`: its public one, and the one that the caller used.

    `host` is the header `Host` of the call; without a port it stands for both of http and https.
    """
    public = urlsplit(public_base)
    try:
        called = urlsplit(f"//{host}")
        ports = [called.port] if called.port else _DEFAULT_PORTS.values()
        own = {_address(called.hostname, port) for port in ports}
    except ValueError:
        own = set()
    return frozenset({_address(public.hostname, public.port or _DEFAULT_PORTS[public.scheme]), *own})


def _address(host: str | None, port: int) -> str:
    return f"{(host or '').rstrip('.')}:{port}"


def _location(location: bytes, url: str, hub: Container[str], values: Mapping[str, str]) -> bytes | None:
    try:
        absolute = urljoin(url, location.decode("ascii"))
        target = urlsplit(absolute)
        port = target.port or _DEFAULT_PORTS[target.scheme]
    except (UnicodeDecodeError, ValueError, KeyError):
        return None
    token = values.get("access_token", "")
    shows_token = len(token) >= _MIN_TOKEN_CHARACTERS and (token in absolute or quote(token) in absolute)
    leads_home = _address(target.hostname, port) in hub
    is_clear = bool(target.hostname) and absolute.isprintable() and "\\" not in absolute
    return absolute.encode() if is_clear and not shows_token and not leads_home else None


def _named_by_connection(headers: HeaderPairs) -> frozenset[str]:
    """Return the names of the headers that `Connection` makes hop-by-hop."""
    values = (value.decode("latin-1") for name, value in headers if name.lower() == b"connection")
    return frozenset(name.strip().lower() for value in values for name in value.split(","))


def _name(part: str) -> str:
    return unquote_plus(part.partition("=")[0])
