"""The shapes in which chats report their changes, and their normalisation to the canonical model. Pure.

A shape is a row of `chat_shape_table`: for every canonical field the places where the shape has it. An event
fits a shape that has all required fields; the rows are tried in their order. Whoever needs the canonical form
normalises an event once, when it comes in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pydantic import ValidationError

from shared.contracts.chat import (
    INBOUND,
    MAX_ATTACHMENTS,
    UNKNOWN_AUTHOR,
    ChatChannel,
    ChatMessage,
    ChatMessageDeleted,
    ChatMessageRef,
    ChatOrigin,
    ChatReaction,
    ChatUser,
)
from shared.contracts.chat_shape_table import AUTHOR, FILE, SHAPES, SIZE, Paths, Shape, ShapeName, paths
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import FieldError, Invalid
from shared.contracts.event_types import canonical
from shared.contracts.field_paths import id_text, value_at, value_at_names
from shared.contracts.ids import attachment_id_for

ChatChange = ChatMessage | ChatMessageRef | ChatMessageDeleted | ChatReaction | ChatChannel | ChatUser

_MAX_NAME_CHARACTERS: Final = 256
_MAX_URL_CHARACTERS: Final = 4096
_MAX_TIME_CHARACTERS: Final = 64
_MAX_EPOCH_S: Final = 253_402_300_799
"""The last second of the year 9999."""
_BOT_TYPES: Final = frozenset({"bot", "agent_bot", "captain_assistant", "app", "integration"})


@dataclass(frozen=True, slots=True)
class ReadFields:
    """The fields of an event under their canonical names, not validated, and the required ones it lacks.

    `missing` names them as the shape does.
    """

    shape: ShapeName
    fields: Mapping[str, Any]
    missing: tuple[str, ...]


Kind = Literal["message", "update", "deletion", "reaction", "channel", "user"]
_KINDS: Final[Mapping[str, Kind]] = {
    "message.created": "message",
    "message.updated": "update",
    "message.deleted": "deletion",
    "message.reaction.added": "reaction",
    "message.reaction.removed": "reaction",
    "channel.deleted": "channel",
    "channel.archived": "channel",
    "user.updated": "user",
}
CHAT_CHANGES: Final = frozenset(_KINDS)
"""The types of `chat.events` that `normalise` reads."""

_Model = (
    type[ChatMessage]
    | type[ChatMessageRef]
    | type[ChatMessageDeleted]
    | type[ChatReaction]
    | type[ChatChannel]
    | type[ChatUser]
)
_MODELS: Final[Mapping[Kind, _Model]] = {
    "message": ChatMessage,
    "update": ChatMessage,
    "deletion": ChatMessageDeleted,
    "reaction": ChatReaction,
    "channel": ChatChannel,
    "user": ChatUser,
}
_REQUIRED: Final[Mapping[Kind, tuple[str, ...]]] = {
    "message": ("message_id", "channel_id", "text", "author"),
    "update": ("message_id", "channel_id"),
    "deletion": ("message_id", "channel_id"),
    "reaction": ("message_id", "channel_id", "emoji"),
    "channel": ("channel_id",),
    "user": ("user_id",),
}
_OF_CHATWOOT: Final = ("message_id", "channel_id", "thread_id", "message_type")
"""What a message of Chatwoot always has: a file alone has no text, an activity no sender."""
_MESSAGE_IDS: Final = ("message_id", "channel_id", "thread_id", "reply_to_id", "message_type")
"""Fields that may be numbers."""
_TIMES: Final = ("created_at", "edited_at", "deleted_at", "reacted_at")


def normalise(event_type: str, data: Any, *, channel_id: str = "") -> ChatChange:
    """Return an event of the chat in the canonical model.

    `data` is the event's decoded JSON; `channel_id` is used if the data does not name a channel, as reactions
    of today may. An update that does not tell the text is a `ChatMessageRef`; a message that Chatwoot reports
    as deleted by an update is a `ChatMessageDeleted`. Raises `Invalid` if the type is not one of
    `CHAT_CHANGES`, if the data fits no shape (then it names the closest shape and the missing field), or if a
    field exceeds a limit of the model.
    """
    kind = _KINDS.get(canonical(event_type))
    if kind is None:
        raise Invalid(f"{event_type[:100]} is not one of the chat's changes: {', '.join(sorted(_KINDS))}")
    if not isinstance(data, dict):
        raise Invalid(f"{event_type}: the data must be an object")
    read = _closest(kind, data, channel_id)
    if read.missing:
        field, shape = read.missing[0], read.shape
        error = FieldError(field, f"is missing or of a wrong type; the closest shape is {shape}")
        raise Invalid(f"{event_type}: fits no shape: {shape}, the closest, needs {field}", errors=(error,))
    model = _MODELS[kind]
    fields = dict(read.fields)
    if kind == "update":
        if read.shape == "chatwoot" and value_at(data, "content_attributes.deleted") is True:
            model = ChatMessageDeleted
        elif "text" not in fields:
            model = ChatMessageRef
    if model in (ChatMessage, ChatReaction):
        # Nobody in person does what has no sender in Chatwoot.
        fields.setdefault("author", {"id": UNKNOWN_AUTHOR, "bot": read.shape == "chatwoot"})
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise Invalid(
            f"{event_type}: {field}: {first['msg']}", errors=(FieldError(field, first["msg"]),)
        ) from None


def read_fields(event_type: str, data: Any) -> ReadFields | None:
    """Return the canonical fields of a message, deletion or reaction, in whatever shape; None for others.

    Types of `chat.inbound` are read like the chat's own. It never raises: fields that the data lacks are left
    out, and no limit of the model is applied.
    """
    kind = _KINDS.get(canonical(event_type).removeprefix(INBOUND))
    if kind in (None, "channel", "user") or not isinstance(data, dict):
        return None
    return _closest(kind, data, "")


def _closest(kind: Kind, data: Mapping[str, Any], channel_id: str) -> ReadFields:
    """Return the fields by the first shape that fits, or else by the one with the most of what it needs."""
    closest, max_score = SHAPES[0], -1
    places: tuple[str, ...] = ()
    for shape in SHAPES:
        required = _required(shape, kind)
        if not required:
            continue
        missing = [name for name in required if not _has(shape, name, data, channel_id)]
        # The id is what tells the shapes of a chat apart: it counts more than all the rest.
        score = len(required) - len(missing) + 10 * (required[0] not in missing)
        if not missing or score > max_score:
            max_score = score
            closest, places = shape, tuple(_place(shape, name) for name in missing)
        if not missing:
            break
    fields = _fields(closest, kind, data)
    if channel_id and "message_id" in fields:
        fields.setdefault("channel_id", channel_id)
    return ReadFields(closest.name, fields, places)


def _has(shape: Shape, name: str, data: Mapping[str, Any], channel_id: str) -> bool:
    """Return whether the data has a required field. A file or card alone is a message, too."""
    places = shape.fields[name]
    if name == "author":
        author = _first(data, places, dict)
        return author is not None and bool(_text(author, AUTHOR["id"]))
    if name == "emoji":
        return bool(_first(data, places, str))
    if name == "text":
        return (
            _first(data, places, str) is not None
            or bool(_files(_first(data, shape.fields["attachments"], list), ""))
            or bool(_first(data, shape.fields.get("embeds", ()), list))
        )
    return bool(_text(data, places)) or (name == "channel_id" and bool(channel_id))


def _required(shape: Shape, kind: Kind) -> tuple[str, ...]:
    if shape.name == "chatwoot":
        return _OF_CHATWOOT if kind in ("message", "update") else ()
    return _REQUIRED[kind]


def _place(shape: Shape, name: str) -> str:
    place = ".".join(shape.fields[name][0])
    return f"{place}.id" if name == "author" else place


def _fields(shape: Shape, kind: Kind, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that the data has in a shape, each of the type of the model."""
    if kind in ("channel", "user"):
        return _fields_of_object(shape, kind, data)
    fields: dict[str, Any] = {}
    for name in _MESSAGE_IDS:
        if text := _text(data, shape.fields.get(name, ())):
            fields[name] = text
    for name in _TIMES:
        if time := _time(data, shape.fields.get(name, ())):
            fields[name] = time
    for name in ("text", "emoji"):
        if (text := _first(data, shape.fields.get(name, ()), str)) is not None and (text or name == "text"):
            fields[name] = text
    if _first(data, shape.fields.get("private", ()), bool):
        fields["private"] = True
    return fields | _parts(shape, data, fields.get("message_id", ""))


