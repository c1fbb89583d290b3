"""Hostile texts: each dialect parses, renders, degrades and splits them in time, and never too deep."""

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import pytest

from shared.manifests.registry import dialects
from shared.providers.slack.blocks import parse_body
from shared.providers.slack.render import Renderer, plain_text
from shared.providers.slack.render import text_length as slack_length
from shared.providers.telegram.entities import parse_entities
from shared.providers.telegram.render import render as render_telegram
from shared.providers.telegram.render import text_length as telegram_length
from shared.richtext.build import MAX_TEXT_CHARACTERS, canonical
from shared.richtext.degrade import degrade
from shared.richtext.flavored_markdown import parse_flavored_markdown
from shared.richtext.markdown import parse_markdown, render_markdown
from shared.richtext.plain import parse_plain, render_plain
from shared.richtext.split import split
from shared.richtext.tree import MAX_DEPTH, Document
from tests.richtext.trees import depth

LIMIT_S: Final = 0.1
"""Five times the 20 ms that each step takes at most on a quiet machine (least of three runs)."""

TEXTS = {
    "megabyte": "a b *c* " * 125_000,
    "mentions": "[@a](mention://user/U1) " * 10_000,
    "quotes": "> " * 5_000 + "x",
    "quote lines": (">" * 5_000 + "x\n") * 8,
    "lists": "- " * 5_000 + "x",
    "list lines": "".join("  " * level + "- x\n" for level in range(5_000)),
    "items": "- x\n" * 10_000,
    "brackets": "[" * 5_000 + "x" + "](https://a.example)" * 5_000,
    "images": "![" * 2_000 + "x" + "](https://a.example)" * 2_000,
    "open brackets": "[" * 40_000,
    "asterisks": "*" * 5_000 + "x" + "*" * 5_000,
    "spaced asterisks": "*a " * 5_000 + "b* " * 5_000,
    "mixed marks": "*a _b ~~c " * 4_000,
    "nested marks": "**a _b " * 2_500 + "c_ d** " * 2_500,
    "backticks": "".join("`" * length + " " for length in range(280)),
    "targets": "[a](<b" * 6_000,
    "titles": '[a](b "c' * 5_000,
    "parentheses": "[a](" + "(" * 20_000,
    "entities": "&a" * 20_000,
    "autolinks": "<https:" * 5_000,
    "fences": "```\n" * 10_000,
    "tables": "|a|b|\n|-|-|\n" * 3_000,
    "wide table": "|a" * 5_000 + "\n" + "|-" * 5_000 + "\n" + "|\n" * 5_000,
    "wide table of few lines": "|a" * 5_000 + "\n" + "|-" * 5_000 + "\n" + "|\n" * 400,
    "urls": "https://a/" * 4_000,
    "references": "[a]" * 6_000 + "\n\n[a]: https://a.example",
    "definitions": "[a]: https://a.example\n" * 1_400,
    "tags": "<b>" * 6_000 + "x" + "</b>" * 5_000,
    "open tags": "<a href='x'>" * 3_300,
    "code tags": "<code>" * 6_000,
    "open angles": "<" * 40_000,
    "wiki marks": "*a _b -c +d ??e [f|g " * 1_900,
    "wiki macros": "{quote}{code}" * 3_000,
    "wiki lists": "".join("*" * (level % 12 + 1) + " x\n" for level in range(3_000)),
    "wiki tables": "||a||b||\n" * 4_000,
    "wiki wide table": "|a" * 19_000 + "|",
    "blanks": " " * 40_000 + "x",
    "blank lines": "x" + " \n" * 20_000 + "x",
    "rules": "* " * 20_000 + "x",
    "backslashes": "\\" * 40_000,
    "asterisks alone": "*" * 40_000,
    "pipes": "|" * 40_000,
    "spoilers": "||a|| " * 8_000,
    "code": "`a` " * 10_000,
    "lines": "a\n" * 20_000,
    "other line ends": "a\u2028b\r" * 10_000,
    "words": "word " * 8_000,
    "combining marks": "\u0301" * 40_000,
    "flags": "\U0001f1e9\U0001f1ea" * 20_000,
    "lone surrogates": "\ud800" * 40_000,
    "right-to-left overrides": "\u202e" * 40_000,
    "control characters": "\x00\x1b" * 20_000,
}


def rich_text(*elements: dict[str, Any]) -> dict[str, Any]:
    return {"blocks": [{"type": "rich_text", "elements": list(elements)}]}


def section(*elements: dict[str, Any]) -> dict[str, Any]:
    return {"type": "rich_text_section", "elements": list(elements)}


def plain_element(text: str, **style: bool) -> dict[str, Any]:
    return {"type": "text", "text": text, "style": style}


def nested(levels: int) -> dict[str, Any]:
    element = section(plain_element("x"))
    for _ in range(levels):
        element = section(element)
    return element


