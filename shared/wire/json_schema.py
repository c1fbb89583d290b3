"""JSON Schema from strangers for data from strangers: bounds are checked before a schema is compiled. Pure.

A schema may be written to be expensive: references that double, circular references, keywords that read
everything again, patterns that backtrack, URLs to fetch. So references must stay inside the schema and must
not be circular, `unevaluated...` (exponential when nested) is not supported, patterns are linear (no
look-around, no back-references), and the size of a schema with its references filled in is limited.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

import orjson
from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError, ValidationErrorKind

from shared.contracts.errors import FieldError, InterlinkError

MAX_SCHEMA_BYTES: Final = 64 * 1024
"""Bytes of a schema's JSON text."""

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_MAX_SIZE: Final = 5_000
_MAX_DEPTH: Final = 64
_PATTERN_SIZE: Final = 100
"""Size of one pattern: it may read each character of a text in this many states."""
_PATTERN_OPTIONS: Final = RegexOptions(size_limit=100_000, dfa_size_limit=1_000_000)
_UNSUPPORTED_KEYWORDS: Final = frozenset(
    {"$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef", "unevaluatedItems", "unevaluatedProperties"}
)
_MAX_EXPLAINED_BYTES: Final = 8 * 1024
_MAX_EXPLAINED_WORK: Final = 60_000
"""A schema's size times the number of values in the data that does not fit: bounds the number of errors.

The validator creates all errors at once, at about 20 microseconds and 2 KB each.
"""
_MAX_MESSAGE_CHARACTERS: Final = 200
_REQUIRED: Final = "is required"


class UnsupportedSchema(InterlinkError):
    """The text is not a JSON Schema 2020-12, uses an unsupported keyword, or could be too expensive."""


class BoundedSchema:
    """A compiled schema. `size` is its size with its references filled in."""

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
        # The size is bounded before compiling: a hostile schema could make compiling expensive too.
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

    def first_error(self, data: Any, length: int) -> FieldError | None:
        """Return the first error of the data, whose JSON text has `length` bytes; None if it is valid.

        The error's field is a dotted path; its message never repeats a value. If the data fits none of
        several alternatives, it is the first error in the closest one.
        """
        if self._validator.is_valid(data):
            return None
        # Validity is cheap to check, an explanation is not: it needs every error of every alternative.
        if length > _MAX_EXPLAINED_BYTES or not self._is_cheap_to_explain(data):
            return self._missing_field(data) or FieldError("", "does not fit the schema of its type")
        try:
            self._validator.validate(data)
        except ValidationError as error:
            return self._explain(error)
        return None

    def _is_cheap_to_explain(self, data: Any) -> bool:
        """Return whether few errors are possible: at worst, one for each value and alternative."""
        left = _MAX_EXPLAINED_WORK // self.size
        level = [data]
        while level and left >= 0:
            left -= len(level)
            level = [
                child
                for value in level
                if isinstance(value, dict | list)
                for child in (value.values() if isinstance(value, dict) else value)
            ]
        return left >= 0

    def _explain(self, error: ValidationError) -> FieldError:
        """Describe an error; one of several alternatives by the first error in the closest alternative."""
        match error.kind:
            case (
                ValidationErrorKind.AnyOf(context=branches)
                | ValidationErrorKind.OneOfNotValid(context=branches)
            ):
                try:
                    forms = self._forms(error.schema_path)
                except (LookupError, TypeError):  # true and false are schemas too
                    return _field_error(error)
                closest = _closest_form(forms, error.instance, [len(branch) for branch in branches])
                if closest is not None and branches[closest]:
                    return _in_form(self._explain(branches[closest][0]), forms, closest)
        return _field_error(error)

    def _missing_field(self, data: Any) -> FieldError | None:
        """Return the first required field of the closest alternative that the data lacks, unvalidated."""
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
        """Return the alternatives at a path of the schema, with their references resolved."""
        node: Any = self._document
        for step in path:
            node = node[step]
        return [self._resolve_form(form) for form in node]

    def _resolve_form(self, form: Any) -> Mapping[str, Any]:
        """Follow the references of an alternative; the name of the last one is the title, if it has none."""
        followed = 0
        while isinstance(form, dict) and isinstance(form.get("$ref"), str) and followed < _MAX_DEPTH:
            reference, followed = form["$ref"], followed + 1
            form = {"title": reference.rpartition("/")[2], **resolve_reference(self._document, reference)}
        return form if isinstance(form, dict) else {}


