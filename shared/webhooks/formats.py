"""The request body in the format that a receiver expects: our envelope, or the shape of another system.

Pure: an event's `EventFields` in, JSON out. Every format gives the same bytes for the same event, so a retry
sends what was sent before.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import orjson

from shared.contracts.errors import Malformed
from shared.contracts.event_types import EVENT_TYPES, canonical
from shared.webhooks.event_fields import EventFields, id_text, value_at

BodyFormat = Literal["envelope", "nchat", "chatwoot", "slack"]

ENVELOPE_VERSION: Final = "1"
"""Of the envelope; keys are only ever added under the same number."""


def render_body(format: BodyFormat, facts: EventFields) -> bytes:  # noqa: A002 -- the word of the API
    """The event as a request body. Raises `Malformed` when the data cannot be written as JSON."""
    return _RENDERERS[format](facts)


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:  # it can read deeper than it can write
        raise Malformed(f"the data cannot be written as JSON: {error}") from None


def _with_raw_data(before: Mapping[str, Any], facts: EventFields, after: Mapping[str, Any]) -> bytes:
    """An object with the data between the two, byte for byte: numbers of any size stay what they were."""
    parts = [_json(before)[:-1], b',"data":', facts.raw or b"null"]
    if after:
        parts += [b",", _json(after)[1:-1]]
    return b"".join((*parts, b"}"))


# Our own


def _envelope(facts: EventFields) -> bytes:
    """`id, type, version, workspace, occurred_at, sequence, origin, actor, data, changed`."""
    before = {
        "id": facts.id,
        "type": facts.type,
        "version": ENVELOPE_VERSION,
        "workspace": facts.workspace,
        "occurred_at": facts.occurred_at,
        "sequence": facts.sequence,
        "origin": facts.origin,
        "actor": facts.actor,
    }
    return _with_raw_data(before, facts, {"changed": facts.changed})


# nself-chat


def _nchat(facts: EventFields) -> bytes:
    """nself-chat's `WebhookEvent` (lib/webhooks/outgoing-webhooks.ts), with the id and version of its docs.

    `id, event, timestamp, version, data`, and `triggeredBy` when somebody is named. Its queue posts the
    data alone with timestamp and triggeredBy inside, and the event in a header; a receiver that was made
    for that gets it by projection: `merge(data, {timestamp: timestamp, triggeredBy: triggeredBy})`.
    """
    before = {"id": facts.id, "event": facts.type, "timestamp": facts.occurred_at, "version": "1.0"}
    if not facts.user:
        return _with_raw_data(before, facts, {})
    by = {"userId": facts.user, "username": facts.user_name or None}
    return _with_raw_data(before, facts, {"triggeredBy": by})


# Chatwoot

_CHATWOOT_EVENTS: Final = frozenset(
    alias for each in EVENT_TYPES.values() for alias in each.aliases if "_" in alias
)
_MESSAGE_TYPES: Final = ("message.created", "message.updated")
_UPDATE_SUFFIXES: Final = (".updated", ".changed")
_FILE_TYPES: Final = ("image", "audio", "video")


def _chatwoot(facts: EventFields) -> bytes:
    """Chatwoot's payload: a flat object with `event`, and `changed_attributes` for updates.

    Data that has Chatwoot's shape goes out as it is, also when it came through an endpoint as a
    platform's payload. A message of the chat becomes Chatwoot's `webhook_data` of a message, with null
    for what the chat does not have; ids are texts where the chat's are. Of the chat's other events the
    data is flat as it is, and `event` is the type with `_` for `.`.
    """
    payload = value_at(facts.data, "payload")
    if isinstance(payload, Mapping) and id_text(payload.get("event")) in _CHATWOOT_EVENTS:
        return _json(payload)
    kind = canonical(facts.type)
    if not isinstance(facts.data, Mapping):
        body: dict[str, Any] = {"data": facts.data}
    elif kind in _MESSAGE_TYPES and "message_type" not in facts.data:
        body = _chatwoot_message(facts)
    else:
        body = dict(facts.data)
    if kind.endswith(_UPDATE_SUFFIXES) or facts.changed is not None:
        body["changed_attributes"] = _changed_attributes(facts.changed)
    return _json(body | {"event": kind.replace(".", "_")})


def _chatwoot_message(facts: EventFields) -> dict[str, Any]:
    """A person's message is `incoming`, a program's `outgoing`: bots answer the one and not the other."""
    message = value_at(facts.data, "message")
    message = message if isinstance(message, Mapping) else facts.data
    name = message.get("messageId", message.get("message_id", message.get("id")))
    channel = facts.channel or id_text(message.get("channelId")) or None
    account = {"id": facts.workspace, "name": None}
    inbox = {"id": channel, "name": value_at(facts.data, "channel.name")}
    sender = {
        "id": facts.user,
        "name": facts.user_name or None,
        "email": value_at(facts.actor, "email"),
        "type": "agent_bot" if facts.is_bot else "contact",
    }
    body: dict[str, Any] = {
        "account": account,
        "additional_attributes": {},
        "content_attributes": {},
        "content_type": "text",
        "content": facts.content or None,
        "conversation": {
            "id": facts.conversation or channel,
            "inbox_id": channel,
            "account_id": facts.workspace,
            "status": None,
            "channel": None,
            "messages": [],
            "labels": [],
            "meta": {"sender": sender if facts.user else None, "assignee": None, "team": None},
        },
        "created_at": facts.occurred_at,
        "id": name,
        "inbox": inbox,
        "message_type": "outgoing" if facts.is_bot else "incoming",
        "private": False,
        "sender": sender if facts.user else None,
        "source_id": None,
    }
    files = [one for one in facts.attachments if isinstance(one, Mapping)]
    if files:
        body["attachments"] = [_chatwoot_file(one, name, facts.workspace) for one in files]
    return body


def _chatwoot_file(file: Mapping[str, Any], message: Any, account: str) -> dict[str, Any]:
    media = id_text(file.get("content_type", file.get("contentType"))).partition("/")[0]
    return {
        "id": file.get("id"),
        "message_id": message,
        "file_type": media if media in _FILE_TYPES else "file",
        "account_id": account,
        "data_url": file.get("url"),
        "thumb_url": None,
        "file_size": file.get("size"),
    }


def _changed_attributes(changed: Any) -> Any:
    """Chatwoot's list of `{name: {previous_value, current_value}}`; what is a list already stays."""
    if not isinstance(changed, Mapping):
        return changed
    return [
        {
            name: change
            if isinstance(change, Mapping) and {"previous_value", "current_value"} & change.keys()
            else {"previous_value": None, "current_value": change}
        }
        for name, change in changed.items()
    ]


