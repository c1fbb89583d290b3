"""The steps of a poll by a manifest's rules: which request comes next, and what its response means. Pure.

A poll is a sequence of pages. `page_request` gives the request of the next one, `read_page` the items of its
response that are new, and `poll_event` the event that one of them becomes. `after_page` gives the state that
is stored once those events are published. Whoever repeats a page after a crash gets the same events under the
same delivery ids.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import orjson

from shared.contracts.envelope import rfc3339
from shared.contracts.errors import InterlinkError, Malformed
from shared.manifests.connect_models import ApiRequest, JmesPath
from shared.manifests.polling import PollSpec
from shared.wire.bodies import dump_json
from shared.wire.expressions import Expression, ExpressionError, truthy
from shared.wire.timestamps import parse_timestamp

MAX_EVENTS_PER_PAGE: Final = 50
"""Items of one response that are published at a time. The rest of a longer page comes with the next step."""
_MAX_DETAILED_PER_PAGE: Final = 20
"""The same for items with details, each of which takes a request: a step has to end in time."""
MAX_SEEN: Final = 1000
"""Items that a trigger remembers."""
_MAX_ITEMS: Final = 1000
"""Items of one response that are read."""
_MAX_CURSOR_LENGTH: Final = 4000
_MAX_ID_LENGTH: Final = 500
_MAX_VALIDATOR_LENGTH: Final = 500
MAX_DATA_BYTES: Final = 128 * 1024
_DIGEST_BYTES: Final = 8
_CREATION_TOLERANCE: Final = timedelta(seconds=60)
"""By which clocks may differ, where an item's age is compared with the last poll."""


class UnusableResponse(InterlinkError):
    """The provider's response has not the form that the manifest describes."""


@dataclass(frozen=True, slots=True)
class PollState:
    """State of the polls of a trigger. All texts are '' while there is no value."""

    starting: bool = True
    """The first poll is not complete: nothing is published."""
    recovering: bool = False
    """The provider did not know the cursor any more: what was missed is asked for, behind a new one."""
    cursor: str = ""
    page: str = ""
    """The next page of the poll that is under way."""
    pending: str = ""
    """The cursor that counts once the last page is read."""
    seen: tuple[str, ...] = ()
    """Digests of items that were published or are not new, the newest last."""
    since: str = ""
    """Time at which the last complete poll began, RFC 3339."""
    began: str = ""
    """Time at which the poll that is under way began."""
    etag: str = ""
    modified: str = ""


@dataclass(frozen=True, slots=True)
class PollItem:
    """An item of a response: its value, and its digest for `PollState.seen`."""

    value: Any
    digest: str


@dataclass(frozen=True, slots=True)
class PollPage:
    """Result of one response: the new items to publish, the oldest first, and the state after the page.

    `is_last` says that nothing is left to ask for at once.
    """

    items: Sequence[PollItem]
    state: PollState
    is_last: bool
    is_whole: bool = field(default=True)
    """True if all of its new items are in `items`."""


@dataclass(frozen=True, slots=True)
class PollEvent:
    """The event that an item becomes."""

    event: str
    delivery_id: str
    occurred_at: str
    data: bytes


def begin(state: PollState, now: datetime) -> PollState:
    """Return the state for the next page; the first page of a poll sets when it began."""
    return state if state.began else replace(state, began=rfc3339(now))


def page_request(spec: PollSpec, state: PollState) -> tuple[ApiRequest, dict[str, str]]:
    """Return the request for the next page and its `{poll:...}` values, besides the params."""
    cursor, row = state.cursor, max(1, _integer(state.cursor))
    if spec.cursor.by in ("newest", "clock") and not cursor:
        cursor = _first_time(spec, state)
    values = {"poll:cursor": cursor, "poll:page": state.page}
    since = parse_timestamp(state.since)
    if since is not None:
        values |= {"poll:since": state.since, "poll:since_s": str(int(since.timestamp()))}
    if spec.cursor.by in ("rows", "changed_rows"):
        if spec.cursor.by == "changed_rows":
            row = 1
        values |= {"poll:row": str(row), "poll:row_end": str(row + spec.cursor.page_rows - 1)}
    if state.starting and spec.start is not None:
        return spec.start.request, values
    if state.recovering and spec.recover is not None:
        return spec.recover.request, values
    if state.page and spec.page_request is not None:
        return spec.page_request, values
    return spec.request, values


def expire(spec: PollSpec, state: PollState) -> PollState:
    """Return the state after the provider said that it does not know the cursor, or the page, any more.

    An unknown page begins the poll again. An unknown cursor begins with a first poll; `since` stays, for
    what was missed.
    """
    if state.page and spec.cursor.by != "token":
        return replace(state, page="", pending="")
    return PollState(recovering=spec.recover is not None, seen=state.seen, since=state.since)


