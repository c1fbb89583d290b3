"""Files whose connections break off go on where they ended, and all obey a host that asks for a pause."""

import hashlib
from collections.abc import Iterator
from secrets import token_bytes
from time import monotonic
from typing import Any

import pytest

from tests.importer.file_hosts import KIB, MIB, World, file_world, start_on_hosts
from tests.importer.test_files import attachments, get, listed, on_disk, undone
from tests.importer.test_imports import imported, reached, ready
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.fakes.ranges import BrokenOff
from tests.support.fakes.slack_faults import limited
from tests.support.provider_hosts import HostRequest, Reply


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[World]:
    with file_world(tmp_path_factory.mktemp("broken-off"), bus, store) as found:
        yield found


def fetched(world: World, file: BrokenOff | Any, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Import a message with one file that a handler serves, and return the import and the file as listed."""
    done, [row] = fetched_all(world, file, **fields)
    return done, row


def fetched_all(
    world: World, *files: BrokenOff | Any, **fields: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Import a message with files that handlers serve, and return the import and the files as listed."""
    made = []
    for number, file in enumerate(files):
        of_file = {"size": len(file.data), "mimetype": "application/octet-stream", **fields}
        made.append(world.hostile(f"{number}.bin", file, **of_file))
    done = imported(world.hub, world.export(*made))
    return done, sorted(listed(world.hub, done["id"]), key=lambda row: str(row["name"]))


def assert_whole(world: World, row: dict[str, Any], data: bytes) -> None:
    assert (row["state"], row["stored_bytes"]) == ("stored", len(data)), row
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    [item] = [item for item in attachments(world.chat) if item["filename"] == row["name"]]
    assert get(world.hub, item["url"]).content == data


def test_a_file_that_breaks_off_goes_on_where_it_ended(world: World) -> None:
    file = BrokenOff(token_bytes(3 * MIB), [2 * MIB + 7, 100 * KIB])
    done, row = fetched(world, file)
    assert file.asked == ["", f"bytes={2 * MIB + 7}-", f"bytes={2 * MIB + 7 + 100 * KIB}-"]
    assert_whole(world, row, file.data)
    undone(world.hub, done)
    assert on_disk(world.hub) == []


def test_without_versions_or_ranges_a_file_begins_again(world: World) -> None:
    unversioned = BrokenOff(token_bytes(MIB), [700 * KIB], validator=False)
    whole = BrokenOff(token_bytes(MIB), [700 * KIB], sends_ranges=False)
    done, rows = fetched_all(world, unversioned, whole)
    assert unversioned.asked == ["", ""]
    assert whole.asked == ["", f"bytes={700 * KIB}-"]
    for row, file in zip(rows, (unversioned, whole), strict=True):
        assert_whole(world, row, file.data)
    undone(world.hub, done)


def test_a_file_that_changed_meanwhile_begins_again(world: World) -> None:
    file = BrokenOff(token_bytes(MIB), [600 * KIB])
    newer = token_bytes(MIB)

    def changing(request: HostRequest) -> Reply:
        reply = file(request)
        file.data = newer
        return reply

    changing.data = newer  # type: ignore[attr-defined]
    done, row = fetched(world, changing)
    assert file.asked == ["", f"bytes={600 * KIB}-"]
    assert_whole(world, row, newer)
    undone(world.hub, done)


class Liar:
    """A file that breaks off, whose range is then another one than was asked for."""

    def __init__(self, claim: str) -> None:
        self.claim = claim
        self.file = BrokenOff(token_bytes(MIB), [600 * KIB])
        self.data = self.file.data

    def __call__(self, request: HostRequest) -> Reply:
        reply = self.file(request)
        if reply.status != 206:
            return reply
        return Reply(206, self.data, dict(reply.fields) | {"content-range": self.claim})


def test_another_range_than_the_missing_one_is_not_believed(world: World) -> None:
    claims = ("bytes 0-1048575/1048576", "bytes 614400-1048575/2000000", "bytes 614400-700000/*", "")
    liars = [Liar(claim) for claim in claims]
    done, rows = fetched_all(world, *liars)
    for liar, row in zip(liars, rows, strict=True):
        if liar.claim:
            assert liar.file.asked == ["", f"bytes={600 * KIB}-", ""], liar.claim
            assert_whole(world, row, liar.data)
        else:
            assert (row["state"], row["reason"]) == ("failed", "damaged")
    undone(world.hub, done)


def test_a_file_that_never_ends_is_given_up_and_leaves_nothing(world: World) -> None:
    file = BrokenOff(token_bytes(MIB), [KIB] * 50)
    done, row = fetched(world, file)
    assert (row["state"], row["reason"], len(file.asked)) == ("failed", "not_reached", 4)
    assert on_disk(world.hub) == []
    undone(world.hub, done)


def test_attempts_that_bring_much_do_not_count(world: World) -> None:
    file = BrokenOff(token_bytes(60 * MIB), [9 * MIB] * 6)
    done, row = fetched(world, file)
    assert len(file.asked) == 7
    assert_whole(world, row, file.data)
    undone(world.hub, done)


def test_a_kill_in_the_middle_of_a_file_loses_little_of_it(world: World) -> None:
    hub = world.hub
    file = BrokenOff(token_bytes(24 * MIB), [20 * MIB], hold_s=8)
    content = world.export(
        world.hostile("a.bin", file, size=len(file.data), mimetype="application/octet-stream")
    )
    found = ready(hub, content)
    hub.call("POST", f"/api/imports/{found['id']}/start", {})
    assert eventually(lambda: sum(path.stat().st_size for path in on_disk(hub)) >= 18 * MIB)
    hub.kill("importer")
    start_on_hosts(hub, world.hosts, "importer")
    hub.wait_ready("importer")
    done = reached(hub, found["id"], "completed")
    assert len(file.asked) == 2
    assert int(file.asked[1].removeprefix("bytes=").removesuffix("-")) >= 16 * MIB
    [row] = listed(hub, done["id"])
    assert_whole(world, row, file.data)
    undone(hub, done)


def test_a_paused_file_goes_on_where_it_was(world: World) -> None:
    hub = world.hub
    file = BrokenOff(token_bytes(4 * MIB), [3 * MIB], hold_s=8)
    content = world.export(
        world.hostile("a.bin", file, size=len(file.data), mimetype="application/octet-stream")
    )
    found = ready(hub, content)
    path = f"/api/imports/{found['id']}"
    hub.call("POST", f"{path}/start", {})
    assert eventually(lambda: sum(path.stat().st_size for path in on_disk(hub)) >= 2 * MIB)
    hub.call("POST", f"{path}/pause")
    reached(hub, found["id"], "paused")
    hub.call("POST", f"{path}/resume")
    done = reached(hub, found["id"], "completed")
    assert file.asked == ["", f"bytes={3 * MIB}-"]
    [row] = listed(hub, done["id"])
    assert_whole(world, row, file.data)
    undone(hub, done)


def test_a_pause_that_a_host_asks_for_counts_for_all_files(world: World) -> None:
    times: list[float] = []

    def host(_: HostRequest) -> Reply:
        times.append(monotonic())
        return limited(3) if len(times) == 1 else Reply(200, b"0123456789", {"content-type": "text/plain"})

    files = [world.hostile(f"{number}.txt", host) for number in range(30)]
    done = imported(world.hub, world.export(*files))
    assert done["counts"]["files"]["imported"] == 30
    # Those that were under way, and none until the pause is over.
    early = [at for at in times if at - times[0] < 2.9]
    assert len(early) <= 8
    undone(world.hub, done)


def test_a_long_pause_ends_the_step_and_is_shown(world: World) -> None:
    hub = world.hub
    times: list[float] = []

    def host(_: HostRequest) -> Reply:
        times.append(monotonic())
        return limited(900)

    found = ready(hub, world.export(world.hostile("a.txt", host)))
    path = f"/api/imports/{found['id']}"
    hub.call("POST", f"{path}/start", {})
    waiting = eventually(lambda: hub.call("GET", path)["waiting_for"])
    assert waiting == "the provider allows no more files for now"
    assert hub.call("GET", path)["status"] == "running"
    asked = len(times)
    hub.call("POST", f"{path}/pause")
    hub.call("POST", f"{path}/cancel")
    undone(hub, hub.call("GET", path))
    assert len(times) == asked == 1
