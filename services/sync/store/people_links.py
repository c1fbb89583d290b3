"""Person links as they are stored: their indexes, and every read and write of them."""

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Final

from services.sync.model.person_link import LinkMethod, PersonLink, person_link_id
from shared.connections.channel_accounts import AccountRef
from shared.contracts.errors import NotFound
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Document, Duplicate, Index, Mongo, translate_errors
from shared.runtime.quotas import Quota
from shared.runtime.web.paging import Page, Paging, page

COLLECTION: Final = "people_links"
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    COLLECTION: (
        Index((("workspace", 1), ("created_at", -1), ("_id", -1))),
        Index((("workspace", 1), ("user_id", 1))),
    )
}
_MAX_OF_USERS: Final = 1_000
_MAX_IDS_PER_QUERY: Final = 50
"""The embedded database takes quadratic time in the number of ids of a query."""


class PersonLinkRepository:
    """Reads and writes of the collection. Every method raises `DatabaseUnavailable`."""

    def __init__(self, mongo: Mongo, *, per_workspace: int) -> None:
        """`per_workspace` is the maximum number of person links of one workspace."""
        self._collection = mongo.collection(COLLECTION)
        self._quota = Quota(
            self._collection, per_workspace, "person links", "INTERLINK_PEOPLE_LINKS_PER_WORKSPACE"
        )

    async def find_many(
        self, people: Collection[tuple[AccountRef, str]]
    ) -> dict[tuple[AccountRef, str], PersonLink]:
        """Return the links of those of these persons who have one, by account and the provider's id."""
        by_id = {person_link_id(*ref, person): (ref, person) for ref, person in people}
        remaining = iter(by_id)
        found: dict[tuple[AccountRef, str], PersonLink] = {}
        while batch := list(islice(remaining, _MAX_IDS_PER_QUERY)):
            with translate_errors():
                documents = await self._collection.find({"_id": {"$in": batch}}).to_list(len(batch))
            for document in documents:
                found[by_id[document["_id"]]] = PersonLink.from_document(document)
        return found

    async def of_users(self, workspace: str, users: Collection[str]) -> list[PersonLink]:
        """Return the links of these users of the chat, at most 1,000 of them."""
        remaining = iter(set(users))
        found: list[PersonLink] = []
        while batch := list(islice(remaining, _MAX_IDS_PER_QUERY)):
            query = {"workspace": workspace, "user_id": {"$in": batch}}
            with translate_errors():
                documents = await self._collection.find(query).limit(_MAX_OF_USERS).to_list(_MAX_OF_USERS)
            found += map(PersonLink.from_document, documents)
        return found

    async def list_page(
        self, workspace: str, criteria: Mapping[str, str], paging: Paging
    ) -> Page[PersonLink]:
        """Return a page of a workspace's links whose fields have the values of `criteria`, newest first.

        With criteria, a page may have fewer than `limit` items: see `paging.page`. Raises `Malformed` if the
        cursor is invalid.
        """

        def matches(document: Document) -> bool:
            return all(document.get(name) == value for name, value in criteria.items())

        return await page(
            self._collection,
            {"workspace": workspace},
            PersonLink.from_document,
            paging,
            matches=matches if criteria else None,
        )

    async def put(
        self,
        workspace: str,
        provider: str,
        account: str,
        person_id: str,
        *,
        user_id: str | None,
        how: LinkMethod,
        email: str | None,
    ) -> PersonLink:
        """Store a person's link in place of the earlier one, and return it.

        Raises `Conflict` if the link is new and the workspace has the maximum.
        """
        link_id, now = person_link_id(workspace, provider, account, person_id), utcnow()
        changes = PersonLink.stored_fields(
            {"user_id": user_id, "how": how, "email": email, "changed_at": now}
        )
        changed = await self._change(link_id, changes)
        if changed is not None:
            return changed
        link = PersonLink(
            id=link_id,
            workspace=workspace,
            provider=provider,
            account=account,
            person_id=person_id,
            user_id=user_id,
            how=how,
            email=email,
            created_at=now,
            changed_at=now,
        )
        try:
            async with self._quota.reserve({"workspace": workspace}, lambda: self.delete(link_id, workspace)):
                with translate_errors():
                    await self._collection.insert_one(link.document())
        except Duplicate:  # another call has just created it
            return await self._change(link_id, changes) or link
        return link

    async def _change(self, link_id: str, changes: Document) -> PersonLink | None:
        with translate_errors():
            document = await self._collection.find_one_and_update(
                {"_id": link_id}, {"$set": changes}, return_document=True
            )
        return None if document is None else PersonLink.from_document(document)

    async def delete(self, link_id: str, workspace: str) -> None:
        """Delete a link of a workspace. Raises `NotFound`."""
        with translate_errors():
            result = await self._collection.delete_one({"_id": link_id, "workspace": workspace})
        if not result.deleted_count:
            raise NotFound("no such person link")

    async def delete_all(self, workspace: str) -> None:
        """Delete every link of a workspace."""
        with translate_errors():
            await self._collection.delete_many({"workspace": workspace})
