"""Ambiguous paths, which two programs may interpret differently."""

from urllib.parse import quote, unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.wire.paths import is_ambiguous

PIECES = st.sampled_from(["..", ".", "/", "\\", "%2e", "%2F", "%5c", "%25", "2e", "2f", "a", "é", ";", "api"])


@pytest.mark.parametrize(
    "path",
    [
        *("/..", "/a/../b", "//a", "/a//b", "/a\\b", "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/%2e%2e"),
        *("/a%252fb", "/a%255cb", "/%252e%252e", "/a/./b", "/a/.", "/a/%2e/b", "/%25252525252e", "/.%2E/"),
    ],
)
def test_ambiguous(path: str) -> None:
    assert is_ambiguous(path.encode())


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/deliveries/dlv_1",
        "/api/openapi.json",
        "/api/event-types/a.b",
        "/a%20b%C3%A9",
        "/a%2eb",
        "*",
    ],
)
def test_plain(path: str) -> None:
    assert not is_ambiguous(path.encode())


@given(st.lists(PIECES, max_size=12).map(lambda pieces: "/" + "".join(pieces)))
def test_a_plain_path_means_the_same_to_everybody(path: str) -> None:
    """To a client that normalises it, and to a program that decodes it once or twice more."""
    if is_ambiguous(quote(path, safe="/%\\;").encode()):
        return
    assert unquote(httpx.URL("http://x" + path).path) == unquote(unquote(path)) or "%" in unquote(path)
    for reading in (path, unquote(path), unquote(unquote(path))):
        assert ".." not in reading.split("/")
        assert reading.count("/") == path.count("/")
        assert "\\" not in reading
