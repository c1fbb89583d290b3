"""Mentions of a document: found, replaced, and made text."""

from typing import Any

import pytest

from shared.richtext.build import canonical
from shared.richtext.markdown import parse_markdown, render_markdown
from shared.richtext.mentions import Mentioned, map_mentions, mentioned, without_mass_mentions
from shared.richtext.plain import parse_plain, render_plain
from shared.richtext.tree import ChannelMention, Document, GroupMention, Loss, Paragraph, Text, UserMention

MARKDOWN = (
    "**[@Ann](mention://user/U1)** and [@Ann](mention://user/U1)\n\n"
    "> - [#general](mention://channel/C1)\n\n"
    "[@team](mention://group/G1), [@everyone](mention://everyone)"
)


def test_lists_who_is_mentioned() -> None:
    assert mentioned(parse_markdown(MARKDOWN)) == Mentioned(("U1",), ("C1",), ("G1",), ("everyone",))


def test_replaces_mentions_wherever_they_are() -> None:
    mapped = map_mentions(
        parse_markdown(MARKDOWN),
        user=lambda node: UserMention(f"slack:{node.id}", node.label),
        channel=lambda node: Text(f"#{node.label}"),
    )

    assert mentioned(mapped) == Mentioned(("slack:U1",), (), ("G1",), ("everyone",))
    assert render_markdown(mapped).text == (
        "**[@Ann](mention://user/slack:U1)** and [@Ann](mention://user/slack:U1)\n\n"
        "> - #general\n\n"
        "[@team](mention://group/G1), [@everyone](mention://everyone)"
    )


def test_a_mass_mention_becomes_text_that_no_dialect_knows() -> None:
    document = without_mass_mentions(parse_markdown("a [@here](mention://here) b"))

    assert mentioned(document) == Mentioned()
    assert render_plain(document).text == "a @\u200bhere b"


def test_plain_text_is_read_as_paragraphs_and_lines() -> None:
    document = parse_plain("*a*\r\nb\n\n\n- c\n")

    assert render_markdown(document).text == "\\*a\\*\nb\n\n\\- c"
    assert render_plain(document).text == "*a*\nb\n\n- c"


def test_plain_text_shows_what_it_cannot_format() -> None:
    document = parse_markdown("**a** [b](https://x.example)\n\n- c\n- > d\n\n3. e\n4. f\n\n```\ng\n```")

    rendered = render_plain(document)

    assert rendered.text == "a b (https://x.example)\n\n• c\n• > d\n\n3. e\n4. f\n\ng"
    assert rendered.losses == (
        Loss("bold", "plain text"),
        Loss("link", "text and URL"),
        Loss("list", "lines with bullets"),
        Loss("quote", "lines with >"),
        Loss("code_block", "plain text"),
    )


@pytest.mark.parametrize("kind", [UserMention, ChannelMention, GroupMention])
def test_a_mention_whose_id_is_empty_when_it_is_clean_is_text(kind: Any) -> None:
    """A tree that is canonical stays as it is."""
    found = canonical(Document((Paragraph((kind("\x00", "Ada"),)),)))
    assert isinstance(found.blocks[0], Paragraph)
    assert isinstance(found.blocks[0].children[0], Text)
    assert canonical(Document(found.blocks)) == found
