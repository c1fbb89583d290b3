"""Messages of the stub resolver, against dnspython: queries that it reads, answers that it writes."""

from contextlib import suppress

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.wire.dns import (
    MAX_MESSAGE_BYTES,
    Addresses,
    AddressType,
    MalformedAnswer,
    NoSuchName,
    ServerFailed,
    Truncated,
    decode_answer,
    encode_query,
    is_name,
    parse_server,
)

NAME = "hooks.example.com"
LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=10).map(".".join).filter(lambda name: len(name) <= 253)


def answered(
    *records: str,
    name: str = NAME,
    kind: str = "A",
    query_id: int = 7,
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
) -> bytes:
    """An answer with records as a zone file writes them."""
    query = dns.message.make_query(name, kind, id=query_id)
    answer = dns.message.make_response(query)
    answer.set_rcode(rcode)
    for record in records:
        owner, ttl, record_type, data = record.split(maxsplit=3)
        rrset = dns.rrset.from_text(f"{owner}.", int(ttl), "IN", record_type, data)
        answer.answer.append(rrset)
    return answer.to_wire(max_size=65_535)


@given(NAMES, st.sampled_from(AddressType), st.integers(0, 65_535))
def test_a_query_is_what_another_implementation_reads(name: str, kind: AddressType, query_id: int) -> None:
    read = dns.message.from_wire(encode_query(name, kind, query_id))
    [question] = read.question
    assert (read.id, question.name) == (query_id, dns.name.from_text(name))
    assert question.rdtype == dns.rdatatype.from_text(kind.name)
    assert read.flags == dns.flags.RD


@pytest.mark.parametrize(
    "text",
    ["", ".", "a..b", "a" * 64, ".".join(["a" * 60] * 5), "a b", "a\0b", "a\\b", "\u00fc.example", "a."],
)
def test_what_is_no_name_is_not_asked_for(text: str) -> None:
    assert not is_name(text)
    with pytest.raises(ValueError, match="not a valid DNS name"):
        encode_query(text, AddressType.A, 1)


def test_addresses_are_found_behind_aliases() -> None:
    alias = f"{NAME} 30 CNAME edge.example.net."
    message = answered(alias, "edge.example.net 60 A 192.0.2.1", "edge.example.net 60 A 192.0.2.2")
    assert decode_answer(message, NAME, AddressType.A, 7) == Addresses(("192.0.2.1", "192.0.2.2"), 30)
    message = answered(alias, "edge.example.net 60 AAAA 2001:db8::1", kind="AAAA")
    assert decode_answer(message, NAME, AddressType.AAAA, 7) == Addresses(("2001:db8::1",), 30)
    assert decode_answer(answered(alias), NAME, AddressType.A, 7) == Addresses((), 0)
    assert decode_answer(answered(), NAME.upper(), AddressType.A, 7) == Addresses((), 0)


def test_what_a_server_says_of_a_failure() -> None:
    for rcode, error in (
        (dns.rcode.NXDOMAIN, NoSuchName),
        (dns.rcode.SERVFAIL, ServerFailed),
        (dns.rcode.REFUSED, ServerFailed),
    ):
        with pytest.raises(error):
            decode_answer(answered(rcode=rcode), NAME, AddressType.A, 7)
    cut = bytearray(answered())
    cut[2] |= 0x02
    with pytest.raises(Truncated):
        decode_answer(bytes(cut), NAME, AddressType.A, 7)


def test_an_answer_to_something_else_is_none() -> None:
    record = f"{NAME} 60 A 192.0.2.1"
    good = answered(record)
    assert decode_answer(good, NAME, AddressType.A, 7).found == ("192.0.2.1",)
    for message in (
        answered(record, query_id=8),
        answered(record, name="other.example.com"),
        answered(kind="AAAA"),
        encode_query(NAME, AddressType.A, 7),
        good + bytes(MAX_MESSAGE_BYTES),
        b"",
        good[:11],
    ):
        with pytest.raises(MalformedAnswer):
            decode_answer(message, NAME, AddressType.A, 7)


@given(st.integers(0, 200), st.binary(max_size=40), st.booleans())
def test_a_damaged_answer_is_malformed_and_nothing_else(at: int, noise: bytes, cut: bool) -> None:
    good = answered(f"{NAME} 60 CNAME edge.example.net.", "edge.example.net 60 A 192.0.2.1")
    message = good[:at] + noise + (b"" if cut else good[at + len(noise) :])
    with suppress(MalformedAnswer, Truncated, NoSuchName, ServerFailed):
        decode_answer(message, NAME, AddressType.A, 7)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    head = answered()[: 12 + len(NAME) + 2 + 4]
    for count in (1, 3, 65_535):
        with suppress(MalformedAnswer):
            decode_answer(head[:6] + count.to_bytes(2) + head[8:] + noise, NAME, AddressType.A, 7)


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("10.0.0.2", ("10.0.0.2", 53)),
        ("10.0.0.2:5353", ("10.0.0.2", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_how_a_server_is_written(text: str, server: tuple[str, int]) -> None:
    assert parse_server(text) == server


@pytest.mark.parametrize("text", ["dns.example", "10.0.0.2:", "10.0.0.2:0", "10.0.0.2:x", "[::1", "[::1]5"])
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_server(text)
