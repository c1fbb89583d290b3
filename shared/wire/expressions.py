"""Expressions on events: JMESPath with a budget, for a stranger's expression on a stranger's document. Pure.

The language and its evaluation are the library's (https://jmespath.org/specification.html). Added here is a
budget of steps: whatever could grow is charged before it is made, so that the budget bounds time and memory.
A value may contain the same part many times: then it is small in memory and endless when it is written. So
whatever looks into a value (comparing, dumping) is charged for all that it reads.

Where the library departs from its specification, this module follows the specification: texts and numbers
do not compare (null), true is not 1 at any depth, and `to_number` reads JSON numbers only.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson
from jmespath.exceptions import ArityError, IncompleteExpressionError, JMESPathError, JMESPathTypeError
from jmespath.functions import TYPES_MAP, Functions, signature
from jmespath.parser import Parser
from jmespath.visitor import Options, TreeInterpreter

from shared.contracts.errors import InterlinkError, Malformed
from shared.wire.bodies import parse_json

MAX_EXPRESSION_CHARACTERS: Final = 4_000
"""Characters of an expression's source."""

MAX_STEPS: Final = 100_000
"""Steps of one evaluation, of about half a microsecond each."""

MAX_CONDITION_STEPS: Final = 5_000
"""Steps of one evaluation of an outgoing webhook's condition."""

_CHECKPOINT_INTERVAL_STEPS: Final = 300

Checkpoint = Callable[[], None]
"""Called regularly during a long evaluation, for example to let other work run."""

MAX_TRANSFORM_STEPS: Final = 10_000
"""Steps of one evaluation of an outgoing webhook's projection, the result included."""

MAX_RESULT_BYTES: Final = 1 << 20
"""Bytes of a result as JSON."""

_MAX_EXPRESSION_DEPTH: Final = 100
_MAX_RESULT_DEPTH: Final = 200
_STEPS_PER_CALL: Final = 3
_READ_CHARACTERS_PER_STEP: Final = 256
_SEARCHED_CHARACTERS_PER_STEP: Final = 64
_CREATED_CHARACTERS_PER_STEP: Final = 16
_DUMPED_VALUES_PER_STEP: Final = 4
_JSON_INTEGERS: Final = range(-(1 << 63), 1 << 64)
_MAX_ERROR_CHARACTERS: Final = 300
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,400})(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,5})?")

_Node = Mapping[str, Any]


class ExpressionError(InterlinkError):
    """An expression is invalid, exceeded a bound on this document, or met a value of the wrong type."""


class BudgetExceeded(ExpressionError):
    """An evaluation needed more steps than its budget; on a smaller document the expression may work."""


class Expression:
    """A compiled expression. It is immutable and may be applied to any number of documents.

    The result of `apply` shares parts with the document: neither may be changed afterwards.
    """

    __slots__ = ("_max_steps", "_tree", "name")

    def __init__(self, source: str, name: str = "expression", *, max_steps: int = MAX_STEPS) -> None:
        """Raise `ExpressionError` with the problem and its position. `name` stands for it in errors."""
        self.name = name
        self._max_steps = max_steps
        if len(source) > MAX_EXPRESSION_CHARACTERS:
            raise ExpressionError(f"{name}: more than {MAX_EXPRESSION_CHARACTERS} characters")
        try:
            self._tree: _Node = Parser().parse(source).parsed
            _check_tree(self._tree)
        except (JMESPathError, ArithmeticError, ValueError, TypeError, RecursionError) as error:
            raise ExpressionError(f"{name}: {_error_text(error)}") from None
        finally:
            Parser.purge()  # the library caches 512 trees, of up to a megabyte each if they are hostile

    def apply(self, document: Any) -> Any:
        """Return what the expression selects, None for nothing. The result can be written as JSON.

        Raises `ExpressionError`, or `BudgetExceeded` if it takes more than `max_steps` steps.
        """
        return self._evaluate(document, result=True)

    def holds(self, document: Any, checkpoint: Checkpoint | None = None) -> bool:
        """Return whether the selected value is `truthy`. Faster than `apply`, as no result is measured.

        `checkpoint` is called after every few hundred steps. Raises `ExpressionError`, or `BudgetExceeded`
        if it takes more than `max_steps` steps.
        """
        return truthy(self._evaluate(document, result=False, checkpoint=checkpoint))

    def _evaluate(self, document: Any, *, result: bool, checkpoint: Checkpoint | None = None) -> Any:
        budget = _StepBudget(self._max_steps, checkpoint)
        try:
            value = _Interpreter(budget).visit(self._tree, document)
            if result:
                _charge_result(value, budget)
        except _StepBudgetExceeded as error:
            raise BudgetExceeded(f"{self.name}: {error}") from None
        except (JMESPathError, ArithmeticError, ValueError, TypeError, RecursionError) as error:
            raise ExpressionError(f"{self.name}: {_error_text(error)}") from None
        return value


