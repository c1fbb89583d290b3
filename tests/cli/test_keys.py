"""`interlink keys`: every sealed value of a real store under a new key, whoever writes or dies meanwhile."""

import base64
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from secrets import choice, token_hex
from threading import Event, Thread
from typing import Any
from unittest.mock import Mock

import pymongo
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from interlink import keys as rotation
from interlink.datadir import open_data_folder
from interlink.topology import Plan, Topology
from shared.contracts.errors import Misconfigured
from shared.runtime.record_secrets import store_secret
from shared.runtime.secrets import LocalKeyProvider, Sealed, Vault
from tests.cli.commands import clean_env, complaint, invoked
from tests.support.backends import Store
from tests.support.eventually import eventually

Document = dict[str, Any]
Database = pymongo.database.Database[Document]
OLD, NEW, LOST = b"o" * 32, b"n" * 32, b"l" * 32
OLD_ID, NEW_ID, LOST_ID = (LocalKeyProvider([key]).current for key in (OLD, NEW, LOST))
ENDPOINTS, WEBHOOKS, ANSWERS = "inbound_endpoints", "outgoing_webhooks", "idempotency_keys"


def vault_of(*keys: bytes) -> Vault:
    local = LocalKeyProvider(keys)
    return Vault(local, direct=local)


def text_of(*keys: bytes) -> str:
    return ",".join(base64.b64encode(key).decode() for key in keys)


def of_0_3(plain: str, record: str, field: str, key: bytes = OLD) -> Sealed:
    """As version 0.3.0 sealed it."""
    nonce = token_hex(6).encode()
    cipher = AESGCM(key).encrypt(nonce, plain.encode(), f"{record}/{field}".encode())
    return {"k": LocalKeyProvider([key]).current, "n": nonce, "c": cipher}


@pytest.fixture
def settings(store: Store, tmp_path: Path) -> dict[str, str]:
    return {
        "MONGODB_URI": store.uri(),
        "INTERLINK_ENCRYPTION_KEY": text_of(NEW, OLD),
        "INTERLINK_DATA_DIR": str(tmp_path / "data"),
    }


@pytest.fixture
def database(settings: dict[str, str]) -> Iterator[Database]:
    client: pymongo.MongoClient[Document] = pymongo.MongoClient(settings["MONGODB_URI"], tz_aware=True)
    yield client.get_default_database()
    client.drop_database(client.get_default_database().name)
    client.close()


