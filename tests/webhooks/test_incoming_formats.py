"""Incoming webhooks: the bodies of monitoring systems and of other chats become readable messages.

`incoming_messages.json` has the message of each body in `incoming_bodies.py`, as people reviewed it.
"""

import copy
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import process_time
from typing import Any, Final

import pytest

from shared.contracts.errors import Invalid, Malformed
from shared.webhooks.incoming import published_body
from tests.webhooks.incoming_bodies import ALERT, BODIES
from tests.webhooks.receiving import parse_incoming_message

JSON: Final = "application/json"
MESSAGES: Final = json.loads(Path(__file__).with_name("incoming_messages.json").read_text("utf-8"))
STRUCTURE: Final = frozenset(
    {"type", "@type", "contentType", "style", "status", "@context", "unicode", "range"}
)
"""Fields that decide how a body is read, and are never shown."""
LIVE: Final = re.compile(r"<!|[@\uff20](?:everyone|here|channel)(?![\w])", re.IGNORECASE)


def read(body: Any, *, mass_mentions: bool = False) -> dict[str, Any]:
    received = parse_incoming_message(JSON, json.dumps(body).encode(), mass_mentions=mass_mentions)
    return received.message.model_dump(mode="json", exclude_defaults=True)


@pytest.mark.parametrize("name", BODIES)
def test_a_body_of_another_system_is_readable(name: str) -> None:
    received = parse_incoming_message(JSON, json.dumps(BODIES[name]).encode())
    assert received.warnings == ()
    assert received.message.model_dump(mode="json", exclude_defaults=True) == MESSAGES[name]


def test_every_body_has_a_reviewed_message() -> None:
    assert MESSAGES.keys() == BODIES.keys()


def with_texts(value: Any, suffix: str, key: str = "") -> Any:
    """Append a suffix to each text that may be shown."""
    if isinstance(value, dict):
        return {name: with_texts(item, suffix, name) for name, item in value.items()}
    if isinstance(value, list):
        return [with_texts(item, suffix, key) for item in value]
    return value + suffix if isinstance(value, str) and key not in STRUCTURE and "://" not in value else value


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("call", ["@everyone", "<!here>", "<!channel|channel>", "\uff20here", "&#64;here"])
def test_no_format_calls_everybody(name: str, call: str) -> None:
    message = read(with_texts(BODIES[name], f" {call}"))
    message.pop("thread_id", None)  # nobody sees it
    shown = json.dumps(message, ensure_ascii=False)
    assert not LIVE.search(shown), shown
    assert "&#64;here" not in shown


def test_a_webhook_that_may_call_everybody_does() -> None:
    body = BODIES["rich_text"]
    assert "@here" not in read(body)["text"]
    assert "@here" in read(body, mass_mentions=True)["text"]


def test_more_alerts_than_embeds_are_counted_and_firing_ones_come_first() -> None:
    alerts = [{**ALERT, "status": "resolved"}] * 9 + [{**ALERT, "status": "firing"}] * 4
    message = read({**BODIES["alertmanager"], "alerts": alerts, "truncatedAlerts": 2})
    assert message["text"].startswith("**\\[FIRING:4, RESOLVED:9\\] HighCPU**")
    assert message["text"].endswith("… and 3 more alerts\n… and 2 that the sender left out")
    assert [embed["color"] for embed in message["embeds"]] == ["#d63232"] * 4 + ["#36a64f"] * 6


def test_an_alert_without_annotations_has_its_name_and_labels() -> None:
    message = read({**BODIES["alertmanager"], "alerts": [{**ALERT, "annotations": {}}]})
    assert message["embeds"][0]["title"] == "HighCPU"
    assert {"name": "severity", "value": "critical", "inline": True} in message["embeds"][0]["fields"]


