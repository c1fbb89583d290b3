"""The dialects of providers: what each can show comes back as it was, and no text is lost on the way."""

import re
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from slack_sdk.models.blocks import Block

from shared.providers.slack.blocks import parse_body
from shared.providers.slack.render import SUPPORTED as SLACK
from shared.providers.slack.render import Renderer
from shared.providers.telegram.entities import parse_entities
from shared.providers.telegram.render import SUPPORTED as TELEGRAM
from shared.providers.telegram.render import render
from shared.richtext.build import visible_text
from shared.richtext.markdown import parse_markdown
from shared.richtext.markdown_render import render_markdown
from shared.richtext.plain import parse_plain, render_plain
from shared.richtext.tree import (
    Bold,
    ChannelMention,
    Code,
    CodeBlock,
    CustomEmoji,
    Document,
    Emoji,
    EveryoneMention,
    GroupMention,
    Italic,
    LineBreak,
    Link,
    ListBlock,
    Paragraph,
    Quote,
    Spoiler,
    Strike,
    Text,
    Time,
    Underline,
    UserMention,
)
from tests.richtext.trees import documents

Hop = Callable[[Document], Document]
_LETTERS = re.compile(r"[^\W\d_]+")
_WITH_ALL_TEXT = frozenset(
    {Text, LineBreak, Code, Bold, Italic, Strike, Underline, Spoiler, Paragraph, CodeBlock, Quote, ListBlock}
)
"""Nodes whose text every dialect shows somehow. Mentions are shown by their label or id."""
bounded = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def slack_block(document: Document) -> dict[str, object]:
    elements = Renderer(mass_mentions=True).elements(document)
    return {"type": "rich_text", "block_id": "il-1", "elements": elements}


def through_slack(document: Document) -> Document:
    return parse_body({"blocks": [slack_block(document)]})


def through_telegram(document: Document) -> Document:
    rendered = render(document)
    return parse_entities(rendered.text, list(rendered.entities))


def through_markdown(document: Document) -> Document:
    return parse_markdown(render_markdown(document).text)


def through_plain(document: Document) -> Document:
    return parse_plain(render_plain(document).text)


HOPS: tuple[Hop, ...] = (through_slack, through_telegram, through_markdown, through_plain)


def letters(document: Document) -> str:
    """Return the letters that a reader sees, in their order."""
    found: list[str] = []
    pending: list[object] = list(reversed(document.blocks))
    while pending:
        block = pending.pop()
        if isinstance(block, Paragraph):
            found.append(visible_text(block.children))
        elif isinstance(block, CodeBlock):
            found.append(block.text)
        elif isinstance(block, Quote):
            pending += reversed(block.children)
        elif isinstance(block, ListBlock):
            pending += (part for item in reversed(block.items) for part in reversed(item))
    return "".join(_LETTERS.findall("".join(found)))


SLACK_DOCUMENT = Document(
    (
        Paragraph(
            (
                Bold((Italic((Text("both"),)), Text(" bold"))),
                LineBreak(),
                Text("then "),
                Emoji("\U0001f44d\U0001f3fd", "+1::skin-tone-4"),
                CustomEmoji("party_parrot", "party_parrot"),
                UserMention("U1"),
                ChannelMention("C1"),
                GroupMention("S1"),
                EveryoneMention("here"),
                Strike((Code("code"),)),
                Link("https://example.com/?a=1&b=2", (Text("a "), Bold((Text("link"),)))),
                Time(1795000000, "that day", "{date_num}"),
            )
        ),
        Paragraph((Text("second <!channel> & *paragraph*"),)),
        Quote((Paragraph((Text("quoted"),)), ListBlock(((Paragraph((Text("in it"),)),),)))),
        CodeBlock("x = 1\n\n  y"),
        ListBlock(
            (
                (Paragraph((Text("three"),)), ListBlock(((Paragraph((Text("nested"),)),),))),
                (Paragraph((Text("four"),)),),
            ),
            ordered=True,
            start=3,
        ),
    )
)
TELEGRAM_DOCUMENT = Document(
    (
        Paragraph(
            (
                Bold((Text("\U0001f600 b"), Italic((Text("both"),)))),
                LineBreak(),
                Strike((Underline((Spoiler((Text("all three"),)),)),)),
                Text(" then "),
                Code("code"),
                UserMention("1001", "Ada"),
                UserMention("@bob_example", "bob_example"),
                Link("https://example.com/", (Text("a "), Bold((Text("link"),)))),
            )
        ),
        Paragraph((Text("second *paragraph* [x](y)"),)),
        CodeBlock("x = 1\n\n  y", "python"),
        Quote((Paragraph((Text("one"),)), Paragraph((Text("two"),)))),
        Quote((Paragraph((Text("another"),)),)),
        Paragraph((Text("end"),)),
    )
)


@pytest.mark.parametrize(
    ("document", "through"),
    [(SLACK_DOCUMENT, through_slack), (TELEGRAM_DOCUMENT, through_telegram)],
    ids=["slack", "telegram"],
)
def test_what_a_dialect_has_comes_back(document: Document, through: Hop) -> None:
    assert through(document) == document


@bounded
@example(
    Document(
        (
            ListBlock(((Paragraph((Text("one"),)), CodeBlock("\n")), (Paragraph((Text("two"),)),))),
            Paragraph((Text("end"),)),
        )
    )
)
@given(documents(SLACK | {EveryoneMention}))
def test_what_slack_showed_once_comes_back_the_same(document: Document) -> None:
    shown = through_slack(document)
    assert through_slack(shown) == shown


@bounded
@given(documents(TELEGRAM))
def test_what_telegram_showed_once_comes_back_the_same(document: Document) -> None:
    shown = through_telegram(document)
    assert through_telegram(shown) == shown


@settings(bounded, max_examples=100)
@given(documents(_WITH_ALL_TEXT), st.lists(st.sampled_from(HOPS), min_size=5, max_size=5))
def test_no_text_is_lost_over_five_hops(document: Document, hops: list[Hop]) -> None:
    shown = document
    for hop in hops:
        shown = hop(shown)
    assert letters(shown) == letters(document)


@bounded
@given(documents())
def test_slack_takes_every_block(document: Document) -> None:
    block = slack_block(document)
    parsed = Block.parse(block)
    assert parsed is not None
    parsed.validate_json()
    assert parsed.to_dict() == block


def test_offsets_count_utf16() -> None:
    rendered = render(Document((Paragraph((Text("\U0001f600"), Bold((Text("b"),)))),)), heading="\U0001f600")
    assert rendered.length == 6
    assert [(e["offset"], e["length"]) for e in rendered.entities] == [(0, 2), (5, 1)]