def truthy(value: Any) -> bool:
    """Return a value's truth in JMESPath: false, null, "", [] and {} are false, all else (also 0) is true."""
    return bool(value) if isinstance(value, str | list | dict) else value is not None and value is not False


def project(expression: Expression, body: bytes) -> bytes:
    """Return the JSON of what an expression selects from a JSON body; `null` if it selects nothing.

    Raises `ExpressionError`, also for a body that is not JSON and a result of more than `MAX_RESULT_BYTES`.
    """
    try:
        result = orjson.dumps(expression.apply(parse_json(body)))
    except (Malformed, orjson.JSONEncodeError) as error:
        raise ExpressionError(f"{expression.name}: {error}") from None
    if len(result) > MAX_RESULT_BYTES:
        raise ExpressionError(f"{expression.name}: the result is more than {MAX_RESULT_BYTES} bytes")
    return result


class _StepBudgetExceeded(JMESPathError):
    """The budget is used up."""


class _StepBudget:
    """The steps that one evaluation may take."""

    __slots__ = ("_checkpoint", "_mark", "_total", "left")

    def __init__(self, steps: int, checkpoint: Checkpoint | None = None) -> None:
        self._total = self.left = steps
        self._checkpoint = checkpoint
        # One comparison per charge: below the mark, either the checkpoint is due or the budget is used up.
        self._mark = steps - _CHECKPOINT_INTERVAL_STEPS if checkpoint else 0

    def charge(self, steps: int) -> None:
        self.left -= steps
        if self.left < self._mark:
            self._reach_checkpoint()

    def _reach_checkpoint(self) -> None:
        if self.left < 0:
            raise _StepBudgetExceeded(f"takes more than {self._total} steps on this document")
        if self._checkpoint:
            self._checkpoint()
            self._mark = max(0, self.left - _CHECKPOINT_INTERVAL_STEPS)


