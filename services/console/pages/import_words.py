"""Describe an import in sentences: its contents, its result and the next step."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

Json = Mapping[str, Any]

_KINDS: Final = ("people", "channels", "messages", "reactions", "files")
_REASONS: Final[Mapping[str, str]] = {
    "outside_time_range": "outside the time range",
    "bot": "of bots",
    "system_message": "system messages",
    "thread": "replies in threads",
    "person_left_out": "of people who are left out",
    "deleted": "deleted",
    "left_out": "left out by the plan",
    "direct_messages": "direct messages",
    "archived": "archived",
    "not_readable": "the account cannot read them",
    "too_many": "more than a message has",
}
_UNITS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
_MATCHES: Final[Mapping[str, str]] = {
    "link": "linked",
    "email": "same e-mail address",
    "manual": "chosen",
    "name": "same name",
    "guest": "guest",
    "leave_out": "left out",
}
_ISSUES: Final = (
    ("the chat rejected it", "The chat's own reason. Correct it there, then import the same again."),
    ("has more than", "It is too large for the chat. Shorten the record in the export, or leave it out."),
    (
        "time",
        "The export has no valid time for it. Export it again, or correct the record, then import again.",
    ),
    ("delet", "The provider has deleted it. Nothing can be done in the hub."),
)
_ISSUE: Final = (
    "Compare the record with the export. Correct it or export again, then import: only what is missing is "
    "added."
)


def reason_in_words(reason: str) -> str:
    """Return the text of a reason code for leaving something out; the code itself if it is unknown."""
    return _REASONS.get(reason, reason.replace("_", " "))


def match_in_words(matched_by: str) -> str:
    """Return the text of a code of `matched_by`."""
    return _MATCHES.get(matched_by, matched_by)


def issue_step(reason: str) -> str:
    """Return the next step for a record that could not be imported."""
    return next((step for part, step in _ISSUES if part in reason), _ISSUE)


def duration(seconds: float) -> str:
    """Return a time in its largest unit, rounded: 3 days."""
    length_s, name = next(((length, name) for length, name in _UNITS if seconds >= length), (1, "second"))
    number = max(1, round(seconds / length_s))
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def count_sentences(counts: Json) -> list[str]:
    """Return a sentence for each kind of record, with the numbers found, imported and skipped."""
    return [_sentence(kind, counts[kind]) for kind in _KINDS if isinstance(counts.get(kind), Mapping)]


def trial_sentences(trial: Json) -> list[str]:
    """Return sentences about a dry run: the counts, the estimated time, and the size in Kafka."""
    sentences = count_sentences(trial["counts"])
    size = f"{trial['kafka_records']:,} records, {trial['kafka_bytes'] / 1024:,.0f} KiB"
    if trial["estimated_s"]:
        rate = (
            f"At half of what the provider allows, the import takes about {duration(trial['estimated_s'])}."
        )
    else:
        read, publish = duration(trial["read_s"]), duration(trial["publish_s"])
        rate = f"Reading takes about {read}; publishing, about {publish}."
    return [*sentences, f"{rate} It is {size} in Kafka."]


def undo_sentences(item: Json) -> list[str]:
    """Return sentences about an undo: the numbers removed and retained, with reasons."""
    sentences = [f"{item['withdrawn']:,} messages were taken away."]
    if item["left"]:
        sentences.append(f"{item['left']:,} messages were left to other imports, which have found them too.")
    if item["added"]:
        sentences.append(
            f"{item['added']:,} messages stay: somebody has answered them, or the chat kept them."
        )
    for kind in ("channels", "people"):
        found = item["undo"][kind]
        name = "guests" if kind == "people" else kind
        stay = "; ".join(f"{part['number']:,} stay: {part['reason']}" for part in found["retained"])
        sentences.append(f"{found['removed']:,} {name} were taken away{'; ' if stay else ''}{stay}.")
    return sentences


def plan_sentences(plan: Json) -> list[str]:
    """Return sentences about a plan."""
    others = {
        "mapped": "into the channel that a mapping joins them with, or a new one",
        "new": "into new channels",
        "leave_out": "nowhere: they are left out",
    }[plan["other_channels"]]
    sentences = [f"Channels go {others}."]
    if plan["channels"]:
        sentences.append(f"{len(plan['channels']):,} channels have a choice of their own.")
    sentences.append(
        "People become users who are linked or have the same e-mail address, or guests."
        if plan["match_people"]
        else "People become guests."
    )
    if plan["people"]:
        sentences.append(f"{len(plan['people']):,} people have a choice of their own.")
    if plan["since"] or plan["until"]:
        since, until = (str(plan[name] or "")[:10] for name in ("since", "until"))
        sentences.append(
            f"Only messages {f'from {since}' if since else ''}{f' before {until}' if until else ''}."
        )
    left = [title for name, title in _LEFT if not plan[name]]
    sentences.append(f"Left out: {', '.join(left)}." if left else "Nothing of their messages is left out.")
    return [*sentences, _FILES[plan["files"]["mode"]]]


_LEFT: Final[Sequence[tuple[str, str]]] = (
    ("direct_messages", "direct messages"),
    ("archived_channels", "archived channels"),
    ("bots", "bots"),
    ("system_messages", "system messages"),
    ("threads", "replies in threads"),
    ("reactions", "reactions"),
    ("pins", "pins"),
)
_FILES: Final[Mapping[str, str]] = {
    "all": "All files are stored.",
    "up_to": "Files up to a size are stored.",
    "addresses": "No file is stored: each is read from the provider when somebody opens it.",
    "none": "Files are left out.",
}


def _sentence(kind: str, counts: Json) -> str:
    return f"{kind.capitalize()}: {', '.join(_parts(counts))}."


def _parts(counts: Json) -> Iterator[str]:
    names = (("found", "found"), ("imported", "imported"), ("stored", "stored"))
    for name, words in (*names, ("duplicate", "there already"), ("changed", "changed")):
        if isinstance(counts.get(name), int):
            yield f"{counts[name]:,} {words}"
    skipped = counts.get("skipped")
    if isinstance(skipped, int):
        yield f"{skipped:,} left out"
    elif skipped:
        reasons = ", ".join(f"{number:,} {reason_in_words(reason)}" for reason, number in skipped.items())
        yield f"left out: {reasons}"
    if isinstance(counts.get("failed"), int):
        yield f"{counts['failed']:,} failed"
