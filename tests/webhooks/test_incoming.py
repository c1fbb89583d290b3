"""Incoming webhooks: the hub's own format and those that scripts send, converted to one normal form.

One file of more than 400 lines: every test compares one more input with the same normal form.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from html import unescape
from time import process_time
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts.errors import Invalid, Malformed
from tests.webhooks.receiving import parse_incoming_message

JSON = "application/json; charset=utf-8"
FORM = "application/x-www-form-urlencoded"
SECRET = "s3cr3t-of-the-caller"


def read(given: Any, content_type: str = JSON) -> dict[str, Any]:
    """What is in the normal form, without what is not set."""
    body = given if isinstance(given, bytes) else json.dumps(given).encode()
    message = parse_incoming_message(content_type, body).message
    return message.model_dump(mode="json", exclude_defaults=True)


def warned(given: Any) -> dict[str, str]:
    """What was cut or left out, by its path."""
    received = parse_incoming_message(JSON, json.dumps(given).encode())
    assert received.message.text.startswith("x") or received.message.embeds
    return dict(warning.split(": ", 1) for warning in received.warnings)


def faults(given: Any) -> dict[str, str]:
    with pytest.raises(Invalid) as error:
        read(given)
    return {fault.field: fault.message for fault in error.value.errors}


def test_our_own_body() -> None:
    whole = {
        "text": "**Deployed** <https://a.example>",
        "username": "Deploys",
        "icon_url": "https://a.example/i.png",
        "thread_id": "t1",
        "attachments": [
            {"url": "https://a.example/f.pdf", "filename": "f.pdf", "content_type": "application/pdf"}
        ],
        "embeds": [
            {
                "title": "Build 7",
                "description": "_fine_",
                "url": "https://a.example/7",
                "color": "#00ff00",
                "fields": [{"name": "took", "value": "5 s", "inline": True}],
            }
        ],
    }
    assert read(whole | {"unknown": {"x": 1}}) == whole


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ({"content": "hi"}, {"text": "hi"}),
        ({"text": "hi", "content": "no"}, {"text": "hi"}),
        ({"text": None, "content": "hi"}, {"text": "hi"}),
        ({"text": "", "content": "hi", "icon_url": "", "username": None}, {"text": "hi"}),
        (
            {"text": "x", "avatar_url": "https://a.example/i"},
            {"text": "x", "icon_url": "https://a.example/i"},
        ),
        ({"text": "x", "thread_ts": "1503435956.000247"}, {"text": "x", "thread_id": "1503435956.000247"}),
        ({"text": "x", "icon_emoji": ":tada:", "channel": "#c", "mrkdwn": True}, {"text": "x"}),
        ({"text": "x" * 4000}, {"text": "x" * 4000}),
    ],
)
def test_other_names_for_the_same(given: Any, normal: Any) -> None:
    assert read(given) == normal


def test_a_form_with_a_payload() -> None:
    assert read(urlencode({"payload": '{"text": "hi + ü"}'}).encode(), FORM) == {"text": "hi + ü"}
    assert read(b'{"text": "sent by curl without a type"}', FORM) == {"text": "sent by curl without a type"}
    for body in (b"text=hi", b"payload=1&payload=2", b"payload=%ff", "payload=ü".encode(), b"", b"&" * 1000):
        with pytest.raises(Malformed, match="header Content-Type: application/json"):
            read(body, FORM)


def test_a_card() -> None:
    card = {
        "fallback": "Build failed",
        "color": "danger",
        "pretext": "See <https://a.example/7|build 7>",
        "author_name": "CI",
        "author_icon": "https://a.example/i.png",
        "title": "Build 7",
        "title_link": "https://a.example/7",
        "text": "*failed* in ~no~ time, <!here>",
        "fields": [{"title": "Tries", "value": 3, "short": True}, {"title": "", "value": "only *this*"}, {}],
        "actions": [
            {"type": "button", "text": "Retry", "url": "https://a.example/retry"},
            {"type": "button"},
        ],
        "image_url": "https://a.example/graph.png",
        "footer": "ci.example",
        "ts": 1503435956,
    }
    assert read({"text": "Hello", "attachments": [card]}) == {
        "text": "Hello",
        "embeds": [
            {
                "title": "Build 7",
                "url": "https://a.example/7",
                "color": "#a30200",
                "author": "CI",
                "description": "See [build 7](https://a.example/7)\n**failed** in ~~no~~ time, @\u200bhere\n"
                "[Retry](https://a.example/retry)\nci.example",
                "fields": [
                    {"name": "Tries", "value": "3", "inline": True},
                    {"name": "", "value": "only **this**"},
                ],
            }
        ],
        "attachments": [{"url": "https://a.example/graph.png"}],
    }


@pytest.mark.parametrize(
    ("card", "embed"),
    [
        ({"fallback": "only this"}, {"description": "only this"}),
        ({"fallback": "not this", "text": "this"}, {"description": "this"}),
        ({"text": "x", "color": "good"}, {"description": "x", "color": "#2eb886"}),
        ({"text": "x", "color": "#36A64F"}, {"description": "x", "color": "#36a64f"}),
        ({"text": "x", "color": "36a64f"}, {"description": "x", "color": "#36a64f"}),
        ({"text": "x", "color": "blue"}, {"description": "x"}),
        ({"title": "x", "title_link": "/relative"}, {"title": "x"}),
        ({"title": "x", "title_link": "javascript:alert(1)", "image_url": "file:///x"}, {"title": "x"}),
        (
            {"color": "#000000", "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "*in*"}}]},
            {"description": "**in**", "color": "#000000"},
        ),
    ],
)
def test_what_a_card_shows(card: Any, embed: Any) -> None:
    assert read({"attachments": [card]}) == {"embeds": [embed]}


def test_blocks() -> None:
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": "New request", "emoji": True}},
        {"type": "divider"},
        {
            "type": "section",
            "text": {"type": "mrkdwn", "text": "*Type:* <https://a.example|paid>"},
            "fields": [{"type": "mrkdwn", "text": "*When:*\nnow"}, {"type": "plain_text", "text": "2 * 3"}],
            "accessory": {"type": "image", "image_url": "https://a.example/a.png", "alt_text": "a"},
        },
        {
            "type": "context",
            "elements": [
                {"type": "image", "image_url": "https://a.example/b.png", "alt_text": "b"},
                {"type": "mrkdwn", "text": "by *someone*"},
                {"type": "plain_text", "text": "today"},
            ],
        },
        {"type": "image", "image_url": "https://a.example/c.png", "alt_text": "c"},
        {
            "type": "actions",
            "elements": [
                {
                    "type": "button",
                    "text": {"type": "plain_text", "text": "Open"},
                    "url": "https://a.example/o",
                },
                {"type": "button", "text": {"type": "plain_text", "text": "Approve"}, "value": "yes"},
            ],
        },
        {"type": "of_tomorrow", "text": 5},
        {"type": "divider"},
    ]
    assert read({"text": "New request from someone", "blocks": blocks}) == {
        "text": "**New request**\n\n---\n\n**Type:** [paid](https://a.example)\n\n**When:**\nnow\n\n"
        "2 \\* 3\n\n"
        "by **someone** today\n\n[Open](https://a.example/o)",
        "attachments": [{"url": "https://a.example/c.png"}],
    }


def test_the_text_stands_in_for_blocks_that_say_nothing() -> None:
    assert read({"text": "summary", "blocks": [{"type": "video"}, {}]}) == {"text": "summary"}


def test_a_numbered_embed() -> None:
    embed = {
        "type": "rich",
        "title": "Server up",
        "description": None,
        "url": "https://a.example",
        "color": 5814783,
        "timestamp": "2026-03-02T08:11:32.000Z",
        "author": {"name": "Monitor", "url": "https://a.example", "icon_url": ""},
        "fields": [
            {"name": "Load", "value": 0.5, "inline": True},
            {"name": "Up", "value": "yes", "inline": None},
        ],
        "footer": {"text": "eu-1", "icon_url": "https://a.example/i.png"},
        "image": {"url": "https://a.example/graph.png"},
        "thumbnail": {"url": "attachment://local.png"},
    }
    whole: dict[str, object] = {
        "content": None,
        "embeds": [embed],
        "attachments": [],
        "tts": False,
        "allowed_mentions": {"parse": []},
    }
    assert read(whole) == {
        "embeds": [
            {
                "title": "Server up",
                "description": "eu-1",
                "url": "https://a.example/",
                "color": "#58b9ff",
                "author": "Monitor",
                "fields": [{"name": "Load", "value": "0.5", "inline": True}, {"name": "Up", "value": "yes"}],
            }
        ],
        "attachments": [{"url": "https://a.example/graph.png"}],
    }


@pytest.mark.parametrize(
    ("given", "markdown"),
    [
        ("<https://a.example|a *b*>", "[a \\*b\\*](https://a.example)"),
        ("<https://a.example>", "<https://a.example>"),
        ("<https://a.example/b_(c|a]b>", "[a\\]b](<https://a.example/b_(c>)"),
        ("<mailto:a@b.example|a@b.example>", "[a@b.example](mailto:a@b.example)"),
        ("<!here> <!channel|channel> <!everyone>", "@\u200bhere @\u200bchannel @\u200beveryone"),
        ("<#C024BE7LR|general> <@U024BE7LH|bob> <@U024BE7LH>", "#general @bob @U024BE7LH"),
        ("<!date^1392734382^{date}|18 Feb>", "18 Feb"),
        ("*emphasis* and **strong** stay", "_emphasis_ and **strong** stay"),
        ("a &amp; b &lt; c", "a & b \\< c"),
        ("<b>x|y</b>", "\\<b>x|y\\</b>"),
    ],
)
def test_links_and_mentions_in_angle_brackets(given: str, markdown: str) -> None:
    assert read({"text": given}) == {"text": markdown}


@pytest.mark.parametrize(
    "given", [b"", b"{", b"null", b"[]", b'"x"', b"5", b"\xff", b'{"text": NaN}', b"[" * 5000]
)
def test_what_is_no_object_is_malformed(given: bytes) -> None:
    with pytest.raises(Malformed):
        read(given)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"text": " \n"},
        {"text": None, "content": None},
        {"embeds": [], "attachments": []},
        {"embeds": [{}]},
        {"embeds": [{"color": 1}]},
        {"attachments": [{"color": "good", "fields": [{}]}]},
        {"blocks": [{"type": "divider"}]},
        {"username": "x"},
    ],
)
def test_nothing_to_show_is_invalid(given: Any) -> None:
    assert "text" in faults(given)


@pytest.mark.parametrize("given", [{"text": 5}, {"text": {"a": 1}}, {"attachments": [{"url": "ftp://x"}]}])
def test_a_body_of_which_nothing_is_left_is_invalid(given: Any) -> None:
    """The error names what was left out beside what is missing."""
    assert faults(given).keys() > {"text"} or faults(given)["text"].endswith("left out")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"text": "x" * 4001}, "text"),
        ({"content": "x" * 4001}, "content"),
        ({"text": "x", "username": "x" * 257}, "username"),
        ({"text": "x", "username": "x" * 81}, "username"),
        ({"text": "x", "alias": "x" * 81}, "alias"),
        ({"text": "x", "icon_url": "javascript:alert(1)"}, "icon_url"),
        ({"text": "x", "avatar_url": "nowhere"}, "avatar_url"),
        ({"text": "x", "avatarUrl": "nowhere"}, "avatarUrl"),
        ({"text": "x", "thread_ts": 5}, "thread_ts"),
        ({"text": "x", "threadId": "x" * 257}, "threadId"),
        ({"embeds": [{"title": "x"}] * 11}, "embeds"),
        ({"embeds": [{"title": "x"}] * 6, "attachments": [{"text": "x"}] * 5}, "embeds"),
        ({"text": "x", "attachments": [{"url": "https://a.example"}] * 11}, "attachments"),
        ({"text": "x", "attachments": [{}] * 21}, "attachments"),
        ({"text": "x", "embeds": "x"}, "embeds"),
        ({"text": "x", "embeds": ["x"]}, "embeds.0"),
        ({"text": "x", "embeds": [{"title": "x"}, {"title": "x" * 257}]}, "embeds.1.title"),
        ({"text": "x", "embeds": [{"title": "x", "description": "x" * 4001}]}, "embeds.0.description"),
        ({"text": "x", "embeds": [{}, {"title": "x", "url": "x"}]}, "embeds.1.url"),
        ({"text": "x", "embeds": [{"title": "x", "color": "red"}]}, "embeds.0.color"),
        ({"text": "x", "embeds": [{"title": "x", "color": 0x1000000}]}, "embeds.0.color"),
        ({"text": "x", "embeds": [{"title": "x", "fields": {}}]}, "embeds.0.fields"),
        ({"text": "x", "embeds": [{"title": "x", "fields": [{}] * 26}]}, "embeds.0.fields"),
        (
            {"text": "x", "embeds": [{"title": "x", "fields": [{"name": "x" * 257, "value": "x"}]}]},
            "embeds.0.fields.0.name",
        ),
        (
            {"text": "x", "embeds": [{"title": "x", "fields": [{"name": "x", "value": "x" * 1025}]}]},
            "embeds.0.fields.0.value",
        ),
        (
            {"text": "x", "embeds": [{"title": "x", "fields": [{"name": "x", "inline": "perhaps"}]}]},
            "embeds.0.fields.0.inline",
        ),
        ({"text": "x", "attachments": [{"filename": "x"}]}, "attachments.0.url"),
        ({"text": "x", "attachments": [{"text": "x"}, {"url": "ftp://x"}]}, "attachments.1.url"),
        (
            {"text": "x", "attachments": [{"url": "https://a.example/", "filename": "x" * 257}]},
            "attachments.0.filename",
        ),
        ({"text": "x", "attachments": [{"text": "x"}, {"title": "x" * 257}]}, "attachments.1.title"),
        (
            {"text": "x", "attachments": [{"text": "x", "fields": [{"title": {"a": 1}}]}]},
            "attachments.0.fields.0.name",
        ),
        ({"text": "x", "attachments": [{"text": "x", "blocks": {}}]}, "attachments.0.blocks"),
        ({"text": "x", "blocks": [{}] * 51}, "blocks"),
        ({"text": "x", "blocks": ["x"]}, "blocks.0"),
        ({"blocks": [{"type": "section", "text": {"type": "plain_text", "text": "x" * 4001}}]}, "blocks"),
    ],
)
def test_what_is_wrong_costs_only_itself_and_its_path_is_named(given: Any, field: str) -> None:
    assert warned(given).keys() == {field}


KEYS = [
    *(
        "text",
        "content",
        "username",
        "icon_url",
        "avatar_url",
        "thread_id",
        "thread_ts",
        "attachments",
        "embeds",
    ),
    *("blocks", "url", "filename", "content_type", "title", "title_link", "description", "color", "author"),
    *("author_name", "name", "fields", "value", "inline", "short", "fallback", "pretext", "footer", "image"),
    *("image_url", "thumbnail", "actions", "elements", "type", "payload"),
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.just(SECRET)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=400)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8))
def test_any_object_is_read_or_refused_without_repeating_it(body: dict[str, Any]) -> None:
    try:
        message = parse_incoming_message(JSON, json.dumps(body).encode()).message
    except (Malformed, Invalid) as error:
        error_text = f"{error.detail} {error.errors}"
    else:
        error_text = ""
        assert message.text.strip() or message.embeds or message.attachments
        assert len(message.embeds) <= 10
        assert len(message.attachments) <= 10
    assert SECRET not in error_text


@pytest.mark.parametrize(
    "given",
    [
        {"text": "<https://" * 4000},
        {"text": "<!date^" * 5000},
        {"attachments": [{"text": "*a" * 20_000}]},
        {"attachments": [{"text": "~" * 40_000, "pretext": "<#A|" * 10_000}]},
        {"text": "x", "blocks": [{"type": "section", "fields": [{"text": "*a* " * 50}] * 1000}] * 20},
        {
            "text": "x",
            "attachments": [{"title": "x", "actions": [{"text": "x", "url": "x" * 99}] * 900}] * 20,
        },
        {"text": "x" * 5_000_000},
        {"text": "&lt;!here|" * 100_000},
        {"text": "&lt;!here|" * 3000},
        {"text": "&#" + "0" * 39_000 + "@" + "*" * 900},
        {"text": "https://" * 4900},
        {"embeds": [{"fields": [{"name": "&#64;" * 1600, "value": "&#64;" * 1600}] * 6}] * 9},
    ],
)
def test_no_body_takes_long(given: Any) -> None:
    body = json.dumps(given).encode()
    started = process_time()
    with suppress(Invalid):
        read(body)
    assert process_time() - started < 1


ALL = ("everyone", "here", "channel", "all", "room", "EVERYONE", "Here")
FORMS = (
    "@{0}",
    "hi @{0}!",
    "**@{0}**",
    "(@{0})",
    "\\@{0}",
    "<!{0}>",
    "<!{0}|{0}>",
    "<!{0}|@{0}>",
    "&lt;!{0}&gt;",
    "&#64;{0}",
    "&#x40;{0}",
    "&commat;{0}",
    "\uff20{0}",
    "@**{0}**",
    "_@{0}_",
    "__<!{0}>__",
    "x_<!{0}>",
    "x<!{0}>",
    "@__{0}__",
    "<@U024BE7LH|{0}>",
    "<!date^1^x|@{0}>",
    "<!subteam^S1|@{0}>",
    "@{0}\n@{0}",
    "https://x.example @{0}",
)
LIVE = re.compile(rf"(?:<!|[@\uff20]|&#64;|&#x40;|&commat;)[*_]*(?:{'|'.join(ALL)})(?![a-z])", re.IGNORECASE)


def shapes(text: str) -> Iterator[Any]:
    """Every body form that is accepted, with the text wherever a person would see it."""
    mrkdwn = {"type": "mrkdwn", "text": text}
    plain = {"type": "plain_text", "text": text}
    sections = [
        {"type": "header", "text": plain},
        {"type": "section", "text": mrkdwn, "fields": [plain, mrkdwn]},
        {"type": "context", "elements": [mrkdwn]},
        {"type": "actions", "elements": [{"type": "button", "text": plain, "url": "https://x.example"}]},
        {"type": "image", "title": plain, "image_url": "https://x.example/i.png"},
    ]
    field = {"name": text, "value": text}
    yield {"text": text, "username": text}
    yield {"content": text}
    yield {"text": "x", "attachments": [{"url": "https://x.example/f", "filename": text}]}
    yield {"embeds": [{"title": text, "description": text, "author": text, "fields": [field]}]}
    yield {"embeds": [{"title": "x", "author": {"name": text}, "footer": {"text": text}}]}
    yield {"text": text, "blocks": sections}
    yield {
        "attachments": [{"text": text, "pretext": text, "title": text, "footer": text, "author_name": text}]
    }
    yield {
        "attachments": [{"fallback": text, "fields": [{"title": text, "value": text}], "blocks": sections}]
    }


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("form", FORMS)
def test_nobody_calls_everybody(form: str, name: str) -> None:
    text = form.format(name)
    for body in shapes(text):
        whole = read(body)
        assert not LIVE.search(json.dumps(whole, ensure_ascii=False)), whole
        wrapped = urlencode({"payload": json.dumps(body)}).encode()
        assert read(wrapped, FORM) == whole


@pytest.mark.parametrize("name", ALL)
def test_an_entity_hides_no_letter_of_a_name(name: str) -> None:
    for text in (
        f"@&#{ord(name[0])};{name[1:]}",
        f"@{name[:-1]}&#x{ord(name[-1]):x};",
        f"&#64;&#{ord(name[0])};{name[1:]}",
    ):
        visible = unescape(read({"text": text})["text"])
        assert visible == f"@\u200b{name}", text


def test_what_calls_nobody_stays_as_it_is() -> None:
    for text in (
        "ada@here.example",
        "@hereford",
        "@channels",
        "everyone",
        "@ada",
        "a@all.example",
        "_@ada_",
        "`@ada`",
    ):
        assert read({"text": text}) == {"text": text}
    link = "see https://x.example/@here/7?a=@all, or [that](https://x.example/@ada)"
    expected = "see <https://x.example/%40here/7?a=%40all>, or [that](https://x.example/@ada)"
    assert read({"text": link}) == {"text": expected}
    message = parse_incoming_message(JSON, b'{"text":"<!here> @everyone"}', mass_mentions=True).message
    assert message.text == "[@here](mention://here) [@everyone](mention://everyone)"


@pytest.mark.parametrize("name", ["icon_url", "avatar_url"])
@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/i.png",
        "https://127.0.0.1/i.png",
        "https://127.1/i.png",
        "https://2130706433/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[fd00::1]/",
        "https://[64:ff9b::a00:1]/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://metadata.google.internal/",
        "https://printer.local/",
        "https://router.lan:8443/",
        "https://wiki.corp./",
        "https://kubernetes.default.svc.cluster.local/",
        "https://gateway/",
        "https://user@a.example/i.png",
        "https://user:pass@a.example/i.png",
        "data:image/png;base64,AA==",
        "//a.example/i.png",
    ],
)
def test_an_icon_is_on_the_internet(name: str, url: str) -> None:
    body = {"text": "x", name: url}
    assert read(body) == {"text": "x"}
    assert warned(body).keys() == {name}


@pytest.mark.parametrize(
    "url", ["https://a.example/i.png", "https://8.8.8.8/i.png", "https://A.Example.:8443/i"]
)
def test_an_icon_may_be_anywhere_on_it(url: str) -> None:
    assert read({"text": "x", "icon_url": url})["icon_url"].lower().startswith("https://")


@pytest.mark.parametrize(
    ("given", "markdown"),
    [
        ("*Build <https://a.example/7|7> failed*", "**Build** [**7**](https://a.example/7) **failed**"),
        ("see https://a.example/*b*/~c~/d and *e*", "see <https://a.example/*b*/~c~/d> and **e**"),
        ("<https://a.example/*b*/~c~|~gone~>", "[\\~gone\\~](https://a.example/*b*/~c~)"),
        ("\0 <https://a.example|x>", "&#32;[x](https://a.example)"),
    ],
)
def test_marks_in_a_url_are_its_own(given: str, markdown: str) -> None:
    assert read({"attachments": [{"text": given}]})["embeds"] == [{"description": markdown}]
