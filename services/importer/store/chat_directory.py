"""Read sync's mappings and people links: conversations joined with channels, and persons who are users.

The collections are sync's; the importer only reads them (docs/adr/0115-ledger-of-imports.md).
"""

from typing import Final, NamedTuple

from shared.runtime.mongo import Mongo, translate_errors

_MAPPINGS: Final = "sync_mappings"
_LINKS: Final = "people_links"
_CHAT: Final = "chat"
_MAX_MAPPINGS: Final = 20_000
_MAX_LINKS: Final = 200_000
"""As many as an import may have people."""


class MappedChannel(NamedTuple):
    """A channel of the chat that a mapping joins with a conversation of a provider."""

    channel_id: str
    name: str
    mapping_id: str


class ChatDirectory:
    """Reads of both collections. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo) -> None:
        self._mappings = mongo.collection(_MAPPINGS)
        self._links = mongo.collection(_LINKS)

    async def mapped_channels(self, workspace: str, provider: str, account: str) -> dict[str, MappedChannel]:
        """Return the mapped channels of the chat, by the conversations of an account.

        An export that does not say its account has the conversations of all accounts.
        """
        found: dict[str, MappedChannel] = {}
        query = {"workspace": workspace, "deleted_at": None}
        with translate_errors():
            async for document in self._mappings.find(query, {"legs": 1}).limit(_MAX_MAPPINGS):
                legs = document["legs"]
                chat = next((leg for leg in legs if leg["provider"] == _CHAT), None)
                if chat is None:
                    continue
                channel = MappedChannel(chat["conversation"], chat.get("name", ""), document["_id"])
                for leg in legs:
                    if leg["provider"] == provider and account in ("", leg["account"]):
                        found.setdefault(leg["conversation"], channel)
        return found

    async def channel_names(self, workspace: str) -> dict[str, str]:
        """Return the channels of the chat whose names are known from mappings, by name in lower case."""
        found: dict[str, str] = {}
        query = {"workspace": workspace, "deleted_at": None}
        with translate_errors():
            async for document in self._mappings.find(query, {"legs": 1}).limit(_MAX_MAPPINGS):
                for leg in document["legs"]:
                    if leg["provider"] == _CHAT:
                        name = leg.get("name") or leg["conversation"]
                        found.setdefault(name.casefold(), leg["conversation"])
        return found

    async def joined_channels(self, workspace: str) -> set[str]:
        """Return the ids of the chat's channels that mappings join with conversations."""
        query = {"workspace": workspace, "deleted_at": None}
        with translate_errors():
            documents = self._mappings.find(query, {"legs": 1}).limit(_MAX_MAPPINGS)
            return {
                leg["conversation"]
                async for document in documents
                for leg in document["legs"]
                if leg["provider"] == _CHAT
            }

    async def links(self, workspace: str, provider: str, account: str) -> dict[str, str | None]:
        """Return the users with whom persons of an account are linked, by person; None for a guest."""
        found: dict[str, str | None] = {}
        query = {"workspace": workspace, "provider": provider, **({"account": account} if account else {})}
        with translate_errors():
            async for document in self._links.find(query, {"person_id": 1, "user_id": 1}).limit(_MAX_LINKS):
                found.setdefault(document["person_id"], document.get("user_id"))
        return found
