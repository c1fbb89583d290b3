"""A web server with feeds: RSS 2.0 and Atom, with ETags, and the ways in which one can be hostile.

https://www.rssboard.org/rss-specification, https://www.rfc-editor.org/rfc/rfc4287
"""

from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from tests.support.provider_hosts import HostRequest, Reply


@dataclass
class FeedServer:
    """Feeds by path. `replies` are answered in place of a feed, in order; the last one again and again."""

    feeds: dict[str, list[str]] = field(default_factory=dict)
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    answered: list[tuple[str, int]] = field(default_factory=list)

    def handle(self, request: HostRequest) -> Reply:
        assert request.method == "GET", "feeds are read with GET"
        assert "authorization" not in request.headers, "nobody said who asks"
        assert "cookie" not in request.headers, "there are no cookies"
        reply = self._reply(request)
        self.answered.append((request.path, reply.status))
        return reply

    def count(self, path: str, status: int = 200) -> int:
        """How often a path was answered with this status."""
        return self.answered.count((path, status))

    def _reply(self, request: HostRequest) -> Reply:
        if replies := self.replies.get(request.path):
            return replies.pop(0) if len(replies) > 1 else replies[0]
        titles = self.feeds.get(request.path)
        if titles is None:
            return Reply(404)
        etag = f'"{len(titles)}-{hash(tuple(titles)) & 0xFFFF:x}"'
        if request.headers.get("if-none-match") == etag:
            return Reply(304, b"", {"etag": etag})
        headers = {"content-type": "application/rss+xml", "etag": etag}
        return Reply(200, rss(titles), headers)


def rss(titles: list[str]) -> bytes:
    """A feed with these items, the newest first."""
    items = "".join(
        f"<item><guid isPermaLink='false'>id-{escape(title)}</guid><title>{escape(title)}</title>"
        f"<link>https://blog.example.com/{number}</link><description>&lt;p&gt;About "
        f"{escape(escape(title))}&lt;/p&gt;</description>"
        "<pubDate>Mon, 04 May 2026 10:20:30 +0000</pubDate></item>"
        for number, title in enumerate(reversed(titles))
    )
    head = "<title>Example blog</title><link>https://blog.example.com</link>"
    return f'<?xml version="1.0"?><rss version="2.0"><channel>{head}{items}</channel></rss>'.encode()
