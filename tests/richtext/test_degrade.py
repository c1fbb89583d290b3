"""What each kind of node becomes in each dialect, and that the loss is reported."""

from collections.abc import Sequence
from typing import Any, get_args

import pytest

from shared.providers.slack.render import Renderer
from shared.providers.telegram.render import render as render_telegram
from shared.richtext.build import visible_text
from shared.richtext.degrade import degrade
from shared.richtext.markdown import render_markdown
from shared.richtext.plain import render_plain
from shared.richtext.tree import (
    Block,
    Bold,
    ChannelMention,
    Code,
    CodeBlock,
    CustomEmoji,
    Document,
    Emoji,
    EveryoneMention,
    GroupMention,
    Inline,
    Italic,
    LineBreak,
    Link,
    ListBlock,
    Loss,
    Paragraph,
    Quote,
    Spoiler,
    Strike,
    Text,
    Time,
    Underline,
    UserMention,
)

X = (Text("x"),)
ITEMS = ((Paragraph(X),), (Paragraph((Text("y"),)),))
PLAIN = "plain text"
BULLETS = "lines with bullets"
Shown = tuple[str, str]
"""What a node becomes, and what is said about the loss; '' if nothing is lost."""
TABLE: list[tuple[Inline | Block, tuple[Shown, Shown, Shown, Shown]]] = [
    # a node in Markdown, in plain text, on Slack and on Telegram
    (Bold(X), (("**x**", ""), ("x", PLAIN), ("x bold", ""), ("x bold", ""))),
    (Italic(X), (("_x_", ""), ("x", PLAIN), ("x italic", ""), ("x italic", ""))),
    (Strike(X), (("~~x~~", ""), ("x", PLAIN), ("x strike", ""), ("x strikethrough", ""))),
    (Underline(X), (("++x++", ""), ("x", PLAIN), ("x", PLAIN), ("x underline", ""))),
    (Spoiler(X), (("||x||", ""), ("x", PLAIN), ("x", PLAIN), ("x spoiler", ""))),
    (
        Link("https://a.example", X),
        (
            ("[x](https://a.example)", ""),
            ("x (https://a.example)", "text and URL"),
            ("x link", ""),
            ("x text_link", ""),
        ),
    ),
    (
        Link("https://a.example", (Text("https://a.example"),)),
        (
            ("<https://a.example>", ""),
            ("https://a.example", "text and URL"),
            ("https://a.example link", ""),
            ("https://a.example text_link", ""),
        ),
    ),
    (
        Code("x"),
        (("`x`", ""), ("x", PLAIN), ("x code", ""), ("x code", "")),
    ),
    (
        Emoji("\U0001f44d", "+1"),
        (("\U0001f44d", ""), ("\U0001f44d", ""), ("+1 emoji", ""), ("\U0001f44d", "")),
    ),
    (
        CustomEmoji("party", "E1"),
        (("![:party:](emoji:E1)", ""), (":party:", "its name"), ("E1 emoji", ""), (":party:", "its name")),
    ),
    (
        UserMention("U1", "Ann"),
        (("[@Ann](mention://user/U1)", ""), ("@Ann", PLAIN), ("U1 user", ""), ("@\u2060Ann", PLAIN)),
    ),
    (
        UserMention("17", "Ann"),
        (("[@Ann](mention://user/17)", ""), ("@Ann", PLAIN), ("17 user", ""), ("Ann text_mention", "")),
    ),
    (
        ChannelMention("C1", "ops"),
        (("[#ops](mention://channel/C1)", ""), ("#ops", PLAIN), ("C1 channel", ""), ("#ops", PLAIN)),
    ),
    (
        GroupMention("S1", "team"),
        (("[@team](mention://group/S1)", ""), ("@team", PLAIN), ("S1 usergroup", ""), ("@\u2060team", PLAIN)),
    ),
    (
        EveryoneMention("here"),
        (
            ("[@here](mention://here)", ""),
            ("@\u200bhere", PLAIN),
            ("@\u200bhere", PLAIN),
            ("@\u200bhere", PLAIN),
        ),
    ),
    (Time(0, "noon"), (("noon", PLAIN), ("noon", PLAIN), ("noon date", ""), ("noon", PLAIN))),
    (
        CodeBlock("x", "py"),
        (
            ("```py\nx\n```", ""),
            ("x", PLAIN),
            ("x rich_text_preformatted", "code without its language"),
            ("x pre", ""),
        ),
    ),
    (
        Quote((Paragraph(X),)),
        (("> x", ""), ("> x", "lines with >"), ("x rich_text_quote", ""), ("x blockquote", "")),
    ),
    (
        Quote((Quote((Paragraph(X),)),)),
        (
            ("> > x", ""),
            ("> > x", "lines with >"),
            ("x rich_text_quote", "one quote"),
            ("x blockquote", "one quote"),
        ),
    ),
    (
        ListBlock(ITEMS),
        (
            ("- x\n- y", ""),
            ("\u2022 x\n\u2022 y", BULLETS),
            ("x y bullet", ""),
            ("\u2022 x\n\u2022 y", BULLETS),
        ),
    ),
    (
        ListBlock(ITEMS, ordered=True, start=3),
        (("3. x\n4. y", ""), ("3. x\n4. y", BULLETS), ("x y ordered", ""), ("3. x\n4. y", BULLETS)),
    ),
]
INLINE = get_args(Inline)


