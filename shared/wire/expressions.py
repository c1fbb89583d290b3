"""Expressions on events: JMESPath, with bounds on what a stranger's may cost on a stranger's document.

The language and its evaluation are the library's (https://jmespath.org/specification.html). What is
added here is an account: whatever could grow is paid for in steps before it is made, so that time and
memory end with the account. A value may hold the same part many times and be small in memory and
without end when it is written down: so what looks into a value (comparing, dumping) pays for all it sees.

Where the library departs from its specification, this follows the specification: texts and numbers do
not compare (null), true is not 1 at any depth, and `to_number` reads JSON numbers only.
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
"""Of an expression's source."""

MAX_STEPS: Final = 100_000
"""Of one evaluation, about half a microsecond each."""

MAX_CONDITION_STEPS: Final = 5_000
"""Of one evaluation of an outgoing webhook's condition."""

_CHECKPOINT_INTERVAL_STEPS: Final = 300

Checkpoint = Callable[[], None]

MAX_TRANSFORM_STEPS: Final = 10_000
"""Of one evaluation of an outgoing webhook's projection, the result included."""

MAX_RESULT_BYTES: Final = 1 << 20
"""Of a result written as JSON."""

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
    """An expression is wrong, went over its bounds with this document, or met a value it cannot work on."""


class BudgetExceeded(ExpressionError):
    """An evaluation took more steps than it may; on a smaller document the expression may work."""


class Expression:
    """A compiled expression; it does not change, and may be applied to any document.

    What `apply` returns shares parts with the document: neither may be changed afterwards.
    """

    __slots__ = ("_max_steps", "_tree", "name")

    def __init__(self, source: str, name: str = "expression", *, max_steps: int = MAX_STEPS) -> None:
        """`name` is how errors call it. Raises `ExpressionError`, with what is wrong and where."""
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
            Parser.purge()  # the library would keep 512 trees, of a megabyte each when they are hostile

    def apply(self, document: Any) -> Any:
        """What the expression selects, None when nothing. It can be dumped as JSON.

        Raises `ExpressionError`, `BudgetExceeded`.
        """
        return self._evaluate(document, result=True)

    def holds(self, document: Any, rest: Checkpoint | None = None) -> bool:
        """Return whether what it selects is `truthy`; quicker than `apply`.

        Raises `ExpressionError`, `BudgetExceeded`. `rest` is called after every few hundred steps.
        """
        return truthy(self._evaluate(document, result=False, rest=rest))

    def _evaluate(self, document: Any, *, result: bool, rest: Checkpoint | None = None) -> Any:
        account = _StepBudget(self._max_steps, rest)
        try:
            value = _Interpreter(account).visit(self._tree, document)
            if result:
                _charge_result(value, account)
        except _StepBudgetExceeded as error:
            raise BudgetExceeded(f"{self.name}: {error}") from None
        except (JMESPathError, ArithmeticError, ValueError, TypeError, RecursionError) as error:
            raise ExpressionError(f"{self.name}: {_error_text(error)}") from None
        return value


def truthy(value: Any) -> bool:
    """As JMESPath has it: false, null, "", [] and {} are false, everything else (0 too) is true."""
    return bool(value) if isinstance(value, str | list | dict) else value is not None and value is not False


def project(expression: Expression, body: bytes) -> bytes:
    """The JSON of what an expression selects from a JSON body; `null` when it selects nothing.

    Raises `ExpressionError`; also for a body that is not JSON, and a result of more than 1 MiB.
    """
    try:
        made = orjson.dumps(expression.apply(parse_json(body)))
    except (Malformed, orjson.JSONEncodeError) as error:
        raise ExpressionError(f"{expression.name}: {error}") from None
    if len(made) > MAX_RESULT_BYTES:
        raise ExpressionError(f"{expression.name}: the result is more than {MAX_RESULT_BYTES} bytes")
    return made


class _StepBudgetExceeded(JMESPathError):
    """The account is empty."""


class _StepBudget:
    __slots__ = ("_all", "_mark", "_rest", "left")

    def __init__(self, steps: int, rest: Checkpoint | None = None) -> None:
        self._all = self.left = steps
        self._rest = rest
        self._mark = steps - _CHECKPOINT_INTERVAL_STEPS if rest else 0
        """`pay` looks closer when fewer steps than this are left."""

    def charge(self, steps: int) -> None:
        self.left -= steps
        if self.left < self._mark:
            self._reach_checkpoint()

    def _reach_checkpoint(self) -> None:
        if self.left < 0:
            raise _StepBudgetExceeded(f"takes more than {self._all} steps on this document")
        if self._rest:
            self._rest()
            self._mark = max(0, self.left - _CHECKPOINT_INTERVAL_STEPS)


