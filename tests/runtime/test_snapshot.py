"""A snapshot goes on following its collection after any error of one poll."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import structlog
from pymongo.errors import OperationFailure

from shared.contracts.errors import DatabaseRefused, DatabaseUnavailable, Misconfigured
from shared.contracts.ids import ApiKeyId
from shared.runtime import snapshot
from shared.runtime.configuration import Configuration
from shared.runtime.mongo import Collection, Document, Mongo, translate_errors
from shared.runtime.prerequisites import wait_for_database
from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.runtime.snapshot import Snapshot
from shared.runtime.web import access
from shared.runtime.web.access import Keyring
from tests.support.eventually import until


class Found:
    """A cursor on documents."""

    def __init__(self, documents: list[Document]) -> None:
        self._documents = documents

    def batch_size(self, _size: int) -> "Found":
        return self

    async def __aiter__(self) -> AsyncIterator[Document]:
        for document in self._documents:
            yield document


class Refusing:
    """A collection that refuses reads and writes while `refuses` is set."""

    name = "api_keys"

    def __init__(self) -> None:
        self.refuses = False
        self.documents: list[Document] = []
        self.queries: list[Document] = []

    def collection(self, _name: str) -> "Refusing":
        return self

    def async_database(self) -> dict[str, "Refusing"]:
        return {self.name: self}

    def find(self, query: Document) -> "Found":
        self.queries.append(query)
        self._check()
        return Found(list(self.documents))

    async def bulk_write(self, _writes: list[Any], *, ordered: bool) -> None:
        assert not ordered
        self._check()

    def _check(self) -> None:
        if self.refuses:
            raise OperationFailure("not authorized", 13, {"errmsg": "not authorized"})


def _snapshot(store: Refusing) -> Snapshot[Document]:
    log = structlog.get_logger()
    followed = Configuration(cast("Mongo", store), log)
    return Snapshot(followed, cast("Collection", store), lambda document: document, log)


async def test_a_refused_read_does_not_end_the_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while an operator changes MongoDB's user: a key that is revoked afterwards is refused here too."""
    monkeypatch.setattr(snapshot, "_POLL_INTERVAL_S", 0.01)
    now, store = datetime.now(UTC), Refusing()
    store.documents = [{"_id": "old", "changed_at": now}]
    keys = _snapshot(store)
    await keys.start()
    try:
        store.refuses = True
        queries = len(store.queries)
        await until(lambda: len(store.queries) > queries + 1)
        store.refuses = False
        store.documents = [
            {"_id": "old", "changed_at": now, "deleted_at": now},
            {"_id": "new", "changed_at": now},
        ]
        await until(lambda: list(keys.items) == ["new"])
    finally:
        await keys.stop()


async def test_a_wrong_clock_does_not_hide_later_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_POLL_INTERVAL_S", 0.01)
    now, store = datetime.now(UTC), Refusing()
    keys = _snapshot(store)
    store.documents = [{"_id": "early", "changed_at": now + timedelta(hours=1)}]
    await keys.start()
    await until(lambda: len(store.queries) > 2)
    await keys.stop()
    assert store.queries[-1]["changed_at"]["$gte"] <= datetime.now(UTC)


async def test_last_uses_of_keys_are_stored_after_a_refused_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_LAST_USED_FLUSH_INTERVAL_S", 0.01)
    store, log = Refusing(), structlog.get_logger()
    mongo = cast("Mongo", store)
    keyring = Keyring(mongo, Configuration(mongo, log), Vault(LocalKeyProvider([b"k" * 32])), log)
    await keyring.start()
    store.refuses = True
    keyring._used[ApiKeyId("key_1")] = datetime.now(UTC)
    await asyncio.sleep(0.05)
    assert keyring._task is not None
    assert not keyring._task.done()
    await keyring.stop()


@pytest.mark.parametrize("code", [13, 18, 85, 86])
def test_a_refusal_is_a_temporary_error_without_mongodbs_text(code: int) -> None:
    """Tasks go on polling; callers get an error to retry, which repeats no text of MongoDB."""
    refusal = OperationFailure("not authorized on interlink to execute", code, {"errmsg": "secret words"})
    with (
        pytest.raises(DatabaseRefused, match=r"^MONGODB_URI: MongoDB refuses: ") as refused,
        translate_errors(),
    ):
        raise refusal
    assert isinstance(refused.value, DatabaseUnavailable)
    assert not {"authorized", "secret"} & set(str(refused.value).split())


async def test_the_start_does_not_wait_for_a_database_that_refuses() -> None:
    class Refusal:
        async def ping(self) -> None:
            with translate_errors():
                raise OperationFailure("no", 18, {})

    with pytest.raises(Misconfigured, match="does not accept the user and the password"):
        await asyncio.wait_for(wait_for_database(cast("Mongo", Refusal())), 5)
