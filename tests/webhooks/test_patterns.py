"""Event patterns: which texts are one, and what each covers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.webhooks.patterns import is_pattern, matches


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "push",
        "github.push",
        "github.*",
        "message.created",
        "a.b.c",
        "a.b.*",
        "x-y_z.A-b_C",
        "0.1",
        "a" * 200,
    ],
)
def test_patterns(text: str) -> None:
    assert is_pattern(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "**",
        "*.push",
        "github.",
        ".push",
        "github..push",
        "github.*.opened",
        "github*",
        "git*.push",
        "GitHub.push",
        "a b",
        "a.b\n",
        "\na",
        "a\0",
        "gith\u00fcb.push",
        "a.b c",
        "a/b",
        "a,b",
        "a" * 201,
    ],
)
def test_what_is_no_pattern(text: str) -> None:
    assert not is_pattern(text)


@pytest.mark.parametrize(
    ("pattern", "event", "covered"),
    [
        ("*", "github.push", True),
        ("*", "x", True),
        ("github.push", "github.push", True),
        ("github.push", "github.push.extra", False),
        ("github.push", "github.pus", False),
        ("github.push", "xgithub.push", False),
        ("github.*", "github.push", True),
        ("github.*", "github.pull_request.opened", True),
        ("github.*", "github", False),
        ("github.*", "github2.push", False),
        ("github.*", "githubxpush", False),
        ("github.pull_request.*", "github.pull_request", False),
        ("github.pull_request.*", "github.pull_request.opened", True),
        ("github.push", "githubxpush", False),
        ("*", "inbound.message.created", False),
        ("message.*", "inbound.message.created", False),
        ("inbound.*", "inbound.message.created", True),
        ("inbound.message.*", "inbound.message.reaction.added", True),
        ("inbound.message.created", "inbound.message.created", True),
        ("inbound.message.created", "inbound.message.deleted", False),
        ("inbound.*", "message.created", False),
        ("inbound.*", "inboundx.message", False),
        ("*", "inboundx.message", True),
        ("*", "chat.signal", False),
        ("chat.*", "chat.signal", False),
        ("chat.signal", "chat.signal", False),
    ],
)
def test_what_a_pattern_covers(pattern: str, event: str, covered: bool) -> None:
    assert is_pattern(pattern)
    assert matches([pattern], event) is covered


def test_one_of_several_is_enough() -> None:
    assert matches(["message.created", "github.*"], "github.push")
    assert matches(["github.*", "message.created"], "message.created")
    assert not matches(["github.*", "message.created"], "message.deleted")
    assert not matches([], "github.push")


_TYPES = st.from_regex(r"[a-z0-9_-]{1,5}(\.[A-Za-z0-9_-]{1,5}){0,4}", fullmatch=True)


@given(_TYPES)
def test_a_type_is_covered_by_itself_its_prefixes_and_all(event: str) -> None:
    parts = event.split(".")
    prefixes = [".".join(parts[:count]) + ".*" for count in range(1, len(parts))]
    for pattern in [event, "*", *prefixes]:
        assert is_pattern(pattern)
        assert matches([pattern], event)


@given(_TYPES, _TYPES)
def test_no_other_type_is_covered(pattern: str, event: str) -> None:
    assert matches([pattern], event) is (pattern == event)
