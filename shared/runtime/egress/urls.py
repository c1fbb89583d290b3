"""Parse the URLs of outgoing calls: what is requested, where a redirect leads, and the operator's proxy."""

from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from yarl import URL

from shared.contracts.errors import Misconfigured
from shared.runtime.egress.errors import BadUrl

_WEBSOCKET_SCHEMES: Final = {"ws://": "http://", "wss://": "https://"}


@lru_cache(maxsize=4096)
def parse_url(url: str) -> URL:
    """Return an http or https URL as it is sent. Raises `BadUrl`."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise BadUrl("the URL is not encoded")
    parsed = URL(url, encoded=True)
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        raise BadUrl("the URL is neither http nor https")
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise BadUrl("the URL carries a user name or password")
    return parsed


def with_ascii_host(url: str) -> str:
    """Return a URL with an internationalized host name in its ASCII form (`xn--...`).

    A URL with an ASCII host is returned unchanged. Raises `ValueError` if the host has no such form: it is
    not valid, or is an ASCII name or address in look-alike characters.
    """
    parts = urlsplit(url)
    host = parts.hostname
    if not host or host.isascii():
        return url
    ascii_host = URL.build(scheme="https", host=host).raw_host or ""
    if "xn--" not in ascii_host:
        raise ValueError("the host name is not an internationalized one")
    return parts._replace(netloc=parts.netloc.lower().replace(host, ascii_host)).geturl()


def handshake_url(url: str, *, allow_plain: bool) -> str:
    """Return the http or https URL of a WebSocket's handshake. Raises `BadUrl`.

    A `ws` URL, which has no TLS, is refused unless `allow_plain`.
    """
    for scheme, http_scheme in _WEBSOCKET_SCHEMES.items():
        if url[: len(scheme)].lower() == scheme:
            if scheme == "ws://" and not allow_plain:
                raise BadUrl("the URL must start with wss://: without TLS, others can read messages")
            return http_scheme + url[len(scheme) :]
    raise BadUrl("the URL is neither ws nor wss")


def redirect_target(url: str, location: str) -> str:
    """Return the URL that a redirect from `url` leads to, without its fragment.

    Raises `BadUrl`, also for a redirect from https to http.
    """
    if not location.isascii() or not location.isprintable() or " " in location:
        raise BadUrl("the redirect's URL is not encoded")
    source = parse_url(url)
    try:
        target = source.join(URL(location, encoded=True)).with_fragment(None)
    except ValueError:
        raise BadUrl("the redirect's URL is malformed") from None
    parsed = parse_url(str(target))
    if source.scheme == "https" and parsed.scheme != "https":
        raise BadUrl("the redirect leads from https to http")
    return str(target)


def same_origin(first: str, second: str) -> bool:
    """Return whether two URLs have the same scheme, host and port."""
    return parse_url(first).origin() == parse_url(second).origin()


def parse_proxy_url(text: str) -> URL:
    """Return the URL of the egress proxy. Raises `Misconfigured`."""
    try:
        url = URL(text)
        usable = url.scheme == "http" and bool(url.host) and url.path in ("", "/") and not url.query_string
    except ValueError:
        usable = False
    if not usable:  # the error does not repeat the text, which may hold a password
        raise Misconfigured(
            "INTERLINK_EGRESS_PROXY: must be http://host:port or http://user:password@host:port"
        )
    return url