class _Functions(Functions):
    """The functions of the specification; each pays for its arguments, and for what it makes."""

    def __init__(self, account: _StepBudget) -> None:
        self._budget = account

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
            found = _NUMBER.fullmatch(value)
            return found and (float(value) if found[1] or found[2] else int(value))
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def _charge_text(self, characters: int) -> None:
        self._budget.charge(characters // _CREATED_CHARACTERS_PER_STEP)


class _Interpreter(TreeInterpreter):
    """One evaluation. Each node that is visited is a step, and so is a stretch of the text it gives."""

    def __init__(self, account: _StepBudget) -> None:
        super().__init__(Options(custom_functions=_Functions(account)))
        self._budget = account

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
        wanted = slice(*node["children"])
        self._budget.charge(len(range(*wanted.indices(len(value)))))
        return value[wanted]

    _EQUALITY: Final = frozenset({"eq", "ne"})


_VISITORS: Final[Mapping[str, Any]] = {
    name.removeprefix("visit_"): getattr(_Interpreter, name)
    for name in dir(_Interpreter)
    if name.startswith("visit_")
}
"""Looked up here and not per instance: a method that an instance keeps makes a cycle for the collector."""


def _check_tree(tree: _Node) -> None:
    """What can be known before there is a document."""
    level: list[_Node] = [{"type": "whole", "children": [tree]}]
    for _depth in range(_MAX_EXPRESSION_DEPTH):
        level = [child for node in level for child in _checked_children(node)]
        if not level:
            return
    raise JMESPathError(f"nested more than {_MAX_EXPRESSION_DEPTH} deep")


def _checked_children(node: _Node) -> Iterator[_Node]:
    kind, children = node["type"], node["children"]
    orjson.dumps(node.get("value"))  # half a character or a huge number would come out of a result's dump
    if kind == "slice":
        if children[2] == 0:
            raise JMESPathError("the step of a slice cannot be 0")
        return
    if kind == "function_expression":
        _check_call(node["value"], children)
    elif any(child["type"] == "expref" for child in children):
        raise JMESPathError("&... stands only where a function takes an expression")
    yield from children


def _check_call(name: str, arguments: list[_Node]) -> None:
    known = _Functions.FUNCTION_TABLE.get(name)
    if known is None:
        raise JMESPathError(f"no function {name}(), there are {', '.join(_Functions.FUNCTION_TABLE)}")
    wanted = known["signature"]
    variadic = bool(wanted[-1].get("variadic"))
    if len(arguments) < len(wanted) if variadic else len(arguments) != len(wanted):
        raise JMESPathError(
            f"{name}() takes {'at least ' if variadic else ''}{len(wanted)} arguments, not {len(arguments)}"
        )
    for position, argument in enumerate(arguments):
        takes_expression = wanted[min(position, len(wanted) - 1)]["types"] == ["expref"]
        if takes_expression != (argument["type"] == "expref"):
            said = "an expression: write &name" if takes_expression else "a value, not an expression (&...)"
            raise JMESPathError(f"{name}() takes {said}, as argument {position + 1}")


def _deep_equal(left: Any, right: Any, account: _StepBudget) -> bool:
    """Deep equality, where true is not 1. Python's own would look at shared parts over and over, unpaid."""
    pairs = [(left, right)]
    while pairs:
        one, other = pairs.pop()
        if isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            account.charge(len(one))
            pairs.extend(zip(one, other, strict=True))
        elif isinstance(one, dict) and isinstance(other, dict):
            account.charge(_key_steps(one))
            if one.keys() != other.keys():
                return False
            pairs.extend((item, other[key]) for key, item in one.items())
        else:
            if isinstance(one, bool) is not isinstance(other, bool) or one != other:
                return False
            if isinstance(one, str):
                account.charge(len(one) // _READ_CHARACTERS_PER_STEP)
    return True


def _charge_result(value: Any, account: _StepBudget) -> int:
    """The characters of all texts in a value that is to be dumped, when it is fit for that."""
    characters, cells, level = 0, 0, [value]
    for _depth in range(_MAX_RESULT_DEPTH):
        following: list[Any] = []
        for one in level:
            if isinstance(one, str):
                characters += len(one)
            elif isinstance(one, list | dict):
                cells += len(one)
                if (
                    cells >= _DUMPED_VALUES_PER_STEP
                ):  # paid before it is looked at: a part may be in it many times
                    account.charge(cells // _DUMPED_VALUES_PER_STEP)
                    cells %= _DUMPED_VALUES_PER_STEP
                if isinstance(one, dict):
                    characters += sum(map(len, one))
                    following += one.values()
                else:
                    following += one
            elif isinstance(one, int) and one not in _JSON_INTEGERS:
                raise JMESPathError("the result holds an integer of more than 64 bits")
        if characters > MAX_RESULT_BYTES:
            raise JMESPathError(f"the result is more than {MAX_RESULT_BYTES} bytes")
        if not following:
            return characters
        level = following
    raise JMESPathError(f"the result is nested more than {_MAX_RESULT_DEPTH} deep")


def _key_steps(value: dict[str, Any]) -> int:
    """Steps to look at every key: comparing two keys reads both to their end."""
    return len(value) + sum(map(len, value)) // _READ_CHARACTERS_PER_STEP


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _error_text(error: Exception) -> str:
    """One short line. The library's own tells the whole value that was met, however large."""
    if isinstance(error, JMESPathTypeError):
        met, wanted = TYPES_MAP.get(error.actual_type, error.actual_type), " or ".join(error.expected_types)
        return f"{error.function_name}() met a value of type {met}, it takes {wanted}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, IncompleteExpressionError):
        return "ends before it is complete"
    told = str(error) or type(error).__name__
    position = getattr(error, "lex_position", None)
    if isinstance(position, int) and not isinstance(error, ArityError):
        reason = getattr(error, "message", "") or getattr(error, "msg", "")
        told = f"not JMESPath at character {position + 1}: {reason}"
    return " ".join(told[:_MAX_ERROR_CHARACTERS].split())
