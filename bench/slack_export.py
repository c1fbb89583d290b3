"""A generated export of Slack: many days of many channels, with the mix of records that real exports have."""

import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson

_SEED: Final = 20_190_301
_PEOPLE: Final = 200
_FIRST_DAY: Final = datetime(2019, 3, 1, tzinfo=UTC)
_PER_DAY: Final = 100
_WORDS: Final = (
    *("the", "deploy", "is", "done", "and", "all", "checks", "are", "green", "so", "we", "can", "start"),
    *("please", "have", "a", "look", "at", "the", "dashboard", "before", "you", "go", "home", "because"),
    *("last", "week", "there", "were", "three", "alerts", "nobody", "saw", "until", "morning", "thanks"),
    *("customer", "asked", "for", "invoice", "again", "who", "owns", "this", "ticket", "release", "notes"),
)
_THREADED: Final = 0.25
_MARKED: Final = 0.2
_MENTIONS: Final = 0.15
_REACTED: Final = 0.1
_BOTS: Final = 0.1


def write_export(path: Path, messages: int, *, team: str, channels: int = 50, broken: int = 0) -> int:
    """Write an export of a team with about so many messages; return how many it has.

    A channel's days have 100 messages each, less if there are more channels than that needs; and `broken`
    records without a time. One in ten is a bot's, which has no blocks. The others have text and blocks, as
    Slack exports messages of people.
    """
    random = Random(_SEED)  # noqa: S311 -- the same texts in each run
    per_day = max(1, min(_PER_DAY, messages // channels))
    days = max(1, messages // (channels * per_day))
    people = [f"U{number:08d}" for number in range(_PEOPLE)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(
            "users.json", orjson.dumps([_person(one, at, team) for at, one in enumerate(people)])
        )
        names = [f"channel-{number:04d}" for number in range(channels)]
        listed = [{"id": _channel_id(at), "name": name, "members": people} for at, name in enumerate(names)]
        archive.writestr("channels.json", orjson.dumps(listed))
        for name in names:
            for number in range(days):
                day = _FIRST_DAY + timedelta(days=number)
                records = list(_day(random, people, day.timestamp(), per_day))
                records += [{"type": "message", "user": people[0], "text": "no time"}] * broken
                archive.writestr(f"{name}/{day:%Y-%m-%d}.json", orjson.dumps(records))
    return channels * days * per_day


def _channel_id(number: int) -> str:
    return f"C{number:08d}"


def _person(person_id: str, number: int, team: str) -> dict[str, Any]:
    return {
        "id": person_id,
        "team_id": team,
        "name": f"person{number}",
        "deleted": number % 10 == 0,
        "profile": _profile(number) | {"email": f"person{number}@example.com"},
    }


def _profile(number: int) -> dict[str, Any]:
    """Return a profile, a shorter form of which is in each message of a person."""
    return {
        "avatar_hash": f"{number:012x}",
        "image_72": f"https://example.com/{number}.png",
        "first_name": "Person",
        "real_name": f"Person {number}",
        "display_name": f"person {number}",
        "name": f"person{number}",
        "is_restricted": False,
        "is_ultra_restricted": False,
    }


def _day(random: Random, people: list[str], start: float, count: int) -> Iterator[dict[str, Any]]:
    parent: str | None = None
    for number in range(count):
        timestamp = f"{start + 28_800 + number * 300:.0f}.{random.randrange(1_000_000):06d}"
        record = _message(random, people, timestamp)
        if parent is not None and random.random() < _THREADED:
            record["thread_ts"] = parent
        else:
            parent = timestamp
        yield record


def _message(random: Random, people: list[str], timestamp: str) -> dict[str, Any]:
    words = random.choices(_WORDS, k=random.randint(4, 36))
    if random.random() < _BOTS:
        text = f"{' '.join(words)} <https://example.com/jobs/{random.randrange(10_000)}|job>"
        return {
            "type": "message",
            "subtype": "bot_message",
            "bot_id": "B00000001",
            "username": "build",
            "text": text,
            "ts": timestamp,
        }
    elements: list[dict[str, Any]] = []
    texts: list[str] = []
    if random.random() < _MENTIONS:
        person = random.choice(people)
        elements.append({"type": "user", "user_id": person})
        texts.append(f"<@{person}> ")
        words[0] = f" {words[0]}"
    if random.random() < _MARKED and len(words) > 6:
        at = random.randint(1, len(words) - 4)
        before, bold, after = " ".join(words[:at]) + " ", " ".join(words[at : at + 2]), words[at + 2 :]
        elements += [
            {"type": "text", "text": before},
            {"type": "text", "text": bold, "style": {"bold": True}},
            {"type": "text", "text": " " + " ".join(after)},
        ]
        texts.append(f"{before}*{bold}* {' '.join(after)}")
    else:
        elements.append({"type": "text", "text": " ".join(words)})
        texts.append(" ".join(words))
    author = random.randrange(len(people))
    record: dict[str, Any] = {
        "client_msg_id": f"{random.getrandbits(128):032x}",
        "type": "message",
        "user": people[author],
        "user_profile": _profile(author),
        "text": "".join(texts),
        "ts": timestamp,
        "blocks": [
            {
                "type": "rich_text",
                "block_id": "b1",
                "elements": [{"type": "rich_text_section", "elements": elements}],
            }
        ],
    }
    if random.random() < _REACTED:
        users = random.sample(people, random.randint(1, 4))
        record["reactions"] = [{"name": "thumbsup", "users": users, "count": len(users)}]
    return record
