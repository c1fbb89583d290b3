"""Expressions of strangers on documents of strangers: bounds hold, and the language is JMESPath.

One file of more than 400 lines: the attacks, the language and the properties share the hostile documents.
"""

import sys
import tracemalloc
from types import FrameType
from typing import Any, Self

import jmespath
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jmespath.exceptions import JMESPathError
from jmespath.parser import Parser

from shared.wire.expressions import (
    MAX_RESULT_BYTES,
    BudgetExceeded,
    Expression,
    ExpressionError,
    project,
    truthy,
)

STEPS = 10_000

MESSAGE = {
    "id": "evt_1",
    "type": "message.created",
    "data": {
        "messageId": "m1",
        "channelId": "c7",
        "content": "deploy the api",
        "author": {"id": "u1", "username": "ada"},
        "mentions": ["u2", "u3"],
        "reactions": [{"emoji": "+1", "count": 3}, {"emoji": "eyes", "count": 1}],
    },
}


def outcome(expression: Expression, document: Any) -> tuple[Any, str]:
    """What it selects, or None and why it is refused."""
    try:
        return expression.apply(document), ""
    except ExpressionError as error:
        return None, str(error)


def compiled(source: str) -> tuple[Expression | None, str]:
    try:
        return Expression(source, max_steps=STEPS), ""
    except ExpressionError as error:
        return None, str(error)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


HOSTILE: dict[str, Any] = {
    "list": list(range(50_000)),
    "text": "ab" * 200_000,
    "texts": [f"x{i}" * 10 for i in range(20_000)],
    "same": ["x" * 10_000] * 1_000,
    "rows": [{"a": i % 7, "b": "y" * 50, "c": {"d": [1, 2]}} for i in range(10_000)],
    "wide": {str(i): {str(j): j for j in range(20)} for i in range(2_000)},
    "deep": deep(900),
}
"""A body of about two megabytes: more than the gateway takes."""

ATTACKS = [
    "|".join(["[@,@]"] * 90),
    "|".join(["{a:@,b:@}"] * 90),
    "list|" + "|".join(["[@,@][]"] * 60),
    "[@,@]" + "[].[@,@]" * 40,
    "[" + "list," * 300 + "list][]",
    "text|[" + "@," * 300 + "@]|join('',@)",
    "length([" + "list[::2]," * 300 + "list])",
    "text|" + "|".join(["join('',[@,@])"] * 60),
    "text|" + "|".join(["to_string([@,@])"] * 60),
    "|".join(["to_string([@,@])"] * 60),
    "text|" + "|".join(["join('',[reverse(@),@])"] * 60),
    "list|" + "|".join(["merge({a:@},{b:@})|values(@)"] * 40),
    "join(text, texts)",
    "join(text, texts[:500])",
    "join(text, list[*].to_string(@))",
    "text|[@,@,@,@]|[@,@,@,@][]|[@,@,@,@][]|[@,@,@,@][]|[@,@,@,@][]|sort(@)",
    "text|[{k:@},{k:@},{k:@}]|[@,@,@,@][]|[@,@,@,@][]|[@,@,@,@][]|[@,@,@,@][]|sort_by(@,&k)",
    "same|sort(@)",
    "sort(texts)",
    "sort_by(rows,&b)",
    "max_by(rows,&b)",
    "min_by(rows,&a)",
    "sort(list)",
    "sum(list)",
    "max(texts)",
    "reverse(list)",
    "reverse(text)",
    "map(&map(&@, `[1,2,3]`), rows)",
    "map(&to_string(@), rows)",
    "rows[*].[a,b,c,@]",
    "rows[*].{a:a,b:b,c:@}",
    "rows[?contains(b,'yz')]",
    "rows[?a==`1` && b=='x' || c]",
    "rows[*].sort_by(c.d,&@)",
    "texts[?contains(@,'x1')]",
    "list[?@>`5`][?@>`6`][?@>`7`]",
    "list[::-1]|[::-1]|[::2]",
    "list[*].[@]|[]|[*].[@]|[]",
    "*.*.*.*",
    "wide.*.*",
    "wide.*.*[]|[]",
    "keys(wide)",
    "merge(wide,wide,wide,wide)|merge(@,@,@)",
    "contains(same, text)",
    "contains(rows, rows)",
    "same[?contains(@,'yyyyyyyyyyyyyyyyyyyyyyyyyyyyy')]",
    "@ == @",
    "|".join(["[@,@]"] * 60) + "|[0] == [1]",
    "|".join(["[@,@]"] * 60) + "|contains(@, [0])",
    "@",
    "deep",
    "|".join(["[@]"] * 90) + "|" + "to_string(@)",
    "deep == deep && rows",
    "to_array(@)|" * 90 + "@",
    "to_number(text)",
]


