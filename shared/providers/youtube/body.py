"""The Atom feed of YouTube's hub, as JSON.

`xml_events` refuses document types, so nothing expands and nothing is fetched. Depth, number of elements and
length of texts are limited. Pure.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from shared.contracts.errors import Malformed
from shared.wire.xml_events import parse_xml

NEW_VIDEO_WINDOW_S: Final = 900.0
"""A video whose entry changed at most this many seconds after its publication is new. The feed itself does
not distinguish a new video from one with a changed title or description."""

_MAX_DEPTH: Final = 20
_MAX_ELEMENTS: Final = 10_000
_MAX_TEXT_LENGTH: Final = 5000

_ATOM: Final = "http://www.w3.org/2005/Atom "
_TOMBSTONES: Final = "http://purl.org/atompub/tombstones/1.0 "
_YOUTUBE: Final = "http://www.youtube.com/xml/schemas/2015 "
_FEED: Final = _ATOM + "feed"
_KINDS: Final = {_ATOM + "entry": "video", _TOMBSTONES + "deleted-entry": "deleted"}
_FIELDS: Final = {
    (_YOUTUBE + "videoId",): "video_id",
    (_YOUTUBE + "channelId",): "channel_id",
    (_ATOM + "title",): "title",
    (_ATOM + "published",): "published",
    (_ATOM + "updated",): "updated",
    (_ATOM + "author", _ATOM + "name"): "channel",
    (_ATOM + "author", _ATOM + "uri"): "channel_url",
    (_TOMBSTONES + "by", _ATOM + "name"): "channel",
    (_TOMBSTONES + "by", _ATOM + "uri"): "channel_url",
}
"""Path of a text inside an entry, and its name in the event."""


def read(body: bytes) -> Any:
    """Return `{"events": [...]}`, one event for each entry of the feed. Raises `Malformed`.

    An event has `kind` (`published`, `updated` or `deleted`), `video_id`, and the feed's `channel_id`,
    `channel`, `channel_url`, `title`, `link`, `published` and `updated`. `change` distinguishes the changes
    of a video: the time of the update or deletion, or `first` for all entries of its first minutes.
    """
    feed = _Feed()
    parse_xml(body, feed, "the body")
    return {"events": [_event(entry) for entry in feed.entries]}


class _Feed:
    """Collects the entries of a feed."""

    def __init__(self) -> None:
        self.entries: list[dict[str, str]] = []
        self._path: list[str] = []
        self._elements = 0

    def start(self, namespace: str, local: str, attributes: Mapping[str, str]) -> None:
        name = f"{namespace} {local}"
        self._path.append(name)
        self._elements += 1
        if self._elements > _MAX_ELEMENTS or len(self._path) > _MAX_DEPTH:
            raise Malformed(f"the feed has over {_MAX_ELEMENTS} elements, or is over {_MAX_DEPTH} deep")
        if self._path[0] != _FEED:
            raise Malformed("the body is XML, but not an Atom feed")
        if len(self._path) == 2 and name in _KINDS:
            entry = {"kind": _KINDS[name]}
            for attribute in ("ref", "when"):
                if attribute in attributes:
                    entry[attribute] = attributes[attribute][:_MAX_TEXT_LENGTH]
            self.entries.append(entry)
        elif self._entry is not None and self._path[2:] == [_ATOM + "link"]:
            self._entry.setdefault("link", attributes.get("href", "")[:_MAX_TEXT_LENGTH])

    def end(self) -> None:
        self._path.pop()

    def text(self, data: str) -> None:
        field = _FIELDS.get(tuple(self._path[2:]))
        if field and self._entry is not None:
            self._entry[field] = (self._entry.get(field, "") + data)[:_MAX_TEXT_LENGTH]

    @property
    def _entry(self) -> dict[str, str] | None:
        """The entry that is being read."""
        return self.entries[-1] if len(self._path) >= 2 and self._path[1] in _KINDS else None


def _event(entry: dict[str, str]) -> dict[str, str]:
    """Return an entry as an event. Raises `Malformed` if it has no video id."""
    kind, reference, when = entry.pop("kind"), entry.pop("ref", ""), entry.pop("when", "")
    event = {name: value.strip() for name, value in entry.items()}
    if kind == "deleted":
        event["video_id"] = reference.removeprefix("yt:video:")
        event["channel_id"] = event.get("channel_url", "").rpartition("/channel/")[2]
        event["change"] = when
    elif _is_new(event):
        kind, event["change"] = "published", "first"
    else:
        kind, event["change"] = "updated", event.get("updated", "")
    if not event.get("video_id"):
        raise Malformed("an entry of the feed has no yt:videoId")
    return {"kind": kind, **{name: text for name, text in event.items() if text}}


def _is_new(event: dict[str, str]) -> bool:
    try:
        published = datetime.fromisoformat(event.get("published", ""))
        updated = datetime.fromisoformat(event.get("updated", ""))
        return (updated - published).total_seconds() <= NEW_VIDEO_WINDOW_S
    except (ValueError, TypeError):
        return False