class _SizeCalculator:
    """Calculates the size of a schema with every reference filled in; refuses circular and large ones."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._measured: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def size(self) -> int:
        """Return the size. Raises `UnsupportedSchema`."""
        return self._measure(self._document, 0)[0]

    def _measure(self, value: Any, depth: int) -> tuple[int, int]:
        """Return the size and the height of a value at this depth. Each value is measured once."""
        if not isinstance(value, dict | list):
            return 1, 0
        measured = self._measured.get(id(value))
        if depth + (measured[1] if measured else 0) > _MAX_DEPTH:
            raise UnsupportedSchema(f"nested deeper than {_MAX_DEPTH} levels")
        if measured is None:
            # A value that is met again while it is being measured is part of a circle of references.
            if id(value) in self._open:
                raise UnsupportedSchema("a $ref leads back to itself: circular schemas are not supported")
            self._open.add(id(value))
            measured = self._measured[id(value)] = self._sum(value, depth)
            self._open.discard(id(value))
        return measured

    def _sum(self, value: dict[str, Any] | list[Any], depth: int) -> tuple[int, int]:
        parts = value if isinstance(value, list) else self._parts(value)
        size, height = 1, 0
        if isinstance(value, dict):
            size += _PATTERN_SIZE * self._patterns(value)
        for part in parts:
            part_size, part_height = self._measure(part, depth + 1)
            size, height = size + part_size, max(height, part_height + 1)
            if size > _MAX_SIZE:
                raise UnsupportedSchema("too large once its references are filled in")
        return size, height

    def _parts(self, keywords: dict[str, Any]) -> Iterator[Any]:
        """Yield the values of the keywords, and the target of a reference.

        Every object is treated as a schema: an object that is none, or a property with the name of a keyword,
        may be refused without need, which errs on the safe side.
        """
        for name, value in keywords.items():
            if name in _UNSUPPORTED_KEYWORDS and value is not True:
                raise UnsupportedSchema(f"{name} is not supported")
            if name in ("$id", "$schema") and isinstance(value, str) and keywords is not self._document:
                raise UnsupportedSchema(f"{name} is allowed at the top level only")
            yield value
            if name == "$ref" and isinstance(value, str):
                yield self._target(value)

    def _patterns(self, keywords: dict[str, Any]) -> int:
        properties = keywords.get("patternProperties")
        count = len(properties) if isinstance(properties, dict) else 0
        return isinstance(keywords.get("pattern"), str) + count

    def _target(self, reference: str) -> Any:
        return resolve_reference(self._document, reference)


def resolve_reference(document: Mapping[str, Any], reference: str) -> Any:
    """Return the target of a `$ref`, which must be in the document. Raises `UnsupportedSchema`."""
    if reference != "#" and not reference.startswith("#/"):
        raise UnsupportedSchema("a $ref must lead to a place in the schema itself: #/$defs/name")
    node: Any = document
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            raise UnsupportedSchema("a $ref leads to a place that does not exist")
    return node


def _closest_form(forms: Sequence[Mapping[str, Any]], data: Any, errors: Sequence[int]) -> int | None:
    """Return the position of the alternative that shares the most fields with the data.

    Among equals it is the one with the fewest errors, then the first. None if there is no alternative.
    """

    def distance(position: int) -> tuple[int, int]:
        properties = forms[position].get("properties")
        shared = 0
        if isinstance(properties, dict) and isinstance(data, dict):
            shared = len(properties.keys() & data.keys())
        return -shared, errors[position]

    return min(range(len(forms)), key=distance, default=None)


def _required(form: Mapping[str, Any]) -> list[str]:
    names = form.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _in_form(error: FieldError, forms: Sequence[Mapping[str, Any]], closest: int) -> FieldError:
    """Add to an error which of the alternatives it is about."""
    title = forms[closest].get("title")
    name = title if isinstance(title, str) and title else f"number {closest + 1}"
    message = f"{error.message}: it fits none of {len(forms)} forms, and {name[:60]} is the closest"
    return FieldError(error.field, message[:_MAX_MESSAGE_CHARACTERS])


def _field_error(error: ValidationError) -> FieldError:
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
