"""DNS messages of a stub resolver: a query for the addresses of a name, and what an answer says (RFC 1035).

Only what looking up an address needs. An answer is walked over, never unfolded: names in it are skipped, not
decompressed, so reading one costs time in proportion to its length. A general parser follows compression
pointers for every record, and a stranger who runs a name's server could make 4 KB of answer cost 27 ms of the
event loop, 64 KB 425 ms.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct
from typing import Final

ServerAddress = tuple[str, int]
"""Address and port of a DNS server."""

DNS_PORT: Final = 53
MAX_MESSAGE_BYTES: Final = 4096
"""Bytes; a longer answer is refused. About 250 IPv4 addresses fit."""

_HEADER: Final = Struct(">HHHHHH")
_QUESTION: Final = Struct(">HH")
_RECORD: Final = Struct(">HHIH")
_INTERNET: Final = 1
_CNAME: Final = 5
_MAX_TTL: Final = 2**31 - 1
_RECURSION_DESIRED: Final = 0x0100
_IS_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_TRUNCATED: Final = 0x0200
_RCODE: Final = 0x000F
_NAME: Final = re.compile(r"(?!.{254})[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.IGNORECASE)


class AddressType(IntEnum):
    """Record types that hold an address."""

    A = 1
    AAAA = 28


_ADDRESS_LENGTHS: Final = {AddressType.A: 4, AddressType.AAAA: 16}


class MalformedAnswer(ValueError):
    """The datagram is not an answer to this query: ignore it and wait for another one."""


class Truncated(Exception):
    """The answer did not fit into a datagram: ask again over TCP."""


class NoSuchName(Exception):
    """The name does not exist (NXDOMAIN)."""


class ServerFailed(Exception):
    """The server could not answer (SERVFAIL, REFUSED and others): another one may."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses in an answer, none if the name has no record of this type; `ttl` in seconds."""

    found: tuple[str, ...]
    ttl: int


def is_name(text: str) -> bool:
    """Return whether the text, without a final dot, can be a host's name in DNS."""
    return _NAME.fullmatch(text) is not None


def encode_query(name: str, kind: AddressType, query_id: int) -> bytes:
    """Return the query for one name, which is absolute: no search domain is ever appended.

    Raises `ValueError` if `is_name` is false for it.
    """
    return _HEADER.pack(query_id, _RECURSION_DESIRED, 1, 0, 0, 0) + _encode_question(name, kind)


def decode_answer(message: bytes, name: str, kind: AddressType, query_id: int) -> Addresses:
    """Return the addresses that a server gives for a query.

    All addresses of the asked type count, whichever alias has them: the server has followed the aliases.
    Raises `MalformedAnswer`, `Truncated`, `NoSuchName` or `ServerFailed`.
    """
    if not _HEADER.size <= len(message) <= MAX_MESSAGE_BYTES:
        raise MalformedAnswer("it is shorter than a header, or longer than any answer that is read")
    answer_id, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    question = _encode_question(name, kind)
    at = _HEADER.size + len(question)
    if answer_id != query_id or not flags & _IS_RESPONSE or flags & _OPCODE:
        raise MalformedAnswer("it answers another query")
    if questions != 1 or message[_HEADER.size : at].lower() != question.lower():
        raise MalformedAnswer("it answers another question")
    if flags & _TRUNCATED:
        raise Truncated
    if flags & _RCODE == 3:
        raise NoSuchName
    if flags & _RCODE:
        raise ServerFailed(f"code {flags & _RCODE}")
    return _read_addresses(message, at, answers, kind)


def _read_addresses(message: bytes, at: int, records: int, kind: AddressType) -> Addresses:
    """Read the records that begin at a position. Raises `MalformedAnswer`."""
    found: list[str] = []
    ttl = _MAX_TTL
    for _ in range(records):
        at = _skip_name(message, at)
        if at + _RECORD.size > len(message):
            raise MalformedAnswer("it ends inside a record")
        record, network, seconds, length = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        data = message[at : at + length]
        at += length
        if len(data) != length:
            raise MalformedAnswer("it ends inside a record")
        if network != _INTERNET or record not in (kind, _CNAME):
            continue
        ttl = min(ttl, seconds if seconds <= _MAX_TTL else 0)  # RFC 2181, 8
        if record == kind:
            if length != _ADDRESS_LENGTHS[kind]:
                raise MalformedAnswer("an address has a wrong length")
            found.append(str(IPv4Address(data) if kind is AddressType.A else IPv6Address(data)))
    return Addresses(tuple(found), ttl if found else 0)


def _encode_question(name: str, kind: AddressType) -> bytes:
    if not is_name(name):
        raise ValueError("not a name that DNS can have")
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    return labels + b"\0" + _QUESTION.pack(kind, _INTERNET)


def _skip_name(message: bytes, at: int) -> int:
    """Return the position behind a name. Raises `MalformedAnswer`."""
    while at < len(message):
        length = message[at]
        if length >= 0xC0:  # a pointer to a name that came before ends this one
            return at + 2
        if length > 63:
            raise MalformedAnswer("a label has an unknown form")
        at += 1 + length
        if length == 0:
            return at
    raise MalformedAnswer("it ends inside a name")


def parse_server(text: str) -> ServerAddress:
    """Return a DNS server that is written as `address`, `address:port` or `[address]:port`.

    Raises `ValueError`.
    """
    host, port = text, DNS_PORT
    if text.startswith("["):
        host, separator, rest = text[1:].partition("]")
        if not separator or (rest and not rest.startswith(":")):
            raise ValueError("not an address and a port")
        port = int(rest[1:]) if rest else DNS_PORT
    elif text.count(":") == 1:
        host, _, number = text.partition(":")
        port = int(number)
    if not 0 < port < 65536:
        raise ValueError("not a port")
    return str(ip_address(host)), port
