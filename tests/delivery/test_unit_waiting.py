"""Why a delivery waits, and until when, as a function of what the store has."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.delivery.waiting import Standing, Waiting, standing_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("standing", "due_s", "expected"),
    [
        (Standing(), 60, Waiting(at(60))),
        (Standing(), -60, Waiting(NOW, "queued")),
        (Standing("paused"), 60, Waiting(None, "paused")),
        (Standing("disabled", held_until=at(90)), -60, Waiting(None, "disabled")),
        (Standing(held_until=at(90)), -60, Waiting(at(90), "held")),
        (Standing(held_until=at(90), next_probe_at=at(30)), 60, Waiting(at(90), "held")),
        (Standing(held_until=at(90)), 120, Waiting(at(120))),
        (Standing(next_probe_at=at(30)), -60, Waiting(at(30), "circuit_open")),
        (Standing(next_probe_at=at(-5)), -60, Waiting(NOW, "circuit_open")),
        (Standing(next_probe_at=at(30)), 60, Waiting(at(60))),
        (Standing(limited_until=at(5)), -60, Waiting(at(5), "rate_limited")),
        (Standing(limited_until=at(5)), 60, Waiting(at(60))),
    ],
)
def test_why_and_until_when(standing: Standing, due_s: float, expected: Waiting) -> None:
    assert standing.of(at(due_s), NOW) == expected


def test_what_was_lifted_or_has_passed_holds_nothing() -> None:
    health: dict[str, Any] = {
        "circuit": "open",
        "next_probe_at": at(30),
        "held_until": at(90),
        "limited_until": at(5),
        "lifts": 2,
    }
    webhook = {"lifts": 2, "rate_limit": {"requests": 1, "period_s": 10}}
    assert standing_of(webhook, health, NOW) == Standing(None, at(90), at(30), at(5))
    assert standing_of(webhook | {"lifts": 3}, health, NOW) == Standing()
    assert standing_of({"lifts": 2}, health, at(91)) == Standing(next_probe_at=at(30))
    assert standing_of(webhook, health | {"circuit": "closed"}, at(91)) == Standing()
    assert standing_of({}, {}, NOW) == Standing()
    assert standing_of({}, {"circuit": "open"}, NOW) == Standing(), (
        "as 0.4.0 wrote it before there was a time"
    )
