"""`/api/sync/conversations` and `/api/sync/people`: searched at the provider, for whoever makes a mapping."""

from typing import Annotated, Literal

from fastapi import FastAPI, Query
from pydantic import BaseModel

from services.sync.api.fields import Reader
from services.sync.lookups import Lookups
from shared.contracts.errors import FieldError, Invalid
from shared.manifests.channel_types import Conversation, Person
from shared.manifests.channel_types import Page as ProviderPage
from shared.runtime.web.paging import Page
from shared.runtime.web.routes import Routes

_Integration = Annotated[str | None, Query(max_length=256, description="An integration of the account.")]
_Provider = Annotated[str | None, Query(max_length=100, description="The provider, instead of it.")]
_Account = Annotated[
    str | None,
    Query(max_length=256, description="The account's id, if the workspace has several of the provider."),
]
_Search = Annotated[str, Query(max_length=200, description="Only those with this text in their name.")]
_Cursor = Annotated[str | None, Query(max_length=2000, description="`next_cursor` of the previous page.")]


class ConversationOut(BaseModel):
    """A conversation. `problem` says what keeps the account from writing there, and the fix."""

    id: str
    name: str
    kind: Literal["channel", "group", "direct"]
    members: int | None
    private: bool
    problem: str | None


class PersonOut(BaseModel):
    """A person. `email` only if the provider has verified it."""

    id: str
    name: str
    avatar_url: str | None
    email: str | None
    bot: bool


class DirectoryApi:
    """The routes of what providers are asked for."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/sync").add
        add("/conversations", self.list_conversations, methods=["GET"])
        add("/people", self.list_people, methods=["GET"])

    async def list_conversations(
        self,
        key: Reader,
        integration_id: _Integration = None,
        provider: _Provider = None,
        account: _Account = None,
        query: _Search = "",
        conversation: Annotated[
            str | None,
            Query(max_length=256, description="Look this one up, which need not be in a list."),
        ] = None,
        cursor: _Cursor = None,
    ) -> Page[ConversationOut]:
        """Search the conversations of an account at its provider, or look one up by its id.

        A page may have no items; the list ends where `next_cursor` is null. 422 if the provider has no list:
        then look the conversation up with `conversation`.
        """
        found = await self._lookups.account(key.workspace, provider, account, integration_id)
        if conversation is not None:
            if query or cursor:
                text = "looks one conversation up: leave query and cursor out"
                raise Invalid(text, errors=(FieldError("query.conversation", text),))
            item = await self._lookups.conversation(found, conversation)
            return Page(items=[_conversation_out(item)], next_cursor=None)
        page: ProviderPage = await self._lookups.conversations(found, query, cursor)
        return Page(
            items=[_conversation_out(item) for item in page.items], next_cursor=page.next_cursor or None
        )

    async def list_people(
        self,
        key: Reader,
        integration_id: _Integration = None,
        provider: _Provider = None,
        account: _Account = None,
        query: _Search = "",
        cursor: _Cursor = None,
    ) -> Page[PersonOut]:
        """Search the people of an account at its provider, by name or address.

        A page may have no items; the list ends where `next_cursor` is null. 422 if the provider has no list.
        """
        found = await self._lookups.account(key.workspace, provider, account, integration_id)
        page: ProviderPage = await self._lookups.people(found, query, cursor)
        return Page(items=[_person_out(item) for item in page.items], next_cursor=page.next_cursor or None)


def _conversation_out(item: Conversation) -> ConversationOut:
    return ConversationOut(
        id=item.id,
        name=item.name,
        kind=item.kind,
        members=item.members,
        private=item.private,
        problem=item.problem,
    )


def _person_out(item: Person) -> PersonOut:
    return PersonOut(id=item.id, name=item.name, avatar_url=item.avatar_url, email=item.email, bot=item.bot)
