"""Batches: every element of every list that a path names is an event of its own, and none is dropped."""

import json
from time import process_time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Malformed, TooLarge
from shared.verification.batch import MAX_DOCUMENTS_BYTES, MAX_EVENTS, Batch


def documents(paths: list[str], payload: Any) -> list[Any]:
    """The documents of a batch, each of which has to be the same as a text and as a value."""
    split = Batch(paths).documents(payload)
    for text, document, _ in split:
        assert orjson.loads(text) == document
    return [document for _, document, _ in split]


def elements(paths: list[str], payload: Any) -> list[Any]:
    return [element for _, _, element in Batch(paths).documents(payload)]


def test_a_body_that_is_a_list() -> None:
    payload = [{"a": 1}, {"a": 2}, {}]
    assert documents(["[*]"], payload) == elements(["[*]"], payload) == payload


def test_what_is_around_an_element_stays_with_it() -> None:
    payload = {"object": "page", "entry": [{"id": 1}, {"id": 2}], "n": [7]}
    assert documents(["entry[*]"], payload) == [
        {"object": "page", "entry": [{"id": 1}], "n": [7]},
        {"object": "page", "entry": [{"id": 2}], "n": [7]},
    ]
    assert elements(["entry[*]"], payload) == [{"id": 1}, {"id": 2}]


def test_three_lists_deep() -> None:
    payload = {
        "object": "w",
        "entry": [
            {"id": 1, "changes": [{"f": "a", "value": {"messages": [{"m": 1}, {"m": 2}], "meta": 0}}]},
            {"id": 2, "changes": [{"f": "b", "value": {"messages": [{"m": 3}]}}]},
        ],
    }
    path = ["entry[*].changes[*].value.messages[*]"]
    assert elements(path, payload) == [{"m": 1}, {"m": 2}, {"m": 3}]
    assert documents(path, payload) == [
        {
            "object": "w",
            "entry": [{"id": 1, "changes": [{"f": "a", "value": {"messages": [{"m": 1}], "meta": 0}}]}],
        },
        {
            "object": "w",
            "entry": [{"id": 1, "changes": [{"f": "a", "value": {"messages": [{"m": 2}], "meta": 0}}]}],
        },
        {"object": "w", "entry": [{"id": 2, "changes": [{"f": "b", "value": {"messages": [{"m": 3}]}}]}]},
    ]


def test_siblings_do_not_ride_along_with_each_other() -> None:
    """A document has one event in it: what another path reaches is left out of it, or it came twice."""
    payload = {"entry": [{"id": 1, "messaging": [{"m": 1}], "changes": [{"c": 1}, {"c": 2}], "standby": 5}]}
    assert documents(["entry[*].messaging[*]", "entry[*].changes[*]"], payload) == [
        {"entry": [{"id": 1, "standby": 5, "messaging": [{"m": 1}]}]},
        {"entry": [{"id": 1, "standby": 5, "changes": [{"c": 1}]}]},
        {"entry": [{"id": 1, "standby": 5, "changes": [{"c": 2}]}]},
    ]


def test_siblings_that_share_an_object() -> None:
    payload = {"value": {"messages": [{"m": 1}], "statuses": [{"s": 1}, {"s": 2}], "meta": 1}}
    assert elements(["value.messages[*]", "value.statuses[*]"], payload) == [{"m": 1}, {"s": 1}, {"s": 2}]


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        ([], 0),
        ({"entry": []}, 0),
        ({"entry": [{"messaging": []}]}, 0),
        ({"entry": [{"messaging": []}, {"messaging": [{"m": 1}]}]}, 1),
    ],
)
def test_an_empty_list_is_no_event(payload: Any, count: int) -> None:
    assert len(documents(["[*]", "entry[*].messaging[*]"], payload)) == count


@pytest.mark.parametrize(
    "payload",
    [
        {"other": 1},
        {"entry": "text"},
        {"entry": {"messaging": [{"m": 1}]}},
        {"entry": None},
        {"entry": 7},
        {},
    ],
)
def test_what_no_path_reaches_into_stays_whole(payload: Any) -> None:
    assert documents(["entry[*].messaging[*]"], payload) == [payload]


