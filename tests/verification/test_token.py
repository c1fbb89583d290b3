"""The secret itself as the proof: tokens in any part of a request, in every element of a batch, and Basic."""

import base64
from typing import Any

import orjson
import pytest

from shared.verification.scheme import VerificationResult
from tests.verification.builders import check, make_scheme, request


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("Bearer s3cret-ä", VerificationResult.MISMATCH),
        ("Bearer s3cret", VerificationResult.VERIFIED),
        ("Bearer s3cret ", VerificationResult.VERIFIED),
        ("bearer s3cret", VerificationResult.MISMATCH),
        ("s3cret", VerificationResult.MISMATCH),
        ("Bearer Bearer s3cret", VerificationResult.MISMATCH),
        ("Bearer ", VerificationResult.MISMATCH),
        ("Bearer s3cre", VerificationResult.MISMATCH),
        ("Bearer S3cret", VerificationResult.MISMATCH),
    ],
)
def test_a_token_with_a_prefix(value: str, verdict: VerificationResult) -> None:
    scheme = make_scheme(scheme="token", **{"from": "{header:authorization}"}, prefix="Bearer ")
    assert check(scheme, request({"authorization": value}), b"s3cret") is verdict


def test_a_token_that_is_there_twice_or_empty() -> None:
    scheme = make_scheme(scheme="token", **{"from": "{query:token}"})
    for query in (b"", b"token=", b"token=s3cret&token=s3cret", b"token=x&token=s3cret", b"Token=s3cret"):
        inbound = request(query=query)
        assert not scheme.applies(inbound)
        assert check(scheme, inbound, b"s3cret") is VerificationResult.MISSING
        assert check(scheme, inbound, b"") in {VerificationResult.MISSING, VerificationResult.NO_SECRET}
    assert check(scheme, request(query=b"token=s3cret"), b"s3cret") is VerificationResult.VERIFIED
    assert check(scheme, request(query=b"token=s3cret"), b"new", b"s3cret") is VerificationResult.VERIFIED


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ([{"s": "k1"}, {"s": "k1"}], VerificationResult.VERIFIED),
        ([{"s": "k1"}, {"s": "k2"}], VerificationResult.VERIFIED),
        ([{"s": "k1"}, {"s": "other"}], VerificationResult.MISMATCH),
        ([{"s": "k1"}, {}], VerificationResult.MISSING),
        ([{"s": "k1"}, {"s": None}], VerificationResult.MISSING),
        ([{"s": "k1"}, {"s": ""}], VerificationResult.MISSING),
        ([{"s": "k1"}, "text"], VerificationResult.MISSING),
        ([{"s": "k1"}, {"s": ["k1"]}], VerificationResult.MISSING),
        ([], VerificationResult.MISSING),
        ({"s": "k1"}, VerificationResult.MISSING),
        (None, VerificationResult.MISSING),
    ],
)
def test_a_token_in_every_element_of_a_batch(value: Any, verdict: VerificationResult) -> None:
    """One element without it would ride along with the others."""
    graph = make_scheme(scheme="token", **{"from": "{item:s}"}, each="value")
    assert check(graph, request(body=orjson.dumps({"value": value})), b"k1", b"k2") is verdict


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("Basic " + base64.b64encode(b"user:pass").decode(), VerificationResult.VERIFIED),
        ("basic " + base64.b64encode(b"user:pass").decode(), VerificationResult.VERIFIED),
        ("Basic  " + base64.b64encode(b"user:pass").decode(), VerificationResult.VERIFIED),
        ("Basic " + base64.b64encode(b"user:pass2").decode(), VerificationResult.MISMATCH),
        ("Basic " + base64.b64encode(b"User:pass").decode(), VerificationResult.MISMATCH),
        ("Basic " + base64.b64encode(b"user").decode(), VerificationResult.UNREADABLE),
        ("Basic !!!", VerificationResult.UNREADABLE),
        ("Basic", VerificationResult.UNREADABLE),
        ("Basic ", VerificationResult.UNREADABLE),
    ],
)
def test_basic(value: str, verdict: VerificationResult) -> None:
    basic = make_scheme(scheme="basic")
    inbound = request({"authorization": value})
    assert basic.applies(inbound)
    assert check(basic, inbound, b"user:pass") is verdict


def test_basic_that_is_none() -> None:
    basic = make_scheme(scheme="basic")
    assert not basic.applies(request({"authorization": "Bearer x"}))
    value = "Basic " + base64.b64encode(b"user:pass").decode()
    assert (
        check(basic, request({"authorization": [value, value]}), b"user:pass") is VerificationResult.DOUBLED
    )
    assert check(basic, request(), b"user:pass") is VerificationResult.MISSING
    assert check(basic, request({"authorization": value})) is VerificationResult.NO_SECRET
