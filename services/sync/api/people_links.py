"""`/api/people-links`: which person of a provider is which user of the chat."""

from typing import Annotated, Self

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from services.sync.api.fields import ExternalId, ProviderName, Reader, Writer
from services.sync.lookups import Lookups
from services.sync.model.person_link import LinkMethod, PersonLink
from services.sync.store.people_links import PersonLinkRepository
from shared.connections.integration_record import Integration
from shared.contracts.envelope import rfc3339
from shared.contracts.errors import FieldError, Invalid
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes

_UNVERIFIED = "the provider shows no verified address of this person: link the person with how: manual"
_OTHER_EMAIL = "the provider has verified another address of this person: correct it, or use how: manual"


class PersonLinkPut(BaseModel):
    """`PUT /api/people-links`.

    A person is linked by hand, or by e-mail: then `email`, the address of the chat's user, has to be the one
    that the provider has verified. A guest is no user of the chat and has no `user_id`.
    """

    model_config = ConfigDict(extra="forbid")

    provider: ProviderName
    account: ExternalId | None = None
    person_id: Annotated[ExternalId, Field(description="The provider's id of the person.")]
    user_id: Annotated[ExternalId | None, Field(description="The chat's id of the user.")] = None
    how: LinkMethod = "manual"
    email: Annotated[str | None, Field(min_length=3, max_length=320, pattern=r"^[^@\s]+@[^@\s]+$")] = None

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if (self.how == "guest") == (self.user_id is not None):
            raise ValueError("user_id is required, except for a guest, who has none")
        if (self.how == "email") != (self.email is not None):
            raise ValueError("email is required for how: email, and only for it")
        return self


class PersonLinkOut(BaseModel):
    """A link of a person. `email` is the address by which it was made."""

    id: str
    provider: str
    account: str
    person_id: str
    user_id: str | None
    how: LinkMethod
    email: str | None
    created_at: str
    changed_at: str


class PeopleLinksApi:
    """The routes of person links."""

    def __init__(self, links: PersonLinkRepository, lookups: Lookups) -> None:
        self._links = links
        self._lookups = lookups

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/people-links").add
        add("", self.put, methods=["PUT"])
        add("", self.list_all, methods=["GET"])
        add("/{person_link_id}", self.delete, methods=["DELETE"], status_code=204)

    async def put(self, body: PersonLinkPut, key: Writer) -> PersonLinkOut:
        """Link a person of a provider to a user of the chat, in place of the person's earlier link."""
        integration = await self._lookups.account(key.workspace, body.provider, body.account, None)
        email = body.email.casefold() if body.email else None
        if email is not None:
            await self._check_email(integration, body.person_id, email)
        assert integration.account is not None  # noqa: S101 -- `Lookups.account` returns none without one
        link = await self._links.put(
            key.workspace,
            body.provider,
            integration.account.id,
            body.person_id,
            user_id=body.user_id,
            how=body.how,
            email=email,
        )
        return _out(link)

    async def list_all(
        self,
        key: Reader,
        paging: PagingQuery,
        provider: Annotated[str | None, Query(max_length=100)] = None,
        account: Annotated[str | None, Query(max_length=256)] = None,
        person_id: Annotated[str | None, Query(max_length=256)] = None,
        user_id: Annotated[str | None, Query(max_length=256)] = None,
    ) -> Page[PersonLinkOut]:
        """List the workspace's links, newest first.

        With filters, a page may have fewer items than `limit`, or none; the list ends where `next_cursor` is
        null.
        """
        named = {"provider": provider, "account": account, "person_id": person_id, "user_id": user_id}
        criteria = {name: value for name, value in named.items() if value is not None}
        found = await self._links.list_page(key.workspace, criteria, paging)
        return Page(items=[_out(item) for item in found.items], next_cursor=found.next_cursor)

    async def delete(self, person_link_id: str, key: Writer) -> Response:
        """Delete a link: later messages of the person are again those of somebody unknown to the chat."""
        await self._links.delete(person_link_id, key.workspace)
        return Response(status_code=204)

    async def _check_email(self, integration: Integration, person_id: str, email: str) -> None:
        person = await self._lookups.profile(integration, person_id)
        if person.email is None or person.email.casefold() != email:
            text = _UNVERIFIED if person.email is None else _OTHER_EMAIL
            raise Invalid(text, errors=(FieldError("email", text),))


def _out(link: PersonLink) -> PersonLinkOut:
    return PersonLinkOut(
        id=link.id,
        provider=link.provider,
        account=link.account,
        person_id=link.person_id,
        user_id=link.user_id,
        how=link.how,
        email=link.email,
        created_at=rfc3339(link.created_at),
        changed_at=rfc3339(link.changed_at),
    )
