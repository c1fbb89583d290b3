"""JSON Schema from strangers for data from strangers: bounds are checked before a schema is compiled. Pure.

A schema may be written to be expensive: references that double, circular references, keywords that read
everything again, patterns that backtrack, URLs to fetch. So references must stay inside the schema and must
not be circular, `unevaluated...` (exponential when nested) is not supported, patterns are linear (no
look-around, no back-references), and the size of a schema with its references filled in is limited.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
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


def _pattern_options(size_limit: int) -> RegexOptions:
    return RegexOptions(size_limit=size_limit, dfa_size_limit=1_000_000)


_UNSUPPORTED_KEYWORDS: Final = frozenset(
    {"$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef", "unevaluatedItems", "unevaluatedProperties"}
)
_MAX_EXPLAINED_BYTES: Final = 8 * 1024
_MAX_EXPLAINED_WORK: Final = 4_000
_MAX_EXPLAINED_WORK_TRUSTED: Final = 60_000
"""The size of a schema's alternatives times the number of values in the data that does not fit.

Bounds the number of errors: the validator creates those of all alternatives at once, at about 25 microseconds
and 2 KB each. A schema of the hub itself makes few of them.
"""
_MAX_WORK: Final = 20_000_000
"""Units of about 5 ns, at worst, that a check may take: 0.1 s."""
# What was measured at worst (jsonschema_rs 0.60), in these units. Numbers are compared with any precision: a
# fraction costs 100 times as much as a small integer, an exponent such as 1e-300 a further six times.
_EXACT_COST: Final = 400
_EXTREME_COST: Final = 2_400
_COMPARED_BYTES: Final = 64
"""Bytes of equal texts that are compared in a unit."""
_UNIQUE_WEIGHT: Final = 4
"""Up to 15 items are compared in pairs: seven comparisons for each."""
_PATTERN_COSTS: Final = ((1_000, 25), (4_000, 100), (16_000, 200), (100_000, 800))
"""The most that a byte of the data costs for a pattern that fits into so many bytes when it is compiled."""
_BOUNDS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_MAX_PLAIN_INTEGER: Final = 2**53
_EXTREME: Final = re.compile(rb"(?:^|[\[:,])-?\d+(?:\.\d+)?e-?\d\d")
_MAX_MESSAGE_CHARACTERS: Final = 200
_REQUIRED: Final = "is required"


class UnsupportedSchema(InterlinkError):
    """The text is not a JSON Schema 2020-12, uses an unsupported keyword, or could be too expensive."""


class BoundedSchema:
    """A compiled schema. `size` is its size with its references filled in."""

    def __init__(self, text: bytes, *, is_trusted: bool = False) -> None:
        """Compile the JSON text of a schema; the hub's own are trusted. Raises `UnsupportedSchema`."""
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
        self._measure = _SizeCalculator(document).measure()
        self.size = self._measure.size
        self._max_explained_work = _MAX_EXPLAINED_WORK_TRUSTED if is_trusted else _MAX_EXPLAINED_WORK
        # The size is bounded before compiling: a hostile schema could make compiling expensive too.
        try:
            self._validator = Draft202012Validator(
                document, offline=True, mask="this", pattern_options=_pattern_options(_PATTERN_COSTS[-1][0])
            )
        except ValidationError as error:
            where = "/".join(map(str, error.instance_path))
            raise UnsupportedSchema(
                f"{where}: {error.message}"[:_MAX_MESSAGE_CHARACTERS].removeprefix(": ")
            ) from None
        except ValueError:
            raise UnsupportedSchema("nested too deep") from None

    def is_too_expensive(self, data: bytes) -> bool:
        """Return whether checking this JSON text, as orjson writes it, could take more than 0.1 s of CPU.

        The bound is that of the worst data, from what is cheap to know: a check cannot be interrupted.
        """
        measure = self._measure
        values = 1 + data.count(b",") + data.count(b"[") + data.count(b"{")
        work = (measure.size + _EXACT_COST * measure.exact) * values + measure.text_cost * len(data)
        work += measure.compared_texts * len(data) // _COMPARED_BYTES
        if work > _MAX_WORK or not measure.numeric or not _EXTREME.search(data):
            return work > _MAX_WORK
        return work + _EXTREME_COST * measure.numeric * values > _MAX_WORK

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
        if not self._measure.alternatives:
            return True  # the first error ends the check
        left = self._max_explained_work // self._measure.alternatives
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


class _Measure(NamedTuple):
    """The sizes of a subschema, with its references resolved, from which the cost of a check is estimated."""

    size: int = 0
    height: int = 0
    alternatives: int = 0
    """The size of the parts in `anyOf` and `oneOf`."""
    numbers: int = 0
    """Numbers; one such as 1e-300 counts as many times as it costs more."""
    numeric: int = 0
    """Keywords and values that numbers of the data are compared with."""
    exact: int = 0
    """Those of `numeric` that are not small integers."""
    texts: int = 0
    compared_texts: int = 0
    """Texts in `const` and `enum`."""
    text_cost: int = 0
    """Units for each byte of the data, for its patterns."""


