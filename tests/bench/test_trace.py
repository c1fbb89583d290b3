"""The trace of the bench: it finds what it wraps, and joins what several processes noted."""

import subprocess
import sys

import pytest

from bench.framing import message_ends
from bench.trace import stage_times
from bench.traced import Trace, _wrap, event_of
from bench.webhook import delivery_id

MS = 1_000_000


def test_every_traced_method_exists() -> None:
    """In a process of its own: it wraps them for good."""
    code = "from bench.traced import Trace, install; install(Trace())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_method_that_is_gone_fails_with_its_name() -> None:
    with pytest.raises(RuntimeError, match=r"Deliveries\.gone, which does not exist"):
        _wrap("services.delivery.log.deliveries:Deliveries.gone", lambda method: method)


def test_an_event_is_known_by_its_header_and_by_its_body() -> None:
    event = delivery_id(12, 3)
    assert event_of(b"{}", [("ce_type", b"github.push"), ("delivery_id", event)]) == event.decode()
    assert event_of(b'{"delivery_id":"%s"}' % event, ()) == event.decode()
    assert event_of(b'{"delivery_id": "%s", "ref": ""}' % event, ()) == event.decode()
    assert event_of(b'{"delivery_id":"other"}', [("delivery_id", b"other")]) is None


def test_stages_of_several_processes_are_joined() -> None:
    event = delivery_id(10 * MS, 0).decode()
    gateway = Trace()
    gateway.start()
    gateway.note("produce webhooks.received", event, 11 * MS)
    gateway.note("ack webhooks.received", event, 13 * MS)
    delivery = Trace()
    delivery.start()
    delivery.note("polled delivery.requested", event, 20 * MS)
    delivery.deliveries["dlv_1"] = event
    delivery.note_deliveries("looked", ["dlv_1", "dlv_of_another_event"], 24 * MS)
    delivery.note_deliveries("logged", ["dlv_1"], 40 * MS)
    delivery.records.append((event, "delivery.requested", 2, 7))
    delivery.commits.append(("delivery.requested", 2, 7, 41 * MS))  # the offset before this record
    delivery.commits.append(("delivery.requested", 1, 9, 42 * MS))
    delivery.commits.append(("delivery.requested", 2, 8, 45 * MS))
    stages = stage_times([vars(gateway), vars(delivery)], {event: 30 * MS})["stages"]

    def p50(name: str) -> float | None:
        [found] = [times for title, times in stages.items() if title.startswith(name)]
        value: float | None = found["p50"]
        return value

    assert p50("gateway: until the produce") == 1
    assert p50("first produce") == 2
    assert p50("look whether known") == 4
    assert p50("commit") == 5
    assert p50("in all: webhook in to webhook out") == 20
    assert p50("fan-out") is None


def test_a_direct_request_has_no_second_topic() -> None:
    event = delivery_id(10 * MS, 0).decode()
    delivery = Trace()
    delivery.start()
    delivery.note("polled webhooks.received", event, 20 * MS)
    delivery.note("attempt", event, 22 * MS)
    delivery.deliveries["dlv_1"] = event
    delivery.note_deliveries("logged", ["dlv_1"], 40 * MS)
    delivery.records.append((event, "webhooks.received", 2, 7))
    delivery.commits.append(("webhooks.received", 2, 8, 45 * MS))
    stages = stage_times([vars(delivery)], {event: 30 * MS})["stages"]
    counts = {title: times["p50"] for title, times in stages.items() if times["count"]}
    assert counts["without the second topic: until the attempt starts"] == 2
    assert counts["commit"] == 5
    assert not any(title.startswith("second") for title in counts)


def test_nothing_is_noted_before_the_start() -> None:
    trace = Trace()
    trace.note("attempt", "event")
    trace.count("log write (ms)", 1.0)
    assert (trace.stages, trace.calls) == ([], {})


@pytest.mark.parametrize(
    ("message", "ends"),
    [
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok", (40, 46)),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\no", None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (23, 27)),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", (43, 59)),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", None),
        (b"POST / HTTP/1.1\r\n", None),
    ],
)
def test_where_a_message_ends(message: bytes, ends: tuple[int, int] | None) -> None:
    assert message_ends(message) == ends
    if ends:
        assert message_ends(message + b"HTTP/1.1 200 OK\r\n") == ends
