"""An idempotency key is for one call, including its query."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from starlette.types import Message, Receive, Scope, Send

from shared.contracts.ids import ApiKeyId, WorkspaceId
from shared.runtime.mongo import Document, Duplicate, Mongo
from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.runtime.web.access import ApiKey, Keyring
from shared.runtime.web.idempotency import Idempotency, _stored_response
from shared.runtime.web.idempotency_keys import IdempotencyKeys


class Store:
    """One collection."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}

    def collection(self, _name: str) -> "Store":
        return self

    async def delete_one(self, query: Document) -> None:
        if "expires_at" not in query:
            self.documents.pop(query["_id"], None)

    async def insert_one(self, document: Document) -> None:
        if document["_id"] in self.documents:
            raise Duplicate
        self.documents[document["_id"]] = document

    async def find_one(self, query: Document) -> Document | None:
        return self.documents.get(query["_id"])

    async def update_one(self, query: Document, update: Document) -> None:
        self.documents[query["_id"]] |= update["$set"]


class OneKey:
    async def authenticate(self, _authorization: str) -> ApiKey:
        return ApiKey(ApiKeyId("key_1"), WorkspaceId("ws_1"), frozenset({"admin"}), None)


async def test_a_key_is_rejected_for_a_call_with_another_query() -> None:
    """DELETE /api/platform-credentials/x?scope=workspace, then the same with ?scope=installation."""
    done: list[bytes] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        done.append(scope["query_string"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    hub = Idempotency(
        app,
        keys=IdempotencyKeys(cast("Mongo", Store())),
        vault=Vault(LocalKeyProvider([b"k" * 32])),
        keyring=cast("Keyring", OneKey()),
        service="oauth",
    )

    async def called(query: bytes) -> int:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: dict[str, Any] = {
            "type": "http",
            "method": "DELETE",
            "path": "/api/platform-credentials/slack",
            "query_string": query,
            "headers": [(b"idempotency-key", b"one"), (b"authorization", b"Bearer x")],
        }
        await hub(scope, receive, send)
        return int(sent[0]["status"])

    assert [await called(b"scope=workspace") for _ in range(2)] == [204, 204]
    assert await called(b"scope=installation") == 422
    assert done == [b"scope=workspace"]


async def test_a_response_of_an_earlier_release_is_replayed() -> None:
    """0.3.0 stored headers in clear beside the sealed body; a later release may add fields."""
    store, vault = Store(), Vault(LocalKeyProvider([b"k" * 32]))
    sealed = vault.seal('{"id":"x"}', workspace="ws_1", record="r", field="answer")
    until = datetime.now(UTC) + timedelta(hours=1)
    base = {"_id": "r", "fingerprint": "f", "expires_at": until, "field_of_a_later_release": {"a": 1}}
    keys = IdempotencyKeys(cast("Mongo", store))
    store.documents["r"] = {**base, "answer": sealed, "status": 201, "headers": [[b"a", b"b"]]}
    record = await keys.reserve("r", "f")
    assert record is not None
    text = vault.open(record.sealed_response, workspace="ws_1", record="r", field="answer")
    assert (record.status, _stored_response(text, record)) == (201, ([(b"a", b"b")], b'{"id":"x"}'))
    store.documents["r"] = {**base, "answer": None}
    in_progress = await keys.reserve("r", "f")
    assert in_progress is not None
    assert (in_progress.sealed_response, in_progress.status) == (None, None)
    store.documents.clear()
    assert await keys.reserve("r", "f") is None
    assert store.documents["r"].keys() == {"_id", "fingerprint", "answer", "expires_at"}
    assert store.documents["r"]["answer"] is None
