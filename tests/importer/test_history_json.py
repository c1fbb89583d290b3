"""Levels of a stream of JSON are bounded, wherever a chunk ends and whatever is in its texts."""

import json
from io import BytesIO
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.manifests.history_json import MAX_LEVELS, MAX_TEXT_BYTES, ShallowFile

_VALUES = st.recursive(
    st.none() | st.floats(allow_nan=False) | st.text(st.sampled_from('ab"\\[]{}é\n'), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=40,
)


def whole(data: bytes, size: int) -> bytes:
    file = ShallowFile(BytesIO(data))
    parts = []
    while part := file.read(size):
        parts.append(part)
    return b"".join(parts)


@given(_VALUES, st.integers(1, 50), st.booleans())
def test_what_is_shallow_is_read_as_it_is(value: Any, size: int, ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert whole(data, size) == data


@example(levels=MAX_LEVELS - 1, size=500, text="", is_object=False)
@given(st.integers(1, 4 * MAX_LEVELS), st.integers(1, 500), st.text('ab"\\[]{}', max_size=9), st.booleans())
def test_levels_are_counted_as_they_are(levels: int, size: int, text: str, is_object: bool) -> None:
    value = json.dumps(text)
    opening, closing = ('{"a": ' if is_object else "[", "}" if is_object else "]")
    data = f'[{value}, {{"x": [{value}]}}, {opening * levels}{value}{closing * levels}]'.encode()
    if levels + 1 <= MAX_LEVELS:
        assert whole(data, size) == data
    if levels <= 2 * MAX_LEVELS:
        return  # where a chunk ends decides
    with pytest.raises(ValueError, match="more than 100 levels"):
        whole(data, size)


def test_a_text_has_a_bound_and_a_file_has_none() -> None:
    text = b'"' + b"x" * (MAX_TEXT_BYTES - 10) + b'"'
    data = b"[" + b",".join([text] * 2) + b"]"
    assert whole(data, 1 << 16) == data
    with pytest.raises(ValueError, match="a text of more than 16777216 bytes"):
        whole(data.replace(b'","', b"---"), 1 << 16)
