"""DNS messages of a stub resolver: encode a query for a name's addresses, decode the answer (RFC 1035). Pure.

Only what looking up an address needs. Names in an answer are skipped, not decompressed, so decoding takes
time in proportion to its length. A general parser follows compression pointers for every record, so a
stranger's name server could block the event loop for 27 ms with an answer of 4 KB, for 425 ms with 64 KB.
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
"""A longer answer is refused. About 250 IPv4 addresses fit."""

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
    """The message is not a valid answer to this query: ignore it and wait for another one."""


class Truncated(Exception):
    """The answer did not fit into a datagram: send the query again over TCP."""


class NoSuchName(Exception):
    """The name does not exist (NXDOMAIN)."""


class ServerFailed(Exception):
    """The server could not answer (SERVFAIL, REFUSED and others): another server may."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses in an answer, empty if the name has no record of the type. `ttl` is in seconds."""

    found: tuple[str, ...]
    ttl: int


def is_name(text: str) -> bool:
    """Return whether a text can be a host's name in DNS, without a final dot."""
    return _NAME.fullmatch(text) is not None


def encode_query(name: str, kind: AddressType, query_id: int) -> bytes:
    """Return the query for the addresses of a name. The name is absolute: no search domain is appended.

    Raises `ValueError` if `is_name` is false for the name.
    """
    return _HEADER.pack(query_id, _RECURSION_DESIRED, 1, 0, 0, 0) + _encode_question(name, kind)


def decode_answer(message: bytes, name: str, kind: AddressType, query_id: int) -> Addresses:
    """Return the addresses in the answer to a query.

    Every address of the queried type counts, whatever name its record has: the server followed the aliases.
    Raises `MalformedAnswer`, `Truncated`, `NoSuchName` or `ServerFailed`.
    """
    if not _HEADER.size <= len(message) <= MAX_MESSAGE_BYTES:
        raise MalformedAnswer("the message is shorter than its header, or too long")
    answer_id, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    question = _encode_question(name, kind)
    records_start = _HEADER.size + len(question)
    if answer_id != query_id or not flags & _IS_RESPONSE or flags & _OPCODE:
        raise MalformedAnswer("the message answers another query")
    # The question must be repeated: otherwise a forged answer needs to guess only 16 bits of id.
    if questions != 1 or message[_HEADER.size : records_start].lower() != question.lower():
        raise MalformedAnswer("the message answers another question")
    if flags & _TRUNCATED:
        raise Truncated
    if flags & _RCODE == 3:
        raise NoSuchName
    if flags & _RCODE:
        raise ServerFailed(f"code {flags & _RCODE}")
    return _read_addresses(message, records_start, answers, kind)


def _read_addresses(message: bytes, at: int, records: int, kind: AddressType) -> Addresses:
    """Read the records that begin at position `at`. Raises `MalformedAnswer`."""
    addresses: list[str] = []
    ttl = _MAX_TTL
    for _ in range(records):
        at = _skip_name(message, at)
        if at + _RECORD.size > len(message):
            raise MalformedAnswer("the message ends inside a record")
        record, network, seconds, length = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        data = message[at : at + length]
        at += length
        if len(data) != length:
            raise MalformedAnswer("the message ends inside a record")
        if network != _INTERNET or record not in (kind, _CNAME):
            continue
        ttl = min(ttl, seconds if seconds <= _MAX_TTL else 0)  # RFC 2181, 8
        if record == kind:
            if length != _ADDRESS_LENGTHS[kind]:
                raise MalformedAnswer("an address has the wrong length")
            addresses.append(str(IPv4Address(data) if kind is AddressType.A else IPv6Address(data)))
    return Addresses(tuple(addresses), ttl if addresses else 0)


def _encode_question(name: str, kind: AddressType) -> bytes:
    if not is_name(name):
        raise ValueError("not a valid DNS name")
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    return labels + b"\0" + _QUESTION.pack(kind, _INTERNET)


def _skip_name(message: bytes, at: int) -> int:
    """Return the position after the name at position `at`. Raises `MalformedAnswer`."""
    while at < len(message):
        length = message[at]
        if length >= 0xC0:  # a compression pointer ends the name
            return at + 2
        if length > 63:
            raise MalformedAnswer("a label has an unknown type")
        at += 1 + length
        if length == 0:
            return at
    raise MalformedAnswer("the message ends inside a name")


def parse_server(text: str) -> ServerAddress:
    """Parse a DNS server written as `address`, `address:port` or `[address]:port`.

    Raises `ValueError` for any other text, and for a host name instead of an address.
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
