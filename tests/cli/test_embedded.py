"""The embedded pair, and the supervision under it: what each server and the process group promise."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pymongo
import pymongo.errors
import pytest

from interlink.embedded import DATABASE_PROGRAM, HOST, EmbeddedError, EmbeddedPair, saved_addresses
from interlink.supervise import Backoff, Child, ProcessGroup, ProcessSpec, describe_exit
from tests.cli.commands import gone_within

_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"


@pytest.fixture
def process_group() -> Iterator[ProcessGroup]:
    started = ProcessGroup()
    yield started
    started.close()


def python(script: str, folder: Path, *, stop_timeout_s: float = 5) -> ProcessSpec:
    return ProcessSpec(
        "child", (sys.executable, "-c", script), os.environ, folder / "child.log", stop_timeout_s
    )


class TestPair:
    @pytest.mark.parametrize("program", ["", "secantusd-rs"])
    def test_what_the_store_acknowledged_survives_a_kill(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
    ) -> None:
        if program and not shutil.which(program):
            pytest.skip(f"no {program}: `make database` builds it")
        monkeypatch.setenv(DATABASE_PROGRAM, program)
        pair = EmbeddedPair(tmp_path)
        pair.database.start()
        assert ("secantusd-rs" in pair.database.child.spec.command[0]) is bool(program)
        try:
            with pymongo.MongoClient[dict[str, int]](pair.mongodb_uri) as client:
                things = client.get_default_database()["things"]
                for number in range(20):
                    things.insert_one({"_id": number})
                    if number % 5 == 0:
                        pair.database.restart()  # a kill, right after the answer
                assert things.count_documents({}) == 20
        finally:
            pair.stop()

    def test_a_store_that_was_open_keeps_its_data_and_nobody_elses_users(self, tmp_path: Path) -> None:
        """As a folder of a version without the login may be: anybody could have created users there."""
        pair = EmbeddedPair(tmp_path)
        earlier = Child(
            replace(pair.database.child.spec, command=pair.database.child.spec.command[:-1]), ProcessGroup()
        )
        assert pair.database.child.spec.command[-1] == "--auth"
        earlier.start()
        with pymongo.MongoClient[Any](HOST, pair.database.port, directConnection=True) as client:
            client.interlink.things.insert_one({"_id": 1})
            for database in ("admin", "interlink", "elsewhere"):
                client[database].command("createUser", "mallory", pwd="a password", roles=["root"])
        assert earlier.stop()
        try:
            pair.database.start()
            with pymongo.MongoClient[Any](pair.mongodb_uri) as client:
                assert client.interlink.things.count_documents({}) == 1
                users = [(user["db"], user["user"]) for user in client.admin["system.users"].find()]
                assert users == [("admin", "interlink")]
            for database in ("admin", "interlink", "elsewhere"):
                uri = f"mongodb://mallory:a%20password@{HOST}:{pair.database.port}/{database}"
                with (
                    pymongo.MongoClient[Any](uri) as client,
                    pytest.raises(pymongo.errors.OperationFailure, match="authentication failed"),
                ):
                    client.interlink.things.find_one()
        finally:
            pair.stop()

    def test_only_the_owner_may_read_the_stores_password(self, tmp_path: Path) -> None:
        pair = EmbeddedPair(tmp_path)
        pair.database.prepare()
        password = tmp_path / "store.password"
        assert password.stat().st_mode & 0o777 == 0o600
        secret = password.read_text("utf-8").strip()
        assert secret in pair.mongodb_uri
        assert not [path.name for path in tmp_path.iterdir() if "tls" in path.name or "new" in path.name]
        assert not [
            part for part in pair.database.child.spec.command if password.read_text("utf-8").strip() in part
        ]

    def test_a_program_that_is_not_there_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(DATABASE_PROGRAM, "secantusd-xy")
        with pytest.raises(EmbeddedError, match="INTERLINK_DATABASE_PROGRAM: no program 'secantusd-xy'"):
            EmbeddedPair(tmp_path)

    def test_ports_stay_while_they_are_free(self, tmp_path: Path) -> None:
        first = EmbeddedPair(tmp_path)
        assert EmbeddedPair(tmp_path).kafka_bootstrap == first.kafka_bootstrap
        assert saved_addresses(tmp_path) == {
            "KAFKA_BOOTSTRAP_SERVERS": first.kafka_bootstrap,
            "MONGODB_URI": first.mongodb_uri,
        }

    def test_a_broker_comes_back_on_its_port(self, tmp_path: Path) -> None:
        pair = EmbeddedPair(tmp_path)
        pair.broker.start()
        try:
            pair.broker.kill()
            assert not pair.broker.answers()
            pair.broker.start()
            assert pair.broker.answers()
        finally:
            pair.stop()

    def test_other_settings_of_the_machine_do_not_reach_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LISTENER_URL", "tcp://0.0.0.0:1")  # Tansu reads these
        monkeypatch.setenv("STORAGE_ENGINE", "s3://somebody")
        monkeypatch.setenv("INTERLINK_ENCRYPTION_KEY", "hidden")
        pair = EmbeddedPair(tmp_path)
        pair.broker.start()
        try:
            assert pair.broker.child.pid
            environment = psutil.Process(pair.broker.child.pid).environ()
        finally:
            pair.stop()
        assert not {"LISTENER_URL", "STORAGE_ENGINE", "INTERLINK_ENCRYPTION_KEY"} & environment.keys()

    def test_it_dies_with_whoever_started_it(self, tmp_path: Path) -> None:
        script = (
            "import pathlib, sys, time; from interlink.embedded import EmbeddedPair\n"
            "EmbeddedPair(pathlib.Path(sys.argv[1])).start(); print('up', flush=True); time.sleep(60)"
        )
        owner = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        assert owner.stdout
        assert owner.stdout.readline() == b"up\n"
        children = psutil.Process(owner.pid).children(recursive=True)
        assert len(children) == 3  # both halves and the guard
        owner.kill()
        owner.communicate()
        gone_within(children, 5)


class TestSupervision:
    def test_who_does_not_stop_is_killed(self, tmp_path: Path, process_group: ProcessGroup) -> None:
        child = Child(python(f"{_STUBBORN}; time.sleep(60)", tmp_path, stop_timeout_s=0.5), process_group)
        child.start()
        while child.last_lines() != ["up"]:
            time.sleep(0.02)
        assert child.stop() is False
        assert describe_exit(child.status) == "signal SIGKILL"

    def test_a_killed_guard_is_replaced(self, tmp_path: Path) -> None:
        script = (
            "import os, pathlib, sys\n"
            "from interlink.supervise import Child, ProcessGroup, ProcessSpec\n"
            "process_group = ProcessGroup()\n"
            "for line in sys.stdin:\n"
            "  spec = ProcessSpec('c', ('sleep', '60'), os.environ, pathlib.Path(sys.argv[1]))\n"
            "  Child(spec, process_group).start(); print('started', flush=True)"
        )
        owner = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "log")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert owner.stdin
        assert owner.stdout

        def another() -> list[psutil.Process]:
            owner.stdin.write(b"another\n")  # type: ignore[union-attr]
            assert owner.stdout.readline() == b"started\n"  # type: ignore[union-attr]
            running = psutil.Process(owner.pid).children()
            return [child for child in running if child.status() != psutil.STATUS_ZOMBIE]

        guards = [child for child in another() if child.name() == "sh"]
        guards[0].kill()
        gone_within(guards, 5)
        assert sorted(child.name() for child in another()) == ["sh", "sleep", "sleep"]
        left = psutil.Process(owner.pid).children()
        owner.kill()
        owner.communicate()
        gone_within(left, 5)

    def test_its_end_is_in_its_log(self, tmp_path: Path, process_group: ProcessGroup) -> None:
        child = Child(python("print('last words'); raise SystemExit(3)", tmp_path), process_group)
        child.start()
        while child.running():
            time.sleep(0.02)
        assert child.last_lines() == ["last words"]
        assert describe_exit(child.status) == "status 3"

    def test_the_log_is_bounded(self, tmp_path: Path, process_group: ProcessGroup) -> None:
        spec = python("print('new', flush=True); import time; time.sleep(60)", tmp_path)
        spec.log.write_bytes(b"old\n" * 3_000_000)
        child = Child(spec, process_group)
        child.start()  # trims
        assert spec.log.with_name("child.log.1").stat().st_size == 12_000_000
        while spec.log.read_text() != "new\n":
            time.sleep(0.02)
        child.kill()

    def test_a_paused_child_can_be_stopped(self, tmp_path: Path, process_group: ProcessGroup) -> None:
        child = Child(python("import time; time.sleep(60)", tmp_path), process_group)
        child.start()
        assert child.pid
        os.kill(child.pid, signal.SIGSTOP)
        assert child.stop()

    def test_pauses_grow_and_shrink(self) -> None:
        backoff = Backoff()
        assert [backoff.after(1) for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]
        assert backoff.after(61) == 0.5
