"""Reading a request under its limits, before anything is known about it."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, NoReturn

from starlette.types import Receive, Scope

from shared.contracts.envelope import JSON_CONTENT_TYPE
from shared.contracts.errors import Forbidden, Malformed, Rejected, TooLarge
from shared.runtime.deadlines import DeadlineQueue

Headers = Mapping[bytes, Sequence[bytes]]

_MAX_HEADER_LENGTH: Final = 200


class TooSlow(Rejected):
    """The body did not arrive in time."""

    status = 408
    reason = "too_slow"


def headers_of(scope: Scope) -> Headers:
    """The headers, each name with its values in order."""
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        if name in headers:
            headers[name].append(value)
        else:
            headers[name] = [value]
    return headers


def first_header(headers: Headers, name: bytes) -> str:
    """The first value of a header as printable text, or ''."""
    values = headers.get(name)
    if not values:
        return ""
    return values[0].decode("ascii", "replace").replace("\0", "").strip()


def content_type(headers: Headers) -> str:
    """It travels in the envelope, where 1024 bytes is the most; JSON when there is none."""
    text = first_header(headers, b"content-type") or JSON_CONTENT_TYPE
    if len(text) > _MAX_HEADER_LENGTH:
        raise Malformed(f"the header content-type has more than {_MAX_HEADER_LENGTH} characters")
    return text


def idempotency_key(headers: Headers) -> str:
    """The caller's key as it is: two keys that were made equal would lose a message."""
    given = headers.get(b"idempotency-key", (b"",))[0]
    if len(given) > _MAX_HEADER_LENGTH or not given.isascii():
        raise Malformed(f"the header idempotency-key has at most {_MAX_HEADER_LENGTH} ASCII characters")
    return given.decode("ascii")


def check_address(networks: Sequence[IPv4Network | IPv6Network], scope: Scope) -> None:
    """Raises `Forbidden` for a caller who is not on the list; none at all lets everybody in.

    `client` is already what a trusted proxy says it is.
    """
    if not networks:
        return
    try:
        address = ip_address(scope["client"][0] if scope.get("client") else "")
    except ValueError:
        raise Forbidden("your address is not known") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped  # as a socket for both versions shows IPv4
    if not any(address.version == network.version and address in network for network in networks):
        raise Forbidden("your address is not on this endpoint's list")


def client_address(scope: Scope) -> str:
    """Who calls, for a limit of each caller: the IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ip_address(scope["client"][0] if scope.get("client") else "")
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return str(IPv6Network((int(address), 64), strict=False))
        address = address.ipv4_mapped
    return str(address)


class BodyReader:
    """Reads bodies, each within `timeout_s` seconds."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadlines = DeadlineQueue(timeout_s)

    async def read(self, headers: Headers, receive: Receive, limit: int) -> bytes:
        """The body, refused as soon as it is known to be too large or takes too long.

        Raises `TooLarge`, `TooSlow`, `Malformed`.
        """
        declared = first_header(headers, b"content-length")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
            _too_large(limit)
        try:
            with self._deadlines.deadline():
                message = await receive()
                body: bytes = message.get("body", b"")
                if not message.get("more_body"):
                    if message["type"] == "http.disconnect":
                        _disconnected()
                    return body if len(body) <= limit else _too_large(limit)
                chunks = [body]
                size = len(body)
                while message.get("more_body"):
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        _disconnected()
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > limit:
                        _too_large(limit)
                    chunks.append(chunk)
        except TimeoutError:
            raise TooSlow(f"the body did not arrive within {self._timeout_s:.0f} s") from None
        return b"".join(chunks)


def _too_large(limit: int) -> NoReturn:
    raise TooLarge(f"the body has more than {limit} bytes")


def _disconnected() -> NoReturn:
    raise Malformed("the connection was closed before the body was complete")
