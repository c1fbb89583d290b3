"""A service that notes when each event passes each stage. Run by `bench.trace`.

SIGUSR1 starts the trace, SIGUSR2 writes it. Methods are wrapped from outside, so that the services have no
code for it; a name that no longer exists fails at the start. The times are nanoseconds of the monotonic
clock, which all processes share. An event is known by the delivery id that the load generator gave it.
"""

import importlib
import json
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from bench.webhook import sent_event
from shared.runtime.mongo import InsertOne, UpdateOne
from shared.runtime.service import run

_EVENT_ID: Final = re.compile(rb"[0-9a-f]{16}-[0-9a-f]+")


class Trace:
    """Stages of each event with their times; empty until it starts."""

    def __init__(self) -> None:
        self._is_on = False
        self.stages: list[tuple[str, str, int]] = []
        """The stage, the event, and the time."""
        self.deliveries: dict[str, str] = {}
        """The event of each delivery."""
        self.by_delivery: list[tuple[str, str, int]] = []
        """The stage, the delivery, and the time."""
        self.records: list[tuple[str, str, int, int]] = []
        """The event, the topic, the partition and the offset of each record."""
        self.commits: list[tuple[str, int, int, int]] = []
        """The topic, the partition, the committed offset, and the time."""
        self.calls: dict[str, list[float]] = {}
        """Milliseconds of each call, or an amount, by name."""

    def start(self) -> None:
        self.__init__()  # type: ignore[misc]  # everything is forgotten
        self._is_on = True

    def stop(self, out: Path) -> None:
        self._is_on = False
        out.write_text(json.dumps({name: value for name, value in vars(self).items() if name[0] != "_"}))

    def note(self, stage: str, event: str | None, at: int | None = None) -> None:
        if self._is_on and event:
            self.stages.append((stage, event, at or monotonic_ns()))

    def note_deliveries(self, stage: str, deliveries: Iterable[str], at: int) -> None:
        if self._is_on:
            self.by_delivery += [(stage, delivery, at) for delivery in deliveries]

    def count(self, name: str, value: float) -> None:
        if self._is_on:
            self.calls.setdefault(name, []).append(value)


