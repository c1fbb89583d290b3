"""Body formats: an event as the request body that a subscriber expects. Pure.

There is the hub's own envelope, and the payloads of nself-chat, Chatwoot and Slack. Every format gives the
same bytes for the same event, so that a retry sends what was sent before.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Literal

import orjson

from shared.contracts.chat import INBOUND
from shared.contracts.errors import Malformed
from shared.contracts.event_types import EVENT_TYPES, canonical
from shared.contracts.field_paths import id_text, value_at
from shared.webhooks.chat_bodies import chatwoot_message, nchat_data
from shared.webhooks.event_fields import EventFields

BodyFormat = Literal["envelope", "nchat", "chatwoot", "slack"]

ENVELOPE_VERSION: Final = "1"
"""Version of the envelope. Under the same version, keys are only ever added."""


def render_body(format: BodyFormat, fields: EventFields) -> bytes:  # noqa: A002 -- the word of the API
    """Return the event as a request body. Raises `Malformed` if the data cannot be written as JSON."""
    return _RENDERERS[format](fields)


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:  # orjson reads deeper nesting than it writes
        raise Malformed(f"the data cannot be written as JSON: {error}") from None


def _with_raw_data(before: Mapping[str, Any], fields: EventFields, after: Mapping[str, Any]) -> bytes:
    """Return a JSON object with the data between `before` and `after`, byte for byte.

    So numbers of any size and precision stay as they were.
    """
    # JSON is spliced as text: decoding the data would lose precision of large numbers.
    parts = [_json(before)[:-1], b',"data":', fields.raw or b"null"]
    if after:
        parts += [b",", _json(after)[1:-1]]
    return b"".join((*parts, b"}"))


# The hub's own envelope


def _envelope(fields: EventFields) -> bytes:
    """Return `id, type, version, workspace, occurred_at, sequence, origin, actor, data, changed`."""
    before = {
        "id": fields.id,
        "type": fields.type,
        "version": ENVELOPE_VERSION,
        "workspace": fields.workspace,
        "occurred_at": fields.occurred_at,
        "sequence": fields.sequence,
        "origin": fields.origin,
        "actor": fields.actor,
    }
    return _with_raw_data(before, fields, {"changed": fields.changed})


# nself-chat


def _nchat(fields: EventFields) -> bytes:
    """Return nself-chat's `WebhookEvent` (lib/webhooks/outgoing-webhooks.ts), with its docs' id and version.

    The keys are `id, event, timestamp, version, data`, and `triggeredBy` if the actor is known. nself-chat's
    queue posts the data alone, with timestamp and triggeredBy inside and the event in a header. A subscriber
    written for that gets it by a projection: `merge(data, {timestamp: timestamp, triggeredBy: triggeredBy})`.

    Messages in another shape than nself-chat's, as those of `chat.inbound`, get nself-chat's.
    """
    if (data := nchat_data(fields)) is not None:
        fields = replace(fields, raw=_json(data))
    before = {"id": fields.id, "event": fields.type, "timestamp": fields.occurred_at, "version": "1.0"}
    if not fields.user:
        return _with_raw_data(before, fields, {})
    triggered_by = {"userId": fields.user, "username": fields.user_name or None}
    return _with_raw_data(before, fields, {"triggeredBy": triggered_by})


# Chatwoot

_CHATWOOT_EVENTS: Final = frozenset(
    alias for event_type in EVENT_TYPES.values() for alias in event_type.aliases if "_" in alias
)
_UPDATE_SUFFIXES: Final = (".updated", ".changed")


def _chatwoot(fields: EventFields) -> bytes:
    """Return Chatwoot's payload: a flat object with `event`, and `changed_attributes` for updates.

    Data that has Chatwoot's shape already is sent as it is, also if it is a provider's payload from an
    endpoint. A message of the chat becomes Chatwoot's `webhook_data` of a message, with null for fields that
    the chat does not have; ids are texts if the chat's are. Any other event of the chat is its data with
    `event` added: the type with `_` for `.`.
    """
    payload = value_at(fields.data, "payload")
    if isinstance(payload, Mapping) and id_text(payload.get("event")) in _CHATWOOT_EVENTS:
        return _json(payload)
    kind = canonical(fields.type)
    if not isinstance(fields.data, Mapping):
        body: dict[str, Any] = {"data": fields.data}
    else:
        body = chatwoot_message(fields) or dict(fields.data)
    if kind.endswith(_UPDATE_SUFFIXES) or fields.changed is not None:
        body["changed_attributes"] = _changed_attributes(fields.changed)
    return _json(body | {"event": kind.replace(".", "_")})


def _changed_attributes(changed: Any) -> Any:
    """Return Chatwoot's list of `{name: {previous_value, current_value}}`; a list is returned as it is."""
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
"""Slack accepts 3,000 characters in a section, and rejects blocks of about 13,000 in all."""
_MAX_SECTIONS: Final = 3
_MAX_NAME_CHARACTERS: Final = 80
_MAX_TEXT_CHARACTERS: Final = 500
_SOMEBODY: Final = "Somebody"
"""The subject in the descriptions of event types; replaced by the actor's name."""
_SUBJECT_PATHS: Final = (
    *("name", "title", "channel.name", "thread.name", "file.name", "call.name", "integration.name"),
    "status",
)