def read_page(spec: PollSpec, state: PollState, document: Any) -> PollPage:
    """Read the response to `page_request`. Raises `UnusableResponse`."""
    if state.starting and spec.start is not None:
        return _read_start(spec, state, document)
    selection = spec.recover.items if state.recovering and spec.recover else spec.items
    values = _select(selection, document)
    if values is None:
        values = []
    if not isinstance(values, list):
        raise UnusableResponse("the provider's response has no list of items where one is expected")
    values = values[:_MAX_ITEMS]
    if spec.cursor.by == "rows":
        return _read_rows(spec, state, values)
    if spec.cursor.by == "changed_rows":
        return _read_changed_rows(spec, state, values)
    known = set(state.seen)
    # An item without an id could not be told from another one: it is left out.
    identities = ((value, _identity(spec, value)) for value in values)
    items = [PollItem(value, _digest(identity)) for value, identity in identities if identity]
    new = [item for item in items if item.digest not in known]
    new = list({item.digest: item for item in (reversed(new) if spec.newest_first else new)}.values())
    if state.starting:
        chosen, published = new, []
    else:
        limit = _MAX_DETAILED_PER_PAGE if spec.details else MAX_EVENTS_PER_PAGE
        chosen = published = new[:limit]
    seen = [item.digest for item in chosen]
    if spec.cursor.by == "seen":  # what is in the response comes again next time: it must not be forgotten
        current = [item.digest for item in items if item.digest in known]
        stored = set(current)
        seen = [*(digest for digest in state.seen if digest not in stored), *current, *seen]
    else:
        seen = [*state.seen, *seen]
    state = replace(state, seen=tuple(seen[-MAX_SEEN:]))
    if len(chosen) < len(new):  # the same page again, without what is published by then
        return PollPage(published, state, is_last=False, is_whole=False)
    following, is_last = _following(spec, state, values, document)
    return PollPage(published, following, is_last)


def poll_event(spec: PollSpec, state: PollState, item: PollItem) -> PollEvent | None:
    """Return the event of an item with its details; None if the trigger does not want it.

    `state` is that of the poll when it was sent. Raises `Malformed` if the item has no data, or none that can
    be written as JSON.
    """
    value = item.value
    if spec.where and not truthy(_select(spec.where, value)):
        return None
    if spec.age is not None and not _has_age(spec, state, value):
        return None
    selected = _select(spec.data, value)
    if selected is None:
        raise Malformed("the item has not the form that the manifest describes")
    data = dump_json(selected)
    identity = _identity(spec, value)
    if len(data) > MAX_DATA_BYTES:
        data = orjson.dumps({"id": identity[:_MAX_ID_LENGTH], "too_large": True})
    occurred = parse_timestamp(_text(_select(spec.occurred, value)))
    return PollEvent(
        spec.event,
        identity if len(identity) <= _MAX_ID_LENGTH else _digest(identity),
        rfc3339(occurred) if occurred else "",
        data,
    )


def conditions(spec: PollSpec, state: PollState) -> dict[str, str]:
    """Return the headers that ask for a response only if it has changed."""
    if not spec.conditional or state.starting or state.page:
        return {}
    headers = {"If-None-Match": state.etag, "If-Modified-Since": state.modified}
    return {name: text for name, text in headers.items() if text}


def with_validators(page: PollPage, headers: Mapping[str, str]) -> PollPage:
    """Return the page with the response's ETag and Last-Modified, unless a part of it comes again."""
    if not page.is_whole:
        return page
    etag, modified = _validator(headers, "etag"), _validator(headers, "last-modified")
    return replace(page, state=replace(page.state, etag=etag, modified=modified))


def _validator(headers: Mapping[str, str], name: str) -> str:
    """Return a header's text; '' if it is too long, or has bytes that cannot be stored or sent again."""
    text = headers.get(name, "")
    return text if len(text) <= _MAX_VALIDATOR_LENGTH and text.isascii() and text.isprintable() else ""


def completed(state: PollState) -> PollState:
    """Return the state after a poll that brought nothing, because nothing has changed."""
    return replace(state, since=state.began or state.since, began="")


def _read_start(spec: PollSpec, state: PollState, document: Any) -> PollPage:
    """Read a response of the first poll."""
    assert spec.start is not None  # noqa: S101 -- the caller has looked
    cursor = _text(_select(spec.start.cursor, document)) or state.pending
    page = _text(_select(spec.start.page, document))
    if page:
        return PollPage([], replace(state, page=page, pending=cursor), is_last=False)
    cursor = cursor or spec.start.empty
    if not cursor:
        raise UnusableResponse("the provider's response has no cursor to begin with")
    following = replace(state, starting=False, cursor=cursor, page="", pending="")
    if following.recovering and following.since:
        return PollPage([], following, is_last=False)
    return PollPage([], replace(completed(following), recovering=False), is_last=True)


