"""The classes of failed calls, and the one place that classifies the errors of aiohttp and the system."""

import os
import socket
import ssl
from typing import Final, Literal, TypeVar

import aiohttp

from shared.runtime.egress.certificates import describe_tls_error
from shared.runtime.egress.resolver import NotResolved

EgressFailure = Literal[
    "timeout",
    "connection",
    "tls",
    "dns",
    "address_refused",
    "protocol",
    "closed_mid_response",
    "bad_url",
    "transform_failed",
    "condition_too_expensive",
    "proxy",
]

E = TypeVar("E", bound=BaseException)

_MAX_CAUSES: Final = 5


class AddressRefused(OSError):
    """The address is internal, or the port is not among the allowed ones."""


class BadUrl(ValueError):
    """The URL cannot be requested; the text says why."""


def classify_error(error: BaseException, *, answered: bool, proxied: bool) -> tuple[EgressFailure, str]:
    """Return the class of a failed call and a detail for people.

    `answered`: a status has arrived before the error. `proxied`: the call went through the egress proxy.
    """
    # The order matters: aiohttp wraps one cause in several errors, so the specific tests come first.
    if refused := _find_cause(error, AddressRefused):
        return "address_refused", str(refused)
    if isinstance(error, TimeoutError):
        return "timeout", "no answer in time"
    if proxied and (detail := _proxy_detail(error)):
        return "proxy", detail
    tls = _find_cause(error, ssl.SSLError)
    if isinstance(error, aiohttp.ClientSSLError) or (tls and not answered):
        return "tls", describe_tls_error(tls)
    reset = _find_cause(error, ConnectionResetError)
    if isinstance(error, aiohttp.ClientConnectorError) and reset and not reset.errno:
        # Without an errno the reset comes from the event loop, which raises it during the TLS handshake only.
        return "tls", "the connection was closed during the handshake"
    if isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        unresolved = _find_cause(error, NotResolved)
        return "dns", str(unresolved) if unresolved else "the name does not resolve"
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return "bad_url", str(error) if isinstance(error, BadUrl) else type(error).__name__
    if answered or isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        return "closed_mid_response", type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        return "protocol", type(error).__name__
    return "connection", _connection_detail(error)


def _connection_detail(error: BaseException) -> str:
    if isinstance(error.__cause__, aiohttp.ClientConnectionResetError):
        # The server may have sent a reason before it closed the connection; nobody has read it.
        return "the connection was closed before the request was sent"
    cause = _find_cause(error, OSError)
    return os.strerror(cause.errno).lower() if cause and cause.errno else type(error).__name__


def _proxy_detail(error: BaseException) -> str:
    """Return what is wrong with the egress proxy; the empty text if the error is not the proxy's."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the egress proxy answered {error.status}"
    if isinstance(error, (aiohttp.ClientProxyConnectionError, aiohttp.ClientConnectorDNSError)):
        return "the egress proxy cannot be reached"
    return ""


def _find_cause(error: BaseException | None, kind: type[E]) -> E | None:
    """Return the first error of this class in a chain of causes. aiohttp's own errors only wrap others."""
    for _ in range(_MAX_CAUSES):
        if error is None or (isinstance(error, kind) and not isinstance(error, aiohttp.ClientError)):
            return error
        inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        error = inner if isinstance(inner, BaseException) and inner is not error else error.__cause__
    return None
