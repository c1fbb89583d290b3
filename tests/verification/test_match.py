"""Matches: expected values of parts, and their absence."""

from collections.abc import Mapping
from typing import Any

import pytest

from shared.verification.match import Match
from tests.verification.raw_requests import request


@pytest.mark.parametrize(
    ("rules", "holds"),
    [
        ({}, True),
        ({"json:k": "v"}, True),
        ({"json:k": "V"}, False),
        ({"json:k": ["w", "v"]}, True),
        ({"json:k": ["w"]}, False),
        ({"json:a.b.0": 10}, True),
        ({"json:a.b.0": "10"}, True),
        ({"json:t": True}, True),
        ({"json:t": "true"}, True),
        ({"json:t": 1}, False),
        ({"json:f": False}, True),
        ({"json:k": "v", "json:t": False}, False),
        ({"json:k": "present"}, True),
        ({"json:a": "present"}, True),
        ({"json:list": "present"}, True),
        ({"json:e": "present"}, True),
        ({"json:z": "present"}, False),
        ({"json:z": "absent"}, True),
        ({"json:none": "absent"}, True),
        ({"json:a": "absent"}, False),
        ({"header:h": "present"}, True),
        ({"header:none": "absent"}, True),
        ({"method": ["POST", "GET"]}, True),
        ({"query:q": "{setting:q}"}, True),
        ({"query:q": "{setting:other}"}, False),
        ({"query:q": "{setting:none}"}, False),
        ({"query:none": "{setting:none}"}, False),
        ({"query:none": "{setting:q}"}, False),
        ({"query:q": "x{setting:q}"}, False),
        ({"json:a": "{setting:q}"}, False),
    ],
)
def test_a_match(rules: Mapping[str, Any], holds: bool) -> None:
    inbound = request(query=b"q=1", headers={b"h": [b"1"]}, settings={"q": "1", "other": "2"})
    assert Match(rules).holds(inbound) is holds


def test_a_setting_that_is_empty_matches_nothing() -> None:
    """Else an endpoint whose owner left a setting out would accept requests that leave it out too."""
    for query in (b"", b"q=", b"q=1"):
        inbound = request(query=query, settings={"q": ""})
        assert not Match({"query:q": "{setting:q}"}).holds(inbound)


def test_a_match_with_text_that_is_not_ascii() -> None:
    inbound = request(body='{"k":"ä😀"}'.encode(), settings={"k": "ä😀"})
    assert Match({"json:k": "{setting:k}"}).holds(inbound)
