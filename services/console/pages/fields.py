"""The fields of an object as its page shows them: in which order, with which units, and as which links."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from services.console.pages.registry import page_of

Fields = list[tuple[str, Any]]
_LEADING: Final = (
    *("status", "state", "status_reason", "reason", "error", "detail", "waiting_for", "waiting_reason"),
    *("fix", "url", "about", "provider", "name"),
)
"""Shown before other fields if the kind does not say."""
_ID: Final = re.compile(r"[a-z]{2,4}_[0-9A-Za-z]{8,64}")
_FOLLOWED: Final = frozenset({"event_id", "trace_id"})
"""Fields whose value links to the page of the whole path."""
_UNITS: Final[Mapping[str, str]] = {
    "_ms": "ms",
    "_s": "s",
    "_hours": "h",
    "_days": "days",
    "_percent": "%",
    "_bytes": "bytes",
}
_NAMED: Final[Mapping[str, str]] = {
    "progress": "%",
    "size": "bytes",
    "bytes": "bytes",
    "rate_limit": "requests per minute",
}
_KIB: Final = 1024


def is_empty(value: Any) -> bool:
    """Return whether there is nothing to see in a value; a number and a `false` are something."""
    if isinstance(value, Mapping):
        return all(is_empty(inner) for inner in value.values())
    return value is None or (isinstance(value, str | Sequence) and not value)


def arranged(item: Mapping[str, Any], first: Sequence[str], hidden: frozenset[str]) -> tuple[Fields, Fields]:
    """Return the fields that a page shows at once, and the others, which it shows on demand.

    With `first`, these are shown, else all that are not empty. `hidden` are shown elsewhere on the page.
    """
    names = [name for name in item if name not in hidden]
    order = first or [*(name for name in _LEADING if name in item), *(n for n in names if n not in _LEADING)]
    shown = [(name, item[name]) for name in order if name in names and not is_empty(item[name])]
    known = {name for name, _ in shown}
    return shown, [(name, item[name]) for name in names if name not in known]


def href_of(name: str, value: Any) -> str:
    """Return the page of the object that a field names by its id; empty if there is none."""
    if not isinstance(value, str):
        return ""
    if name in _FOLLOWED and value:
        return f"/console/paths/{quote(value, safe='')}"
    page = page_of(value) if _ID.fullmatch(value) else None
    return f"/console/{page}/{value}" if page else ""


def with_unit(name: str, value: Any) -> str:
    """Return a number with the unit that its field's name tells."""
    unit = _NAMED.get(name) or next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
    if unit == "bytes" and value >= _KIB:
        return _bytes(value)
    text = f"{value:,.1f}".removesuffix(".0") if isinstance(value, float) else f"{value:,}"
    return f"{text} {unit}".strip()


def _bytes(value: float) -> str:
    for unit in ("KiB", "MiB", "GiB"):
        value /= _KIB
        if value < _KIB or unit == "GiB":
            break
    return f"{value:,.1f} {unit}"