# Slack

_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_BLANK_LINES: Final = re.compile(r"\n{3,}")
_WHITESPACE: Final = re.compile(r"\s+")
_MARKS: Final = re.compile(r"[*`]")
_MAX_SECTION_CHARACTERS: Final = 2_900
"""Slack takes 3,000 characters in a section, and refuses blocks of about 13,000 in all."""
_MAX_SECTIONS: Final = 3
_MAX_NAME_CHARACTERS: Final = 80
_MAX_TEXT_CHARACTERS: Final = 500
_SOMEBODY: Final = "Somebody"
_SUBJECT_PATHS: Final = (
    *("name", "title", "channel.name", "thread.name", "file.name", "call.name", "integration.name"),
    "status",
)


def _slack(facts: EventFields) -> bytes:
    """An incoming webhook's body: `text` for notifications, `blocks` with who, what, the words and the type.

    What strangers wrote is escaped and sent as `verbatim`, so it makes no link, mention or `<!channel>`.
    https://docs.slack.dev/messaging/formatting-message-text, https://docs.slack.dev/reference/block-kit/blocks
    """
    words = (
        _BLANK_LINES.sub("\n\n", _CONTROL_CHARACTERS.sub("", facts.content)).strip()
        if _is_message(facts)
        else ""
    )
    blocks = [_section(text) for text in (_headline(facts, "*"), *_escaped(words, _MAX_SECTION_CHARACTERS))]
    details = (f"`{_name(facts.type)}`", _name(facts.channel), _name(facts.occurred_at))
    blocks.append({"type": "context", "elements": [_mrkdwn(" · ".join(filter(None, details)))]})
    text = ": ".join((_headline(facts, ""), *_escaped(words, _MAX_TEXT_CHARACTERS)[:1]))
    return _json({"text": text, "blocks": blocks})


def _is_message(facts: EventFields) -> bool:
    return canonical(facts.type).startswith("message.")


def _headline(facts: EventFields, mark: str) -> str:
    """What happened on one line, names between marks: `*ann* wrote a message in *general*`."""
    known = EVENT_TYPES.get(canonical(facts.type))
    said = known.about.removesuffix(".") if known else _sentence(facts.type)
    if who := _name(facts.user_name or facts.user):
        who = f"{mark}{who}{mark}"
        said = said.replace(_SOMEBODY, who, 1) if _SOMEBODY in said else f"{said} by {who}"
    if _is_message(facts):
        where, about = (
            _name(_text_at(facts, "channel.name") or facts.channel),
            _name(_text_at(facts, "emoji")),
        )
        said = f"{said} in {mark}{where}{mark}" if where else said
    else:
        about = next((name for path in _SUBJECT_PATHS if (name := _name(_text_at(facts, path)))), "")
    return f"{said}: {mark}{about}{mark}" if about else said


def _sentence(kind: str) -> str:
    words = _name(kind.replace(".", " "))
    return words[:1].upper() + words[1:]


def _text_at(facts: EventFields, path: str) -> str:
    return id_text(value_at(facts.data, path))


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _mrkdwn(text)}


def _mrkdwn(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _name(text: str) -> str:
    """A name on one line, without what would end its bold type."""
    line = _WHITESPACE.sub(
        " ", _MARKS.sub("", _CONTROL_CHARACTERS.sub("", text[: 10 * _MAX_NAME_CHARACTERS]))
    ).strip()
    line = line if len(line) <= _MAX_NAME_CHARACTERS else line[: _MAX_NAME_CHARACTERS - 1].rstrip() + "…"
    return "".join(_ENTITIES.get(character, character) for character in line)


def _escaped(words: str, size: int) -> list[str]:
    """The words in at most three pieces of `size` characters as JavaScript counts them; no entity is cut."""
    pieces = [""]
    length = 0
    for character in words:
        written = _ENTITIES.get(character, character)
        width = len(written) + (character > "\uffff")
        if length + width > size:
            if len(pieces) == _MAX_SECTIONS:
                pieces[-1] += "…"
                break
            pieces.append("")
            length = 0
        pieces[-1] += written
        length += width
    return [piece for piece in pieces if piece.strip()]


_RENDERERS: Final[Mapping[BodyFormat, Callable[[EventFields], bytes]]] = {
    "envelope": _envelope,
    "nchat": _nchat,
    "chatwoot": _chatwoot,
    "slack": _slack,
}
