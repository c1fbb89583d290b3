"""Times as providers write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.envelope import rfc3339
from shared.wire.timestamps import parse_timestamp

MOMENT = "2026-05-04T08:20:30.000Z"


@pytest.mark.parametrize(
    "text",
    [
        "1777882830",
        "1777882830.0",
        "1777882830000",
        "1777882830000000",
        "2026-05-04T08:20:30Z",
        "2026-05-04T10:20:30+02:00",
        "2026-05-04T10:20:30+0200",
        "2026-05-04 08:20:30 UTC",
        "2026-05-04 10:20:30 +0200",
        "Mon, 04 May 2026 08:20:30 +0000",
        "Mon, 04 May 2026 10:20:30 +0200",
        " 2026-05-04T08:20:30Z ",
    ],
)
def test_one_moment_in_many_spellings(text: str) -> None:
    parsed = parse_timestamp(text)
    assert parsed is not None
    assert rfc3339(parsed) == MOMENT


def test_fractions_of_a_second_are_preserved() -> None:
    for text in ("1777882830.25", "1777882830250", "2026-05-04T08:20:30.250Z"):
        parsed = parse_timestamp(text)
        assert parsed is not None
        assert rfc3339(parsed) == "2026-05-04T08:20:30.250Z"


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "12345", "-1777882830", "2026-05-04", "2026-05-04T08:20:30", "2026-13-04T08:20:30Z"),
        *("1e9", "9" * 17, "0x6a000000", "Mon, 04 May 2026 08:20:30", "9999-12-31T23:59:59-12:00"),
        "\u0661\u0667\u0667\u0667\u0668\u0668\u0662\u0668\u0663\u0660",
    ],
)
def test_what_is_no_moment(text: str) -> None:
    """Also what lacks its offset: it could be any of a day's hours."""
    assert parse_timestamp(text) is None


@given(st.text(max_size=60))
def test_it_never_raises(text: str) -> None:
    parse_timestamp(text)
