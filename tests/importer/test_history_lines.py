"""Lines of an export, whatever their length, and the JSON of one line."""

import json
import tracemalloc
from io import BytesIO, RawIOBase
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Malformed
from shared.manifests.history_lines import MAX_LINE, json_line, lines

GIGABYTE: Final = 1024**3


class LongLine(RawIOBase):
    """A file with a line of so many bytes, and a short one behind it."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._left <= 0:
            tail, self._left = (b"x\nafter", -1) if self._left == 0 else (b"", -1)
            return tail
        count = min(size, self._left)
        self._left -= count
        return b"x" * count


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=20))
def test_lines_are_those_of_the_file(expected: list[bytes]) -> None:
    data = b"\n".join(expected)
    found = list(lines(BytesIO(data), max_length=20))
    if expected and not expected[-1]:
        expected = expected[:-1]  # a line feed at the end begins no line
    assert found == [line if len(line) <= 20 else None for line in expected]


def test_lines_longer_than_a_chunk_are_joined() -> None:
    long = b"y" * 1_000_000
    assert list(lines(BytesIO(b"a\n" + long + b"\nb"))) == [b"a", long, b"b"]


def test_a_line_of_a_gigabyte_is_left_out_in_bounded_memory() -> None:
    tracemalloc.start()
    try:
        found = list(lines(LongLine(GIGABYTE)))  # type: ignore[arg-type]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [None, b"after"]
    assert peak < 4 * MAX_LINE


@pytest.mark.parametrize(
    "line", [None, b"", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"1" * 10_000 + b"x"]
)
def test_what_is_no_json_is_malformed(line: bytes | None) -> None:
    with pytest.raises(Malformed):
        json_line(line)


@pytest.mark.parametrize("line", [b'{"a": "\\ud800"}', b'{"a": Infinity}', b'{"a": 1e999}', b'{"a": "x"}'])
def test_what_spoils_one_field_only_is_read(line: bytes) -> None:
    expected: Any = json.loads(line)
    assert json_line(line) == expected