def event_of(value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> str | None:
    """Return the event of a record: a header of the gateway's has it, and a rendered body."""
    for _, header in headers:
        if _EVENT_ID.fullmatch(header):
            return header.decode()
    found = sent_event(value or b"")
    return found[0].decode() if found else None


def install(trace: Trace) -> None:
    """Wrap every traced method. Raises `RuntimeError` if one does not exist."""
    _wrap("shared.runtime.kafka.producer:Producer.publish", _publish(trace))
    _wrap("shared.runtime.kafka.producer:Producer.publish_all", _publish_all(trace))
    _wrap("services.delivery.log.deliveries:Deliveries.open_by_id", _open_by_id(trace))
    _wrap("services.delivery.log.deliveries:Deliveries.write", _write(trace))
    _wrap("services.delivery.engine.attempt:Attempter.attempt", _attempt(trace))
    _wrap("services.delivery.engine.backlog:Backlog.append", _append(trace))
    _replace(AIOKafkaConsumer, "getmany", _getmany(trace))
    _replace(AIOKafkaConsumer, "commit", _commit(trace))


def _wrap(name: str, wrapper: Callable[[Any], Any]) -> None:
    module, _, path = name.partition(":")
    owner, _, method = path.partition(".")
    try:
        _replace(getattr(importlib.import_module(module), owner), method, wrapper)
    except (ImportError, AttributeError) as error:
        raise RuntimeError(f"bench.traced wraps {name}, which does not exist ({error}): adapt it") from None


def _replace(owner: Any, method: str, wrapper: Callable[[Any], Any]) -> None:
    setattr(owner, method, wrapper(getattr(owner, method)))


def _publish(trace: Trace) -> Callable[[Any], Any]:
    def wrap(publish: Any) -> Any:
        async def traced(self: Any, record: Any, **options: Any) -> Any:
            event = event_of(record.value, record.headers)
            trace.note(f"produce {record.topic.name}", event)
            position = await publish(self, record, **options)
            trace.note(f"ack {record.topic.name}", event)
            return position

        return traced

    return wrap


def _publish_all(trace: Trace) -> Callable[[Any], Any]:
    def wrap(publish_all: Any) -> Any:
        async def traced(self: Any, records: Sequence[Any], **options: Any) -> Any:
            events = [(record.topic.name, event_of(record.value, record.headers)) for record in records]
            started = monotonic_ns()
            for topic, event in events:
                trace.note(f"produce {topic}", event, started)
            positions = await publish_all(self, records, **options)
            ended = monotonic_ns()
            for topic, event in events:
                trace.note(f"ack {topic}", event, ended)
            trace.count("records of a produce", len(records))
            return positions

        return traced

    return wrap


def _getmany(trace: Trace) -> Callable[[Any], Any]:
    def wrap(getmany: Any) -> Any:
        async def traced(self: Any, *arguments: Any, **options: Any) -> Any:
            polled = await getmany(self, *arguments, **options)
            now = monotonic_ns()
            for partition, records in polled.items():
                for record in records:
                    if event := event_of(record.value, record.headers):
                        trace.note(f"polled {partition.topic}", event, now)
                        trace.records.append((event, partition.topic, partition.partition, record.offset))
            if polled:
                trace.count("records of a poll", sum(map(len, polled.values())))
            return polled

        return traced

    return wrap


def _commit(trace: Trace) -> Callable[[Any], Any]:
    def wrap(commit: Any) -> Any:
        async def traced(self: Any, offsets: Mapping[Any, Any] | None = None) -> Any:
            started = monotonic_ns()
            result = await commit(self, offsets)
            now = monotonic_ns()
            for partition, offset in (offsets or {}).items():
                number = offset if isinstance(offset, int) else offset.offset
                trace.commits.append((partition.topic, partition.partition, number, now))
            trace.count("commit (ms)", (now - started) / 1e6)
            return result

        return traced

    return wrap


def _open_by_id(trace: Trace) -> Callable[[Any], Any]:
    def wrap(open_by_id: Any) -> Any:
        async def traced(self: Any, ids: Sequence[str]) -> Any:
            started = monotonic_ns()
            result = await open_by_id(self, ids)
            now = monotonic_ns()
            trace.note_deliveries("looked", ids, now)
            trace.count("look whether known (ms)", (now - started) / 1e6)
            return result

        return traced

    return wrap


def _write(trace: Trace) -> Callable[[Any], Any]:
    def wrap(write: Any) -> Any:
        async def traced(self: Any, writes: Sequence[Any]) -> Any:
            started = monotonic_ns()
            result = await write(self, writes)
            now = monotonic_ns()
            trace.note_deliveries("logged", map(_delivery_of, writes), now)
            trace.count("log write (ms)", (now - started) / 1e6)
            trace.count("entries of a log write", len(writes))
            return result

        return traced

    return wrap


def _attempt(trace: Trace) -> Callable[[Any], Any]:
    def wrap(attempt: Any) -> Any:
        async def traced(self: Any, webhook: Any, claimed: Any) -> Any:
            event = event_of(claimed.request.body, ())
            trace.note("attempt", event)
            if event:
                trace.deliveries[claimed.request.delivery_id] = event
            result = await attempt(self, webhook, claimed)
            trace.note("answered", event)
            return result

        return traced

    return wrap


def _append(trace: Trace) -> Callable[[Any], Any]:
    def wrap(append: Any) -> Any:
        def traced(self: Any, deferred: Sequence[Any]) -> Any:
            trace.count("events deferred to the backlog at once", len(deferred))
            return append(self, deferred)

        return traced

    return wrap


def _delivery_of(write: Any) -> str:
    """Return the delivery id of a write to the log: pymongo's operations have no public fields."""
    if isinstance(write, InsertOne):
        return str(write._doc["_id"])
    return str(write._filter.get("_id", "")) if isinstance(write, UpdateOne) else ""


def main(service: str, out: str) -> None:
    """Run the service as `interlink serve` does."""
    trace = Trace()
    install(trace)
    signal.signal(signal.SIGUSR1, lambda *_: trace.start())
    signal.signal(signal.SIGUSR2, lambda *_: trace.stop(Path(out)))
    run(service, importlib.import_module(f"services.{service}.app").build)


if __name__ == "__main__":
    main(*sys.argv[1:])
