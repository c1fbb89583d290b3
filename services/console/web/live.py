"""`/console/live`: stream changes of the overview as server-sent events."""

import secrets
from collections.abc import AsyncGenerator
from dataclasses import replace
from time import monotonic
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from services.console.hub_api import Member
from services.console.live.event_feed import EventFeed
from services.console.live.events import EventFilter, EventPage
from services.console.live.streams import Streams
from services.console.web.event_stream import EventStream, message
from services.console.web.frame import Frame
from services.console.web.overview import Overview, filter_of
from services.console.web.visits import Visit
from services.console.web.workspace_addresses import html_in
from shared.contracts.errors import DatabaseUnavailable, OverLimit

_FIGURES_S: Final = 2.0
_TICK_S: Final = 0.5
_ALIVE_S: Final = 3.0
"""Time without a message after which one is sent. The page marks its figures as old after 8 s without one."""
_RATE: Final = 10
"""Events that a viewer is sent in one tick; further ones are only counted."""
_FIRST: Final = 50
_MAX_STREAM_S: Final = 600
_SPREAD_S: Final = 120
"""Random time that is added, so that streams that began together do not end together."""
_MAX_STREAM_BYTES: Final = 8 * 1024 * 1024
"""Less than the gateway's limit for a streamed response. The browser connects again."""


class Live:
    """Stream the figures and events of a workspace to its viewers."""

    def __init__(self, overview: Overview, feed: EventFeed, streams: Streams, frame: Frame) -> None:
        self._overview = overview
        self._feed = feed
        self._streams = streams
        self._frame = frame

    async def show(self, request: Request, visit: Visit) -> Response:
        """Return a stream; or 429 with the limit that is reached.

        After a change of the workspace, the stream of a page of the former session has ended at once.
        """
        if request.query_params.get("session", visit.page_id) != visit.page_id:
            return Response(message("ended"), media_type="text/event-stream")
        try:
            stream = self._streams.open(visit.record_id, visit.member.key)
        except OverLimit as error:
            headers = {"Retry-After": "10"}
            return Response(str(error), 429, headers, media_type="text/plain")
        last = request.headers.get("last-event-id") or request.query_params.get("last", "")
        messages = self._messages(visit, filter_of(request), last[:200])
        return EventStream(messages, stream.close)

    async def _messages(self, visit: Visit, wanted: EventFilter, last: str) -> AsyncGenerator[bytes, None]:
        """Yield the messages of a stream: all figures and the newest events first, then changes."""
        workspace, session = visit.member.key.workspace, visit.record_id
        started = sent_at = monotonic()
        lifetime_s = _MAX_STREAM_S + secrets.randbelow(_SPREAD_S)
        figures, figures_at, sent = "", 0.0, 0
        position, gaps, available = None, self._feed.ring(workspace).gaps, True
        yield b"retry: 1000\n\n"
        while not self._streams.draining.has_started and sent <= _MAX_STREAM_BYTES:
            now, messages = monotonic(), []
            if now - started > lifetime_s:
                return
            if now >= figures_at:
                try:
                    key = await self._streams.key_of(session)
                except DatabaseUnavailable:
                    # The key may be revoked, so nothing is sent: the page marks its figures as old.
                    await self._streams.draining.wait(_TICK_S)
                    continue
                if key is None:
                    yield message("ended")
                    return
                figures_at = now + _FIGURES_S
                visit = replace(visit, member=Member(key, visit.member.address))
                html = html_in(visit.base, await self._overview.figures(visit))
                if html != figures:
                    figures = html
                    messages.append(message("figures", {"html": html}))
            ring, key = self._feed.ring(workspace), visit.member.key
            if position is None:
                page = ring.after(last, wanted, key, _FIRST) if last else ring.newest(wanted, key, _FIRST)
            else:
                page = ring.since(position, wanted, key, _RATE)
            missed = page.is_incomplete or ring.gaps != gaps
            position, gaps = page.position, ring.gaps
            if page.events or page.left_out or missed or available != self._feed.is_available:
                available = self._feed.is_available
                messages.append(self._rows(visit.base, page, missed=missed, available=available))
            if not messages and now - sent_at >= _ALIVE_S:
                messages.append(message("alive"))
            if messages:
                sent_at = now
                sent += sum(map(len, messages))
                yield b"".join(messages)
            await self._streams.draining.wait(_TICK_S)

    def _rows(self, base: str, page: EventPage, *, missed: bool, available: bool) -> bytes:
        """Return the message with the rows of events, oldest first."""
        rows = html_in(base, self._frame.fragment("event_rows.html", events=page.events))
        data = {"html": rows, "left_out": page.left_out, "missed": missed, "available": available}
        return message("events", data, page.events[-1].id if page.events else "")