def on_slack(document: Document) -> tuple[str, Sequence[Loss]]:
    """Return the text of the elements, and how they are shown."""
    renderer = Renderer()
    (element,) = renderer.elements(document)
    kind = element["type"]
    if kind == "rich_text_list":
        items = (item["elements"][0]["text"] for item in element["elements"])
        return f"{' '.join(items)} {element['style']}", tuple(renderer.losses)
    (part,) = element["elements"]
    shown = next(
        part[name]
        for name in ("text", "fallback", "name", "user_id", "channel_id", "usergroup_id")
        if name in part
    )
    kinds = [
        *part.get("style", {}),
        *([part["type"]] if part["type"] != "text" else []),
        *([kind] if kind != "rich_text_section" else []),
    ]
    return " ".join([shown, *kinds]), tuple(renderer.losses)


def on_telegram(document: Document) -> tuple[str, Sequence[Loss]]:
    """Return the text and its entities, each of which is about the whole text."""
    rendered = render_telegram(document)
    for entity in rendered.entities:
        assert (entity["offset"], entity["length"]) == (0, rendered.length)
    return " ".join([rendered.text, *(entity["type"] for entity in rendered.entities)]), rendered.losses


def on_plain(document: Document) -> tuple[str, Sequence[Loss]]:
    rendered = render_plain(document)
    return rendered.text, rendered.losses


def in_markdown(document: Document) -> tuple[str, Sequence[Loss]]:
    rendered = render_markdown(document)
    return rendered.text, rendered.losses


RENDER: dict[str, Any] = {
    "markdown": in_markdown,
    "plain": on_plain,
    "slack": on_slack,
    "telegram": on_telegram,
}


def document_of(node: Inline | Block) -> Document:
    block = node if isinstance(node, Paragraph | CodeBlock | Quote | ListBlock) else Paragraph((node,))
    return Document((block,))


@pytest.mark.parametrize(("number", "dialect"), list(enumerate(RENDER)))
@pytest.mark.parametrize(("node", "expected"), TABLE, ids=[repr(node)[:40] for node, _ in TABLE])
def test_a_node_becomes_what_the_dialect_has(
    number: int, dialect: str, node: Inline | Block, expected: Sequence[Shown]
) -> None:
    shown, losses = RENDER[dialect](document_of(node))

    expected_text, expected_loss = expected[number]
    assert shown == expected_text
    assert [loss.shown_as for loss in losses] == ([expected_loss] if expected_loss else [])


def test_the_table_has_every_node() -> None:
    known = {*INLINE, *get_args(Block)} - {Text, LineBreak, Paragraph}
    assert {type(node) for node, _ in TABLE} == known


@pytest.mark.parametrize("node", [node for node, _ in TABLE], ids=lambda node: repr(node)[:40])
def test_a_dialect_without_anything_shows_the_text_and_reports_the_loss(node: Inline | Block) -> None:
    document, losses = degrade(document_of(node), frozenset())

    for block in document.blocks:
        assert isinstance(block, Paragraph)
        assert all(isinstance(child, Text) for child in block.children)
        assert visible_text(block.children)
    assert bool(losses) == (not isinstance(node, Emoji))


def test_a_loss_is_reported_once_and_named_after_its_node() -> None:
    document = Document((Paragraph((Bold(X), Text(" "), Bold(X), Underline((Italic(X),)))),))

    degraded, losses = degrade(document, frozenset({Italic}))

    assert degraded == Document((Paragraph((Text("x"), Text(" "), Text("x"), Italic(X))),))
    assert losses == (Loss("bold", PLAIN), Loss("underline", PLAIN))


def test_lines_become_one_where_there_are_no_line_breaks() -> None:
    document = Document((CodeBlock("x\ny"), Quote((Paragraph((Text("a"), LineBreak(), Text("b"))),))))

    degraded, losses = degrade(document, frozenset())

    shown = [visible_text(block.children) for block in degraded.blocks if isinstance(block, Paragraph)]
    assert shown[0] == "x y"
    assert Loss("line_break", "a blank") in losses


def test_a_document_that_a_dialect_has_is_not_changed() -> None:
    document = Document((Quote((Paragraph((Bold(X),)),)),))

    assert degrade(document, frozenset({Quote, Bold})) == (document, ())
