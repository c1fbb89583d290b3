"""URL-encoded forms, and the parameters of an address, as payloads."""

import re
from collections.abc import Sequence
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.manifests.models import BodyFormat
from shared.verification.request import InboundRequest
from shared.wire.bodies import parse_json

_BRACKETS: Final = re.compile(r"\[([^\[\]]*)\]")
"""The keys in `data[merges][EMAIL]`."""
_MAX_DEPTH: Final = 10


def form_value(request: InboundRequest, body_format: BodyFormat) -> Any:
    """Return a form as a payload: the JSON in one field, or all fields as an object.

    Raises `Malformed` if `body.form_field` is missing or repeated, its JSON is invalid, or fields contradict
    each other.
    """
    if body_format.form_field:
        values = [value for name, value in request.form if name == body_format.form_field]
        if len(values) == 1:
            return parse_json(values[0].encode("utf-8", "surrogatepass"))
        # With `form` set as well, other forms are read field by field.
        if not body_format.form:
            raise Malformed(f"the form must have the field {body_format.form_field!r} exactly once")
    return fields_value(request.form, body_format)


def fields_value(pairs: Sequence[tuple[str, str]], body_format: BodyFormat) -> dict[str, Any]:
    """Return the fields of a form, or the parameters of an address, as a payload.

    Raises `Malformed` if fields contradict each other.
    """
    fields: dict[str, Any] = {}
    for name, value in pairs:
        keys = [name]
        if body_format.form == "brackets" and "[" in name:
            keys = [name.partition("[")[0], *_BRACKETS.findall(name)]
        _set_field(fields, keys, value)
    return fields


def _set_field(fields: dict[str, Any], keys: Sequence[str], value: str) -> None:
    """Set a nested field; a repeated one becomes a list. Raises `Malformed` for contradictions."""
    if len(keys) > _MAX_DEPTH:
        raise Malformed(f"a field of the form is nested more than {_MAX_DEPTH} deep")
    *outer, last = keys
    for key in outer:
        inner = fields.setdefault(key, {})
        if not isinstance(inner, dict):
            raise Malformed("a field of the form is both a text and an object")
        fields = inner
    if isinstance(fields.get(last), dict):
        raise Malformed("a field of the form is both a text and an object")
    # A repeated field collects its values: text, then list.
    if last not in fields:
        fields[last] = value
    elif isinstance(fields[last], list):
        fields[last].append(value)
    else:
        fields[last] = [fields[last], value]