def run(command: str, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return invoked("keys", command, **settings)


def sealed(vault: Vault, plain: str, record: str, field: str) -> Sealed:
    return vault.seal(plain, workspace="ws_1", record=record, field=field)


def plain(vault: Vault, value: Any, record: str, field: str) -> str:
    return vault.open(value, workspace="ws_1", record=record, field=field)


def endpoint(name: str, vault: Vault, *secrets: str, settings: Document | None = None) -> Document:
    stored = [store_secret(vault, "ws_1", name, secret) for secret in secrets]
    stored[-1]["expires_at"] = datetime(2030, 1, 1, tzinfo=UTC)
    return {"_id": name, "workspace": "ws_1", "secrets": stored, "settings": settings or {}}


def secrets_of(database: Database, name: str, vault: Vault) -> list[str]:
    document = database[ENDPOINTS].find_one({"_id": name})
    assert document
    return [plain(vault, entry["sealed"], name, "secret") for entry in document["secrets"]]


def test_everything_comes_under_the_first_key(database: Database, settings: dict[str, str]) -> None:
    old, both, new = vault_of(OLD), vault_of(NEW, OLD), vault_of(NEW)
    token = {"token": sealed(old, "t", "ep_1", "settings.token"), "shown": "as it is"}
    database[ENDPOINTS].insert_many(
        [endpoint("ep_1", old, "a", "b", settings=token), endpoint("ep_2", both, "c")]
    )
    webhook = {
        "_id": "wh_1",
        "workspace": "ws_1",
        "secrets": [store_secret(old, "ws_1", "wh_1", "w")],
        "headers": sealed(old, "{}", "wh_1", "headers"),
        "auth": sealed(both, "{}", "wh_1", "auth"),
        "schedule": [1, 2.5, None, {"deep": [[{"er": sealed(old, "d", "wh_1", "deep")}]]}],
        "deleted_at": None,
    }
    database[WEBHOOKS].insert_one(webhook)
    database[ANSWERS].insert_one({"_id": "f00d", "answer": sealed(old, "answer", "f00d", "answer")})
    # What strangers make up has no bytes, or is not exactly this.
    strange = [{"k": OLD_ID, "w": "w", "n": "n", "c": "c"}, {"k": OLD_ID, "n": b"", "c": b"", "x": 1}]
    database["event_types"].insert_one({"_id": "et_1", "examples": strange})
    before = {name: list(database[name].find()) for name in (ENDPOINTS, WEBHOOKS, ANSWERS, "event_types")}

    looked = run("status", settings)
    assert looked.returncode == 0, looked.stderr
    assert looked.stdout.splitlines()[-2:] == [
        f"key {NEW_ID}, the first: 2 sealed values",
        f"key {OLD_ID}: 7 sealed values",
    ]
    assert {name: list(database[name].find()) for name in before} == before

    done = run("rotate", settings)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"{ENDPOINTS}: 2 documents, 4 sealed values, 1 documents changed\n" in done.stdout
    assert f"{WEBHOOKS}: 1 documents, 4 sealed values, 1 documents changed\n" in done.stdout
    assert "webhook_deliveries: 0 documents, 0 sealed values, 0 documents changed\n" in done.stdout
    assert done.stdout.splitlines()[-2:] == [
        f"key {NEW_ID}, the first: 9 sealed values",
        f"key {OLD_ID}: nothing is sealed with it",
    ]
    assert secrets_of(database, "ep_1", new) == ["a", "b"]
    assert secrets_of(database, "ep_2", new) == ["c"]
    [first, _] = database[ENDPOINTS].find().sort("_id")
    assert plain(new, first["settings"]["token"], "ep_1", "settings.token") == "t"
    assert first["settings"]["shown"] == "as it is"
    assert first["secrets"][1]["expires_at"] == datetime(2030, 1, 1, tzinfo=UTC)
    [changed] = database[WEBHOOKS].find()
    for field in ("headers", "auth"):
        assert plain(new, changed[field], "wh_1", field) == "{}"
    assert plain(new, changed["schedule"][3]["deep"][0][0]["er"], "wh_1", "deep") == "d"
    assert changed["schedule"][:3] == [1, 2.5, None]
    assert changed["auth"] == webhook["auth"]  # which was under the first key
    [answer] = database[ANSWERS].find()
    assert plain(new, answer["answer"], "f00d", "answer") == "answer"
    assert list(database["event_types"].find()) == before["event_types"]

    after = {name: list(database[name].find()) for name in before}
    assert run("rotate", settings).returncode == 0
    assert {name: list(database[name].find()) for name in before} == after
    assert run("status", settings | {"INTERLINK_ENCRYPTION_KEY": text_of(NEW)}).returncode == 0


def test_the_doctor_knows_what_no_key_opens(database: Database, settings: dict[str, str]) -> None:
    values = [vault_of(key).seal("x", workspace="default", record="ep_1", field="s") for key in (LOST, OLD)]
    database[ENDPOINTS].insert_one({"_id": "ep_1", "workspace": "default", "secrets": values})
    output = invoked("doctor", COLUMNS="300", **settings).stdout
    assert f"sealed with a key that is missing: 1 with key {LOST_ID}." in output
    keys = {"INTERLINK_ENCRYPTION_KEY": text_of(NEW, OLD, LOST)}
    output = invoked("doctor", COLUMNS="300", **settings | keys).stdout
    assert "the configured keys open them" in output


def test_values_of_0_3_are_sealed_again(database: Database, settings: dict[str, str]) -> None:
    database[ENDPOINTS].insert_one(
        {
            "_id": "ep_1",
            "workspace": "ws_1",
            "secrets": [{"sealed": of_0_3(text, "ep_1", "secret"), "expires_at": None} for text in "ab"],
            "settings": {"token": of_0_3("t", "ep_1", "settings.token", NEW)},
        }
    )
    database[WEBHOOKS].insert_one(
        {"_id": "wh_1", "workspace": "ws_1", "auth": of_0_3("{}", "wh_1", "auth"), "secrets": []}
    )
    looked = run("status", settings).stdout
    assert f"{ENDPOINTS}: 1 documents, 3 sealed values (3 in the format of 0.3.0)\n" in looked
    done = run("rotate", settings)
    assert done.returncode == 0, done.stderr
    assert "in the format of 0.3.0" not in done.stdout
    new = vault_of(NEW)
    [found] = database[ENDPOINTS].find()
    assert secrets_of(database, "ep_1", new) == ["a", "b"]
    assert plain(new, found["settings"]["token"], "ep_1", "settings.token") == "t"
    assert all("w" in entry["sealed"] for entry in found["secrets"])
    [webhook] = database[WEBHOOKS].find()
    assert plain(new, webhook["auth"], "wh_1", "auth") == "{}"


def test_what_cannot_be_brought_over_is_named_and_the_rest_is_done(
    database: Database, settings: dict[str, str]
) -> None:
    old = vault_of(OLD)
    lost = sealed(vault_of(LOST), "x", "ep_2", "settings.token")
    damaged = sealed(old, "x", "ep_3", "settings.token")
    damaged["w"] = bytes(60)
    database[ENDPOINTS].insert_many(
        [
            endpoint("ep_1", old, "a"),
            endpoint("ep_2", old, "b", settings={"token": lost}),
            endpoint("ep_3", old, "c", settings={"token": damaged}),
            endpoint("ep_4", old, "d", settings={"moved": of_0_3("x", "ep_9", "settings.moved")}),
        ]
    )
    database[ANSWERS].insert_one(
        {
            "_id": "f00d\x1b[2J",
            "answer": of_0_3("x", "f00d\x1b[2J", "answer"),
            "expires_at": datetime(2030, 1, 1, tzinfo=UTC),
        }
    )

    looked = run("status", settings)
    assert looked.returncode == 1
    assert f"{ENDPOINTS}: a secret of ep_2 was sealed with key {LOST_ID}" in looked.stderr
    assert f"key {LOST_ID}, which is missing: 1 sealed values" in looked.stderr

    done = run("rotate", settings)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 5, lines
    assert any("idempotency_keys: the secret 'answer' of f00d?[2J was sealed by" in line for line in lines)
    assert any(line.endswith("it stays as it is until it expires") for line in lines)
    assert any(f"{ENDPOINTS}: a secret of ep_2 was sealed with key {LOST_ID}" in line for line in lines)
    assert any(f"{ENDPOINTS}: a secret of ep_3 was changed" in line for line in lines)
    assert any(
        f"{ENDPOINTS}: the secret 'settings.moved' of ep_4 was changed or moved" in line for line in lines
    )
    assert f"key {NEW_ID}, the first: 4 sealed values" in done.stdout
    assert f"key {OLD_ID}: 3 sealed values" in done.stdout
    for name, secret in zip(("ep_1", "ep_2", "ep_3", "ep_4"), "abcd", strict=True):
        assert secrets_of(database, name, vault_of(NEW)) == [secret]

    database[ENDPOINTS].update_many({}, {"$set": {"settings": {}}})
    database[ANSWERS].delete_many({})
    assert run("rotate", settings).returncode == 0


def test_a_thousand_that_are_lost_are_counted_not_listed(
    database: Database, settings: dict[str, str]
) -> None:
    lost = vault_of(LOST)
    database[ENDPOINTS].insert_many([endpoint(f"ep_{n:04}", lost, "x") for n in range(1000)])
    done = run("rotate", settings)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 102
    assert f"{ENDPOINTS}: 900 more such values" in done.stderr
    assert f"key {LOST_ID}, which is missing: 1000 sealed values" in done.stderr


def test_what_changes_between_reading_and_writing_is_read_again(
    database: Database, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service rotates one secret, removes an endpoint and pushes a value to another place just then."""
    old, now = vault_of(OLD), datetime.now(UTC)
    database[ENDPOINTS].insert_many([endpoint(f"ep_{n}", old, "a", "b") for n in range(5)])
    secrets = [store_secret(old, "ws_1", "ep_1", "newer"), store_secret(old, "ws_1", "ep_1", "a")]
    plan, seen = rotation._Rewrapper.rewrap, set[str]()

    def changing_rewrap(
        self: Any, value: Sealed, path: rotation.FieldPath, document: Document
    ) -> Sealed | None:
        if document["_id"] not in seen:
            seen.add(document["_id"])
            change = {"secrets": secrets, "changed_at": now}
            if document["_id"] == "ep_1":
                database[ENDPOINTS].update_one({"_id": "ep_1"}, {"$set": change})
            if document["_id"] == "ep_2":
                database[ENDPOINTS].delete_one({"_id": "ep_2"})
            if document["_id"] == "ep_3":
                database[ENDPOINTS].update_one({"_id": "ep_3"}, {"$pop": {"secrets": -1}})
            if document["_id"] == "ep_4":
                database[ENDPOINTS].update_one({"_id": "ep_4"}, {"$set": {"name": "Ada Example"}})
        return plan(self, value, path, document)

    monkeypatch.setattr(rotation._Rewrapper, "rewrap", changing_rewrap)
    done = run("rotate", settings)
    assert done.returncode == 0, done.stderr
    new = vault_of(NEW)
    assert database[ENDPOINTS].count_documents({}) == 4
    assert secrets_of(database, "ep_0", new) == ["a", "b"]
    assert secrets_of(database, "ep_1", new) == ["newer", "a"]
    assert secrets_of(database, "ep_3", new) == ["b"]
    found = database[ENDPOINTS].find_one({"_id": "ep_4"})
    assert found
    assert found["name"] == "Ada Example"


def test_nothing_is_lost_while_services_write(database: Database, settings: dict[str, str]) -> None:
    """A service changes secrets all the time, each built from what it read, as rotations of secrets do."""
    names = [f"ep_{n:04}" for n in range(1500)]
    busy = names[::100]
    old, both = vault_of(OLD), vault_of(NEW, OLD)
    database[ENDPOINTS].insert_many([endpoint(name, old, "0") for name in names])
    written = dict.fromkeys(busy, 0)
    stop = Event()

    def write() -> None:
        client: pymongo.MongoClient[Document] = pymongo.MongoClient(settings["MONGODB_URI"])
        collection = client.get_default_database()[ENDPOINTS]
        while not stop.is_set():
            name = choice(busy)
            found = collection.find_one({"_id": name})
            assert found
            secret = store_secret(both, "ws_1", name, str(written[name] + 1))
            mine = {"_id": name, "secrets": found["secrets"]}
            done = collection.update_one(mine, {"$set": {"secrets": [secret, *found["secrets"][:2]]}})
            written[name] += done.modified_count
        client.close()

    writer = Thread(target=write)
    writer.start()
    try:
        done = run("rotate", settings)
        eventually(lambda: all(written.values()))
    finally:
        stop.set()
        writer.join()
    assert done.returncode == 0, done.stderr
    new = vault_of(NEW)
    for name in names:
        last = written.get(name, 0)
        assert secrets_of(database, name, new) == [str(n) for n in range(last, max(-1, last - 3), -1)]
    after = run("status", settings).stdout.splitlines()
    assert after[-1] == f"key {OLD_ID}: nothing is sealed with it"


def test_it_is_killed_and_run_again(database: Database, settings: dict[str, str], tmp_path: Path) -> None:
    old = vault_of(OLD)
    names = [f"ep_{n:05}" for n in range(2400)]
    database[ENDPOINTS].insert_many([endpoint(name, old, name) for name in names])

    def process() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "interlink", "keys", "rotate"]
        return subprocess.Popen(
            command, cwd=tmp_path, env=clean_env(**settings), stdout=subprocess.PIPE, text=True
        )

    def started() -> bool:
        found = database[ENDPOINTS].find_one({"_id": names[0]})
        return found is not None and found["secrets"][0]["sealed"]["k"] == NEW_ID

    first = process()
    eventually(started, every_s=0.01)
    first.kill()
    first.communicate()
    found = Counter(document["secrets"][0]["sealed"]["k"] for document in database[ENDPOINTS].find())
    assert 0 < found[NEW_ID] < len(names)
    both = vault_of(NEW, OLD)
    for name in names[::400]:
        assert secrets_of(database, name, both) == [name]

    beside = [process(), process()]  # neither harms the other
    ends = [process.communicate(timeout=60)[0].splitlines()[-2:] for process in beside]
    assert [process.returncode for process in beside] == [0, 0]
    assert (
        ends
        == [[f"key {NEW_ID}, the first: 2400 sealed values", f"key {OLD_ID}: nothing is sealed with it"]] * 2
    )
    new = vault_of(NEW)
    for document in database[ENDPOINTS].find():
        [entry] = document["secrets"]
        assert plain(new, entry["sealed"], document["_id"], "secret") == document["_id"]


def test_a_service_that_seals_with_another_key_is_noticed(
    database: Database, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody still has the keys in the other order: what is brought over is under the old key again."""
    database[ENDPOINTS].insert_one(endpoint("ep_1", vault_of(OLD), "a"))
    times = iter(range(1000))
    plan = rotation._CollectionPass.run

    async def walk(self: Any) -> Any:
        if self._collection.name == ENDPOINTS:
            again = endpoint("ep_1", vault_of(OLD, NEW), str(next(times)))
            database[ENDPOINTS].replace_one({"_id": "ep_1"}, again)
        return await plan(self)

    monkeypatch.setattr(rotation._CollectionPass, "run", walk)
    done = run("rotate", settings)
    assert done.returncode == 1
    assert "give all of them the same first key" in done.stderr


@pytest.mark.parametrize("command", ["status", "rotate"])
def test_settings_that_are_wrong_are_one_line(settings: dict[str, str], tmp_path: Path, command: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text_of(NEW))
    alone: dict[str, str] = {**settings, "INTERLINK_ENCRYPTION_KEY": ""}
    variable = "INTERLINK_ENCRYPTION_KEY_FILE"
    assert "openssl rand" in complaint(run(command, alone))
    assert "are both set" in complaint(run(command, settings | {variable: str(file)}))
    assert "cannot be read" in complaint(run(command, alone | {variable: str(tmp_path / "none")}))
    assert run(command, alone | {variable: str(file)}).returncode == 0
    away = {"MONGODB_URI": "mongodb://127.0.0.1:1/x", "MONGODB_TIMEOUT_MS": "300"}
    assert "MongoDB did not answer" in complaint(run(command, settings | away))


@pytest.mark.parametrize(
    ("variables", "created"),
    [
        ({}, True),
        ({"INTERLINK_ENCRYPTION_KEY": "k"}, False),
        ({"INTERLINK_ENCRYPTION_KEY_FILE": "/run/secrets/key"}, False),
        ({"INTERLINK_ENCRYPTION_KEY": "", "INTERLINK_ENCRYPTION_KEY_FILE": "/run/secrets/key"}, False),
    ],
    ids=str,
)
def test_up_makes_a_key_only_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], created: bool
) -> None:
    for name in ("INTERLINK_ENCRYPTION_KEY", "INTERLINK_ENCRYPTION_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with open_data_folder(tmp_path / "data") as folder:
        topology = Topology(
            Plan(8080, tmp_path / "data", minichat=False, services=["gateway"]), folder, None, None
        )
        environments: Sequence[dict[str, str]] = [
            topology.init()[1],
            *(dict(spec.env) for spec, _, _ in topology.services()),
        ]
        for env in environments:
            assert bool(env.get("INTERLINK_ENCRYPTION_KEY")) is (created or "k" in variables.values())
            assert env.get("INTERLINK_ENCRYPTION_KEY_FILE") == variables.get("INTERLINK_ENCRYPTION_KEY_FILE")
        assert (folder.path / "encryption.key").exists() is created


def test_up_makes_no_key_where_another_one_has_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("INTERLINK_ENCRYPTION_KEY", "INTERLINK_ENCRYPTION_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    with open_data_folder(tmp_path / "data") as folder:
        folder.admin_key.write_text("ilk_of_a_first_start")
        with pytest.raises(Misconfigured, match="set INTERLINK_ENCRYPTION_KEY"):
            Topology(Plan(8080, tmp_path / "data", minichat=False, services=["gateway"]), folder, None, None)
        assert not (folder.path / "encryption.key").exists()


@pytest.mark.parametrize(
    ("keys", "embedded", "refused"),
    [((NEW,), True, True), ((NEW, OLD), True, False), ((OLD,), True, False), ((NEW,), False, False)],
    ids=["another", "one more", "the same", "another, for another store"],
)
def test_up_takes_no_key_that_does_not_open_what_its_folder_has_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[bytes, ...], embedded: bool, refused: bool
) -> None:
    monkeypatch.delenv("INTERLINK_ENCRYPTION_KEY_FILE", raising=False)
    monkeypatch.setenv("INTERLINK_ENCRYPTION_KEY", text_of(*keys))
    with open_data_folder(tmp_path / "data") as folder:
        folder.encryption_key.write_text(text_of(OLD) + "\n")
        store = Mock() if embedded else None
        plan = Plan(8080, tmp_path / "data", minichat=False, services=["gateway"])
        if refused:
            with pytest.raises(Misconfigured, match=r"does not have the key in .*put it behind the new one"):
                Topology(plan, folder, None, store)
        else:
            Topology(plan, folder, None, store)
