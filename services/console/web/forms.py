"""Read the forms of the console: their fields, and the body of the call that they become."""

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
from starlette.requests import Request

from services.console.hub_api import Refusal
from services.console.pages.kinds import Field

MAX_FORM_BYTES: Final = 64 * 1024
_MAX_FIELDS: Final = 200
_NUMBER: Final = re.compile(r"[-+]?[0-9]{1,18}")
"""A number that JSON has room for."""
OWN: Final = "own-"
"""Prefix of the hub's own fields in a form with a provider's. No name of a provider's field has a dash."""

Form = Mapping[str, list[str]]
"""The values of a form by field."""


class BadForm(Refusal):
    """A refusal of a field's value. The detail names the field, and what it needs."""

    def __init__(self, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(422, "Check the form", detail, errors)


def wrong_field(field: Field, message: str) -> BadForm:
    """Return the refusal of one field's value, which is shown beside the field too."""
    return BadForm(f"{field.title}: {message}", [(field.name, message)])


def errors_of(refusal: Refusal | None, fields: Sequence[Field]) -> dict[str, str]:
    """Return what is wrong with which field of a form, by the field's name.

    A service names the field of its call, such as `settings.team` or `allow_ips.0`.
    """
    found: dict[str, str] = {}
    has_own = any(field.name.startswith(OWN) for field in fields)
    for path, message in refusal.errors if refusal else ():
        place, *parts = path.split(".")
        for field in fields:
            bare = field.name.removeprefix(OWN)
            is_own = bare != field.name
            if (
                path == field.name
                or (bare == place and is_own == has_own)
                or (parts and bare == parts[-1] and not is_own)
            ):
                found.setdefault(field.name, message)
    return found


async def read_form(request: Request) -> Form:
    """Return the fields of a form. Raises `BadForm` if it is larger than any of the console's."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise BadForm("the form is too large: it has at most 64 KiB")
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise BadForm("the form cannot be read: open it again") from None


def first(form: Form, name: str) -> str:
    """Return the value of a field; empty if the form does not have it."""
    return form.get(name, [""])[0]


def once_of(form: Form) -> str:
    """Return the idempotency key for the page of a form: that of the form that was sent, else a new one.

    If no response came in time, the form can be sent again, and its call takes effect only once.
    """
    return first(form, "once") or secrets.token_urlsafe(16)


def values_of(form: Form, fields: Sequence[Field]) -> dict[str, Any]:
    """Return the values of the fields that are filled in, by name. Raises `BadForm`."""
    values: dict[str, Any] = {}
    for field in fields:
        texts = [text for text in form.get(field.name, []) if text.strip()]
        if field.kind == "flag":
            values[field.name] = bool(texts)
        elif texts:
            values[field.name] = _value_of(field, texts)
        elif field.required:
            raise wrong_field(field, "fill it in")
    return values


def split_own(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of the hub's own fields, without `OWN`, and those of the provider's fields."""
    own = {name.removeprefix(OWN): value for name, value in values.items() if name.startswith(OWN)}
    return own, {name: value for name, value in values.items() if not name.startswith(OWN)}


def _value_of(field: Field, texts: Sequence[str]) -> Any:
    text = texts[0].strip()
    match field.kind:
        case "checks":
            return list(texts)
        case "lines":
            return [line.strip() for line in text.splitlines() if line.strip()]
        case "key":
            return text.replace("\r\n", "\n")
        case "number":
            if not _NUMBER.fullmatch(text):
                raise wrong_field(field, "a whole number is needed, of at most 18 digits")
            return int(text)
        case "time":
            return utc_time(text, field.title)
        case "json":
            try:
                value = orjson.loads(text)
                orjson.dumps(value)  # for the call: it may have fewer levels than what is read
            except (ValueError, TypeError):
                raise wrong_field(field, "this is not JSON, or it has too many levels") from None
            return value
    return text


def utc_time(text: str, title: str) -> str:
    """Return a time of a form, which is in UTC unless it says otherwise, as RFC 3339. Raises `BadForm`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadForm(f"{title}: a time such as 2026-01-31T12:00 is needed") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).isoformat()


def field_time(text: str) -> str:
    """Return a time as the field of a form can show it: in UTC, and without the zone that links give it.

    Any other text is returned as it is.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            return text
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError):
        return text
