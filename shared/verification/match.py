"""Matches: conditions on the parts of a request, such as `{"json:type": "url_verification"}`. Pure."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from shared.verification.request import InboundRequest
from shared.verification.sources import compile_path, compile_source, scalar_text
from shared.verification.template import SourceTemplate
from shared.wire.template import has_sources

ExpectedValue = str | int | bool | Sequence[str | int]
"""Expected value of a part in a match: a value, one of several values, `present` or `absent`."""

PRESENT: Final = "present"
ABSENT: Final = "absent"


class Match:
    """Sources and the value that each must have. All have to hold; an empty match always holds.

    An expected value is compared as text (`true` and `1` as JSON writes them); a list allows any of its
    values; `present` and `absent` check only whether the part exists. A text with a source in braces is
    rendered and compared in constant time.
    """

    __slots__ = ("_rules",)

    def __init__(self, expected: Mapping[str, ExpectedValue]) -> None:
        """Raise `TemplateError` for an unknown source or a syntax error."""
        self._rules = [(_compile_value(name), _compile_rule(value)) for name, value in expected.items()]

    def holds(self, request: InboundRequest) -> bool:
        """Return whether every part has its expected value.

        Raises `Malformed` if a query, form or payload that is asked for cannot be decoded.
        """
        return not self._rules or all(rule(read(request), request) for read, rule in self._rules)


MATCH_ALL: Final = Match({})
"""Holds for every request."""


def _compile_value(name: str) -> Callable[[InboundRequest], Any]:
    """Compile a source like `compile_source`, but return objects and lists too: they count as present."""
    kind, _, argument = name.partition(":")
    if kind not in ("json", "item") or not argument:
        return compile_source(name)
    read = compile_path(argument)
    return (lambda request: read(request.payload)) if kind == "json" else (lambda request: read(request.item))


def _compile_rule(value: ExpectedValue) -> Callable[[Any, InboundRequest], bool]:
    """Return a function of a part's value and its request: whether the value is as expected."""
    if value == PRESENT:
        return lambda actual, _request: actual is not None
    if value == ABSENT:
        return lambda actual, _request: actual is None
    if isinstance(value, str) and has_sources(value):
        template = SourceTemplate(value)

        def equal(actual: Any, request: InboundRequest) -> bool:
            expected_text, actual_text = template.text(request), scalar_text(actual)
            if expected_text is None or actual_text is None or len(expected_text) != len(actual_text):
                return False
            return hmac.compare_digest(expected_text.encode(), actual_text.encode("utf-8", "surrogatepass"))

        return equal
    allowed = {scalar_text(item) for item in (value if isinstance(value, list | tuple) else (value,))}
    return lambda actual, _request: actual is not None and scalar_text(actual) in allowed
