"""The rules by which polls go on where they ended, one rule after the other, without a network."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from shared.contracts.errors import Malformed
from shared.manifests.poll_pages import (
    MAX_DATA_BYTES,
    MAX_EVENTS_PER_PAGE,
    MAX_SEEN,
    PollItem,
    PollState,
    UnusableResponse,
    begin,
    conditions,
    expire,
    page_request,
    poll_event,
    read_page,
    with_validators,
)
from shared.manifests.polling import PollSpec

NOW = datetime(2026, 5, 4, 10, 0, 30, tzinfo=UTC)


def spec(**fields: Any) -> PollSpec:
    base = {"about": "x", "event": "item.created", "request": {"url": "https://a.example"}, "items": "items"}
    return PollSpec.model_validate({**base, **fields})


TOKEN = spec(
    start={"request": {"url": "https://a.example/start"}, "cursor": "cursor", "page": "page"},
    cursor={"by": "token", "value": "cursor"},
    page="page",
)
SEEN = spec(cursor={"by": "seen"}, conditional=True)
NEWEST = spec(cursor={"by": "newest", "value": "at"}, page="page")
ROWS = spec(cursor={"by": "rows", "page_rows": 3}, id="row", id_of_content=True)
CHANGED = spec(cursor={"by": "changed_rows", "page_rows": 1000}, id="row", id_of_content=True)


def items(*names: str, **more: Any) -> dict[str, Any]:
    return {"items": [{"id": name, **more} for name in names]}


def poll(
    polled: PollSpec, state: PollState, documents: Iterable[Any], now: datetime = NOW
) -> tuple[list[str], PollState, bool]:
    """The ids of what is published for these responses, the state after it, and whether the poll ended."""
    published: list[str] = []
    for document in documents:
        state = begin(state, now)
        page = read_page(polled, state, document)
        for item in page.items:
            event = poll_event(polled, state, item)
            published += [event.delivery_id] if event else []
        state = page.state
        if page.is_last:
            return published, state, True
    return published, state, False


def test_the_first_poll_publishes_nothing() -> None:
    for polled, documents in (
        (TOKEN, [{"page": "2"}, {"cursor": "c1"}]),
        (SEEN, [items("a", "b")]),
        (NEWEST, [{**items("a", at="2026-05-04T10:00:00.000Z"), "page": "2"}, items("b", at="2026-05-04")]),
        (ROWS, [{"items": [["a"], ["b"], ["c"]]}, {"items": [["c"], ["d"]]}]),
        (CHANGED, [{"items": [["a"]]}]),
    ):
        published, state, is_over = poll(polled, PollState(), documents)
        assert (published, is_over, state.starting) == ([], True, False)
        assert state.since == "2026-05-04T10:00:30.000Z"


def test_a_token_counts_once_the_last_page_is_read() -> None:
    _, state, _ = poll(TOKEN, PollState(), [{"cursor": "c1"}])
    assert page_request(TOKEN, state)[1]["poll:cursor"] == "c1"
    published, state, is_over = poll(TOKEN, state, [{**items("a"), "page": "p2", "cursor": "c2"}])
    assert (published, is_over, state.cursor, state.page) == (["a"], False, "c1", "p2")
    # What is stored between two pages is enough to go on.
    published, state, is_over = poll(TOKEN, state, [items("b")])
    assert (published, is_over, state.cursor, state.page) == (["b"], True, "c2", "")


def test_a_page_with_many_items_is_published_in_parts() -> None:
    _, state, _ = poll(TOKEN, PollState(), [{"cursor": "c1"}])
    names = [f"i{number}" for number in range(120)]
    document = {**items(*names), "cursor": "c2"}
    sizes, seen = [], []
    for _ in range(3):
        page = read_page(TOKEN, begin(state, NOW), document)
        sizes.append(len(page.items))
        seen += [item.value["id"] for item in page.items]
        state = page.state
    assert sizes == [MAX_EVENTS_PER_PAGE, MAX_EVENTS_PER_PAGE, 20]
    assert seen == names
    assert (page.is_last, state.cursor) == (True, "c2")


def test_an_unknown_token_starts_over_and_recovers_what_was_missed() -> None:
    recovering = spec(
        start={"request": {"url": "https://a.example/start"}, "cursor": "cursor"},
        cursor={"by": "token", "value": "cursor"},
        expired=[410],
        recover={
            "request": {"url": "https://a.example/since", "query": {"since": "{poll:since}"}},
            "items": "missed",
        },
    )
    _, state, _ = poll(recovering, PollState(), [{"cursor": "c1"}])
    published, state, _ = poll(recovering, state, [{**items("a"), "cursor": "c2"}])
    state = begin(expire(recovering, state), NOW)
    assert page_request(recovering, state)[0].url == "https://a.example/start"
    state = read_page(recovering, state, {"cursor": "c9"}).state
    request, values = page_request(recovering, state)
    assert (request.url, values["poll:since"]) == ("https://a.example/since", "2026-05-04T10:00:30.000Z")
    published, state, is_over = poll(recovering, state, [{"missed": [{"id": "a"}, {"id": "b"}]}])
    assert (published, is_over) == (["b"], True), "without what was published already"
    assert (state.cursor, state.recovering) == ("c9", False)
    forgetful = TOKEN.model_copy(update={"expired": (410,)})
    assert expire(forgetful, state) == PollState(seen=state.seen, since=state.since)


def test_newest_reads_the_boundary_again_and_skips_what_it_has() -> None:
    _, state, _ = poll(NEWEST, PollState(), [{"items": []}])
    assert state.cursor == "2026-05-04T09:59:30.000Z", "a minute before: times may be rounded"
    at = "2026-05-04T10:01:00.000Z"
    published, state, _ = poll(NEWEST, state, [items("a", "b", at=at)])
    assert (published, state.cursor) == (["a", "b"], at)
    published, state, _ = poll(NEWEST, state, [items("a", "b", "c", at=at)])
    assert published == ["c"]
    published, state, _ = poll(NEWEST, state, [{**items("d", at="2026-05-04T10:09:00.000Z"), "page": "2"}])
    assert state.cursor == at, "the newest of all pages counts, and only at the end"
    published, state, is_over = poll(NEWEST, state, [items("e", at="2026-05-04T10:02:00.000Z")])
    assert (published, state.cursor, is_over) == (["e"], "2026-05-04T10:09:00.000Z", True)


def test_a_page_that_has_ended_begins_the_poll_again() -> None:
    _, state, _ = poll(NEWEST, PollState(), [{"items": []}])
    _, state, _ = poll(NEWEST, state, [{**items("d", at="2026-05-04T10:09:00.000Z"), "page": "2"}])
    again = expire(NEWEST, state)
    assert (again.page, again.pending, again.cursor) == ("", "", state.cursor)
    published, _, _ = poll(NEWEST, again, [items("d", "e", at="2026-05-04T10:09:00.000Z")])
    assert published == ["e"]


def test_numbers_are_compared_as_numbers() -> None:
    snowflakes = spec(
        cursor={"by": "newest", "value": "id", "numeric": True},
        items="@",
        newest_first=True,
        more="length(@) == `2`",
        start={"request": {"url": "https://a.example"}, "cursor": "[0].id", "empty": "0"},
    )
    _, state, _ = poll(snowflakes, PollState(), [[]])
    assert state.cursor == "0"
    published, state, is_over = poll(snowflakes, state, [[{"id": "10"}, {"id": "9"}]])
    assert (published, state.cursor, is_over) == (["9", "10"], "10", False)
    published, state, is_over = poll(snowflakes, state, [[{"id": "100"}]])
    assert (published, state.cursor, is_over) == (["100"], "100", True)


def test_the_clock_goes_back_by_the_overlap() -> None:
    clock = spec(cursor={"by": "clock", "overlap_s": 60})
    _, state, _ = poll(clock, PollState(), [{"items": []}])
    assert state.cursor == "2026-05-04T09:59:30.000Z"
    published, state, _ = poll(clock, state, [items("a")], NOW + timedelta(minutes=5))
    assert (published, state.cursor) == (["a"], "2026-05-04T10:04:30.000Z")
    published, _, _ = poll(clock, state, [items("a", "b")], NOW + timedelta(minutes=10))
    assert published == ["b"]


def test_seen_remembers_what_is_there_and_a_bounded_past() -> None:
    _, state, _ = poll(SEEN, PollState(), [items("a", "b")])
    published, state, _ = poll(SEEN, state, [items("b", "c", "c")])
    assert published == ["c"]
    published, state, _ = poll(SEEN, state, [items("a", "c")])
    assert published == [], "what was there before is not new"
    for number in range(MAX_SEEN // 40):
        _, state, _ = poll(SEEN, state, [items("c", *(f"{number}-{item}" for item in range(49)))])
    assert len(state.seen) == MAX_SEEN
    published, _, _ = poll(SEEN, state, [items("a", "c")])
    assert published == ["a"], "c was there all the time, a was forgotten"


def test_validators_are_stored_only_for_a_whole_page() -> None:
    _, state, _ = poll(SEEN, PollState(), [items("a")])
    headers = {"etag": '"1"', "last-modified": "Mon, 04 May 2026 10:20:30 GMT"}
    page = with_validators(read_page(SEEN, begin(state, NOW), items("a", "b")), headers)
    assert conditions(SEEN, page.state) == {
        "If-None-Match": '"1"',
        "If-Modified-Since": "Mon, 04 May 2026 10:20:30 GMT",
    }
    many = items(*(f"i{number}" for number in range(60)))
    page = with_validators(read_page(SEEN, begin(state, NOW), many), headers)
    assert conditions(SEEN, page.state) == {}, "the rest has to come again"


@pytest.mark.parametrize("text", ['"\udcff"', '"é"', '"\x01"', f'"{"x" * 500}"'])
def test_validators_that_cannot_be_sent_again_are_left_out(text: str) -> None:
    _, state, _ = poll(SEEN, PollState(), [items("a")])
    headers = {"etag": text, "last-modified": text}
    page = with_validators(read_page(SEEN, begin(state, NOW), items("a", "b")), headers)
    assert conditions(SEEN, page.state) == {}


def test_rows_below_the_last_known_one_are_new() -> None:
    _, state, _ = poll(ROWS, PollState(), [{"items": [["Name"], ["a"]]}])
    _, values = page_request(ROWS, state)
    assert (values["poll:row"], values["poll:row_end"]) == ("2", "4")
    page = read_page(ROWS, begin(state, NOW), {"items": [["a"], ["b"], ["c"]]})
    assert [item.value for item in page.items] == [
        {"row": 3, "values": ["b"]},
        {"row": 4, "values": ["c"]},
    ]
    assert not page.is_last, "the page is full"
    page = read_page(ROWS, page.state, {"items": [["c"]]})
    assert (page.items, page.is_last, page.state.cursor) == ([], True, "4")
    # The last known row is gone: count again, and publish nothing.
    page = read_page(ROWS, begin(page.state, NOW), {})
    assert (page.items, page.state.starting, page.is_last) == ([], True, False)


def test_an_empty_sheet_has_no_known_row() -> None:
    _, state, _ = poll(ROWS, PollState(), [{}])
    assert page_request(ROWS, state)[1]["poll:row"] == "1"
    published, state, _ = poll(ROWS, state, [{"items": [["first"]]}])
    assert (len(published), state.cursor) == (1, "1")


def test_changed_rows_are_those_that_were_there() -> None:
    _, state, _ = poll(CHANGED, PollState(), [{"items": [["a"], ["b"]]}])
    page = read_page(CHANGED, begin(state, NOW), {"items": [["a"], ["B"], ["new"]]})
    assert [item.value for item in page.items] == [{"row": 2, "values": ["B"]}]
    page = read_page(CHANGED, begin(page.state, NOW), {"items": [["a"], ["B"], ["NEW"]]})
    assert [item.value["row"] for item in page.items] == [3]
    rows = [[str(number)] for number in range(200)]
    _, state, _ = poll(CHANGED, PollState(), [{"items": rows}])
    changed = [[f"{row[0]}!"] for row in rows]
    sizes = []
    for _ in range(4):
        page = read_page(CHANGED, begin(state, NOW), {"items": changed})
        state = page.state
        sizes.append(len(page.items))
    assert (sizes, page.is_last) == ([50] * 4, True)


def test_age_tells_new_items_from_changed_ones() -> None:
    since = replace(PollState(), starting=False, since="2026-05-04T10:00:00.000Z")
    fresh, old = {"id": "1", "at": "2026-05-04T10:00:10Z"}, {"id": "1", "at": "2026-05-01T10:00:00Z"}
    for wanted, expected in (("new", (True, False)), ("older", (False, True))):
        aged = spec(cursor={"by": "seen"}, age={"created": "at", "wanted": wanted})
        made = [poll_event(aged, since, PollItem(value, "x")) is not None for value in (fresh, old)]
        assert tuple(made) == expected


def test_the_content_can_belong_to_the_id() -> None:
    contents = spec(cursor={"by": "seen"}, id_of_content=True)
    first, second = ({"id": "1", "name": name} for name in ("a", "b"))
    one = poll_event(contents, PollState(), PollItem(first, "x"))
    again = poll_event(contents, PollState(), PollItem({**first, "detail": {"more": 1}}, "x"))
    other = poll_event(contents, PollState(), PollItem(second, "x"))
    assert one is not None
    assert again is not None
    assert other is not None
    assert one.delivery_id == again.delivery_id != other.delivery_id


def test_data_is_bounded() -> None:
    event = poll_event(SEEN, PollState(), PollItem({"id": "1", "text": "x" * MAX_DATA_BYTES}, "x"))
    assert event
    assert event.data == b'{"id":"1","too_large":true}'
    with pytest.raises(Malformed):
        poll_event(spec(cursor={"by": "seen"}, data="nothing"), PollState(), PollItem({"id": "1"}, "x"))


def test_a_response_of_another_form() -> None:
    started = PollState(starting=False)
    with pytest.raises(UnusableResponse):
        read_page(SEEN, started, {"items": "text"})
    with pytest.raises(UnusableResponse):
        read_page(TOKEN, PollState(), {"error": "x"})
    assert read_page(SEEN, started, {"items": [{"no": "id"}, "text", None]}).items == []


@pytest.mark.parametrize(
    "fields",
    [
        {"cursor": {"by": "token", "value": "c"}},
        {"cursor": {"by": "newest"}},
        {"cursor": {"by": "seen"}, "interval_s": 10},
        {"cursor": {"by": "seen"}, "params": {"cursor": {"name": "x", "about": "x"}}},
        {"cursor": {"by": "seen"}, "interval_s": 60, "min_interval_s": 120},
    ],
)
def test_what_a_manifest_cannot_say(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**fields)