class Calls:
    """Counts what the interpreter calls meanwhile: work, whatever the machine is busy with."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _frame: FrameType, event: str, _argument: Any) -> None:
        self.count += event in ("call", "c_call")

    def __enter__(self) -> Self:
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("source", ATTACKS, ids=lambda source: source[:40])
def test_an_attack_ends_within_its_steps(source: str) -> None:
    """Work and memory stay near what the steps allow, whether it is refused or small enough after all."""
    expression = Expression(source, max_steps=STEPS)
    tracemalloc.start()
    with Calls() as calls:
        result, error_text = outcome(expression, HOSTILE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not error_text or "steps" in error_text or "the result" in error_text or "met" in error_text
    assert calls.count <= 20 * STEPS
    assert peak <= 8 << 20
    assert len(orjson.dumps(result)) <= 6 * MAX_RESULT_BYTES


LONG_KEYS = {"a": {"k" * 100_000: 1}, "b": {"k" * 100_000: 1}, "rows": [{"k" * 100_000: 1}] * 9}


def test_a_long_evaluation_rests_and_comes_to_the_same_result() -> None:
    rests: list[None] = []
    expression = Expression("length([?@ == `1`]) == `1000`", max_steps=10_000)
    assert expression.holds([1] * 1_000, lambda: rests.append(None))
    assert 10 <= len(rests) <= 20
    with pytest.raises(BudgetExceeded, match="more than 1000 steps"):
        Expression("[?@ == `1`]", max_steps=1_000).holds([1] * 1_000, lambda: None)


@pytest.mark.parametrize(
    "source", ["a == b", "merge(a, b)", "contains(rows, a)", "rows[?@ != `{}`]", "length(a) == length(b)"]
)
def test_long_keys_are_charged_by_their_length(source: str) -> None:
    with pytest.raises(BudgetExceeded, match="more than 100 steps"):
        Expression(source, max_steps=100).apply(orjson.loads(orjson.dumps(LONG_KEYS)))


def test_only_the_budget_is_a_budget() -> None:
    with pytest.raises(ExpressionError) as error:
        Expression("abs(@)", max_steps=100).apply("x")
    assert not isinstance(error.value, BudgetExceeded)
    assert Expression("@", max_steps=100).apply([0] * 300) == [0] * 300
    with pytest.raises(BudgetExceeded):
        Expression("@", max_steps=100).apply([[0]] * 300)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("levels", [199, 201, 2_000, 50_000])
def test_a_document_may_be_deep(levels: int) -> None:
    document = deep(levels)
    assert Expression("[0][0][0] && @ == @").holds(document)
    if levels < 200:
        assert Expression("@").apply(document) == document
        return
    for source in ("@", "to_string(@)", "{a: @}"):
        with pytest.raises(ExpressionError, match="nested more than 200 deep"):
            Expression(source).apply(document)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "cannot be empty"),
        ("data.", "at character 6"),
        ("data[", "ends before it is complete"),
        ("data == ", "ends before it is complete"),
        ("data = 'x'", "at character 6: Unknown token '='"),
        ("'data", "at character 1: Unclosed ' delimiter"),
        ("$.data", "at character 1: Unknown token $"),
        ("a\nb", "at character 3: Unexpected token: b"),
        ("lower(data)", "no function lower(), there are abs, avg, "),
        ("data[?lower(@) == 'x']", "no function lower()"),
        ("length(a, b)", "length() takes 1 arguments, not 2"),
        ("not_null()", "not_null() takes at least 1 arguments, not 0"),
        ("sort_by(a, b)", "sort_by() takes an expression: write &name, as argument 2"),
        ("length(&a)", "length() takes a value, not an expression (&...), as argument 1"),
        ("merge(a, &b)", "merge() takes a value"),
        ("&a", "&... is allowed only where a function takes an expression"),
        ("[a, &b]", "&... is allowed only where"),
        ("a[::0]", "the step of a slice cannot be 0"),
        ("(" * 2000, "nested too deep"),
        ("!" * 3000 + "a", "nested too deep"),
        ("a|" * 150 + "a", "nested more than 100 deep"),
        ("map(&" * 200 + "@" + ", @)" * 200, "nested"),
        ("`" + "[" * 1900 + "]" * 1900 + "`", "nested too deep"),
        ("`" + "[" * 500 + "]" * 500 + "`", "Recursion limit reached"),
        ("`" + "9" * 400 + "`", "64-bit"),
        (r'`"\ud800"`', "surrogates not allowed"),
        (r'{"\ud800": a}', "surrogates not allowed"),
        ("a" * 4001, "more than 4000 characters"),
    ],
    ids=lambda text: text[:30],
)
def test_an_error_is_one_line(source: str, says: str) -> None:
    with pytest.raises(ExpressionError) as error:
        Expression(source, "condition")
    error_text = str(error.value)
    assert error_text.startswith("condition: ")
    assert says in error_text
    assert "\n" not in error_text
    assert len(error_text) < 400


@pytest.mark.parametrize(
    ("source", "document", "says"),
    [
        ("length(a)", {"a": None}, "length() met a value of type null, it takes string or array or object"),
        ("join('', a)", {"a": ["x", 1]}, "join() met a value of type number, it takes array-string"),
        ("sort_by(a, &b)", {"a": [{"b": 1}, {"b": "x"}]}, "sort_by() met a value of type string"),
        ("abs(@)", {"a": "x" * 100_000}, "abs() met a value of type object, it takes number"),
        ("ceil(to_number(a))", {"a": "1e9999"}, "cannot convert float infinity to integer"),
        ("to_number(a)", {"a": "9" * 100}, "the result holds an integer of more than 64 bits"),
        ("to_string(to_number(a))", {"a": "9" * 100}, "integer of more than 64 bits"),
    ],
)
def test_a_function_error_does_not_contain_the_value(source: str, document: Any, says: str) -> None:
    with pytest.raises(ExpressionError) as error:
        Expression(source, "body").apply(document)
    assert str(error.value).startswith("body: ")
    assert says in str(error.value)
    assert len(str(error.value)) < 200


def test_the_library_keeps_no_source() -> None:
    assert compiled("a.b")[0] is not None
    assert compiled("a.")[0] is None
    assert vars(Parser)["_CACHE"] == {}


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("data.author.username", "ada"),
        ("type == 'message.created' && contains(data.content, 'deploy')", True),
        ("data.reactions[?count > `2`].emoji", ["+1"]),
        ("data.reactions[*].emoji | join(', ', @)", "+1, eyes"),
        ("sort_by(data.reactions, &count)[0].emoji", "eyes"),
        ("max_by(data.reactions, &count).emoji", "+1"),
        ("map(&emoji, data.reactions)", ["+1", "eyes"]),
        ("length(data.mentions)", 2),
        ("{text: data.content, by: data.author.username}", {"text": "deploy the api", "by": "ada"}),
        ("[data.mentions, data.mentions][]", ["u2", "u3", "u2", "u3"]),
        ("data.mentions[::-1]", ["u3", "u2"]),
        ("contains(data.mentions, 'u3')", True),
        ("contains(data.content, `1`)", False),
        ('data.reactions[0] == `{"count": 3, "emoji": "+1"}`', True),
        ("data.reactions != data.mentions", True),
        ("data.content < `3`", None),
        ("'a' < 'b'", True),
        ("`true` == `1`", False),
        ("`[true]` == `[1]`", False),
        ("`1` == `1.0`", True),
        ("`18446744073709551615`", (1 << 64) - 1),
        ("`-9223372036854775808`", -(1 << 63)),
        ("to_string(data.author)", '{"id":"u1","username":"ada"}'),
        ("to_string('é')", "é"),
        ('to_string(`["é", null]`)', '["é",null]'),
        ("to_number('12.50')", 12.5),
        ("to_number('-7')", -7),
        ("to_number('1_000')", None),
        ("to_number(' 1')", None),
        ("to_number(`true`)", None),
        ("to_number(`3`)", 3),
        ("reverse('abc')", "cba"),
        ("data.nothing.at.all", None),
        ("merge(data.author, {id: 'x'})", {"id": "x", "username": "ada"}),
    ],
)
def test_what_an_expression_selects(source: str, result: Any) -> None:
    expression = Expression(source)
    assert expression.apply(MESSAGE) == result
    assert type(expression.apply(MESSAGE)) is type(result)
    assert expression.holds(MESSAGE) is truthy(result)


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        *((None, False), (False, False), ("", False), ([], False), ({}, False)),
        *((0, True), (0.0, True), (True, True), (" ", True), ("false", True)),
        *(([None], True), ({"a": None}, True)),
    ],
)
def test_truth_is_as_jmespath_has_it(value: Any, holds: bool) -> None:
    assert truthy(value) is holds
    assert Expression("@").holds(value) is holds
    assert Expression("@ && 'yes'").holds(value) is holds


def test_a_body_is_projected() -> None:
    body = orjson.dumps(MESSAGE)
    value = project(Expression("{text: data.content, user: data.author.username}", "body"), body)
    assert value == b'{"text":"deploy the api","user":"ada"}'
    assert project(Expression("nothing"), body) == b"null"
    assert project(Expression("@"), body) == body


@pytest.mark.parametrize(
    ("source", "body", "says"),
    [
        ("@", b"{", "body: the body is not JSON"),
        ("@", orjson.dumps("x" * (MAX_RESULT_BYTES + 1)), "body: the result is more than 1048576 bytes"),
        ("@", orjson.dumps("\0" * (MAX_RESULT_BYTES // 2)), "body: the result is more than 1048576 bytes"),
        ("@", orjson.dumps([0] * 500_000), "body: takes more than 100000 steps"),
        ("@", orjson.dumps(deep(250)), "body: the result is nested more than 200 deep"),
        ("@", b"\xff", "body: the body is not JSON"),
    ],
    ids=["not JSON", "long", "long once escaped", "many", "deep", "not UTF-8"],
)
def test_a_projection_is_bounded(source: str, body: bytes, says: str) -> None:
    with pytest.raises(ExpressionError, match=says):
        project(Expression(source, "body"), body)


def test_documents_and_expressions_are_left_as_they_were() -> None:
    before = orjson.dumps(MESSAGE)
    expression = Expression(
        "{a: data.reactions[], b: sort(data.mentions), c: merge(data.author, {x: `[1]`})}"
    )
    first = orjson.dumps(expression.apply(MESSAGE))
    assert orjson.dumps(expression.apply(MESSAGE)) == first
    assert orjson.dumps(MESSAGE) == before


NAMES = st.sampled_from(["a", "b", "c"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(2, 9) | st.floats(2, 9) | st.sampled_from(["", "x", "xy", "é"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=20,
)


def composed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Every construct of the grammar, and every function, on expressions that are made already."""
    forms = (
        st.sampled_from(["!({0})", "({0})[]", "({0})[*]", "({0}).*", "({0})[0]", "({0})[::-1]", "({0})[1:3]"])
        | st.sampled_from(["({0}).a", "({0})[].b", "({0})[*].a", "({0})[?{1}]", "({0})[*].[{1}]"])
        | st.sampled_from(["{0} | {1}", "{0} || {1}", "{0} && {1}", "[{0}, {1}]", "{{a: {0}, b: {1}}}"])
        | st.sampled_from(["({0}) == ({1})", "({0}) != ({1})", "({0}) < ({1})", "({0}) >= ({1})"])
        | st.sampled_from(["sort_by({0}, &{1})", "max_by({0}, &{1})", "min_by({0}, &{1})", "map(&{1}, {0})"])
        | st.sampled_from(["to_array({0})", "to_string({0})", "to_number({0})", "type({0})", "length({0})"])
        | st.sampled_from(["keys({0})", "values({0})", "merge({0}, {1})", "reverse({0})", "sort({0})"])
        | st.sampled_from(["sum({0})", "avg({0})", "max({0})", "min({0})", "abs({0})", "ceil({0})"])
        | st.sampled_from(["floor({0})", "join({0}, {1})", "contains({0}, {1})", "not_null({0}, {1})"])
        | st.sampled_from(["starts_with({0}, {1})", "ends_with({0}, {1})"])
    )
    return st.builds(lambda form, one, other: form.format(one, other), forms, inner, inner)


