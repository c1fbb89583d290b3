"""Incoming webhooks: what is longer than the chat's limits is cut with a mark, and never refused for it."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from shared.richtext.excerpt import fit_markdown
from shared.webhooks.incoming import ReceivedMessage, published_body
from shared.webhooks.incoming_formats.fitting import CUT_MARK, MAX_MESSAGE_BYTES
from tests.webhooks.receiving import parse_incoming_message

JSON = "application/json"


def receive(body: Any) -> ReceivedMessage:
    return parse_incoming_message(JSON, json.dumps(body).encode())


@pytest.mark.parametrize("name", ["text", "content"])
@pytest.mark.parametrize("length", [4001, 8000, 39_999, 40_001, 900_000])
def test_a_long_text_is_cut_with_a_mark(name: str, length: int) -> None:
    received = receive({name: "word " * (length // 5) + "x" * (length % 5)})
    text = received.message.text
    assert 3900 < len(text) <= 4000
    assert text == "word " * ((len(text) - len(CUT_MARK)) // 5) + "word" + CUT_MARK
    assert [warning.partition(":")[0] for warning in received.warnings] == [name]


@pytest.mark.parametrize(
    ("content_type", "frame"),
    [(JSON, "%s"), ("application/x-www-form-urlencoded", "payload=%s")],
)
def test_an_emoji_that_the_sender_cut_in_two_costs_only_itself(content_type: str, frame: str) -> None:
    body = (frame % json.dumps({"text": "Build 7 \ud83d"})).encode()
    assert parse_incoming_message(content_type, body).message.text == "Build 7 \ufffd"
    published, published_type = published_body(content_type, body)
    assert parse_incoming_message(published_type, published).message.text == "Build 7 \ufffd"
    assert content_type != JSON or json.loads(published)["text"] == "Build 7 \ufffd"


def test_a_text_of_4000_characters_is_whole() -> None:
    assert receive({"text": "x" * 4000}) == (receive({"text": "x" * 4000}).message, ())
    assert receive({"text": "x" * 4000}).message.text == "x" * 4000


def test_a_name_has_80_characters() -> None:
    assert receive({"text": "x", "username": "n" * 80}).message.username == "n" * 80
    cut = receive({"text": "x", "username": "n" * 81})
    assert cut.message.username == "n" * 79 + "…"
    assert cut.warnings == ("username: more than 80 characters: cut",)


def test_ten_embeds_and_ten_attachments_are_whole() -> None:
    body = {
        "embeds": [{"title": f"e{n}"} for n in range(10)],
        "attachments": [{"url": f"https://a.example/{n}"} for n in range(10)],
    }
    received = receive(body)
    assert received.warnings == ()
    assert [embed.title for embed in received.message.embeds] == [f"e{n}" for n in range(10)]
    assert len(received.message.attachments) == 10
    more = receive({"embeds": [{"title": f"e{n}"} for n in range(12)]})
    assert [embed.title for embed in more.message.embeds] == [f"e{n}" for n in range(10)]
    assert more.message.text == "… (cut: more than 10 embeds)"


def test_a_message_has_at_most_64_kb() -> None:
    value = "ü" * 500
    embed = {"title": "t", "fields": [{"name": f"f{n}", "value": value} for n in range(25)]}
    received = receive({"text": "x", "embeds": [{**embed, "title": f"e{n}"} for n in range(10)]})
    size = len(received.message.model_dump_json().encode())
    assert MAX_MESSAGE_BYTES * 0.9 < size <= MAX_MESSAGE_BYTES + 100
    assert received.message.text == "x\n\n… (cut: the message is larger)"
    assert received.message.embeds[0].fields[0].value == value
    assert [warning.partition(":")[0] for warning in received.warnings] == ["embeds"]
    small = receive({"text": "x", "embeds": [embed]})
    assert small.warnings == ()
    assert len(small.message.embeds[0].fields) == 25


@pytest.mark.parametrize("prefix", ["x" * 3900 + " ", "x" * 3990, "word " * 800])
def test_a_cut_makes_no_mention_of_everybody(prefix: str) -> None:
    """`@hereford` notifies nobody, but its beginning would."""
    for shift in range(80):
        text = receive({"text": prefix[shift:] + "@hereford" * 30}).message.text
        assert not re.search(r"@here(?!\w)", text)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        (
            "see [the page](https://a.example/x) and more text behind it",
            "see [the page](https://a.example/x) and…",
        ),
        ("word " * 30, "word word word word word…"),
        ("see <https://a.example/long/path/of/a/page> and more", "see…"),
        ("a [label](https://a.example/long/path/of/it) and more", "a…"),
    ],
)
def test_a_cut_goes_through_no_link(text: str, cut: str) -> None:
    limit = 52 if "](https://a.example/x)" in text else 37
    assert fit_markdown(text, limit, "…") == cut


def test_an_open_fence_is_closed() -> None:
    text = receive({"text": "log:\n```\n" + "line of it\n" * 1000 + "```"}).message.text
    assert text.endswith(f"\n```{CUT_MARK}")
    assert text.count("```") == 2


@pytest.mark.parametrize(
    ("first", "line", "end"),
    [
        ("````", "code ``` of it", "\n````"),
        ("~~~", "code", "\n```"),
        ("> ```", "> code that is not short", "\n> ```"),
        ("- ```", "  code", "\n  ```"),
        ("1. x\n   ```py", "   code", "\n   ```"),
        ("- ```\n  code\n  ```", "word", "word"),
        ("> ```\n> code", "word", "word"),
        ("```", "> ``` of it that is not short\ncode", "\n````"),
        ("| a | b |\n| - | - |", "| cell | cell |", "\ncell | cell\n```"),
        ("```a`", "word", "word"),
    ],
)
def test_a_cut_closes_what_is_open(first: str, line: str, end: str) -> None:
    text = receive({"text": "\n".join((first, *[line] * 2000))}).message.text
    assert text.endswith(end + CUT_MARK)
    *_, last, mark = MarkdownIt("commonmark").enable("table").parse(text)[-4:-1]
    assert (last.type, last.level, mark.content) == ("paragraph_open", 0, CUT_MARK.strip())


def test_a_warning_says_what_is_wrong_with_a_url() -> None:
    received = receive({"text": "x", "icon_url": "javascript:x"})
    assert received.warnings == ("icon_url: URL scheme should be 'http' or 'https': left out",)


@pytest.mark.parametrize("text", ["```\nlog", "```\n" + "x" * 3990])
def test_a_note_is_not_in_code(text: str) -> None:
    shown = receive({"text": text, "embeds": [{"title": "t"}] * 11}).message.text
    assert shown.endswith("\n\n… (cut: more than 10 embeds)")
    assert len(shown) <= 4000
    assert MarkdownIt("commonmark").parse(shown)[-3].type == "paragraph_open"


def test_a_cut_value_closes_what_is_open() -> None:
    text = receive({"embeds": [{"title": "t", "fields": [{"name": "n", "value": "```\n" + "x\n" * 900}]}]})
    assert text.message.embeds[0].fields[0].value.endswith("x…\n```")


@settings(max_examples=200)
@given(st.text(alphabet="ab @`[]()<>\n\\*…", max_size=300), st.integers(40, 200))
def test_a_cut_is_never_longer_than_its_limit(text: str, limit: int) -> None:
    cut = fit_markdown(text, limit, CUT_MARK)
    assert len(cut) <= limit
    assert cut == text if len(text) <= limit else cut.endswith(CUT_MARK)
