"""telegramify-markdown converts our Markdown to the same text and entities; every fixture becomes a tree."""

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telegramify_markdown import convert

from shared.providers.slack.blocks import parse_body
from shared.providers.telegram.entities import parse_entities
from shared.providers.telegram.render import render as render_telegram
from shared.richtext.build import canonical
from shared.richtext.markdown import parse_markdown, render_markdown
from shared.richtext.tree import (
    Bold,
    Code,
    Document,
    Inline,
    Italic,
    LineBreak,
    Link,
    Paragraph,
    Spoiler,
    Strike,
    Text,
)
from tests.providers.recorded import recorded
from tests.richtext.test_dialects import letters, through_markdown, through_slack, through_telegram

WORDS = st.text("ab*_|`<>&!. \U0001f600\U0001f468é日", min_size=1, max_size=12).map(
    lambda text: f"a{' '.join(text.split())}b"
)
"""Words with the characters that Markdown gives a meaning to, but for those that the library extends: `~x~`
is struck, and an escaped bracket begins a formula. At their ends are letters."""


def marked(children: st.SearchStrategy[tuple[Inline, ...]]) -> st.SearchStrategy[Inline]:
    kinds = [st.builds(kind, children) for kind in (Bold, Italic, Strike, Spoiler)]
    return st.one_of(*kinds, st.builds(Link, st.just("https://a.example/x_y"), children))


TEXTS: st.SearchStrategy[tuple[Inline, ...]] = st.builds(Text, WORDS).map(lambda text: (text,))
NODES = st.one_of(marked(TEXTS), marked(marked(TEXTS).map(lambda node: (node,))), st.builds(Code, WORDS))


def apart(nodes: list[Inline]) -> Paragraph:
    """Return a paragraph of the nodes with text between them, and a line break in the middle."""
    children: list[Inline] = [Text("a ")]
    for number, node in enumerate(nodes):
        children += (node, LineBreak() if number == 1 else Text(" b "))
    return Paragraph((*children, Text("c")))


@settings(max_examples=100, deadline=None)
@given(st.lists(NODES, max_size=4).map(apart).map(lambda block: canonical(Document((block,)))))
def test_telegramify_markdown_reads_our_markdown_alike(document: Document) -> None:
    text, entities = convert(render_markdown(document).text)
    rendered = render_telegram(document)

    assert text == rendered.text
    order = itemgetter("offset", "length", "type")
    assert sorted((e.to_dict() for e in entities), key=order) == sorted(rendered.entities, key=order)


def test_telegramify_markdown_reads_blocks_alike() -> None:
    document = parse_markdown("> **a** `b`\n> c\n\n```python\nx = 1\n\ny\n```")

    text, entities = convert(render_markdown(document).text)
    rendered = render_telegram(document)

    # The library has an empty line between blocks, which Telegram shows apart anyway.
    assert text.replace("\n\nx", "\nx") == rendered.text
    assert {e.type for e in entities} == {e["type"] for e in rendered.entities}


def messages(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects that have a text, wherever they are in a payload."""
    if isinstance(value, dict):
        if isinstance(value.get("text") or value.get("caption"), str):
            yield value
        for inner in value.values():
            yield from messages(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from messages(inner)


def telegram_body(message: dict[str, Any]) -> Document:
    if "text" in message:
        return parse_entities(message["text"], message.get("entities"))
    return parse_entities(message["caption"], message.get("caption_entities"))


Hop = Callable[[Document], Document]
PARSED: dict[str, tuple[Callable[[dict[str, Any]], Document], Hop]] = {
    "slack": (parse_body, through_slack),
    "telegram": (telegram_body, through_telegram),
}


@pytest.mark.parametrize("name", PARSED)
def test_every_fixture_is_parsed_to_a_tree(name: str) -> None:
    parse, again = PARSED[name]
    count = 0
    for fixture in recorded(name):
        if not fixture.body.startswith(b"{"):
            continue
        for message in messages(orjson.loads(fixture.body)):
            document = parse(message)
            assert document.blocks, message
            assert canonical(document) == document
            assert again(document) == document
            assert letters(through_markdown(document)) == letters(document)
            count += 1
    assert count > 5
