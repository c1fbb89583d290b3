"""The accounts, conversations and messages of the stage `bridge`: the same for the providers and for the hub.

Mapping number n has the channel n of Slack, the group n of Telegram and the channel n of the chat. Accounts
take turns: the rates of providers are low, so the load has to have many.
"""

import json
from dataclasses import dataclass
from itertools import count
from time import time, time_ns
from typing import Any, Final

HOSTS: Final = ("slack.com", "api.telegram.org")
BASELINE: Final = "bEnCh"
"""The `block_id` of messages that the hub did not send."""
PERSON: Final = "U0000000ADA"
_USER: Final = 900_000_001
_FIRST_GROUP: Final = 1_001_000_000_000
_FIRST_BOT: Final = 7_000_001
_FURTHER_PER_ACCOUNT: Final = 25
_TEXT: Final = ("Morning, the ", "deploy of 4.2", " is done, see the ", "log", ". Please run the check ")
_END: Final = "before you merge, it takes two minutes. Questions to the usual channel, as ever, thank you: "
_LOG: Final = "https://ci.example.com/runs/4711"

_numbers = count(1)


@dataclass(frozen=True)
class Conversations:
    """So many accounts of each provider, and so many mappings."""

    accounts: int
    mappings: int

    def team(self, number: int) -> str:
        """Return the Slack workspace of a mapping; further mappings have others, which are not connected."""
        if number >= self.mappings:
            return f"T9{number // _FURTHER_PER_ACCOUNT:07d}"
        return f"T{number % self.accounts:08d}"

    def bot(self, number: int) -> str:
        """Return the id of the Telegram bot of a mapping; further mappings have others."""
        if number >= self.mappings:
            return str(2 * _FIRST_BOT + number // _FURTHER_PER_ACCOUNT)
        return str(_FIRST_BOT + number % self.accounts)


def channel(number: int) -> str:
    """Return the id of a channel of Slack."""
    return f"C{number:08d}"


def group(number: int) -> int:
    """Return the id of a group of Telegram."""
    return -(_FIRST_GROUP + number)


def number_of_channel(channel_id: str) -> int:
    """Return the number of the mapping of a channel of Slack."""
    return int(channel_id[1:])


def number_of_group(chat_id: int) -> int:
    """Return the number of the mapping of a group of Telegram."""
    return -chat_id - _FIRST_GROUP


def slack_token(team: str) -> str:
    """Return the token of the app in a workspace of Slack."""
    return f"xoxb-bench-{team}"


def telegram_token(bot: str) -> str:
    """Return the token of a bot."""
    return f"{bot}:the-token-of-a-bot-of-the-bench-{int(bot):07d}"


def slack_app_user(team: str) -> str:
    """Return the user of the app in a workspace of Slack."""
    return f"UAPP{team}"


def slack_app_bot(team: str) -> str:
    """Return the bot of the app in a workspace of Slack."""
    return f"BAPP{team}"


def timestamp() -> str:
    """Return a new `ts` of Slack."""
    return f"{time_ns() // 1_000_000_000}.{next(_numbers) % 1_000_000:06d}"


def slack_event(team: str, event: dict[str, Any]) -> dict[str, Any]:
    """Return an event of Slack in its envelope."""
    return {
        "token": "a legacy token",
        "team_id": team,
        "context_team_id": team,
        "api_app_id": "A00000001",
        "event": event,
        "type": "event_callback",
        "event_id": f"Ev{time_ns():X}{next(_numbers):X}",
        "event_time": int(time()),
        "authorizations": [{"team_id": team, "user_id": slack_app_user(team), "is_bot": True}],
        "is_ext_shared_channel": False,
    }


def slack_message(team: str, channel_id: str, sent: str) -> dict[str, Any]:
    """Return the event of a message of 200 characters with a bold part and a link. `sent` is its mark."""
    at = timestamp()
    message = {
        "type": "message",
        "channel": channel_id,
        "channel_type": "channel",
        "user": PERSON,
        "team": team,
        "text": f"{_TEXT[0]}*{_TEXT[1]}*{_TEXT[2]}<{_LOG}|{_TEXT[3]}>{_TEXT[4]}{_END}{sent}",
        "blocks": _blocks(sent),
        "ts": at,
        "event_ts": at,
    }
    return slack_event(team, message)


def slack_call(number: int) -> dict[str, Any]:
    """Return the body of the call that sends this message to a mapping's channel."""
    return {
        "channel": channel(number),
        "text": "".join(_TEXT) + _END,
        "blocks": _blocks(""),
        "unfurl_links": False,
        "unfurl_media": False,
        "username": "Ada Example",
    }


def telegram_call(number: int) -> dict[str, Any]:
    """Return the body of the call that sends this message to a mapping's group."""
    text = "Ada\n" + "".join(_TEXT) + _END
    entities = _entities(len("Ada\n"))
    return {"chat_id": group(number), "text": text, "entities": entities}


def _blocks(sent: str) -> list[dict[str, Any]]:
    elements: list[dict[str, Any]] = [
        {"type": "text", "text": _TEXT[0]},
        {"type": "text", "text": _TEXT[1], "style": {"bold": True}},
        {"type": "text", "text": _TEXT[2]},
        {"type": "link", "url": _LOG, "text": _TEXT[3]},
        {"type": "text", "text": _TEXT[4] + _END + sent},
    ]
    section = {"type": "rich_text_section", "elements": elements}
    return [{"type": "rich_text", "block_id": BASELINE, "elements": [section]}]


def _entities(first: int = 0) -> list[dict[str, Any]]:
    bold = first + len(_TEXT[0])
    link = bold + len(_TEXT[1]) + len(_TEXT[2])
    return [
        {"type": "bold", "offset": bold, "length": len(_TEXT[1])},
        {"type": "text_link", "offset": link, "length": len(_TEXT[3]), "url": _LOG},
    ]


def slack_echo(team: str, channel_id: str, at: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the event by which Slack reports to the app a message that the app has sent itself."""
    message = {
        "type": "message",
        "subtype": "bot_message",
        "channel": channel_id,
        "channel_type": "channel",
        "bot_id": slack_app_bot(team),
        "username": body.get("username", "Interlink"),
        "text": body["text"],
        "blocks": body["blocks"],
        "ts": at,
        "event_ts": at,
    }
    return slack_event(team, message)


def telegram_message(group_id: int, sent: str) -> dict[str, Any]:
    """Return the update of the same message in a group of Telegram."""
    number = next(_numbers)
    return {
        "update_id": number,
        "message": {
            "message_id": number,
            "from": {"id": _USER, "is_bot": False, "first_name": "Ada", "last_name": "Example"},
            "chat": {"id": group_id, "type": "supergroup", "title": "Example"},
            "date": int(time()),
            "text": "".join(_TEXT) + _END + sent,
            "entities": _entities(),
        },
    }


def encoded(payload: dict[str, Any]) -> bytes:
    """Return a payload as JSON."""
    return json.dumps(payload, separators=(",", ":")).encode()
