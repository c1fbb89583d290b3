"""Write imports, their contents and results as lines for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

Json = Mapping[str, Any]
_KINDS: Final = ("people", "channels", "messages", "files")
_NUMBERS: Final = ("found", "selected", "imported", "duplicate", "failed")
_MAX_CHANNELS: Final = 30
_MAX_SAMPLES: Final = 3
_MAX_OPTIONS: Final = 20
_MAX_TEXT: Final = 100
_RECORD: Final = 80


def contents_lines(found: Json, channels: Sequence[Json]) -> Iterator[str]:
    """Yield lines about what an export has: a sentence, its conversations, notes and open questions."""
    contents = found["contents"]
    yield f"{found['id']}: {contents['description']}"
    size = f", {_size(contents['bytes'])} of messages" if contents["bytes"] else ""
    yield f"{contents['people']} {'person' if contents['people'] == 1 else 'people'}{size}"
    for channel in channels[:_MAX_CHANNELS]:
        marks = [channel["kind"]] if channel["kind"] != "channel" else []
        marks += ["archived"] if channel["archived"] else []
        days = f"{channel['first']} to {channel['last']}" if channel["first"] else ""
        named = channel["name"] or channel["conversation"]
        parts = (f"  {named}", ", ".join(marks), days, _size(channel["bytes"]) if channel["bytes"] else "")
        yield "  ".join(filter(None, parts))
    if (more := contents["conversations"] - _MAX_CHANNELS) > 0:
        yield f"  and {more} more"
    for note in contents["notes"]:
        yield f"note: {note}"
    for choice in contents["choices"]:
        yield from choice_lines(choice)


def choice_lines(choice: Json) -> Iterator[str]:
    """Yield lines about a question that the export does not answer."""
    yield f"{choice['text']} (--answer {choice['id']}=VALUE)"
    options = choice["options"]
    if len(options) <= _MAX_OPTIONS:
        for option in options:
            sign = "*" if option["value"] == choice["answer"] else " "
            yield f"  {sign} {option['value']}: {option['text']}"
    else:
        if choice["answer"] is not None:
            yield f"  * {choice['answer']}"
        first, last = options[0]["value"], options[-1]["value"]
        yield f"    one of {len(options)} values, from {first} to {last}"


def import_line(found: Json) -> str:
    """Return a line about an import: id, state, time, and what it is."""
    contents = found["contents"]
    about = contents["description"] if contents else found["name"]
    return "  ".join((found["id"], found["status"], found["created_at"], about))


def state_lines(found: Json) -> Iterator[str]:
    """Yield lines about an import's progress, its counts, and the next command."""
    yield import_line(found)
    if found["error"]:
        yield f"  problem: {found['error']}"
    if found["status"] in ("running", "undoing", "paused"):
        yield f"  {progress_text(found)}"
    if found["waiting_for"]:
        yield f"  waits for {found['waiting_for']}"
    if found["dry_run"] and found["status"] == "ready":
        yield f"  dry run: {_counts(found['dry_run']['counts'].get('messages', {}))}"
    yield from count_lines(found)
    if found["status"] == "undone":
        yield f"  undone: {found['added']} of its messages are still in the chat"
    if advice := next_step(found):
        yield f"  {advice}"


def count_lines(found: Json) -> Iterator[str]:
    """Yield a line for each kind of record that was counted."""
    for kind in _KINDS:
        if found["started_at"] and (counts := found["counts"].get(kind)):
            yield f"  {kind}: {_counts(counts)}"
    if found["confirmed"] is False and found["started_at"]:
        yield "  published, not confirmed: the chat does not say what it stored"
    if found["issues"]:
        yield f"  {found['issues']} records failed: interlink import issues {found['id']}"


def progress_text(found: Json) -> str:
    """Return an import's progress in words."""
    words = (
        f"step {found['step_number']} of {found['steps']} ({found['current_step']}), {found['progress']} %"
    )
    return f"{words}, {found['estimate']} left" if found["estimate"] else words


def next_step(found: Json) -> str:
    """Return the commands that continue from an import's state; '' if there is nothing to do."""
    command = f"interlink import {{}} {found['id']}"
    match found["status"]:
        case "ready":
            return f"start it: {command.format('start')}"
        case "paused":
            return f"go on: {command.format('resume')}; end it: {command.format('cancel')}"
        case "running" | "reading" | "verifying" | "undoing":
            return f"follow it: {command.format('show')} --follow"
        case "completed":
            undo = f"; undo: {command.format('undo')}" if found["added"] else ""
            return f"report: {command.format('report')}{undo}"
        case "failed" | "cancelled" if found["added"]:
            return f"{found['added']} messages are in the chat; undo: {command.format('undo')}"
        case _:
            return ""


def sample_lines(channels: Sequence[Json]) -> Iterator[str]:
    """Yield the first messages of a dry run, as the chat would get them."""
    for channel in channels:
        if channel["samples"]:
            yield f"{channel['name'] or channel['conversation']}:"
        for sample in channel["samples"][:_MAX_SAMPLES]:
            author = sample["author"].get("name") or sample["author"]["id"]
            text = " ".join(sample["text"].split())
            yield f"  {sample['created_at']}  {author}: {_shortened(text, _MAX_TEXT)}"


def issue_lines(issues: Sequence[Json]) -> Iterator[str]:
    """Yield a line for each record that could not be imported."""
    for issue in issues:
        record = " ".join(issue["record"].split())
        yield f"{issue['place']}: {issue['reason']}" + (f"  {_shortened(record, _RECORD)}" if record else "")


def _counts(counts: Json) -> str:
    parts = [f"{counts[name]} {name}" for name in _NUMBERS if counts.get(name)]
    skipped = counts.get("skipped") or {}
    by_reason = dict(skipped) if isinstance(skipped, Mapping) else {}
    by_reason |= {
        name.removeprefix("skipped."): number
        for name, number in counts.items()
        if name.startswith("skipped.")
    }
    if by_reason:
        reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(by_reason.items()))
        parts.append(f"{sum(by_reason.values())} skipped ({reasons})")
    return ", ".join(parts) or "none"


def _size(number: int) -> str:
    for size, unit in ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