def test_an_entry_without_the_list_is_an_event_too() -> None:
    """Meta leaves the list out where a page has other news: it is not dropped."""
    payload = {"entry": [{"id": 1, "hop": "x"}, {"id": 2, "messaging": [{"m": 1}]}]}
    assert documents(["entry[*].messaging[*]"], payload) == [
        {"entry": [{"id": 1, "hop": "x"}]},
        {"entry": [{"id": 2, "messaging": [{"m": 1}]}]},
    ]


@pytest.mark.parametrize(
    ("paths", "payload"),
    [
        (["[*]"], [1]),
        (["[*]"], [{"a": 1}, "text"]),
        (["[*]"], [[{"a": 1}]]),
        (["[*]"], [None]),
        (["entry[*]"], {"entry": [{"a": 1}, 2]}),
        (["entry[*]"], {"entry": [[]]}),
        (["entry[*].m[*]"], {"entry": [{"m": ["text"]}]}),
        (["[*]"], "text"),
        (["[*]"], 1),
        (["[*]"], None),
        (["entry[*]"], [{"entry": []}]),
    ],
)
def test_an_element_that_is_no_object(paths: list[str], payload: Any) -> None:
    """The whole request is refused: half of it would be an event lost in silence."""
    with pytest.raises(Malformed):
        Batch(paths).documents(payload)


def test_the_most_events() -> None:
    batch = Batch(["[*]"])
    assert len(batch.documents([{}] * MAX_EVENTS)) == MAX_EVENTS
    with pytest.raises(TooLarge):
        batch.documents([{}] * (MAX_EVENTS + 1))


def test_what_is_repeated_around_elements_is_bounded() -> None:
    """Each document repeats what is around its element: a small request must not become a large one."""
    around = "x" * 500_000
    payload = {"around": around, "entry": [{"n": number} for number in range(1000)]}
    assert len(json.dumps(payload)) < 1024 * 1024
    started = process_time()
    with pytest.raises(TooLarge):
        Batch(["entry[*]"]).documents(payload)
    assert process_time() - started < 1
    few = {"around": around, "entry": [{}] * (MAX_DOCUMENTS_BYTES // 500_100)}
    assert len(documents(["entry[*]"], few)) == len(few["entry"])


def test_an_element_that_is_too_deep_to_be_written() -> None:
    deep: Any = {}
    for _ in range(600):
        deep = {"a": deep}
    with pytest.raises(Malformed):
        Batch(["[*]"]).documents([deep])


@pytest.mark.parametrize("path", ["", "entry", "entry[*].id", "[*].x", "entry[0]", "entry[*]x"])
def test_a_path_that_ends_in_no_list(path: str) -> None:
    with pytest.raises(ValueError, match="path of a batch"):
        Batch([path])


def test_no_paths_are_no_batch() -> None:
    assert not Batch([])
    assert Batch(["[*]"])


_VALUES = st.recursive(
    st.none() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=15,
)


@given(
    _VALUES,
    st.lists(st.sampled_from(["[*]", "a[*]", "a[*].b[*]", "a.b[*]", "a[*].b.c[*]", "b[*].c[*]"]), max_size=3),
)
def test_no_text_of_the_payload_is_lost(payload: Any, paths: list[str]) -> None:
    """Whatever comes: a refusal, or documents that together have every leaf that is in no empty list."""
    try:
        split = documents(paths, payload)
    except Malformed:
        return
    if not _has_empty_list(payload):
        leaves = {leaf for document in split for leaf in _leaves(document)}
        assert leaves == set(_leaves(payload))


def _has_empty_list(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value == [] or any(_has_empty_list(child) for child in inner)


def _leaves(value: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [leaf for key, child in value.items() for leaf in _leaves(child, f"{path}.{key}")]
    if isinstance(value, list):
        return [leaf for child in value for leaf in _leaves(child, path + "[]")]
    return [(path.removeprefix("[]"), repr(value))]
