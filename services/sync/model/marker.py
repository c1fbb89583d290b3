"""The marker that the hub leaves on a message that it sends, and what it says when it comes back."""

from typing import NamedTuple


class Marker(NamedTuple):
    """Which part of which message at which leg a sent message is."""

    synced_id: str
    leg: str
    part: int
    revision: int


def marker_for(synced_id: str, leg: str, part: int, revision: int) -> str:
    """Return the marker of a part. Each revision has another one, because Slack wants it so."""
    return f"{synced_id}.{leg}.{part}.{revision}"


def marker_parts(marker: str) -> Marker | None:
    """Read a marker; None for that of another hub or of another form."""
    parts = marker.split(".")
    if len(parts) != 4 or not parts[0].startswith("syn_"):
        return None
    synced_id, leg, part, revision = parts
    if not (part.isdecimal() and revision.isdecimal() and len(part) < 4 and len(revision) < 20):
        return None
    return Marker(synced_id, leg, int(part), int(revision))
