"""JSON Schema from strangers for data from strangers: what it may say is bounded before it is compiled.

A schema may be written to cost: references that double, references in a circle, keywords that look at
everything again, patterns that backtrack, addresses to fetch. So references stay inside the schema and
never come back to where they are, `unevaluated...` (exponential when nested) is not taken, patterns are
linear (no look-around, no back-references), and every schema has a size once its references are filled in.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

import orjson
from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError, ValidationErrorKind

from shared.contracts.errors import FieldError, InterlinkError

MAX_SCHEMA_BYTES: Final = 64 * 1024
"""Of a schema's JSON text."""

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_MAX_SIZE: Final = 5_000
_MAX_DEPTH: Final = 64
_PATTERN_SIZE: Final = 100
"""What a pattern counts: it may look at each character of a text in as many states."""
_PATTERN_OPTIONS: Final = RegexOptions(size_limit=100_000, dfa_size_limit=1_000_000)
_UNSUPPORTED_KEYWORDS: Final = frozenset(
    {"$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef", "unevaluatedItems", "unevaluatedProperties"}
)
_MAX_EXPLAINED_BYTES: Final = 8 * 1024
_MAX_EXPLAINED_WORK: Final = 60_000
"""A schema's size times the values of what does not fit it: twice as many errors as alternatives can have.

The validator makes all of them at once, at some 20 microseconds and 2 KB each.
"""
_MAX_MESSAGE_CHARACTERS: Final = 200
_REQUIRED: Final = "is required"


class UnsupportedSchema(InterlinkError):
    """Not a JSON Schema 2020-12, or one that could cost too much."""


class BoundedSchema:
    """A compiled schema. `size` is its size with its references filled in, for those who budget work."""

    def __init__(self, text: bytes) -> None:
        """Compile the JSON text of a schema. Raises `UnsupportedSchema`."""
        if len(text) > MAX_SCHEMA_BYTES:
            raise UnsupportedSchema(f"at most {MAX_SCHEMA_BYTES} bytes")
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise UnsupportedSchema("not JSON, or nested too deep") from None
        if not isinstance(document, dict):
            raise UnsupportedSchema("must be an object")
        if document.get("$schema", _DIALECT) not in (_DIALECT, _DIALECT + "#"):
            raise UnsupportedSchema(f"$schema must be {_DIALECT}")
        self._document = document
        self.size = _SizeCalculator(document).size()
        try:
            self._validator = Draft202012Validator(
                document, offline=True, mask="this", pattern_options=_PATTERN_OPTIONS
            )
        except ValidationError as error:
            where = "/".join(map(str, error.instance_path))
            raise UnsupportedSchema(
                f"{where}: {error.message}"[:_MAX_MESSAGE_CHARACTERS].removeprefix(": ")
            ) from None
        except ValueError:
            raise UnsupportedSchema("nested too deep") from None

    def fault(self, data: Any, length: int) -> FieldError | None:
        """The first thing that is wrong with the data, whose text has `length` bytes; None when it fits.

        The field is a dotted path; the message never repeats a value. If the data fits none of several forms,
        it is the first fault in the closest form.
        """
        if self._validator.is_valid(data):
            return None
        if length > _MAX_EXPLAINED_BYTES or not self._is_cheap_to_explain(data):
            return self._missing(data) or FieldError("", "does not fit the schema of its type")
        try:
            self._validator.validate(data)
        except ValidationError as error:
            return self._fault(error)
        return None

    def _is_cheap_to_explain(self, data: Any) -> bool:
        """Return whether the errors of alternatives, one for each item and form at worst, are few."""
        left = _MAX_EXPLAINED_WORK // self.size
        level = [data]
        while level and left >= 0:
            left -= len(level)
            level = [
                each
                for value in level
                if isinstance(value, dict | list)
                for each in (value.values() if isinstance(value, dict) else value)
            ]
        return left >= 0

    def _fault(self, error: ValidationError) -> FieldError:
        match error.kind:
            case (
                ValidationErrorKind.AnyOf(context=branches)
                | ValidationErrorKind.OneOfNotValid(context=branches)
            ):
                try:
                    forms = self._forms(error.schema_path)
                except (LookupError, TypeError):  # true and false are schemas too
                    return _fault(error)
                closest = _closest_form(forms, error.instance, [len(branch) for branch in branches])
                if closest is not None and branches[closest]:
                    return _in_form(self._fault(branches[closest][0]), forms, closest)
        return _fault(error)

    def _missing(self, data: Any) -> FieldError | None:
        """Return the first field that the closest form of the whole data lacks, without validating it."""
        keyword = next((name for name in ("anyOf", "oneOf") if name in self._document), None)
        if keyword is None or not isinstance(data, dict):
            return None
        try:
            forms = self._forms([keyword])
        except (LookupError, TypeError):
            return None
        missing = [[name for name in _required(form) if name not in data] for form in forms]
        closest = _closest_form(forms, data, [len(names) for names in missing])
        if closest is None or not missing[closest]:
            return None
        return _in_form(FieldError(missing[closest][0][:_MAX_MESSAGE_CHARACTERS], _REQUIRED), forms, closest)

    def _forms(self, path: Iterable[str | int]) -> "Sequence[Mapping[str, Any]]":
        """Return the alternatives at a place of the schema, with their references followed."""
        found: Any = self._document
        for step in path:
            found = found[step]
        return [self._followed(form) for form in found]

    def _followed(self, form: Any) -> Mapping[str, Any]:
        seen = 0
        while isinstance(form, dict) and isinstance(form.get("$ref"), str) and seen < _MAX_DEPTH:
            reference, seen = form["$ref"], seen + 1
            form = {"title": reference.rpartition("/")[2], **resolve_reference(self._document, reference)}
        return form if isinstance(form, dict) else {}


