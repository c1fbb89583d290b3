"""Fits a message into the limits of the chat: what is too long is cut, what is wrong is left out. Pure."""

from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, HttpUrl, ValidationError
from pydantic_core import ErrorDetails

from shared.contracts.errors import FieldError, Invalid
from shared.contracts.messages import Attachment, Embed, Payload, Text256, Text4000
from shared.richtext.excerpt import fit_markdown
from shared.webhooks.incoming_formats.normal_form import (
    MAX_ATTACHMENTS,
    MAX_EMBEDS,
    Location,
    NormalForm,
    NormalObject,
)
from shared.wire.addresses import is_internal_host
from shared.wire.mentions import defuse_mentions

MAX_TEXT_CHARACTERS: Final = 4000
MAX_NAME_CHARACTERS: Final = 80
MAX_MESSAGE_BYTES: Final = 64 * 1024
"""Size of a message as JSON."""

CUT_MARK: Final = "\n\n… (cut: the text is longer)"
"""Behind an empty line: otherwise it would be a row of a table, or code of a quote."""
_ELLIPSIS: Final = "…"
_MARKDOWN_PARTS: Final = frozenset({"text", "description", "value"})
_SPARE_CHARACTERS: Final = 16
"""Room for what defusing adds to a text that was cut."""
_MAX_ROUNDS: Final = 5
"""Validations of one message: a repaired list may have errors inside it that were not reported before."""


def _public_icon(url: HttpUrl) -> HttpUrl:
    """Validate an https URL on the internet, by its text: no DNS lookup."""
    if url.scheme != "https" or url.username is not None or url.password is not None:
        raise ValueError("should be an https URL without a user name")
    if is_internal_host(url.host or ""):
        raise ValueError("should not be an internal address")
    return url


class IncomingMessage(Payload):
    """A message of an incoming webhook in normal form. `text` and descriptions are Markdown."""

    text: Text4000 = ""
    username: Text256 | None = None
    icon_url: Annotated[HttpUrl, AfterValidator(_public_icon)] | None = None
    thread_id: Text256 | None = None
    attachments: list[Attachment] = Field(default_factory=list, max_length=MAX_ATTACHMENTS)
    embeds: list[Embed] = Field(default_factory=list, max_length=MAX_EMBEDS)


def fit_message(form: NormalForm, *, mass_mentions: bool = False) -> IncomingMessage:
    """Return the message of a normal form within all limits, and add a warning to the form for each change.

    Unless `mass_mentions` is true, mentions of everybody (`<!here>`, `@everyone`) become plain text. Raises
    `Invalid` if there is nothing to show.
    """
    normal = form.normal()
    if not mass_mentions:
        _defuse_message(normal)
    _limit_name(form, normal)
    message = _validate(form, normal, mass_mentions=mass_mentions)
    message = _limit_size(form, message)
    if form.notes:
        message = message.model_copy(update={"text": _with_notes(message.text, form.notes)})
    if not (message.text.strip() or message.embeds or message.attachments):
        missing = FieldError("text", "send text (or content), embeds or attachments")
        left_out = (FieldError(path, text) for path, text in form.warnings)
        raise Invalid("the message is empty", errors=(missing, *left_out))
    return message


def _defuse_message(message: NormalObject) -> None:
    """Make the mass mentions in all visible texts of a message plain text."""
    embeds = message["embeds"]
    visible: list[tuple[NormalObject, tuple[str, ...]]] = [(message, ("text", "username"))]
    visible += [(embed, ("title", "description", "author")) for embed in embeds]
    visible += [(field, ("name", "value")) for embed in embeds for field in embed.get("fields", ())]
    visible += [(file, ("filename",)) for file in message["attachments"]]
    for part, names in visible:
        for name in names:
            if isinstance(part.get(name), str):
                part[name] = defuse_mentions(part[name])


def _limit_name(form: NormalForm, message: NormalObject) -> None:
    name = message.get("username")
    if isinstance(name, str) and len(name) > MAX_NAME_CHARACTERS:
        message["username"] = _cut_line(name, MAX_NAME_CHARACTERS)
        form.warn(form.path(("username",)), f"more than {MAX_NAME_CHARACTERS} characters: cut")


