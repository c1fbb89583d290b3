"""Why a delivery waits, and until when, as a function of what the store has."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.delivery.engine.waiting_reasons import HoldState, WaitingState, hold_state_of
from services.delivery.log.endpoint_health import EndpointHealthRecord
from services.delivery.webhooks.repository import SendConditions

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def conditions(**fields: Any) -> SendConditions:
    return SendConditions.from_document({"_id": "wh_1", "enabled": True, **fields})


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("hold_state", "due_s", "expected"),
    [
        (HoldState(), 60, WaitingState(at(60))),
        (HoldState(), -60, WaitingState(NOW, "queued")),
        (HoldState("paused"), 60, WaitingState(None, "paused")),
        (HoldState("disabled", held_until=at(90)), -60, WaitingState(None, "disabled")),
        (HoldState(held_until=at(90)), -60, WaitingState(at(90), "held")),
        (HoldState(held_until=at(90), next_probe_at=at(30)), 60, WaitingState(at(90), "held")),
        (HoldState(held_until=at(90)), 120, WaitingState(at(120))),
        (HoldState(next_probe_at=at(30)), -60, WaitingState(at(30), "circuit_open")),
        (HoldState(next_probe_at=at(-5)), -60, WaitingState(NOW, "circuit_open")),
        (HoldState(next_probe_at=at(30)), 60, WaitingState(at(60))),
        (HoldState(limited_until=at(5)), -60, WaitingState(at(5), "rate_limited")),
        (HoldState(limited_until=at(5)), 60, WaitingState(at(60))),
    ],
)
def test_why_and_until_when(hold_state: HoldState, due_s: float, expected: WaitingState) -> None:
    assert hold_state.waiting_state(at(due_s), NOW) == expected


def test_what_was_lifted_or_has_passed_holds_nothing() -> None:
    health = EndpointHealthRecord(
        id="wh_1",
        circuit="open",
        next_probe_at=at(30),
        held_until=at(90),
        limited_until=at(5),
        resets=2,
    )
    webhook = conditions(lifts=2, rate_limit={"requests": 1, "period_s": 10})
    reset = conditions(lifts=3, rate_limit={"requests": 1, "period_s": 10})
    assert hold_state_of(webhook, health, NOW) == HoldState(None, at(90), at(30), at(5))
    assert hold_state_of(reset, health, NOW) == HoldState()
    assert hold_state_of(conditions(lifts=2), health, at(91)) == HoldState(next_probe_at=at(30))
    assert hold_state_of(webhook, health.model_copy(update={"circuit": "closed"}), at(91)) == HoldState()
    assert hold_state_of(conditions(), EndpointHealthRecord(id="wh_1"), NOW) == HoldState()
    assert hold_state_of(conditions(), EndpointHealthRecord(id="wh_1", circuit="open"), NOW) == HoldState(), (
        "as 0.4.0 wrote it before there was a time"
    )