A = section(plain_element("a"))
MESSAGES: dict[str, Callable[[], dict[str, Any]]] = {
    "1 MB": lambda: rich_text(section(plain_element("word " * 200_000))),
    "mentions": lambda: rich_text(section(*[{"type": "user", "user_id": "U1"}] * 10_000)),
    "styles": lambda: rich_text(
        section(*(plain_element("a", bold=bool(n % 2), italic=bool(n % 3)) for n in range(10_000)))
    ),
    "sections": lambda: rich_text(*[A] * 10_000),
    "blocks": lambda: {"blocks": rich_text(A)["blocks"] * 10_000},
    "items": lambda: rich_text({"type": "rich_text_list", "style": "bullet", "elements": [A] * 10_000}),
    "levels of lists": lambda: rich_text(
        *({"type": "rich_text_list", "indent": level, "elements": [A]} for level in range(5_000))
    ),
    "levels of sections": lambda: rich_text(nested(900)),
    "quotes": lambda: rich_text(
        *[{"type": "rich_text_quote", "elements": [plain_element("a\n\na")]}] * 5_000
    ),
    "bordered code": lambda: rich_text(
        *[{"type": "rich_text_preformatted", "border": 1, "elements": [plain_element("a")]}] * 5_000
    ),
    "emoji": lambda: rich_text(section(*[{"type": "emoji", "name": "wave"}] * 10_000)),
    "lines": lambda: rich_text(section(plain_element("a\n" * 20_000))),
    "links": lambda: rich_text(
        section(
            *({"type": "link", "url": f"https://a.example/{'a' * 1_900}", "text": "x"} for n in range(5_000))
        )
    ),
    "surrogates": lambda: rich_text(section(plain_element("\ud800\x00\u202e" * 10_000))),
}


def entities(kind: str, places: Iterable[int], length: int = 1, **fields: Any) -> list[dict[str, Any]]:
    return [{"type": kind, "offset": at, "length": length, **fields} for at in places]


ENTITIES: dict[str, Callable[[], tuple[str, list[dict[str, Any]]]]] = {
    "1 MB": lambda: ("word " * 200_000, entities("bold", range(0, 40_000, 5))),
    "astral": lambda: ("\U0001f600" * 250_000, entities("bold", range(5_000))),
    "bold": lambda: ("ab" * 20_000, entities("bold", range(0, 20_000, 2))),
    "mentions": lambda: ("@bob " * 8_000, entities("mention", range(0, 40_000, 5), 4)),
    "levels of quotes": lambda: (
        "a" * 40_000,
        [{"type": "blockquote", "offset": at, "length": 40_000 - 2 * at} for at in range(5_000)],
    ),
    "quotes": lambda: ("a\n" * 20_000, entities("blockquote", range(0, 10_000, 2))),
    "code": lambda: ("a\n" * 20_000, entities("pre", range(0, 10_000, 2))),
    "links": lambda: ("a" * 40_000, entities("text_link", range(5_000), 1_000, url="https://a.example/")),
    "lines": lambda: ("\n" * 40_000, entities("bold", range(5_000))),
    "overlapping": lambda: (
        "a" * 40_000,
        [e for kind in ("bold", "italic", "spoiler") for e in entities(kind, range(0, 3_000, 3), 2_000)],
    ),
    "numbers beyond any text": lambda: ("a", entities("bold", [2**70] * 5_000, 2**70)),
    "surrogates": lambda: ("\ud800\x00\u202e" * 10_000, entities("italic", range(5_000))),
}


def in_time(step: Callable[[], Any]) -> Any:
    """Run a step at most three times, until it takes less than the limit; return its result."""
    durations: list[float] = []
    while True:
        started = time.process_time()
        result = step()
        durations.append(time.process_time() - started)
        if durations[-1] < LIMIT_S:
            return result
        assert len(durations) < 3, durations


def check(parse: Callable[[], Document]) -> None:
    document: Document = in_time(parse)
    assert canonical(document) == document
    assert depth(document) <= MAX_DEPTH
    assert len(in_time(lambda: render_markdown(document)).text) < 10 * MAX_TEXT_CHARACTERS
    in_time(lambda: Renderer().elements(document))
    in_time(lambda: plain_text(document, 4_000))
    in_time(lambda: render_telegram(document))
    in_time(lambda: render_plain(document))
    in_time(lambda: degrade(document, frozenset()))
    for limit, measure in ((12_000, slack_length), (4_096, telegram_length)):
        parts = in_time(lambda: split(document, limit=limit, measure=measure))  # noqa: B023 -- called at once
        assert all(measure(part) <= limit for part in parts)


DIALECTS: dict[str, Callable[[str], Document]] = {
    "markdown": parse_markdown,
    "flavored": parse_flavored_markdown,
    "discord": dialects()["discord"].parse,
    "wiki": dialects()["jira"].parse,
    "plain": parse_plain,
    "mrkdwn": lambda text: parse_body({"text": text}),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", TEXTS)
def test_hostile_text(dialect: str, name: str) -> None:
    check(lambda: DIALECTS[dialect](TEXTS[name]))


@pytest.mark.parametrize("name", MESSAGES)
def test_hostile_blocks(name: str) -> None:
    message = MESSAGES[name]()
    check(lambda: parse_body(message))


@pytest.mark.parametrize("name", ENTITIES)
def test_hostile_entities(name: str) -> None:
    text, marks = ENTITIES[name]()
    check(lambda: parse_entities(text, marks))