def test_alerts_of_several_names_in_one_group_have_their_names() -> None:
    body = {**BODIES["alertmanager"], "commonLabels": {}, "groupLabels": {"cluster": "eu"}}
    message = read({**body, "alerts": [ALERT]})
    assert message["text"].startswith("**\\[FIRING:1\\] eu**")
    assert message["embeds"][0]["fields"][0] == {"name": "Alert", "value": "HighCPU", "inline": True}


def test_a_group_of_a_hundred_alerts_is_one_message_within_the_limits() -> None:
    alert = {**ALERT, "annotations": {"summary": "s" * 3000, "description": "d" * 30_000}}
    received = parse_incoming_message(
        JSON, json.dumps({**BODIES["alertmanager"], "alerts": [alert] * 20}).encode()
    )
    assert received.message.embeds[0].title == "s" * 254 + "…"
    assert (received.message.embeds[0].description or "").startswith("d" * 3900)
    assert "10 more alerts" in received.message.text


@pytest.mark.parametrize(
    ("field", "value"), [("text", "Own text"), ("content", "Own text"), ("embeds", [{"title": "Own"}])]
)
@pytest.mark.parametrize("name", ["alertmanager", "grafana", "datadog", "uptime", "sentry_issue"])
def test_a_body_with_a_message_of_its_own_is_that_message(name: str, field: str, value: Any) -> None:
    """It was read so before alerts were known."""
    assert read({**BODIES[name], field: value}) == read({field: value})


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("<@U024BE7LH> did", "@U024BE7LH did"),
        ("<#C024BE7LR> and <#C024BE7LR|>", "#C024BE7LR and #C024BE7LR"),
        ("<!subteam^S024BE7LH> <!subteam^S024BE7LH|@ops>", "@S024BE7LH @ops"),
        ("<@123456789012345678> <@!123456789012345678>", "@123456789012345678 @123456789012345678"),
        ("<a:wave:123456789012345678> <t:1772439092:R>", ":wave: 2026-03-02 08:11 UTC"),
        ("</deploy:123456789012345678>", "/deploy"),
        ("a < b and <b>x</b> <@x> <t:no>", "a \\< b and \\<b>x\\</b> \\<@x> \\<t:no>"),
    ],
)
def test_mentions_and_emoji_of_other_chats_are_readable(text: str, markdown: str) -> None:
    assert read({"content": text})["text"] == markdown
    assert read({"embeds": [{"title": "x", "description": text}]})["embeds"][0]["description"] == markdown


def multipart(*parts: tuple[str, str | None, bytes]) -> tuple[str, bytes]:
    lines = []
    for name, filename, data in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
        lines.append(f"--b0undary\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n")
    return "multipart/form-data; boundary=b0undary", b"".join(lines) + b"--b0undary--\r\n"


def test_discords_multipart_form_is_its_json_and_the_names_of_the_files() -> None:
    payload = {
        "content": "see the graph",
        "username": "Uptime",
        "attachments": [{"id": 0, "description": "x"}],
        "embeds": [{"title": "t", "image": {"url": "attachment://graph.png"}}],
    }
    kind, body = multipart(
        ("payload_json", None, json.dumps(payload).encode()),
        ("files[0]", "graph.png", b"\x89PNG" + bytes(3000)),
    )
    received = parse_incoming_message(kind, body)
    assert received.message.text == "see the graph\n\nFiles that are not stored: graph.png (2 KB)"
    assert received.message.username == "Uptime"
    assert [embed.title for embed in received.message.embeds] == ["t"]
    assert received.message.attachments == []
    assert received.warnings == ("files: the hub stores no files: the message names them",)
    # What is published has no binary data, and is the same message.
    data, data_type = published_body(kind, body)
    assert data_type == JSON
    assert b"PNG" not in data
    assert parse_incoming_message(data_type, data) == received


