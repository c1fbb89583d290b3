"""Coordinates of hourly bars for SVG that the server renders."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

HOURS: Final = 24
HEIGHT: Final = 40
_STEP: Final = 10


def hourly_bars(
    hours: Sequence[Mapping[str, Any]],
    shown: int = HOURS,
    good_field: str = "delivered",
    bad_field: str = "failed_attempts",
) -> list[Mapping[str, Any]]:
    """Return a bar for each of the last `shown` hours up to the newest one: position, heights and a title.

    `good` is the height of what succeeded, `bad` that of what failed, on top of it.
    """
    if not hours:
        return []
    by_hour = {datetime.fromisoformat(hour["hour"]): hour for hour in hours}
    last, largest = max(by_hour), max(hour[good_field] + hour[bad_field] for hour in hours) or 1
    bars: list[Mapping[str, Any]] = []
    for number in range(shown):
        at = last - timedelta(hours=shown - 1 - number)
        hour = by_hour.get(at)
        if hour is None:
            continue
        together = hour[good_field] + hour[bad_field]
        good = round(HEIGHT * hour[good_field] / largest, 1)
        bad = round(HEIGHT * hour[bad_field] / largest, 1)
        bars.append(
            {
                "x": number * _STEP,
                "good": good,
                "bad": bad,
                "title": f"{at:%Y-%m-%d %H:%M} UTC: {hour[good_field]:,} of {together:,} succeeded",
            }
        )
    return bars


def count_bars(hours: Sequence[Mapping[str, Any]], shown: int = HOURS) -> list[Mapping[str, Any]]:
    """Return a bar for each of the last `shown` hours with a count, up to the newest one."""
    if not hours:
        return []
    by_hour = {datetime.fromisoformat(hour["hour"]): hour["count"] for hour in hours}
    last, largest = max(by_hour), max(by_hour.values()) or 1
    return [
        {
            "x": _STEP * (shown - 1 - round((last - at) / timedelta(hours=1))),
            "height": round(HEIGHT * count / largest, 1),
            "title": f"{at:%Y-%m-%d %H:%M} UTC: {count:,}",
        }
        for at, count in by_hour.items()
        if last - at < timedelta(hours=shown)
    ]