class _SizeCalculator:
    """Adds up a schema with every reference filled in, and refuses what has no end or no small one."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def size(self) -> int:
        """Raises `UnsupportedSchema`."""
        return self._measure(self._document, 0)[0]

    def _measure(self, value: Any, depth: int) -> tuple[int, int]:
        """Size and height of a value at this depth."""
        if not isinstance(value, dict | list):
            return 1, 0
        known = self._known.get(id(value))
        if depth + (known[1] if known else 0) > _MAX_DEPTH:
            raise UnsupportedSchema(f"nested deeper than {_MAX_DEPTH} levels")
        if known is None:
            if id(value) in self._open:
                raise UnsupportedSchema("a $ref leads back to itself: schemas without an end are not taken")
            self._open.add(id(value))
            known = self._known[id(value)] = self._sum(value, depth)
            self._open.discard(id(value))
        return known

    def _sum(self, value: dict[str, Any] | list[Any], depth: int) -> tuple[int, int]:
        parts = value if isinstance(value, list) else self._parts(value)
        size, height = 1, 0
        if isinstance(value, dict):
            size += _PATTERN_SIZE * self._patterns(value)
        for part in parts:
            more, below = self._measure(part, depth + 1)
            size, height = size + more, max(height, below + 1)
            if size > _MAX_SIZE:
                raise UnsupportedSchema("too large once its references are filled in")
        return size, height

    def _parts(self, keywords: dict[str, Any]) -> Iterator[Any]:
        """The values of the keywords and what a reference leads to.

        This looks at every object alike: what is no schema, or a property that is called like a keyword, is
        counted too and may be refused for nothing, which errs on the safe side.
        """
        for name, value in keywords.items():
            if name in _UNSUPPORTED_KEYWORDS and value is not True:
                raise UnsupportedSchema(f"{name} is not taken")
            if name in ("$id", "$schema") and isinstance(value, str) and keywords is not self._document:
                raise UnsupportedSchema(f"{name} is taken at the top only")
            yield value
            if name == "$ref" and isinstance(value, str):
                yield self._target(value)

    def _patterns(self, keywords: dict[str, Any]) -> int:
        named = keywords.get("patternProperties")
        return isinstance(keywords.get("pattern"), str) + (len(named) if isinstance(named, dict) else 0)

    def _target(self, reference: str) -> Any:
        return resolve_reference(self._document, reference)


def resolve_reference(document: Mapping[str, Any], reference: str) -> Any:
    """Return what a `$ref` leads to. Raises `UnsupportedSchema`."""
    if reference != "#" and not reference.startswith("#/"):
        raise UnsupportedSchema("a $ref must lead to a place in the schema itself: #/$defs/name")
    found: Any = document
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise UnsupportedSchema("a $ref leads to a place that is not there")
    return found


def _closest_form(forms: Sequence[Mapping[str, Any]], data: Any, faults: Sequence[int]) -> int | None:
    """Return the position of the form that shares the most fields with the data.

    Among equals it is the one with the fewest faults, then the first.
    """

    def distance(position: int) -> tuple[int, int]:
        known = forms[position].get("properties")
        shared = len(known.keys() & data.keys()) if isinstance(known, dict) and isinstance(data, dict) else 0
        return -shared, faults[position]

    return min(range(len(forms)), key=distance, default=None)


def _required(form: Mapping[str, Any]) -> list[str]:
    names = form.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _in_form(fault: FieldError, forms: Sequence[Mapping[str, Any]], closest: int) -> FieldError:
    """Say which form a fault is of."""
    title = forms[closest].get("title")
    name = title if isinstance(title, str) and title else f"number {closest + 1}"
    message = f"{fault.message}: it fits none of {len(forms)} forms, and {name[:60]} is the closest"
    return FieldError(fault.field, message[:_MAX_MESSAGE_CHARACTERS])


def _fault(error: ValidationError) -> FieldError:
    path = [str(step) for step in error.instance_path]
    match error.kind:
        case ValidationErrorKind.Required(property=name):
            path.append(name)
            message = _REQUIRED
        case ValidationErrorKind.FalseSchema():
            message = "is not allowed"
        case _:
            message = error.message
    return FieldError(".".join(path)[:_MAX_MESSAGE_CHARACTERS], message[:_MAX_MESSAGE_CHARACTERS])