def _following(
    spec: PollSpec, state: PollState, values: Sequence[Any], document: Any
) -> tuple[PollState, bool]:
    """Return the state after a page whose items are all published, and whether it was the last one."""
    if state.recovering and spec.recover is not None:
        page = _text(_select(spec.recover.page, document))
        if page:
            return replace(state, page=page), False
        return replace(completed(state), recovering=False, page=""), True
    page = _text(_select(spec.page, document))
    cursor = _new_cursor(spec, state, values, document)
    if page:
        return replace(state, page=page, pending=cursor), False
    following = replace(state, starting=False, cursor=cursor, page="", pending="")
    if truthy(_select(spec.more, document)) and cursor != state.cursor:
        return following, False
    return completed(following), True


def _new_cursor(spec: PollSpec, state: PollState, values: Sequence[Any], document: Any) -> str:
    earlier = state.pending or state.cursor
    if spec.cursor.by == "token":
        return _text(_select(spec.cursor.value, document)) or earlier
    if spec.cursor.by == "clock":
        began = parse_timestamp(state.began)
        return rfc3339(began - timedelta(seconds=spec.cursor.overlap_s)) if began else earlier
    if spec.cursor.by == "newest":
        earlier = earlier or _first_time(spec, state)
        found = [text for value in values if (text := _text(_select(spec.cursor.value, value)))]
        return max([earlier, *found], key=_integer) if spec.cursor.numeric else max([earlier, *found])
    return ""


def _read_rows(spec: PollSpec, state: PollState, values: Sequence[Any]) -> PollPage:
    """Read rows from the last known one on. If that is gone, the rows are counted again."""
    known = _integer(state.cursor)
    if known and not values:
        return PollPage([], PollState(since=state.since), is_last=False)
    rows = values[1:] if known else values
    taken = rows if state.starting else rows[:MAX_EVENTS_PER_PAGE]
    items = [_row(known + offset, row) for offset, row in enumerate(taken, 1)]
    is_last = len(taken) == len(rows) and len(values) < spec.cursor.page_rows
    following = replace(state, cursor=str(known + len(taken)), starting=state.starting and not is_last)
    return PollPage([] if state.starting else items, completed(following) if is_last else following, is_last)


def _read_changed_rows(spec: PollSpec, state: PollState, values: Sequence[Any]) -> PollPage:
    """Compare rows with their digests of the last poll. Rows beyond those are new, not changed."""
    rows = [_row(number, row) for number, row in enumerate(values[: spec.cursor.page_rows], 1)]
    changed = [item for item, before in zip(rows, state.seen, strict=False) if item.digest != before]
    published = [] if state.starting else changed[:MAX_EVENTS_PER_PAGE]
    done = {id(item) for item in published} if not state.starting else {id(item) for item in rows}
    digests = [
        item.digest if id(item) in done or number >= len(state.seen) else state.seen[number]
        for number, item in enumerate(rows)
    ]
    following = replace(state, seen=tuple(digests[:MAX_SEEN]), starting=False)
    is_last = state.starting or len(published) == len(changed)
    return PollPage(published, completed(following) if is_last else following, is_last)


def _row(number: int, values: Any) -> PollItem:
    value = {"row": number, "values": values}
    return PollItem(value, _digest(dump_json(value).decode()))


def _identity(spec: PollSpec, value: Any) -> str:
    """Return what makes the event of an item one and the same; '' for an item without an id."""
    identity = _text(_select(spec.id, value))
    if not identity or not spec.id_of_content:
        return identity
    # The details do not count: they may change while the item does not.
    content = {name: value[name] for name in value if name != "detail"} if isinstance(value, dict) else value
    return f"{identity}:{_digest(dump_json(content).decode())}"


def _has_age(spec: PollSpec, state: PollState, value: Any) -> bool:
    """Return whether an item is new or older, as the trigger wants it; true without a time of creation."""
    assert spec.age is not None  # noqa: S101 -- the caller has looked
    created, since = parse_timestamp(_text(_select(spec.age.created, value))), parse_timestamp(state.since)
    if created is None or since is None:
        return spec.age.wanted == "older" or since is None
    is_new = created >= since - _CREATION_TOLERANCE
    return is_new == (spec.age.wanted == "new")


def _first_time(spec: PollSpec, state: PollState) -> str:
    """Return the cursor of the first poll: when it began, less the overlap."""
    began = parse_timestamp(state.began)
    return rfc3339(began - timedelta(seconds=spec.cursor.overlap_s)) if began else ""


def _select(selection: JmesPath, document: Any) -> Any:
    """Apply an expression; None if it fails on this document."""
    try:
        return _compiled(selection).apply(document)
    except ExpressionError:
        return None


@lru_cache(maxsize=256)
def _compiled(selection: JmesPath) -> Expression:
    return Expression(selection)


def _text(value: Any) -> str:
    """Return a text or a number as a text; '' for anything else, and for what is too long."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    text = str(value)
    return text if len(text) <= _MAX_CURSOR_LENGTH else ""


def _integer(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 40 else 0


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
