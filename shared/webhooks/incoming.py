"""The request body of an incoming webhook, in any of the formats that people's systems send. Pure.

A body is read in three steps: its JSON object is found (JSON, a form, a multipart form), the module of its
format in `incoming_formats` converts it to the normal form, and `fitting` makes that a message within all
limits. The format is recognized by the body's fields, not by the sender.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from shared.contracts.envelope import JSON_CONTENT_TYPE
from shared.contracts.errors import Malformed
from shared.webhooks.incoming_formats.alertmanager import (
    is_alertmanager,
    is_legacy_grafana,
    read_alertmanager,
    read_legacy_grafana,
)
from shared.webhooks.incoming_formats.chat import UPLOADED_FILES, read_chat
from shared.webhooks.incoming_formats.datadog import is_datadog, read_datadog
from shared.webhooks.incoming_formats.fitting import IncomingMessage, fit_message
from shared.webhooks.incoming_formats.formatted import Dialects, Formatter
from shared.webhooks.incoming_formats.google_chat import is_google_chat, read_google_chat
from shared.webhooks.incoming_formats.normal_form import MAX_ATTACHMENTS, NormalForm, RawObject
from shared.webhooks.incoming_formats.sentry import is_sentry, read_sentry
from shared.webhooks.incoming_formats.teams import is_teams, read_teams
from shared.webhooks.incoming_formats.uptime_kuma import FORM_FIELD, is_uptime_kuma, read_uptime_kuma
from shared.wire.bodies import (
    FORM_CONTENT_TYPE,
    dump_json,
    form_field,
    media_type,
    parse_object,
    replace_lone_surrogates,
)
from shared.wire.multipart import MULTIPART_CONTENT_TYPE, FormPart, parse_multipart

INCOMING_PROVIDER: Final = "incoming"
"""The provider id in events and routes of incoming webhooks."""
MASS_MENTIONS_ATTRIBUTE: Final = "mass_mentions"
"""The event attribute of an incoming webhook that may mention everybody."""

_JSON_FIELDS: Final = ("payload_json", "payload", FORM_FIELD)
"""Fields of a multipart form that may have the JSON: Discord's, Slack's and Uptime Kuma's."""
_TEXT_FIELDS: Final = frozenset({"content", "text", "username", "avatar_url", "icon_url", "thread_id"})
"""Fields of a multipart form that belong to a message, as in JSON."""

_Reader = Callable[[RawObject, Formatter], NormalForm]
_Format = tuple[Callable[[RawObject], bool], _Reader]
"""Functions that recognize a format and read it."""
_CARD_FORMATS: Final[tuple[_Format, ...]] = ((is_teams, read_teams), (is_google_chat, read_google_chat))
_ALERT_FORMATS: Final[tuple[_Format, ...]] = (
    (is_alertmanager, read_alertmanager),
    (is_legacy_grafana, read_legacy_grafana),
    (is_uptime_kuma, read_uptime_kuma),
    (is_datadog, read_datadog),
    (is_sentry, read_sentry),
)
_MESSAGE_FIELDS: Final = ("text", "content", "blocks", "embeds", "attachments")


class ReceivedMessage(NamedTuple):
    """A message, and what of its body it does not have."""

    message: IncomingMessage
    warnings: tuple[str, ...]
    """Values that were cut or left out, each with its path in the body: `embeds.0.color: ...: left out`."""


def parse_incoming_message(
    content_type: str, body: bytes, dialects: Dialects, *, mass_mentions: bool = False
) -> ReceivedMessage:
    """Return the message in a request's body: JSON, or a form with the JSON in one of its fields.

    `dialects` are those that providers offer for formatted text.

    What is too long is cut with a mark, and what is wrong is left out, with a warning for each. Unless
    `mass_mentions` is true, mentions of everybody (`<!here>`, `@everyone`) become plain text. Raises
    `Malformed` if the body has no JSON object, `Invalid` if there is nothing to show. Neither errors nor
    warnings repeat what was sent.
    """
    source = _parse_body(content_type, body)
    form = _reader(source)(source, Formatter(dialects, mass_mentions=mass_mentions))
    message = fit_message(form, mass_mentions=mass_mentions)
    return ReceivedMessage(message, tuple(f"{path}: {text}" for path, text in form.warnings))


def _reader(source: RawObject) -> _Reader:
    """Return the function that reads a body of this format."""
    for is_format, read in _CARD_FORMATS:
        if is_format(source):
            return read
    # A body with a text of its own is a message, whatever else is in it.
    if not any(source.get(name) for name in _MESSAGE_FIELDS):
        for is_format, read in _ALERT_FORMATS:
            if is_format(source):
                return read
    return read_chat


def published_body(content_type: str, body: bytes, *, thread_id: str = "") -> tuple[bytes, str]:
    """Return the body of a message as its event has it, and its content type.

    It is the body as it was sent, with U+FFFD for half of a surrogate pair. Of a multipart form it is the
    JSON, without the files: an event has no binary data. `thread_id` is added if it is not empty: Discord's
    callers have it in the query. Raises `Malformed`.
    """
    if media_type(content_type) != MULTIPART_CONTENT_TYPE and not thread_id:
        return replace_lone_surrogates(body), content_type
    source = _parse_body(content_type, body)
    if thread_id:
        source = {"thread_id": thread_id, **source}
    return dump_json(source), JSON_CONTENT_TYPE


def _parse_body(content_type: str, body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body. Raises `Malformed`."""
    kind = media_type(content_type)
    if kind == MULTIPART_CONTENT_TYPE:
        return _multipart_object(parse_multipart(content_type, body))
    # A form with bare JSON in it (curl's default type) is read as JSON.
    is_form = kind == FORM_CONTENT_TYPE and not body.lstrip().startswith(b"{")
    if not is_form:
        return _parse_text(body)
    try:
        return _parse_text(form_field(body, "payload"))
    except Malformed as error:
        raise Malformed(
            f"{error}. JSON without a form needs the header Content-Type: {JSON_CONTENT_TYPE}"
        ) from None


def _parse_text(text: bytes) -> dict[str, Any]:
    """Return the JSON object in a text. A character that was cut in two costs only itself."""
    return parse_object(replace_lone_surrogates(text))


def _multipart_object(parts: list[FormPart]) -> dict[str, Any]:
    """Return the JSON of a multipart form, with its other fields and the names of its files."""
    texts = {part.name: part for part in reversed(parts) if part.filename is None}
    files = [part for part in parts if part.filename is not None]
    json_part = next((texts[name] for name in _JSON_FIELDS if name in texts), None)
    source = _parse_text(json_part.data) if json_part else {}
    for name in _TEXT_FIELDS & texts.keys():
        source.setdefault(name, texts[name].data.decode("utf-8", "replace"))
    if not source and not files:
        names = ", ".join(_JSON_FIELDS)
        raise Malformed(f"the form must have one of the fields {names}, or the field content")
    if files:
        # `attachments` of Discord's JSON only describe the files of the form.
        source["attachments"] = [
            item for item in _listed(source.get("attachments")) if not _describes_a_file(item)
        ]
        source[UPLOADED_FILES] = [
            {"filename": part.filename, "content_type": part.content_type, "size": len(part.data)}
            for part in files[:MAX_ATTACHMENTS]
        ]
    return source


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _describes_a_file(item: object) -> bool:
    return isinstance(item, dict) and "id" in item and "url" not in item