class _SizeCalculator:
    """Calculates the size of a schema with every reference filled in; refuses circular and large ones."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._measured: dict[int, _Measure] = {}
        self._pattern_costs: dict[str, int] = {}
        self._open: set[int] = set()

    def measure(self) -> _Measure:
        """Return what the schema may cost. Raises `UnsupportedSchema`."""
        return self._measure(self._document, 0)

    def _measure(self, value: Any, depth: int) -> _Measure:
        """Return what a value at this depth may cost. Each value is measured once."""
        if not isinstance(value, dict | list):
            return _Measure(size=1, numbers=_number_weight(value), texts=isinstance(value, str))
        measured = self._measured.get(id(value))
        if depth + (measured.height if measured else 0) > _MAX_DEPTH:
            raise UnsupportedSchema(f"nested deeper than {_MAX_DEPTH} levels")
        if measured is None:
            # A value that is met again while it is being measured is part of a circle of references.
            if id(value) in self._open:
                raise UnsupportedSchema("a $ref leads back to itself: circular schemas are not supported")
            self._open.add(id(value))
            measured = self._measured[id(value)] = self._sum(value, depth)
            self._open.discard(id(value))
        return measured

    def _sum(self, value: dict[str, Any] | list[Any], depth: int) -> _Measure:
        total = _Measure(size=1)
        parts: Iterable[tuple[str, Any]] = (("", part) for part in value)
        if isinstance(value, dict):
            patterns = self._patterns(value)
            total = total._replace(size=1 + _PATTERN_SIZE * len(patterns))
            _check_size(total)  # before the patterns are compiled
            total = total._replace(text_cost=sum(map(self._pattern_cost, patterns)))
            parts = self._parts(value)
        for name, part in parts:
            total = _add(total, name, part, self._measure(part, depth + 1))
            _check_size(total)
        return total

    def _parts(self, keywords: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the keywords with their values, and the target of a reference.

        Every object is treated as a schema: an object that is none, or a property with the name of a keyword,
        may be refused without need, which errs on the safe side.
        """
        for name, value in keywords.items():
            if name in _UNSUPPORTED_KEYWORDS and value is not True:
                raise UnsupportedSchema(f"{name} is not supported")
            if name in ("$id", "$schema") and isinstance(value, str) and keywords is not self._document:
                raise UnsupportedSchema(f"{name} is allowed at the top level only")
            yield name, value
            if name == "$ref" and isinstance(value, str):
                yield name, self._target(value)

    def _patterns(self, keywords: dict[str, Any]) -> list[str]:
        properties = keywords.get("patternProperties")
        patterns = list(properties) if isinstance(properties, dict) else []
        pattern = keywords.get("pattern")
        return [*patterns, pattern] if isinstance(pattern, str) else patterns

    def _pattern_cost(self, pattern: str) -> int:
        """Return the units that a byte may cost, by the smallest limit that the compiled pattern fits."""
        cost = self._pattern_costs.get(pattern)
        if cost is None:
            fitting = (cost for limit, cost in _PATTERN_COSTS[:-1] if _compiles(pattern, limit))
            cost = self._pattern_costs[pattern] = next(fitting, _PATTERN_COSTS[-1][1])
        return cost

    def _target(self, reference: str) -> Any:
        return resolve_reference(self._document, reference)


def _check_size(measure: _Measure) -> None:
    if measure.size > _MAX_SIZE:
        raise UnsupportedSchema("too large once its references are filled in")


def _number_weight(value: Any) -> int:
    """Return what comparing a number with others costs; 0 for what is no number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0
    return 1 if value == 0 or 1e-9 <= abs(value) < 1e16 else _EXTREME_COST // _EXACT_COST


def _add(total: _Measure, name: str, value: Any, part: _Measure) -> _Measure:
    """Return the total with the part that is the value of the keyword `name`, or an item of a list."""
    numeric = exact = compared_texts = 0
    if name in ("const", "enum"):
        numeric, exact, compared_texts = part.numbers, part.numbers, part.texts
    elif name == "uniqueItems" and value is True:
        numeric = exact = _UNIQUE_WEIGHT
    elif name in _BOUNDS:
        numeric = part.numbers
        exact = 0 if isinstance(value, int) and abs(value) < _MAX_PLAIN_INTEGER else numeric
    return _Measure(
        total.size + part.size,
        max(total.height, part.height + 1),
        total.alternatives + (part.size if name in ("anyOf", "oneOf") else part.alternatives),
        total.numbers + part.numbers,
        total.numeric + part.numeric + numeric,
        total.exact + part.exact + exact,
        total.texts + part.texts,
        total.compared_texts + part.compared_texts + compared_texts,
        total.text_cost + part.text_cost,
    )


def _compiles(pattern: str, size_limit: int) -> bool:
    try:
        Draft202012Validator({"pattern": pattern}, offline=True, pattern_options=_pattern_options(size_limit))
    except ValueError:
        return False
    return True


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