def _validate(form: NormalForm, normal: NormalObject, *, mass_mentions: bool) -> IncomingMessage:
    """Validate a message, and repair what is not valid. Raises `Invalid` if that is not possible."""
    details: list[ErrorDetails] = []
    for _ in range(_MAX_ROUNDS):
        try:
            return IncomingMessage.model_validate(normal)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            # From the end, so that what is removed from a list does not move what follows in `details`.
            for detail in reversed(details):
                _repair(normal, detail, mass_mentions=mass_mentions)
            for detail in details:
                form.warn(form.path(detail["loc"]), _warning(detail))
                if detail["type"] == "too_long":
                    form.note_cut(str(detail["loc"][-1]), detail["ctx"]["max_length"])
            normal["embeds"] = [embed for embed in normal["embeds"] if _shows_something(embed)]
    raise Invalid(
        "some fields are not acceptable",
        errors=tuple(FieldError(form.path(item["loc"]), item["msg"]) for item in details),
    )


def _warning(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    cut = detail["type"] in ("string_too_long", "too_long")
    if not message.startswith("URL"):
        message = message[:1].lower() + message[1:]
    return f"{message}: {'cut' if cut else 'left out'}"


def _repair(normal: NormalObject, detail: ErrorDetails, *, mass_mentions: bool) -> None:
    """Cut the value that an error is about, or remove it with what is nothing without it."""
    location = detail["loc"]
    container, key = _find(normal, location)
    if container is None:
        return
    if detail["type"] == "string_too_long":
        max_characters = detail["ctx"]["max_length"]
        container[key] = _cut(container[key], max_characters, str(key), mass_mentions=mass_mentions)
    elif detail["type"] == "too_long":
        del container[key][detail["ctx"]["max_length"] :]
    elif location[0] == "attachments" and key == "url":
        _remove(normal["attachments"], location[1])
    elif location[0] == "embeds" and location[2:3] == ("fields",) and len(location) > 4 and key != "inline":
        _remove(normal["embeds"][location[1]]["fields"], location[3])
    elif isinstance(container, list):
        _remove(container, key)
    else:
        container.pop(key, None)


def _find(normal: NormalObject, location: Location) -> tuple[Any, str | int]:
    """Return the object or list that has the value at a location, and its key; None if there is none."""
    container: Any = normal
    for step in location[:-1]:
        try:
            container = container[step]
        except (KeyError, IndexError, TypeError):
            return None, ""
    return (container, location[-1]) if isinstance(container, dict | list) else (None, "")


def _remove(items: list[Any], position: str | int) -> None:
    if isinstance(position, int) and position < len(items):
        del items[position]


def _shows_something(embed: NormalObject) -> bool:
    return any(embed.get(part) for part in ("title", "description", "fields", "author"))


def _limit_size(form: NormalForm, message: IncomingMessage) -> IncomingMessage:
    """Leave out the last embeds, and fields of the last one, of a message that is too large."""
    excess = len(message.model_dump_json().encode()) - MAX_MESSAGE_BYTES
    if excess <= 0:
        return message
    embeds = list(message.embeds)
    while excess > 0 and embeds:
        last = embeds.pop()
        if last.fields:
            excess -= len(last.fields[-1].model_dump_json().encode()) + 1
            embeds.append(last.model_copy(update={"fields": last.fields[:-1]}))
        else:
            excess -= len(last.model_dump_json().encode()) + 1
    form.warn("embeds", f"the message has more than {MAX_MESSAGE_BYTES} bytes: the last ones are left out")
    form.notes.append("… (cut: the message is larger)")
    return message.model_copy(update={"embeds": embeds})


def _with_notes(text: str, notes: list[str]) -> str:
    end = "\n".join(notes)
    cut = fit_markdown(text, MAX_TEXT_CHARACTERS - len(end) - 2, CUT_MARK)
    return f"{cut}\n\n{end}" if cut else end


def _cut(text: str, max_characters: int, name: str, *, mass_mentions: bool) -> str:
    if name not in _MARKDOWN_PARTS:
        cut = _cut_line(text, max_characters - 1)
    else:
        mark = CUT_MARK if max_characters >= MAX_TEXT_CHARACTERS else _ELLIPSIS
        cut = fit_markdown(text, max_characters - _SPARE_CHARACTERS, mark)
    # What was cut may end in a name that notifies everybody: `@hereford` became `@here`.
    return cut if mass_mentions else defuse_mentions(cut)


def _cut_line(text: str, max_characters: int) -> str:
    return text[: max_characters - 1].rstrip() + _ELLIPSIS
