"""Documents in parts that a limit allows."""

import time
from collections.abc import Iterable

import pytest
from hypothesis import given, settings

from shared.richtext.build import visible_text
from shared.richtext.markdown import parse_markdown, render_markdown
from shared.richtext.split import split
from shared.richtext.tree import Block, CodeBlock, Document, ListBlock, Paragraph, Quote
from tests.richtext.trees import documents


def markdown_size(document: Document) -> int:
    return len(render_markdown(document).text)


def parts_of(markdown: str, limit: int) -> list[str]:
    parts = split(parse_markdown(markdown), limit=limit, measure=markdown_size)
    return [render_markdown(part).text for part in parts]


@pytest.mark.parametrize(
    ("markdown", "limit", "parts"),
    [
        ("one two\n\nthree four", 100, ["one two\n\nthree four"]),
        ("one two\n\nthree four", 12, ["one two", "three four"]),
        ("one two three four", 10, ["one two", "three four"]),
        ("**one two three**", 12, ["**one two**", "**three**"]),
        ("> one two three", 10, ["> one two", "> three"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("👨‍👩‍👧👨‍👩‍👧👨‍👩‍👧", 12, ["👨‍👩‍👧👨‍👩‍👧", "👨‍👩‍👧"]),
        ("🇩🇪🇫🇷🇮🇹", 5, ["🇩🇪🇫🇷", "🇮🇹"]),
        ("e\u0301e\u0301e\u0301", 3, ["e\u0301", "e\u0301", "e\u0301"]),
        ("1. one\n2. two\n3. three", 14, ["1. one\n2. two", "3. three"]),
        ("```py\none\ntwo\nthree\n```", 18, ["```py\none\ntwo\n```", "```py\nthree\n```"]),
        ("one\ntwo three\nfour", 14, ["one\ntwo three", "four"]),
    ],
)
def test_splits_at_the_best_place(markdown: str, limit: int, parts: list[str]) -> None:
    assert parts_of(markdown, limit) == parts


def test_a_mention_is_never_split() -> None:
    mention = "[@Ann Example](mention://user/U1)"

    assert parts_of(f"hi {mention} there", 10) == ["hi", mention, "there"]


def test_an_empty_document_has_no_parts() -> None:
    assert split(Document(()), limit=10, measure=markdown_size) == ()


def letters(blocks: Iterable[Block]) -> str:
    """Return the text of blocks without blanks."""
    text = ""
    for block in blocks:
        match block:
            case Paragraph(children):
                text += visible_text(children)
            case CodeBlock(code):
                text += code
            case Quote(children):
                text += letters(children)
            case ListBlock(items):
                text += "".join(map(letters, items))
    return "".join(text.split())


@settings(max_examples=25, deadline=None)
@given(documents())
def test_no_text_is_lost_and_parts_fit(document: Document) -> None:
    parts = split(document, limit=200, measure=markdown_size)

    assert "".join(letters(part.blocks) for part in parts) == letters(document.blocks)
    assert all(markdown_size(part) <= 200 for part in parts)


def test_a_long_text_is_split_in_time() -> None:
    document = parse_markdown("**word** [@a](mention://user/U1) " * 1_300)
    started = time.process_time()

    parts = split(document, limit=3_000, measure=markdown_size)

    assert time.process_time() - started < 1
    assert all(markdown_size(part) <= 3_000 for part in parts)
    assert (
        sum(
            len(visible_text(block.children))
            for part in parts
            for block in part.blocks
            if isinstance(block, Paragraph)
        )
        > 9_000
    )


def test_many_marks_on_a_character_are_cut() -> None:
    parts = parts_of("a" + "\u0301" * 1_000, 100)

    assert "".join(parts) == "a" + "\u0301" * 1_000
    assert all(len(part) <= 100 for part in parts)
