"""Read headers, body and caller address of a request under limits, before it is verified."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
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
    """Return the headers of an ASGI scope: each name with its values in order."""
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        if name in headers:
            headers[name].append(value)
        else:
            headers[name] = [value]
    return headers


def first_header(headers: Headers, name: bytes) -> str:
    """Return the first value of a header as ASCII text; '' if there is none."""
    values = headers.get(name)
    if not values:
        return ""
    return values[0].decode("ascii", "replace").replace("\0", "").strip()


def content_type(headers: Headers) -> str:
    """Return the content type; JSON if there is none.

    It becomes a header of the envelope, where a value has at most 1024 bytes. Raises `Malformed` if it is
    longer than 200 characters.
    """
    text = first_header(headers, b"content-type") or JSON_CONTENT_TYPE
    if len(text) > _MAX_HEADER_LENGTH:
        raise Malformed(f"the header content-type has more than {_MAX_HEADER_LENGTH} characters")
    return text


def idempotency_key(headers: Headers) -> str:
    """Return the caller's idempotency key unchanged; '' if there is none.

    It is not trimmed or decoded leniently: two keys that became equal would lose a message. Raises
    `Malformed` if it is too long or not ASCII.
    """
    key = headers.get(b"idempotency-key", (b"",))[0]
    if len(key) > _MAX_HEADER_LENGTH or not key.isascii():
        raise Malformed(f"the header idempotency-key has at most {_MAX_HEADER_LENGTH} ASCII characters")
    return key.decode("ascii")


def check_address(networks: Sequence[IPv4Network | IPv6Network], scope: Scope) -> None:
    """Raise `Forbidden` if the caller's address is not in `networks`; an empty list allows every caller.

    The scope's `client` is the address that a trusted proxy reported, if there is one.
    """
    if not networks:
        return
    try:
        address = ip_address(scope["client"][0] if scope.get("client") else "")
    except ValueError:
        raise Forbidden("your address is unknown, and this endpoint accepts only listed addresses") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped  # a dual-stack socket shows IPv4 callers in this form
    if not any(address.version == network.version and address in network for network in networks):
        raise Forbidden("your address is not on this endpoint's list")


def client_address(scope: Scope) -> str:
    """Return the name under which a caller's requests are limited; '' if the address is unknown.

    It is the IPv4 address, or the /64 network of an IPv6 address: one caller can use all addresses of a /64.
    """
    return _caller_name(scope["client"][0]) if scope.get("client") else ""


@lru_cache(maxsize=4096)
def _caller_name(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return str(IPv6Network((int(address), 64), strict=False))
        address = address.ipv4_mapped
    return str(address)


class BodyReader:
    """Reads request bodies. Each has to be complete within `timeout_s` seconds."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadlines = DeadlineQueue(timeout_s)

    async def read(self, headers: Headers, receive: Receive, limit: int) -> bytes:
        """Return the body of at most `limit` bytes.

        Raises `TooLarge` as soon as the declared or received size is over the limit, `TooSlow` after the
        timeout, and `Malformed` if the caller disconnects.
        """
        declared = headers.get(b"content-length")
        if declared and declared[0].isdigit() and int(declared[0][:20]) > limit:
            _too_large(limit)
        try:
            with self._deadlines.deadline():
                message = await receive()
                body: bytes = message.get("body", b"")
                if not message.get("more_body"):  # the usual case: the whole body is in one message
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