def _parts(shape: Shape, data: Mapping[str, Any], message_id: str) -> dict[str, Any]:
    """Return the fields of a message that are objects or lists of them, without those that are empty."""
    parts = {
        "author": _author(_first(data, shape.fields["author"], dict)),
        "attachments": _files(_first(data, shape.fields["attachments"], list), message_id),
        "embeds": (_first(data, shape.fields.get("embeds", ()), list) or [])[:MAX_ATTACHMENTS],
        "origin": _origin(_first(data, shape.fields.get("origin", ()), dict)),
    }
    return {name: part for name, part in parts.items() if part}


def _fields_of_object(shape: Shape, kind: Kind, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a channel or user."""
    fields: dict[str, Any] = {}
    for name in ("channel_id", "name") if kind == "channel" else ("user_id", "name", "email", "avatar_url"):
        place = "user_name" if (kind, name) == ("user", "name") else name
        if text := _text(data, shape.fields.get(place, ())):
            fields[name] = text if name.endswith("_id") else text[:_MAX_NAME_CHARACTERS]
    return fields


def _first(data: Any, paths: Paths, kind: type[Any]) -> Any:
    """Return the first value of a type at one of the paths; None if there is none."""
    for path in paths:
        value = value_at_names(data, path)
        if isinstance(value, kind):
            return value
    return None


def _text(data: Any, paths: Paths) -> str:
    for path in paths:
        if text := id_text(value_at_names(data, path)):
            return text
    return ""


def _time(data: Any, paths: Paths) -> str | None:
    """Return the first time as text. A number is Unix time in seconds, as Chatwoot has it."""
    for path in paths:
        value = value_at_names(data, path)
        if isinstance(value, str) and 0 < len(value) <= _MAX_TIME_CHARACTERS:
            return value
        if isinstance(value, int | float) and 0 < value <= _MAX_EPOCH_S:
            return rfc3339(datetime.fromtimestamp(value, UTC))
    return None


def _author(author: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if author is None or not (author_id := _text(author, AUTHOR["id"])):
        return None
    is_bot = author.get("bot") is True or author.get("isBot") is True or author.get("is_bot") is True
    fields: dict[str, Any] = {
        "id": author_id,
        "name": _text(author, AUTHOR["name"])[:_MAX_NAME_CHARACTERS],
        "bot": is_bot or id_text(author.get("type"))[:_MAX_NAME_CHARACTERS].lower() in _BOT_TYPES,
    }
    if user_id := _text(author, AUTHOR["user_id"]):
        fields["user_id"] = user_id
    if avatar := _text(author, AUTHOR["avatar_url"]):
        fields["avatar_url"] = avatar if len(avatar) <= _MAX_URL_CHARACTERS else None
    return fields


def _files(files: Sequence[Any] | None, message_id: str) -> list[dict[str, Any]]:
    """Return the files that have a URL. A file without an id gets one from its message and position."""
    found: list[dict[str, Any]] = []
    for position, file in enumerate((files or ())[:MAX_ATTACHMENTS]):
        url = _text(file, FILE["url"])
        if not url or len(url) > _MAX_URL_CHARACTERS:
            continue
        found.append(
            {
                "id": _text(file, FILE["id"]) or attachment_id_for(message_id, position),
                "url": url,
                "filename": _text(file, FILE["filename"])[:_MAX_NAME_CHARACTERS] or "file",
                "content_type": _text(file, FILE["content_type"])[:_MAX_NAME_CHARACTERS] or None,
                "size": _first(file, SIZE, int),
            }
        )
    return found


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


_ORIGIN: Final = tuple((name, paths(name, _camel(name))) for name in ChatOrigin.model_fields)


def _origin(origin: Mapping[str, Any] | None) -> dict[str, str] | None:
    if origin is None:
        return None
    found = ((name, _text(origin, paths)) for name, paths in _ORIGIN)
    return {name: text for name, text in found if 0 < len(text) <= _MAX_URL_CHARACTERS} or None
