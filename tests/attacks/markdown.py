"""Senders whose texts are costly to parse as Markdown, or that try to be more than text in the chat."""

import json
import re
from time import monotonic
from typing import Final

import httpx

from shared.contracts.topics import CHAT_INBOUND
from tests.attacks.attack import Attack, Setup
from tests.support.eventually import eventually
from tests.support.github import signed
from tests.support.hub import Hub
from tests.support.tap import Tap

_SETUP: Final = Setup(services=("gateway", "sync"))
_CHARACTERS: Final = 400_000
_COSTLY: Final = (
    *(
        "[",
        "![[",
        "[a](",
        "*a ",
        "_a*",
        "**a",
        "`",
        "<",
        "<!--",
        "> ",
        "- ",
        "1. > ",
        "|a",
        "http:",
        "<a@b.c>",
    ),
    *("[x]: /y\n", "a\n", "&amp;", "~~a*", "\\", "|a" * 500 + "\n" + "|-" * 500 + "\n"),
)
_MAX_S: Final = 5.0
"""How long a message of somebody else may take while the texts are parsed."""
_HOSTILE: Final = (
    "@everyone <!channel> `@everyone` [@here](https://a.example)\n\n```\n<!here> @channel\n\n"
    "<script>alert(1)</script>\n```\n[x](javascript:alert(1)) ![x](data:text/html,x) "
    "[https://bank.example](https://evil.example)\n\n| @all |\n| --- |\n| <b>@everyone</b> |\n\n"
    "```\nnever closed"
)


def _comment(hub: Hub, endpoint: dict[str, str], text: str) -> None:
    body = json.dumps(
        {
            "action": "created",
            "comment": {"body": text, "html_url": "https://github.com/o/r/issues/1#issuecomment-1"},
            "issue": {"number": 1, "title": "x", "html_url": "https://github.com/o/r/issues/1"},
            "repository": {"full_name": "o/r", "html_url": "https://github.com/o/r"},
            "sender": {"login": "a"},
        }
    ).encode()
    path = f"{hub.url('gateway')}/api/webhooks/github/{endpoint['id']}"
    answer = httpx.post(
        path, content=body, headers=signed(endpoint["secret"], "issue_comment", body), timeout=30
    )
    assert answer.status_code == 202, answer.text


def _cards(tap: Tap, channel: str) -> list[str]:
    records = [record.data for record in tap.look() if record.data["channel_id"] == channel]
    return [
        card["description"] or "" for record in records for card in record["embeds"] or [{"description": ""}]
    ]


def _costs_others_nothing(hub: Hub) -> None:
    tap = Tap(hub.bus, CHAT_INBOUND.name)
    attacker = hub.github_endpoint(channel_id="costly")
    other = hub.github_endpoint(channel_id="other")
    for text in _COSTLY:
        _comment(hub, attacker, text * (_CHARACTERS // len(text)))

    def shown() -> list[str]:
        cards = _cards(tap, "costly")
        return cards if len(cards) == len(_COSTLY) else []

    started = monotonic()
    _comment(hub, other, "a *word*")
    eventually(lambda: _cards(tap, "other") == ["a _word_"])
    assert monotonic() - started < _MAX_S
    cards = eventually(shown)
    assert all(len(card) <= 4000 for card in cards)


def _stays_text(hub: Hub) -> None:
    tap = Tap(hub.bus, CHAT_INBOUND.name)
    _comment(hub, hub.github_endpoint(channel_id="hostile"), _HOSTILE)
    [card] = eventually(lambda: _cards(tap, "hostile"))
    assert not re.search(
        r"(?<!\\)@(everyone|here|channel|all)|<!(?!-)|javascript:|data:|<b>|bank\.example", card
    ), card
    assert card.count("```") % 2 == 0, card


ATTACKS: Final = (
    Attack("comments are costly to parse as Markdown", _costs_others_nothing, _SETUP),
    Attack("a comment tries to be more than text", _stays_text, _SETUP),
)
