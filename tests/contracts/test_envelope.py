"""The envelope: an event survives the round trip through headers; invalid records are rejected."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.envelope import Event, Header, now, parse_event, rfc3339
from shared.contracts.errors import Malformed

REQUIRED: list[Header] = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"evt_1"),
    ("ce_type", b"message.created"),
    ("ce_source", b"/chat"),
    ("workspace", b"acme"),
]
OWN = (
    "ce_specversion",
    "ce_id",
    "ce_type",
    "ce_source",
    "ce_time",
    "ce_subject",
    "content-type",
    "traceparent",
    "workspace",
)


def _with(name: str, value: bytes | None) -> list[Header]:
    return [*(header for header in REQUIRED if header[0] != name), (name, value)]


def test_an_event_comes_back_as_it_was() -> None:
    event = Event(
        id="evt_1",
        type="github.push",
        source="/webhooks/github/ep_1",
        workspace="acme",
        time="2026-01-02T03:04:05.678Z",
        data=b'{"a":1}',
        subject="general",
        content_type="application/x-www-form-urlencoded",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        attributes={"provider": "github", "channel_id": "ümläut"},
    )
    headers = event.headers()
    assert parse_event(headers, event.data) == event
    assert ("ce_specversion", b"1.0") in headers
    assert event.trace_id == "0af7651916cd43dd8448eb211c80319c"


_TEXT = st.text(min_size=1, max_size=100).filter(lambda text: len(text.encode("utf-8", "replace")) <= 1024)
_UNICODE = _TEXT.filter(lambda text: not any(0xD800 <= ord(character) < 0xE000 for character in text))


@given(_UNICODE, _UNICODE, _UNICODE, _UNICODE, st.text(max_size=20), st.binary(max_size=200))
def test_any_text_survives(
    name: str, kind: str, source: str, workspace: str, subject: str, data: bytes
) -> None:
    subject = subject.encode("utf-8", "ignore").decode()
    event = Event(
        id=name,
        type=kind,
        source=source,
        workspace=workspace,
        time=now(),
        data=data,
        subject=subject,
        attributes={"x": subject},
    )
    assert parse_event(event.headers(), data) == event


@pytest.mark.parametrize("name", ["ce_id", "ce_type", "ce_source", "workspace"])
def test_what_an_event_must_have(name: str) -> None:
    without = [header for header in REQUIRED if header[0] != name]
    for headers in (without, _with(name, b"")):
        with pytest.raises(Malformed, match=name):
            parse_event(headers, b"{}")


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("value", [None, b"\xff\xfe", b"a\x80", b"x" * 1025, b"\xc3\xbc" * 513])
def test_an_own_header_that_cannot_be_read(name: str, value: bytes | None) -> None:
    with pytest.raises(Malformed, match=name) as caught:
        parse_event(_with(name, value), b"{}")
    assert len(caught.value.detail) < 200


@pytest.mark.parametrize("name", ["tracestate", "x-anything", "", "provider"])
def test_a_strangers_header_does_not_cost_the_event(name: str) -> None:
    """Null or unreadable it is left out; readable it is kept, however long."""
    for unreadable in (None, b"\xff\xfe"):
        assert parse_event([*REQUIRED, (name, unreadable)], b"{}").attributes == {}
    assert parse_event([*REQUIRED, (name, b"x" * 5000)], b"{}").attributes == {name: "x" * 5000}


def test_what_may_be_absent() -> None:
    event = parse_event([header for header in REQUIRED if header[0] != "ce_specversion"], None)
    assert event.data == b""
    assert event.subject == event.traceparent == event.trace_id == ""
    assert event.content_type == "application/json"
    assert abs(datetime.now(UTC) - datetime.fromisoformat(event.time)) < timedelta(seconds=5)


@pytest.mark.parametrize("version", [b"0.3", b"1.1", b"2.0", b"1"])
def test_other_versions_of_cloudevents(version: bytes) -> None:
    with pytest.raises(Malformed, match=r"only 1\.0"):
        parse_event(_with("ce_specversion", version), b"{}")


@pytest.mark.parametrize("text", [b"yesterday", b"1700000000", b"2026-13-01T00:00:00Z"])
def test_a_time_that_is_none(text: bytes) -> None:
    with pytest.raises(Malformed, match="ce_time"):
        parse_event(_with("ce_time", text), b"{}")


@given(
    st.lists(st.tuples(st.sampled_from([*OWN, "x-other"]), st.none() | st.binary(max_size=30)), max_size=12),
    st.none() | st.binary(max_size=20),
)
def test_reading_never_raises_anything_else(headers: list[Header], value: bytes | None) -> None:
    try:
        event = parse_event(headers, value)
    except Malformed:
        return
    assert event.id
    assert event.workspace


def test_times_are_utc_with_milliseconds() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(moment) == "2026-01-02T01:04:05.678Z"
    assert rfc3339(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02T00:00:00.000Z"
