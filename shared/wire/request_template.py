"""Request templates: texts with values in braces, such as `https://{param:shop}.example.com`. Pure.

Requests to a provider are made of them. A value has a plain name (`{access_token}`) or a kind and a name
(`{param:shop}`, `{account:cloud_id}`).
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
    """A request template has a syntax error, or one of its values is missing or empty."""


class RequestTemplate:
    """A compiled template. Raises `MissingValue` for braces that do not name a value."""

    __slots__ = ("_literals", "names")

    def __init__(self, text: str) -> None:
        pieces = _PLACEHOLDER.split(text)
        self._literals: Final = tuple(pieces[0::2])
        self.names: Final = tuple(pieces[1::2])
        """The names of its values, in order."""
        if any("{" in literal or "}" in literal for literal in self._literals):
            raise MissingValue(
                f"{text!r}: write the name of a value in braces, as {{client_id}} or {{param:shop}}"
            )

    def __call__(self, values: TemplateValues) -> str:
        """Return the text with its values. Raises `MissingValue`, which names the value that is missing."""
        return self._join([_required_value(values, name) for name in self.names])

    def url(self, values: TemplateValues) -> str:
        """Return the text as a URL: characters that a path or host cannot have are percent-encoded in values.

        A value at the start of the template is a base URL and stays as it is. Raises `MissingValue`.
        """
        quoted = [quote(_required_value(values, name), safe=_SAFE_IN_URL) for name in self.names]
        if quoted and not self._literals[0]:
            quoted[0] = values[self.names[0]]
        return self._join(quoted)

    def render_or_empty(self, values: TemplateValues) -> str:
        """Return the text with its values, or an empty text if one of them is missing or empty."""
        if not all(values.get(name) for name in self.names):
            return ""
        return self(values)

    def _join(self, values: list[str]) -> str:
        pieces = [self._literals[0]]
        for value, literal in zip(values, self._literals[1:], strict=True):
            pieces += (value, literal)
        return "".join(pieces)


def _required_value(values: TemplateValues, name: str) -> str:
    value = values.get(name)
    if not value:
        raise MissingValue(f"there is no {name}")
    return value
