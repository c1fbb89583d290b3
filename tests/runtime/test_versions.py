"""`If-Match` names one version, or it is refused."""

import pytest

from shared.contracts.errors import Malformed
from shared.runtime.web.versions import expected_version


@pytest.mark.parametrize(
    ("header", "version"),
    [
        (None, None),
        ("*", None),
        (" * ", None),
        ("3", 3),
        ('"3"', 3),
        (' "0" ', 0),
        ("999999999", 999_999_999),
    ],
)
def test_a_version_is_read(header: str | None, version: int | None) -> None:
    assert expected_version(header) == version


@pytest.mark.parametrize(
    "header",
    [
        "",
        '""',
        '"3',
        '3"',
        'W/"3"',
        '"3", "4"',
        "03",
        "-1",
        "1.0",
        "1e3",
        "1000000000",
        "٣",
        '"3"\n"3"',
        "null",
    ],
)
def test_anything_else_is_malformed(header: str) -> None:
    with pytest.raises(Malformed, match="If-Match"):
        expected_version(header)