def _slack(fields: EventFields) -> bytes:
    """Return the body of Slack's incoming webhooks.

    `text` is for notifications; `blocks` have a headline, the message's text and the event type. Text of
    strangers is escaped and sent as `verbatim`, so it makes no link, mention or `<!channel>`.
    https://docs.slack.dev/messaging/formatting-message-text, https://docs.slack.dev/reference/block-kit/blocks
    """
    content = ""
    if _is_message(fields):
        content = _BLANK_LINES.sub("\n\n", _CONTROL_CHARACTERS.sub("", fields.content)).strip()
    blocks = [
        _section(text) for text in (_headline(fields, "*"), *_escaped(content, _MAX_SECTION_CHARACTERS))
    ]
    details = (f"`{_name(fields.type)}`", _name(fields.channel), _name(fields.occurred_at))
    blocks.append({"type": "context", "elements": [_mrkdwn(" · ".join(filter(None, details)))]})
    text = ": ".join((_headline(fields, ""), *_escaped(content, _MAX_TEXT_CHARACTERS)[:1]))
    return _json({"text": text, "blocks": blocks})


def _is_message(fields: EventFields) -> bool:
    return canonical(fields.type).removeprefix(INBOUND).startswith("message.")


def _headline(fields: EventFields, mark: str) -> str:
    """Describe the event on one line, with names between marks: `*ann* wrote a message in *general*`."""
    event_type = EVENT_TYPES.get(canonical(fields.type))
    headline = event_type.about.removesuffix(".") if event_type else _sentence(fields.type)
    if actor := _name(fields.user_name or fields.user):
        actor = f"{mark}{actor}{mark}"
        headline = (
            headline.replace(_SOMEBODY, actor, 1) if _SOMEBODY in headline else f"{headline} by {actor}"
        )
    if _is_message(fields):
        channel = _name(_text_at(fields, "channel.name") or fields.channel)
        subject = _name(_text_at(fields, "emoji"))
        headline = f"{headline} in {mark}{channel}{mark}" if channel else headline
    else:
        subject = next((name for path in _SUBJECT_PATHS if (name := _name(_text_at(fields, path)))), "")
    return f"{headline}: {mark}{subject}{mark}" if subject else headline


def _sentence(event_type: str) -> str:
    words = _name(event_type.replace(".", " "))
    return words[:1].upper() + words[1:]


def _text_at(fields: EventFields, path: str) -> str:
    return id_text(value_at(fields.data, path))


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _mrkdwn(text)}


def _mrkdwn(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _name(text: str) -> str:
    """Return a name escaped on one line, cut, and without marks that would end its bold type."""
    line = _WHITESPACE.sub(
        " ", _MARKS.sub("", _CONTROL_CHARACTERS.sub("", text[: 10 * _MAX_NAME_CHARACTERS]))
    ).strip()
    line = line if len(line) <= _MAX_NAME_CHARACTERS else line[: _MAX_NAME_CHARACTERS - 1].rstrip() + "…"
    return "".join(_ENTITIES.get(character, character) for character in line)


def _escaped(text: str, size: int) -> list[str]:
    """Escape a text and split it into at most `_MAX_SECTIONS` pieces of `size` characters.

    Characters are counted as JavaScript does (UTF-16 units). An entity is never cut.
    """
    pieces = [""]
    length = 0
    for character in text:
        escaped = _ENTITIES.get(character, character)
        width = len(escaped) + (character > "\uffff")
        if length + width > size:
            if len(pieces) == _MAX_SECTIONS:
                pieces[-1] += "…"
                break
            pieces.append("")
            length = 0
        pieces[-1] += escaped
        length += width
    return [piece for piece in pieces if piece.strip()]


_RENDERERS: Final[Mapping[BodyFormat, Callable[[EventFields], bytes]]] = {
    "envelope": _envelope,
    "nchat": _nchat,
    "chatwoot": _chatwoot,
    "slack": _slack,
}