class _Functions(Functions):
    """The functions of the specification; each call is charged for its arguments and its result."""

    def __init__(self, budget: _StepBudget) -> None:
        self._budget = budget

    def call_function(self, function_name: str, resolved_args: Any) -> Any:
        self._budget.charge(_STEPS_PER_CALL)
        for value in resolved_args:
            if isinstance(value, list):
                self._budget.charge(len(value))
                self._budget.charge(
                    sum(len(item) for item in value if isinstance(item, str)) // _READ_CHARACTERS_PER_STEP
                )
            elif isinstance(value, dict):
                self._budget.charge(_key_steps(value))
        return super().call_function(function_name, resolved_args)

    @signature({"types": ["array", "string"]}, {"types": []})
    def _func_contains(self, subject: Any, search: Any) -> bool:
        if isinstance(subject, list):
            return any(_deep_equal(item, search, self._budget) for item in subject)
        self._budget.charge(len(subject) // _SEARCHED_CHARACTERS_PER_STEP)
        return isinstance(search, str) and search in subject

    @signature({"types": ["string"]}, {"types": ["array-string"]})
    def _func_join(self, separator: str, array: list[str]) -> str:
        self._charge_text(sum(map(len, array)) + len(separator) * max(len(array) - 1, 0))
        return separator.join(array)

    @signature({"types": ["array", "string"]})
    def _func_reverse(self, value: Any) -> Any:
        if isinstance(value, str):
            self._charge_text(len(value))
        return value[::-1]

    @signature({"types": ["array", "boolean", "null", "number", "object", "string"]})
    def _func_to_string(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        self._charge_text(_charge_result(value, self._budget))
        return orjson.dumps(value).decode()

    @signature({"types": ["array", "boolean", "null", "number", "object", "string"]})
    def _func_to_number(self, value: Any) -> Any:
        if isinstance(value, str):
            match = _NUMBER.fullmatch(value)
            return match and (float(value) if match[1] or match[2] else int(value))
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def _charge_text(self, characters: int) -> None:
        self._budget.charge(characters // _CREATED_CHARACTERS_PER_STEP)


class _Interpreter(TreeInterpreter):
    """One evaluation. Visiting a node is charged one step, and more steps if its result is a long text."""

    def __init__(self, budget: _StepBudget) -> None:
        super().__init__(Options(custom_functions=_Functions(budget)))
        self._budget = budget

    def visit(self, node: _Node, *args: Any, **_kwargs: Any) -> Any:
        self._budget.charge(1)
        value = _VISITORS[node["type"]](self, node, *args)
        if type(value) is str:
            self._budget.charge(len(value) // _READ_CHARACTERS_PER_STEP)
        return value

    def visit_comparator(self, node: _Node, value: Any) -> Any:
        left, right = (self.visit(child, value) for child in node["children"])
        name = node["value"]
        if name in self._EQUALITY:
            return _deep_equal(left, right, self._budget) is (name == "eq")
        if (_is_number(left) and _is_number(right)) or (isinstance(left, str) and isinstance(right, str)):
            return self.COMPARATOR_FUNC[name](left, right)
        return None

    def visit_flatten(self, node: _Node, value: Any) -> Any:
        base = self.visit(node["children"][0], value)
        if not isinstance(base, list):
            return None
        merged: list[Any] = []
        for item in base:
            items = item if isinstance(item, list) else [item]
            self._budget.charge(1 + len(items))
            merged += items
        return merged

    def visit_slice(self, node: _Node, value: Any) -> Any:
        if not isinstance(value, list):
            return None
        part = slice(*node["children"])
        self._budget.charge(len(range(*part.indices(len(value)))))
        return value[part]

    _EQUALITY: Final = frozenset({"eq", "ne"})


_VISITORS: Final[Mapping[str, Any]] = {
    name.removeprefix("visit_"): getattr(_Interpreter, name)
    for name in dir(_Interpreter)
    if name.startswith("visit_")
}
"""Looked up once here: bound methods cached by an instance would be a cycle for the garbage collector."""


def _check_tree(tree: _Node) -> None:
    """Check what does not depend on a document. Raises `JMESPathError`."""
    level: list[_Node] = [{"type": "whole", "children": [tree]}]
    for _depth in range(_MAX_EXPRESSION_DEPTH):
        level = [child for node in level for child in _checked_children(node)]
        if not level:
            return
    raise JMESPathError(f"nested more than {_MAX_EXPRESSION_DEPTH} deep")


def _checked_children(node: _Node) -> Iterator[_Node]:
    kind, children = node["type"], node["children"]
    orjson.dumps(node.get("value"))  # a lone surrogate or a huge number could not be written in a result
    if kind == "slice":
        if children[2] == 0:
            raise JMESPathError("the step of a slice cannot be 0")
        return
    if kind == "function_expression":
        _check_call(node["value"], children)
    elif any(child["type"] == "expref" for child in children):
        raise JMESPathError("&... is allowed only where a function takes an expression")
    yield from children


def _check_call(name: str, arguments: list[_Node]) -> None:
    function = _Functions.FUNCTION_TABLE.get(name)
    if function is None:
        raise JMESPathError(f"no function {name}(), there are {', '.join(_Functions.FUNCTION_TABLE)}")
    parameters = function["signature"]
    variadic = bool(parameters[-1].get("variadic"))
    if len(arguments) < len(parameters) if variadic else len(arguments) != len(parameters):
        raise JMESPathError(
            f"{name}() takes {'at least ' if variadic else ''}{len(parameters)} arguments,"
            f" not {len(arguments)}"
        )
    for position, argument in enumerate(arguments):
        takes_expression = parameters[min(position, len(parameters) - 1)]["types"] == ["expref"]
        if takes_expression != (argument["type"] == "expref"):
            fix = "an expression: write &name" if takes_expression else "a value, not an expression (&...)"
            raise JMESPathError(f"{name}() takes {fix}, as argument {position + 1}")


def _deep_equal(left: Any, right: Any, budget: _StepBudget) -> bool:
    """Compare two values deeply, with true different from 1.

    Python's own comparison would read shared parts again and again without being charged.
    """
    pairs = [(left, right)]
    while pairs:
        first, second = pairs.pop()
        if isinstance(first, list) and isinstance(second, list):
            if len(first) != len(second):
                return False
            budget.charge(len(first))
            pairs.extend(zip(first, second, strict=True))
        elif isinstance(first, dict) and isinstance(second, dict):
            budget.charge(_key_steps(first))
            if first.keys() != second.keys():
                return False
            pairs.extend((item, second[key]) for key, item in first.items())
        else:
            if isinstance(first, bool) is not isinstance(second, bool) or first != second:
                return False
            if isinstance(first, str):
                budget.charge(len(first) // _READ_CHARACTERS_PER_STEP)
    return True


def _charge_result(value: Any, budget: _StepBudget) -> int:
    """Charge for writing a value as JSON, and return the number of characters in all its texts.

    Raises `JMESPathError` if the value is too large or too deep, or has an integer of more than 64 bits.
    """
    characters, children, level = 0, 0, [value]
    for _depth in range(_MAX_RESULT_DEPTH):
        next_level: list[Any] = []
        for item in level:
            if isinstance(item, str):
                characters += len(item)
            elif isinstance(item, list | dict):
                children += len(item)
                # Charged before the children are read: a part may be in the value many times.
                if children >= _DUMPED_VALUES_PER_STEP:
                    budget.charge(children // _DUMPED_VALUES_PER_STEP)
                    children %= _DUMPED_VALUES_PER_STEP
                if isinstance(item, dict):
                    characters += sum(map(len, item))
                    next_level += item.values()
                else:
                    next_level += item
            elif isinstance(item, int) and item not in _JSON_INTEGERS:
                raise JMESPathError("the result holds an integer of more than 64 bits")
        if characters > MAX_RESULT_BYTES:
            raise JMESPathError(f"the result is more than {MAX_RESULT_BYTES} bytes")
        if not next_level:
            return characters
        level = next_level
    raise JMESPathError(f"the result is nested more than {_MAX_RESULT_DEPTH} deep")


def _key_steps(value: dict[str, Any]) -> int:
    """Return the steps for reading every key: comparing two keys reads both to their end."""
    return len(value) + sum(map(len, value)) // _READ_CHARACTERS_PER_STEP


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _error_text(error: Exception) -> str:
    """Describe an error in one short line. The library's own text repeats the whole value, however large."""
    if isinstance(error, JMESPathTypeError):
        actual = TYPES_MAP.get(error.actual_type, error.actual_type)
        expected = " or ".join(error.expected_types)
        return f"{error.function_name}() met a value of type {actual}, it takes {expected}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, IncompleteExpressionError):
        return "ends before it is complete"
    text = str(error) or type(error).__name__
    position = getattr(error, "lex_position", None)
    if isinstance(position, int) and not isinstance(error, ArityError):
        reason = getattr(error, "message", "") or getattr(error, "msg", "")
        text = f"not JMESPath at character {position + 1}: {reason}"
    return " ".join(text[:_MAX_ERROR_CHARACTERS].split())
