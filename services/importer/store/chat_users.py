"""The users of the chat, as it reports them: by `user.updated` on `chat.events`."""

from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import ValidationError

from shared.contracts.chat import ChatUser
from shared.contracts.ids import derive
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.mongo import Index, Mongo, UpdateOne, translate_errors
from shared.runtime.records import Record

COLLECTION: Final = "chat_users"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {COLLECTION: (Index((("workspace", 1),)),)}
MAX_USERS: Final = 50_000
"""Users of a workspace that are stored; further ones are not matched."""
_TYPE: Final = "user.updated"


class ChatUserRecord(Record):
    """A user of the chat. `email` is in lower case."""

    workspace: str
    user_id: str
    name: str = ""
    email: str = ""


class ChatUsers:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._collection = mongo.collection(COLLECTION)

    async def handle(self, batch: Sequence[ConsumedEvent]) -> None:
        """Store the users among the chat's events, as far as they have the documented shape."""
        by_workspace: dict[str, list[ChatUser]] = {}
        for consumed in batch:
            if consumed.event.type == _TYPE:
                try:
                    user = ChatUser.model_validate_json(consumed.event.data)
                except ValidationError:
                    continue
                by_workspace.setdefault(consumed.event.workspace, []).append(user)
        for workspace, users in by_workspace.items():
            await self._store(workspace, users)

    async def of_workspace(self, workspace: str) -> list[ChatUserRecord]:
        """Return the users of a workspace."""
        with translate_errors():
            found = await self._collection.find({"workspace": workspace}).limit(MAX_USERS).to_list(MAX_USERS)
        return [ChatUserRecord.from_document(document) for document in found]

    async def delete_all(self, workspace: str) -> None:
        """Delete the users of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})

    async def _store(self, workspace: str, users: Sequence[ChatUser]) -> None:
        with translate_errors():
            stored = await self._collection.count_documents({"workspace": workspace}, limit=MAX_USERS)
        writes = []
        for user in users:
            record = ChatUserRecord(
                id=f"usr_{derive(workspace, user.user_id)}",
                workspace=workspace,
                user_id=user.user_id,
                name=user.name or "",
                email=(user.email or "").casefold(),
            )
            fields = record.document()
            selected = {"_id": fields.pop("_id")}
            writes.append(UpdateOne(selected, {"$set": fields}, upsert=stored < MAX_USERS))
        with translate_errors():
            await self._collection.bulk_write(writes, ordered=True)
