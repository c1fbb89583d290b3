"""The Atom feed of YouTube's hub, read as JSON: what it says, and what it must not do to the reader."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Malformed
from shared.providers.youtube import body

FIXTURES = Path(body.__file__).parent / "fixtures"
FEED = (
    '<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015" xmlns="http://www.w3.org/2005/Atom">{}</feed>'
)
ENTRY = (
    "<entry><yt:videoId>{id}</yt:videoId><yt:channelId>UC1</yt:channelId><title>{title}</title>"
    "<published>{published}</published><updated>{updated}</updated></entry>"
)


def entry(
    title: str = "A title",
    published: str = "2024-05-01T12:00:00+00:00",
    updated: str = "2024-05-01T12:01:00+00:00",
    video: str = "v1",
) -> str:
    return ENTRY.format(id=video, title=title, published=published, updated=updated)


def events(*entries: str, declared: str = "", encoding: str = "utf-8") -> list[dict[str, str]]:
    found: list[dict[str, str]] = body.read((declared + FEED.format("".join(entries))).encode(encoding))[
        "events"
    ]
    return found


def test_a_new_video_has_everything_that_the_feed_says() -> None:
    raw = FIXTURES.joinpath("published_with_special_characters", "body.xml").read_bytes()
    assert body.read(raw) == {
        "events": [
            {
                "kind": "published",
                "video_id": "dQw4w9WgXcQ",
                "channel_id": "UCexample0000000000000001",
                "title": "Brötchen & Kuchen 🥐 <neu>, Café 2",
                "link": "https://www.youtube.com/watch?v=dQw4w9WgXcQ",
                "channel": "Bäckerei Müller",
                "channel_url": "https://www.youtube.com/channel/UCexample0000000000000001",
                "published": "2024-05-01T12:00:00+00:00",
                "updated": "2024-05-01T12:01:10.552394234+00:00",
                "change": "first",
            }
        ]
    }


def test_a_removed_video_has_the_channel_of_who_removed_it() -> None:
    [event] = body.read(FIXTURES.joinpath("deleted", "body.xml").read_bytes())["events"]
    assert event["kind"] == "deleted"
    assert event["video_id"] == "dQw4w9WgXcQ"
    assert event["channel_id"] == "UCexample0000000000000001"
    assert event["change"] == "2024-05-04T09:00:00.000+00:00"


@pytest.mark.parametrize(
    ("published", "updated", "kind", "change"),
    [
        ("2024-05-01T12:00:00+00:00", "2024-05-01T12:15:00+00:00", "published", "first"),
        (
            "2024-05-01T12:00:00+00:00",
            "2024-05-01T12:15:00.000001+00:00",
            "updated",
            "2024-05-01T12:15:00.000001+00:00",
        ),
        ("2024-05-01T12:00:00+00:00", "2024-05-01T11:00:00+00:00", "published", "first"),
        ("2024-05-01T12:00:00+00:00", "2024-05-01T14:00:00+02:00", "published", "first"),
        ("", "2024-05-01T12:00:00+00:00", "updated", "2024-05-01T12:00:00+00:00"),
        ("yesterday", "2024-05-01T12:00:00+00:00", "updated", "2024-05-01T12:00:00+00:00"),
        ("2024-05-01T12:00:00", "2024-05-01T12:00:00+00:00", "updated", "2024-05-01T12:00:00+00:00"),
        ("", "", "updated", None),
    ],
)
def test_a_video_is_new_for_its_first_minutes(
    published: str, updated: str, kind: str, change: str | None
) -> None:
    [event] = events(entry(published=published, updated=updated))
    assert (event["kind"], event.get("change")) == (kind, change)


def test_entries_keep_their_order_and_their_own_texts() -> None:
    found = events(entry("One", video="a"), "<title>of the feed</title>", entry("Two", video="b"))
    assert [(each["video_id"], each["title"]) for each in found] == [("a", "One"), ("b", "Two")]


def test_a_feed_without_entries_has_no_events() -> None:
    assert events() == []


def test_only_texts_at_their_own_place_count() -> None:
    strange = (
        "<entry><yt:videoId>v1</yt:videoId><source><title>Not</title><yt:videoId>v2</yt:videoId></source>"
        "<title>This<b>not this</b></title><author><email>no</email></author></entry>"
    )
    [event] = events(strange)
    assert event["video_id"] == "v1"
    assert event["title"] == "This"
    assert "no" not in event.values()


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("", "utf-8"),
        ("<?xml version='1.0' encoding='UTF-8'?>", "utf-8"),
        ("<?xml version='1.0' encoding='UTF-16'?>", "utf-16"),
        ("<?xml version='1.0' encoding='ISO-8859-1'?>", "latin-1"),
    ],
)
def test_the_declared_encoding_is_read(declared: str, encoding: str) -> None:
    [event] = events(entry("Grüße"), declared=declared, encoding=encoding)
    assert event["title"] == "Grüße"


LAUGHS = (
    '<!DOCTYPE feed [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)


@pytest.mark.parametrize(
    "declared",
    [
        LAUGHS,
        '<!DOCTYPE feed SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE feed [<!ENTITY x SYSTEM "http://127.0.0.1/">]>',
        '<!DOCTYPE feed [<!ENTITY % x SYSTEM "http://127.0.0.1/"> %x;]>',
        "<!DOCTYPE feed>",
    ],
)
def test_a_document_type_is_refused(declared: str) -> None:
    with pytest.raises(Malformed, match="document type"):
        events(entry("&c;" if declared is LAUGHS else "A"), declared=declared)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"<feed",
        b"<feed/>",
        b"<html><body/></html>",
        b"\xff\xfe\x00",
        b"<?xml version='1.0' encoding='no-such-encoding'?><feed/>",
        FEED.format("<entry><title>No video</title></entry>").encode(),
        FEED.format(entry("&unknown;")).encode(),
        FEED.format(entry()).encode() + b"<feed/>",
        FEED.format(entry("\0")).encode(),
    ],
)
def test_what_is_no_feed_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        body.read(raw)


def test_depth_elements_and_texts_are_bounded() -> None:
    with pytest.raises(Malformed, match="deep"):
        events("<a>" * 100 + "</a>" * 100)
    with pytest.raises(Malformed, match="elements"):
        events("<a/>" * 20_000)
    [event] = events(entry("x" * 1_000_000))
    assert event["title"] == "x" * 5000


def test_a_long_text_takes_time_in_proportion() -> None:
    started = time.process_time()
    events(entry("&amp;x\n" * 500_000))
    assert time.process_time() - started < 5


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_malformed(raw: bytes) -> None:
    try:
        read = body.read(raw)
    except Malformed:
        return
    assert isinstance(read["events"], list)


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_text_of_a_field_is_read_or_malformed(title: str, published: str) -> None:
    raw = FEED.format(entry(title, published)).encode("utf-8", "surrogatepass")
    try:
        [event] = body.read(raw)["events"]
    except Malformed:
        return
    assert event["kind"] in {"published", "updated"}


def test_a_long_namespace_is_not_copied_for_each_element() -> None:
    started = time.process_time()
    long = '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:x="' + "u" * 200_000 + '">'
    with pytest.raises(Malformed, match="elements"):
        body.read((long + "<x:a/>" * 100_000 + "</feed>").encode())
    with pytest.raises(Malformed, match="too long"):
        body.read((long + "<a " + " ".join(f'x:a{n}=""' for n in range(50_000)) + "/></feed>").encode())
    assert time.process_time() - started < 5