def test_other_multipart_forms() -> None:
    assert parse_incoming_message(*multipart(("content", None, "hällo".encode()))).message.text == "hällo"
    uptime = json.dumps(BODIES["uptime"]).encode()
    received = parse_incoming_message(*multipart(("data", None, uptime)))
    assert received.message.model_dump(mode="json", exclude_defaults=True) == MESSAGES["uptime"]
    only_file = parse_incoming_message(*multipart(("file", "a*b.txt", b"x")))
    assert only_file.message.text == "Files that are not stored: a\\*b.txt (1 bytes)"
    for kind, body in (
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b"--x\r\n"),
        multipart(("other", None, b"x")),
        multipart(("payload_json", None, b"[]")),
        multipart(*[("content", None, b"x")] * 51),
    ):
        with pytest.raises(Malformed):
            parse_incoming_message(kind, body)


def test_a_thread_of_the_query_is_in_the_published_body() -> None:
    data, kind = published_body(JSON, b'{"content":"x"}', thread_id="t1")
    assert parse_incoming_message(kind, data).message.thread_id == "t1"
    data, kind = published_body(JSON, b'{"content":"x","thread_id":"t2"}', thread_id="t1")
    assert parse_incoming_message(kind, data).message.thread_id == "t2"
    assert published_body("text/plain", b'{"content": "x"}') == (b'{"content": "x"}', "text/plain")


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from nodes(item)


@pytest.mark.parametrize("name", BODIES)
def test_a_damaged_body_is_read_or_refused(name: str) -> None:
    """Whatever is in the place of a value, nothing but `Invalid` is raised."""
    damaged: list[Any] = [None, True, -1, 1e308, "", "x" * 9000, [], [[]], [None], {}, {"a": {}}, "\0", "<"]
    places = len(list(nodes(BODIES[name])))
    for place in range(places):
        for value in damaged[place % 2 :: 2]:
            body = copy.deepcopy(BODIES[name])
            container, key = list(nodes(body))[place]
            container[key] = value
            with suppress(Invalid):
                read(body)


@pytest.mark.parametrize(
    "body",
    [
        {"alerts": [{"labels": {f"l{n}": "[<@" * 20 for n in range(15)}}] * 400, "receiver": "x"},
        {"alerts": [{"annotations": {"description": "https://a.example/" * 500}}] * 90, "receiver": "x"},
        {
            "cardsV2": [
                {"card": {"sections": [{"widgets": [{"textParagraph": {"text": "<a href='" * 900}}] * 5}]}}
            ]
            * 20
        },
        {
            "cardsV2": [{"card": {"sections": [{"widgets": [{"textParagraph": {"text": "<b" * 4000}}] * 5}]}}]
            * 20
        },
        {
            "type": "AdaptiveCard",
            "body": [{"type": "Container", "items": [{"type": "TextBlock", "text": "<" * 900}] * 50}] * 15,
        },
        {"@type": "MessageCard", "sections": [{"facts": [{"name": "x", "value": "<p " * 300}] * 25}] * 40},
        {
            "blocks": [
                {
                    "type": "rich_text",
                    "elements": [
                        {"type": "rich_text_section", "elements": [{"type": "text", "text": "*" * 100}] * 100}
                    ]
                    * 10,
                }
            ]
            * 8
        },
        {"content": "<@" * 400_000},
        {"content": "[" * 400_000, "embeds": [{"description": "<t:" * 30_000}] * 10},
        {"content": "<:" + "a" * 30 + "<a:" * 100_000},
        {"text": "```\n" * 200_000},
    ],
    ids=lambda body: next(iter(body)),
)
def test_no_body_of_a_megabyte_takes_long(body: Any) -> None:
    data = json.dumps(body).encode()
    assert len(data) < 1_400_000
    started = process_time()
    with suppress(Invalid):
        parse_incoming_message(JSON, data)
    assert process_time() - started < 1


def test_a_nested_card_ends() -> None:
    inner: dict[str, Any] = {"type": "TextBlock", "text": "deep"}
    for _ in range(200):
        inner = {"type": "Container", "items": [inner, {"type": "TextBlock", "text": "beside"}]}
    assert "deep" not in json.dumps(
        read({"type": "AdaptiveCard", "body": [{"type": "TextBlock", "text": "top"}, inner]})
    )