SOURCES = st.recursive(
    NAMES | st.sampled_from(["@", "*", "[]", "'x'", "`2`", "`[2, 3]`", '`{"a": null}`', '`""`']),
    composed,
    max_leaves=12,
)


@given(SOURCES, JSON)
def test_any_expression_on_any_document_is_bounded_or_refused(source: str, document: Any) -> None:
    """What it selects is what the library alone selects, wherever that is an answer too."""
    expression, error_text = compiled(source)
    if expression is not None:
        result, error_text = outcome(expression, document)
    assert "\n" not in error_text
    if error_text or expression is None:
        return
    value = orjson.dumps(result)
    assert len(value) <= 6 * MAX_RESULT_BYTES
    assert expression.holds(document) is truthy(result)
    if "to_string" in source:
        return  # the library writes \\u00e9 where JSON may have é
    try:
        assert orjson.dumps(jmespath.search(source, document)) == value
    except (JMESPathError, TypeError):
        assert "<" in source or ">" in source or "contains" in source


@given(st.text(alphabet="ab@*[](){}.,:|&!=<>?`'\"\\ -01_é\n", max_size=30), JSON)
def test_any_text_is_an_expression_or_refused(source: str, document: Any) -> None:
    expression, error_text = compiled(source)
    if expression is not None:
        result, error_text = outcome(expression, document)
        assert orjson.dumps(result)
    assert "\n" not in error_text
    assert len(error_text) < 400
