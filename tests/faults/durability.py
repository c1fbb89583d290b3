"""The rig of the durability tests: delivery between an outside producer and an outside receiver.

Three outgoing webhooks: `none` wants every event, and so does `flaky`, which refuses one in ten at first;
`strict` wants half of them, in order, and refuses one in sixty: what is behind a refused one has to wait.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

from aiokafka import AIOKafkaConsumer

from interlink.embedded import EmbeddedServer
from shared.contracts.envelope import rfc3339
from shared.contracts.topics import DEAD_LETTERS, DELIVERY_REQUESTED, Topic
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.external import ExternalProducer, ExternalReceiver
from tests.support.external_producer import TYPES
from tests.support.group_lag import delivery_is_behind
from tests.support.hub import Hub
from tests.support.journal import Fact
from tests.support.report import Report, recovery, report
from tests.support.tap import RawRecord, Tap

DELIVERY: Final = "delivery"
WEBHOOKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "strict": {"ordering": "strict", "events": TYPES[:1]},
    "none": {"events": TYPES},
    "flaky": {"events": TYPES},
}
REFUSE: Final = {"strict": 60, "flaky": 10}
RETRY: Final = {"schedule": [0] + [0.3] * 40}
TIMEOUT_S: Final = 1
CONVERSATIONS: Final = 8
RATE: Final = 25.0
_MIN_EVENTS: Final = 101
"""Events per second; two and a half times as many deliveries."""

_QUIET_S: Final = 3.0
_STUCK_S: Final = 90.0
_UNFINISHED: Final = ("pending", "delivering", "retrying")


@dataclass(frozen=True)
class Rig:
    """A delivery service under test; `webhooks` are their ids by the receiver's path."""

    folder: Path
    hub: Hub
    bus: Bus
    store: Store
    half: EmbeddedServer
    """The store's process, which is ours to kill."""
    receiver: ExternalReceiver
    webhooks: Mapping[str, str]
    note: Callable[[str], None]

    def load(self) -> "Load":
        """Load until it is stopped: `with rig.load() as load: ...`."""
        return Load(self)

    def restart(self) -> float:
        """Start delivery again after its end; the moment of the start. Returns when it is ready."""
        back = monotonic()
        self.hub.start_service(DELIVERY)
        self.hub.wait_ready(DELIVERY)
        return back

    def nothing_left(self) -> bool:
        """Whether delivery has nothing to do: all read and committed, nothing open in the log."""
        if delivery_is_behind(self.bus):
            return False
        # One list with every state: a delivery that is sent again may be in none of three lists read in turn.
        return not any(
            delivery["status"] in _UNFINISHED
            for webhook in self.webhooks.values()
            for delivery in self.hub.deliveries(webhook_id=webhook)
        )


