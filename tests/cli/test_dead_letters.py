"""`interlink dead-letters`: what an operator sees of poison on a real bus, and how it is put back."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from interlink.embedded import EmbeddedPair
from shared.contracts.topics import CHAT_EVENTS, DEAD_LETTERS, INTEGRATION_EVENTS
from tests.cli.commands import complaint, interlink, settings_of
from tests.support.backends import Bus, Store, embedded_bus
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.subscriber import Subscriber
from tests.support.tap import RawRecord, Tap, put


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, pair: EmbeddedPair) -> Iterator[tuple[Bus, dict[str, str]]]:
    """A broker of its own, so that every dead letter on it is one of these tests, and how it is found."""
    embedded = EmbeddedPair(tmp_path_factory.mktemp("own-broker"))
    embedded.broker.start()
    bus = embedded_bus(embedded)
    folder = str(tmp_path_factory.mktemp("data"))
    settings = {**settings_of(pair, f"dead_{token_hex(6)}"), **bus.env, "INTERLINK_DATA_DIR": folder}
    assert _run(settings, "init").returncode == 0
    yield bus, settings
    embedded.broker.stop()


def _run(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return interlink(*arguments, cwd=Path(settings["INTERLINK_DATA_DIR"]), **settings)


def event(kind: str, **changed: bytes | None) -> RawRecord:
    headers: dict[str, bytes | None] = {
        "ce_specversion": b"1.0",
        "ce_id": f"evt-{token_hex(8)}".encode(),
        "ce_type": kind.encode(),
        "ce_source": b"/chat",
        "workspace": b"default",
        "x-own": b"kept",
    }
    return RawRecord(b"room-1", b'{"n":1}', list((headers | changed).items()))


def letter(
    record: RawRecord, topic: str = CHAT_EVENTS.name, reason: str = "failed", error: str = "it was so"
) -> RawRecord:
    """A record as a consumer puts it aside."""
    marks = {
        "dl_reason": reason,
        "dl_error": error,
        "dl_topic": topic,
        "dl_partition": "2",
        "dl_offset": "77",
        "dl_group": "delivery-fanout",
        "dl_time": "2026-01-02T03:04:05.000Z",
    }
    marked = [*record.headers, *((name, mark.encode()) for name, mark in marks.items())]
    return RawRecord(record.key, record.value, marked)


def test_what_is_there_is_listed_and_put_back_as_it_was(own: tuple[Bus, dict[str, str]]) -> None:
    bus, settings = own
    assert _run(settings, "dead-letters", "list").stdout == ""
    first, second, third = event("a.made"), event("b.made"), event("c.made")
    put(
        bus,
        DEAD_LETTERS.name,
        [
            letter(first),
            letter(second, INTEGRATION_EVENTS.name, "malformed", "no\x1b[2Jt\nso"),
            letter(third),
        ],
    )
    listed = _run(settings, "dead-letters", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["0", "1", "2"]
    for part in ("failed", "chat.events/2/77", "delivery-fanout", "a.made", "it was so", "2026-01-02"):
        assert part in listed[0]
    assert "\x1b" not in listed[1]
    assert listed[1].endswith("no�[2Jt�so")
    assert _numbers("list", settings, "--limit", "1") == ["2"]
    assert _numbers("list", settings, "--reason", "malformed") == ["1"]
    assert _numbers("list", settings, "--topic", CHAT_EVENTS.name) == ["0", "2"]

    chat, integration = Tap(bus, CHAT_EVENTS.name), Tap(bus, INTEGRATION_EVENTS.name)
    done = _run(settings, "dead-letters", "replay", "--offset", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["2  replayed: to chat.events", "1 replayed, 0 skipped"]
    [record] = chat.wait_for(1)
    assert (record.key, record.value, list(record.headers)) == (third.key, third.value, list(third.headers))

    assert _numbers("replay", settings, "--topic", INTEGRATION_EVENTS.name)[:1] == ["1"]
    [record] = integration.wait_for(1)
    assert (record.key, record.value, list(record.headers)) == (
        second.key,
        second.value,
        list(second.headers),
    )
    assert _numbers("replay", settings, "--all") == ["0", "1", "2", "3"]  # the last line counts
    assert [record.attributes["ce_type"] for record in chat.wait_for(3)] == ["c.made", "a.made", "c.made"]
    assert len(_run(settings, "dead-letters", "list").stdout.splitlines()) == 3


def _numbers(command: str, settings: dict[str, str], *options: str) -> list[str]:
    """The first word of each line."""
    done = _run(settings, "dead-letters", command, *options)
    assert done.returncode == 0, done.stderr
    return [line.split()[0] for line in done.stdout.splitlines()]


def test_what_cannot_be_put_back_is_reported(own: tuple[Bus, dict[str, str]]) -> None:
    bus, settings = own
    nowhere = letter(event("d.made"), "gone.topic")
    pointer = letter(RawRecord(b"", b"", []), error="bad (too large to copy: left where it is)")
    places = [offset for _, offset in put(bus, DEAD_LETTERS.name, [nowhere, pointer])]
    chat = Tap(bus, CHAT_EVENTS.name)
    missing = str(places[1] + 1000)
    options = [word for offset in (*map(str, places), missing) for word in ("--offset", offset)]
    done = _run(settings, "dead-letters", "replay", *options)
    assert done.returncode == 1
    assert "skipped: it came from gone.topic" in done.stdout
    assert "skipped: it was too large to copy" in done.stdout
    assert "0 replayed, 2 skipped" in done.stdout
    assert "1 of these numbers do not exist" in done.stderr
    assert chat.look() == []


def test_the_records_must_be_named(own: tuple[Bus, dict[str, str]]) -> None:
    _, settings = own
    assert "--all alone" in complaint(_run(settings, "dead-letters", "replay"))
    assert "--all alone" in complaint(_run(settings, "dead-letters", "replay", "--all", "--offset", "1"))
    assert "one of webhooks.received" in complaint(
        _run(settings, "dead-letters", "list", "--topic", "nothing")
    )
    away = settings | {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}
    assert "no Kafka broker" in complaint(_run(away, "dead-letters", "list"))


def test_poison_that_is_put_back_is_delivered_once_its_cause_is_gone(
    own: tuple[Bus, dict[str, str]], store: Store, tmp_path: Path
) -> None:
    """A record that delivery refuses comes back as a dead letter; one that it takes is delivered once."""
    bus, settings = own
    hub = Hub(tmp_path / "hub", bus, store, services=("delivery",))
    kind = f"t{token_hex(6)}"
    try:
        hub.start()
        with Subscriber() as subscriber:
            hub.outgoing_webhook(subscriber.url, events=[kind])
            dead = Tap(bus, DEAD_LETTERS.name)
            put(bus, CHAT_EVENTS.name, [event(kind, workspace=b"caf\xe9")])
            [poison] = dead.wait_for(1)
            sound = event(kind)
            [(_, offset)] = put(bus, DEAD_LETTERS.name, [letter(sound)])
            both = ("--offset", str(poison.offset), "--offset", str(offset))
            for _ in range(2):
                assert _run(settings, "dead-letters", "replay", *both).returncode == 0
            subscriber.wait_for(1)

            def refused() -> bool:
                """The poison was refused again, each time that it was put back."""
                letters = [
                    letter for letter in dead.look() if letter.attributes["dl_group"] == "delivery-fanout"
                ]
                return (
                    len([letter for letter in letters if letter.attributes["dl_reason"] == "malformed"]) == 3
                )

            eventually(refused)
            [delivery] = hub.deliveries(event_type=kind)
            assert delivery["attempt_count"] == 1
            assert len(subscriber.got) == 1
    finally:
        hub.stop()
