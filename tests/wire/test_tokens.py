"""The secret itself as the proof: tokens in any part of a request, in every element of a batch, and Basic."""

import base64
from typing import Any

import orjson
import pytest

from shared.wire.verification import Verdict
from tests.wire.asked import request, said, way


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("Bearer s3cret-ä", Verdict.MISMATCH),
        ("Bearer s3cret", Verdict.VERIFIED),
        ("Bearer s3cret ", Verdict.VERIFIED),
        ("bearer s3cret", Verdict.MISMATCH),
        ("s3cret", Verdict.MISMATCH),
        ("Bearer Bearer s3cret", Verdict.MISMATCH),
        ("Bearer ", Verdict.MISMATCH),
        ("Bearer s3cre", Verdict.MISMATCH),
        ("Bearer S3cret", Verdict.MISMATCH),
    ],
)
def test_a_token_with_a_prefix(value: str, verdict: Verdict) -> None:
    checked = way(scheme="token", **{"from": "{header:authorization}"}, prefix="Bearer ")
    assert said(checked, request({"authorization": value}), b"s3cret") is verdict


def test_a_token_that_is_there_twice_or_empty() -> None:
    checked = way(scheme="token", **{"from": "{query:token}"})
    for query in (b"", b"token=", b"token=s3cret&token=s3cret", b"token=x&token=s3cret", b"Token=s3cret"):
        asked = request(query=query)
        assert not checked.applies(asked)
        assert said(checked, asked, b"s3cret") is Verdict.MISSING
        assert said(checked, asked, b"") in {Verdict.MISSING, Verdict.NO_SECRET}
    assert said(checked, request(query=b"token=s3cret"), b"s3cret") is Verdict.VERIFIED
    assert said(checked, request(query=b"token=s3cret"), b"new", b"s3cret") is Verdict.VERIFIED


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ([{"s": "k1"}, {"s": "k1"}], Verdict.VERIFIED),
        ([{"s": "k1"}, {"s": "k2"}], Verdict.VERIFIED),
        ([{"s": "k1"}, {"s": "other"}], Verdict.MISMATCH),
        ([{"s": "k1"}, {}], Verdict.MISSING),
        ([{"s": "k1"}, {"s": None}], Verdict.MISSING),
        ([{"s": "k1"}, {"s": ""}], Verdict.MISSING),
        ([{"s": "k1"}, "text"], Verdict.MISSING),
        ([{"s": "k1"}, {"s": ["k1"]}], Verdict.MISSING),
        ([], Verdict.MISSING),
        ({"s": "k1"}, Verdict.MISSING),
        (None, Verdict.MISSING),
    ],
)
def test_a_token_in_every_element_of_a_batch(value: Any, verdict: Verdict) -> None:
    """One element without it would ride along with the others."""
    graph = way(scheme="token", **{"from": "{item:s}"}, each="value")
    assert said(graph, request(body=orjson.dumps({"value": value})), b"k1", b"k2") is verdict


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("Basic " + base64.b64encode(b"user:pass").decode(), Verdict.VERIFIED),
        ("basic " + base64.b64encode(b"user:pass").decode(), Verdict.VERIFIED),
        ("Basic  " + base64.b64encode(b"user:pass").decode(), Verdict.VERIFIED),
        ("Basic " + base64.b64encode(b"user:pass2").decode(), Verdict.MISMATCH),
        ("Basic " + base64.b64encode(b"User:pass").decode(), Verdict.MISMATCH),
        ("Basic " + base64.b64encode(b"user").decode(), Verdict.UNREADABLE),
        ("Basic !!!", Verdict.UNREADABLE),
        ("Basic", Verdict.UNREADABLE),
        ("Basic ", Verdict.UNREADABLE),
    ],
)
def test_basic(value: str, verdict: Verdict) -> None:
    basic = way(scheme="basic")
    asked = request({"authorization": value})
    assert basic.applies(asked)
    assert said(basic, asked, b"user:pass") is verdict


def test_basic_that_is_none() -> None:
    basic = way(scheme="basic")
    assert not basic.applies(request({"authorization": "Bearer x"}))
    value = "Basic " + base64.b64encode(b"user:pass").decode()
    assert said(basic, request({"authorization": [value, value]}), b"user:pass") is Verdict.DOUBLED
    assert said(basic, request(), b"user:pass") is Verdict.MISSING
    assert said(basic, request({"authorization": value})) is Verdict.NO_SECRET