class Load:
    """One run of the outside producer, and what came of it."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        run = f"r{uuid4().hex[:8]}"
        self._prefix = f"{run}."
        self._began = rfc3339(datetime.now(UTC))
        self._producer = ExternalProducer(rig.folder, run)
        self._answers_before = len(rig.receiver.facts())
        self._requested = Tap(rig.bus, DELIVERY_REQUESTED.name)
        self._dead = Tap(rig.bus, DEAD_LETTERS.name)

    def __enter__(self) -> Self:
        bootstrap = self._rig.bus.env["KAFKA_BOOTSTRAP_SERVERS"]
        self._producer.start(bootstrap, conversations=CONVERSATIONS, rate=RATE)
        self.goes_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._producer.stop()

    def acknowledged(self, since: float = 0, until: float = float("inf")) -> list[Fact]:
        """The events that were acknowledged in this time."""
        return [
            fact
            for fact in self._producer.facts()
            if fact["what"] == "acknowledged" and since <= fact["at"] < until
        ]

    def missing(self, acknowledged: Iterable[Fact]) -> int:
        """How many of the deliveries that these events stand for were not taken yet."""
        taken = {(fact["to"], fact["event"]) for fact in self._answers() if fact["status"] == 200}
        return len(_owed(acknowledged) - taken)

    def goes_on(self, events: int = 40) -> None:
        """Wait until so many more events are acknowledged."""
        wanted = len(self.acknowledged()) + events

        def acknowledged() -> bool:
            """The producer gets its acknowledgements."""
            assert self._producer.running()
            return len(self.acknowledged()) >= wanted

        eventually(acknowledged, within_s=90)

    def caught_up(self, since: float, until: float) -> None:
        """Wait until what was acknowledged in this time is delivered."""

        def delivered() -> bool:
            """What was acknowledged in the meantime is delivered."""
            return monotonic() > until and self.missing(self.acknowledged(since, until)) == 0

        eventually(delivered, within_s=90)

    def nothing_is_lost(self, what: str, back: float | None = None) -> Report:
        """End the load and see that all of it arrives, in order, and that the log knows; note the report."""
        self.goes_on(max(0, _MIN_EVENTS - len(self.acknowledged())))
        self._producer.stop()
        self._settle()
        found = self._report()
        line = f"{what}: {found}"
        if back is not None:
            first_s, empty_s = recovery(self._producer.facts(), self._answers(), back)
            line += f"; first delivery {first_s:.1f} s later, backlog empty {empty_s:.1f} s later"
        self._rig.note(line)
        assert found.acknowledged >= _MIN_EVENTS, line
        assert found.lost_count == 0, f"lost: {line}; in the log: {self._states(found)}"
        assert not found.invented, line
        assert not any(found.out_of_order.values()), f"out of order: {line}"
        self._log_has_all()
        assert [letter.attributes for letter in self._dead.look()] == []
        return found

    def not_in_the_log(self) -> set[tuple[str, str]]:
        """The deliveries, as path and event, that are owed and that the log knows nothing about."""
        return _owed(self.acknowledged()) - self._logged()

    def _settle(self) -> None:
        """Wait until everything is delivered, or nothing moves and there is nothing left to do."""
        owed = self.acknowledged()
        left, moved = self.missing(owed), monotonic()
        while left:
            sleep(0.1)
            if (now_left := self.missing(owed)) < left:
                left, moved = now_left, monotonic()
            still = monotonic() - moved
            if still > _STUCK_S or (still > _QUIET_S and self._rig.nothing_left()):
                return

    def _answers(self) -> list[Fact]:
        return [
            fact
            for fact in self._rig.receiver.facts()[self._answers_before :]
            if fact["event"].startswith(self._prefix)
        ]

    def _report(self) -> Report:
        strict = self._rig.webhooks["strict"].encode()
        order = [one.attributes["ce_id"] for one in self._requested.look() if one.key == strict]
        wanted = {path: webhook["events"] for path, webhook in WEBHOOKS.items()}
        return report(self._producer.facts(), self._answers(), wanted, {"strict": order})

    def _states(self, found: Report) -> list[tuple[str, str, str]]:
        """What the log says of each lost delivery: its path, event and status."""
        return [
            (path, one["event_id"], one["status"])
            for path, webhook in self._rig.webhooks.items()
            for one in self._rig.hub.deliveries(webhook_id=webhook, since=self._began)
            if one["event_id"] in found.lost[path]
        ]

    def _log_has_all(self) -> None:
        owed = _owed(self.acknowledged())

        def delivered() -> bool:
            """The log has every delivery as delivered."""
            return owed <= self._logged(status="delivered")

        eventually(delivered, within_s=60, every_s=0.3)

    def _logged(self, **query: str) -> set[tuple[str, str]]:
        """The deliveries of this run that the log has, as path and event."""
        found = set[tuple[str, str]]()
        for path, webhook in self._rig.webhooks.items():
            log = self._rig.hub.deliveries(webhook_id=webhook, since=self._began, **query)
            found |= {(path, one["event_id"]) for one in log}
        return found


def _owed(acknowledged: Iterable[Fact]) -> set[tuple[str, str]]:
    """The deliveries, as path and event, that these events stand for."""
    return {
        (path, fact["event"])
        for fact in acknowledged
        for path, webhook in WEBHOOKS.items()
        if fact["type"] in webhook["events"]
    }


def chat_event(name: str, kind: str) -> RawRecord:
    """Return an event of the default workspace, all in one partition."""
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": name,
        "ce_type": kind,
        "ce_source": "/tests",
        "ce_time": rfc3339(datetime.now(UTC)),
        "content-type": "application/json",
        "workspace": "default",
    }
    return RawRecord(kind.encode(), b"{}", [(header, text.encode()) for header, text in attributes.items()])


async def rebalance(bus: Bus, group: str, topic: Topic) -> None:
    """Join a group and leave it again: its members lose their partitions and get them back."""
    member = AIOKafkaConsumer(
        topic.name,
        bootstrap_servers=bus.env["KAFKA_BOOTSTRAP_SERVERS"],
        group_id=group,
        enable_auto_commit=False,
    )
    async with asyncio.timeout(60), member:
        pass
