"""Templates of requests to a provider, such as `https://{param:shop}.example.com/me`. Pure.

The grammar is that of `shared/wire/template.py`. A source stands for a value of the account, the app or the
subscription; which of them a request has is checked by `interlink provider check`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

from shared.contracts.errors import InterlinkError
from shared.wire.template import MAX_QUOTED_CHARACTERS, Template, TemplateError, find_source

TemplateValues = Mapping[str, str]
"""The values of sources, by their names: `client_id`, `param:shop`."""

_ARGUMENT: Final = re.compile(r"[a-z][a-z0-9_]*")
_SAFE_IN_URL: Final = "-._~:@"


class MissingValue(InterlinkError):
    """A value that a request needs is missing or empty."""


def _named(kind: str) -> Callable[[str], str]:
    """Return the compiler of sources such as `param:shop`."""

    def name(argument: str) -> str:
        source = f"{kind}:{argument}"
        if not _ARGUMENT.fullmatch(argument):
            raise TemplateError(
                f"no such source: {source[:MAX_QUOTED_CHARACTERS]!r}: use a to z, 0 to 9 and _"
            )
        return source

    return name


_VALUES: Final[Mapping[str, str]] = {
    name: name
    for name in ("client_id", "client_secret", "redirect_uri", "access_token", "refresh_token", "token")
}
_VALUES_WITH_ARGUMENT: Final[Mapping[str, Callable[[str], str]]] = {
    kind: _named(kind)
    for kind in ("setting", "param", "account", "field", "endpoint", "watch", "made", "poll")
}


def _compile_value(name: str) -> str:
    """Return the name of a value. Raises `TemplateError` if no request has such a value."""
    return find_source(name, _VALUES, _VALUES_WITH_ARGUMENT)


class RequestTemplate:
    """A compiled template of a request. Raises `TemplateError`."""

    __slots__ = ("_literals", "names")

    def __init__(self, text: str) -> None:
        template = Template(text, _compile_value)
        self._literals: Final = template.literals
        self.names: Final = template.values
        """The names of its values, in order."""

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
