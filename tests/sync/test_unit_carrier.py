"""What follows from how a change was applied: states, the status of the mapping, and retries."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog

from services.sync.carry.carrier import Carrier
from services.sync.carry.outcomes import Change, Done, Failed, Outcome, SetAside, Stopped, Waits
from services.sync.model.mapping import Leg, Mapping, MappingStatus
from services.sync.model.synced_message import SyncedMessage
from shared.contracts.chat import ChatAuthor
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import BrokerUnavailable
from shared.contracts.sync import Kind, SourceRef, SyncRequested
from shared.manifests.channel_types import ChannelFailure
from shared.runtime.clock import utcnow

_NOW = utcnow()
_LEG = Leg(id="slack", provider="slack", account="T1", conversation="C1")
_CHAT = Leg(id="chat", provider="chat", account="ws", conversation="general")


@dataclass
class Stage:
    """A carrier with one mapping, and what it asks of the parts around it, by name."""

    status: MappingStatus = "active"
    apply: Callable[[Change], Awaitable[Outcome]] | None = None
    calls: list[str] = field(default_factory=list)
    received_at: datetime = field(default_factory=utcnow)

    async def carry(self, kind: Kind = "message") -> Outcome:
        return await self.carrier().carry(self.change(kind))

    async def give_up(self) -> Outcome:
        return await self.carrier().give_up(
            self.change("message"), "A fault of the hub: its log has the error."
        )

    def carrier(self) -> Carrier:
        times: dict[str, Any] = {"created_at": _NOW, "changed_at": _NOW, "failed_leg": _LEG.id}
        self.mapping = Mapping(id="map_1", workspace="ws", legs=(_LEG, _CHAT), status=self.status, **times)
        parts: list[Any] = [*[self] * 7, structlog.get_logger(), self]
        return Carrier(*parts)

    def change(self, kind: Kind) -> Change:
        received_at = rfc3339(utcnow())
        request = SyncRequested(
            request_id="req_1",
            mapping_id="map_1",
            leg_id=_LEG.id,
            kind=kind,
            synced_id="syn_1",
            source=SourceRef(provider="chat", account="ws", conversation="general", external_id="m"),
            author=ChatAuthor(id="usr_ada"),
            occurred_at=received_at,
            received_at=received_at,
        )
        return Change(request, "ws", "", "lane", "slack:T1", 0, 0, self.received_at)

    # The parts around it

    async def ensure_current(self) -> None: ...

    def get(self, _: str) -> Mapping:
        return self.mapping

    async def find(self, synced_id: str) -> SyncedMessage:
        texts = dict.fromkeys(("message_id", "provider", "account", "conversation", "external_id"), "x")
        times: dict[str, Any] = {"received_at": _NOW, "expires_at": _NOW}
        return SyncedMessage(id=synced_id, workspace="ws", mapping_id="map_1", leg=_CHAT.id, **texts, **times)

    async def signal(self, *_: object) -> None:
        self.calls.append("signal")

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        async def noted(*_: object, **__: object) -> None:
            self.calls.append(name)

        return noted


def applied(method: str = "", error: Exception | None = None) -> Callable[..., Awaitable[Outcome]]:
    """Return how a change is applied: with a call of this method, if any, and this error."""

    async def apply(change: Change, *_: object) -> Outcome:
        change.method = method
        if error is not None:
            raise error
        return Done()

    return apply


async def test_a_mapping_in_error_works_again_once_its_provider_took_a_call() -> None:
    assert await (nothing_to_do := Stage("error", applied())).carry() == Done()
    assert nothing_to_do.calls == []
    assert await (sent := Stage("error", applied("chat.postMessage"))).carry() == Done()
    assert sent.calls == ["clear_error"]


async def test_a_message_that_its_provider_calls_gone_has_failed() -> None:
    gone = ChannelFailure("gone", "message_not_found", "Slack does not know what it answers.")
    assert await (message := Stage(apply=applied("chat.postMessage", gone))).carry() == Failed(gone.text)
    assert message.calls == ["failed", "write"]
    assert await (edit := Stage(apply=applied("chat.update", gone))).carry("edit") == Done()
    assert edit.calls == ["gone"]


async def test_a_message_that_was_sent_stays_so_if_its_state_cannot_be_published() -> None:
    stage = Stage(apply=applied("chat.postMessage", BrokerUnavailable("Kafka does not answer")))
    with pytest.raises(BrokerUnavailable):
        await stage.carry()
    assert stage.calls == []


async def test_a_message_that_the_hub_cannot_apply_has_failed_at_its_target_too() -> None:
    assert isinstance(await (faulty := Stage()).give_up(), Failed)
    assert faulty.calls == ["failed", "write"]

    class Faulty(Stage):
        async def failed(self, *_: object, **__: object) -> None:
            raise ValueError("the same bug")

    assert isinstance(await (faulty := Faulty()).give_up(), Failed)
    assert faulty.calls == []


async def test_a_change_is_not_set_aside_for_ever() -> None:
    aside, stage = SetAside(1.0, "Its message is not sent yet."), Stage(apply=ending_with(Done()))
    for apply in (ending_with(aside), applied(error=Stopped(aside))):
        stage.apply, stage.received_at = apply, utcnow()
        assert await stage.carry("edit") == aside
        stage.received_at = _NOW - timedelta(days=2)
        assert await stage.carry("edit") == Failed(aside.reason)
    # The provider's rates let it through in the end, however many are before it.
    stage.apply = applied(error=Stopped(waits := Waits(5.0, "The provider allows no more calls.")))
    assert await stage.carry() == waits


def ending_with(outcome: Outcome) -> Callable[..., Awaitable[Outcome]]:
    """Return how a change is applied, with this outcome."""

    async def apply(*_: object) -> Outcome:
        return outcome

    return apply


async def test_a_signal_of_a_paused_mapping_is_dropped() -> None:
    assert await (paused := Stage("paused")).carry("signal") == Done()
    assert paused.calls == []
    assert await (active := Stage()).carry("signal") == Done()
    assert active.calls == ["signal"]
