"""Read fields of decoded JSON whose form nobody has checked: values at paths, and ids as texts."""

from collections.abc import Sequence
from typing import Any


def value_at(data: Any, path: str) -> Any:
    """Return the value at a dotted path of nested objects; None if the path ends early."""
    return value_at_names(data, path.split("."))


def value_at_names(data: Any, names: Sequence[str]) -> Any:
    """Return the value at a path that is given as its names; None if the path ends early."""
    for name in names:
        if not isinstance(data, dict):  # much cheaper to check than `Mapping`, and what JSON decodes to
            return None
        data = data.get(name)
    return data


def id_text(value: Any) -> str:
    """Return an id or name as text; empty for other values. Integers are ids too."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""
