"""Feeds of strangers: what is read of them, and the bounds."""

from time import process_time

import pytest

from shared.contracts.errors import Malformed
from shared.wire.feed import MAX_ENTRIES, parse_feed

ATOM = b"""<?xml version="1.0" encoding="utf-8"?>
<feed xmlns="http://www.w3.org/2005/Atom">
  <title type="text">Example</title>
  <link rel="self" href="https://example.com/feed"/><link href="https://example.com/"/>
  <entry>
    <id>urn:1</id><title type="html">A &lt;b&gt;bold&lt;/b&gt; title</title>
    <link rel="edit" href="https://example.com/edit"/><link rel="alternate" href="https://example.com/1"/>
    <updated>2026-05-04T10:20:30Z</updated><author><name>Ada</name></author>
    <category term="news"/><summary>Short</summary><content type="html">&lt;p&gt;Long&lt;/p&gt;</content>
  </entry>
</feed>"""
RDF = b"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><channel rdf:about="https://example.com/"><title>Old</title></channel>
<item rdf:about="https://example.com/a"><title>A</title><link>https://example.com/a</link>
<dc:creator>Bob</dc:creator><dc:date>2026-05-04</dc:date></item></rdf:RDF>"""


def test_atom() -> None:
    parsed = parse_feed(ATOM)
    assert parsed["feed"] == {"title": "Example", "link": "https://example.com/"}
    assert parsed["items"] == [
        {
            "id": "urn:1",
            "title": "A bold title",
            "link": "https://example.com/1",
            "summary": "Short",
            "author": "Ada",
            "published": "",
            "updated": "2026-05-04T10:20:30Z",
            "categories": ["news"],
        }
    ]


def test_rss_1() -> None:
    [item] = parse_feed(RDF)["items"]
    assert (item["id"], item["title"], item["author"]) == ("https://example.com/a", "A", "Bob")


def test_elements_of_other_vocabularies_do_not_count() -> None:
    feed = b"""<rss xmlns:media="http://search.yahoo.com/mrss/"><channel><title>T</title><item><guid>1</guid>
    <media:title>Picture</media:title><title>Real</title><source><title>Other</title></source></item>
    </channel></rss>"""
    assert parse_feed(feed)["items"][0]["title"] == "Real"


def test_only_the_first_entries_are_read() -> None:
    items = b"".join(b"<item><guid>%d</guid></item>" % number for number in range(100_000))
    started = process_time()
    parsed = parse_feed(b"<rss><channel>" + items + b"</channel></rss>")
    assert len(parsed["items"]) == MAX_ENTRIES
    assert process_time() - started < 5


def test_a_long_namespace_is_not_copied_for_each_element() -> None:
    started = process_time()
    elements = b"<x:a/>" * 50_000
    parsed = parse_feed(b'<rss xmlns:x="' + b"u" * 200_000 + b'"><channel>' + elements + b"</channel></rss>")
    assert parsed["items"] == []
    assert process_time() - started < 5


def test_a_prefix_means_what_is_declared_where_it_stands() -> None:
    feed = b"""<rss xmlns:m="http://search.yahoo.com/mrss/"><channel><item><guid>1</guid><m:title>Picture</m:title>
    <m:title xmlns:m="http://purl.org/dc/elements/1.1/">Real</m:title></item></channel></rss>"""
    assert parse_feed(feed)["items"][0]["title"] == "Real"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not well-formed"),
        (b"{}", "not well-formed"),
        (b"<html/>", "not a feed"),
        (b"<rss>" + b"<a>" * 100, "too deep"),
        (b"<rss><channel>" + b"<a/>" * 200_000 + b"</channel></rss>", "too many elements"),
        (b'<rss xmlns:x="' + b"u" * 400_000 + b'"/>', "too long"),
        (b"<rss " + b" ".join(b'xmlns:n%d="u"' % n for n in range(101)) + b"/>", "too many namespaces"),
        (b'<!DOCTYPE rss [<!ENTITY x SYSTEM "file:///etc/passwd">]><rss>&x;</rss>', "document type"),
        (
            b'<!DOCTYPE rss [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;">]><rss><title>&b;</title></rss>',
            "document type",
        ),
        (b'<!DOCTYPE rss PUBLIC "x" "http://169.254.169.254/x.dtd"><rss/>', "document type"),
    ],
)
def test_what_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        parse_feed(body)


def test_texts_are_bounded() -> None:
    feed = b"<rss><channel><item><guid>1</guid><title>" + b"x" * 500_000 + b"</title><description>"
    feed += b"&lt;" * 100_000 + b"</description></item></channel></rss>"
    [item] = parse_feed(feed)["items"]
    assert len(item["title"]) == 1000
    assert len(item["summary"]) <= 20_000
