"""Texts with values in braces, of which requests to a platform are made: `https://{param:shop}.example.com`.

A value is named alone (`{access_token}`) or by its kind (`{param:shop}`, `{account:cloud_id}`).
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from shared.contracts.errors import InterlinkError

TemplateValues = Mapping[str, str]

_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+(?::[a-z][a-z0-9_]*)?)\}")
_SAFE_IN_URL: Final = "-._~:@"


class MissingValue(InterlinkError):
    """A text that is none of this language, or whose value is not there."""


class RequestTemplate:
    """A compiled text. Raises `MissingValue` for braces that name nothing."""

    __slots__ = ("_literals", "names")

    def __init__(self, text: str) -> None:
        pieces = _PLACEHOLDER.split(text)
        self._literals: Final = tuple(pieces[0::2])
        self.names: Final = tuple(pieces[1::2])
        """What it names, in order."""
        if any("{" in literal or "}" in literal for literal in self._literals):
            raise MissingValue(f"{text!r}: in braces stands a name, as {{client_id}} or {{param:shop}}")

    def __call__(self, values: TemplateValues) -> str:
        """The text with its values. Raises `MissingValue`, which names the value that is not there."""
        return self._join([_required_value(values, name) for name in self.names])

    def url(self, values: TemplateValues) -> str:
        """An address: what cannot stand in a path or host is percent-encoded in each value.

        But a value that the text begins with is the beginning of an address itself.
        """
        found = [quote(_required_value(values, name), safe=_SAFE_IN_URL) for name in self.names]
        if found and not self._literals[0]:
            found[0] = values[self.names[0]]
        return self._join(found)

    def render_or_empty(self, values: TemplateValues) -> str:
        """The same, or an empty text when one of the values is not there or is empty."""
        if not all(values.get(name) for name in self.names):
            return ""
        return self(values)

    def _join(self, found: list[str]) -> str:
        made = [self._literals[0]]
        for value, literal in zip(found, self._literals[1:], strict=True):
            made += (value, literal)
        return "".join(made)


def _required_value(values: TemplateValues, name: str) -> str:
    value = values.get(name)
    if not value:
        raise MissingValue(f"there is no {name}")
    return value
