"""`/api/mappings`: conversations of providers and channels of the chat that are mapped to each other."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Query
from starlette.responses import Response

from services.sync.api.fields import Reader, Writer
from services.sync.api.mapping_schemas import (
    LegCreate,
    MappingCreate,
    MappingOut,
    MappingPreviewOut,
    MappingTestOut,
    MappingUpdate,
    account_of,
    filters_of,
    leg_test_out,
    mapping_out,
    not_following_out,
    options_of,
    preview_leg_out,
)
from services.sync.mapping_preview import LegResolver, check, direction_errors, not_following
from services.sync.mapping_rings import MappingRings
from services.sync.mapping_test import MappingTest
from services.sync.model.mapping import Mapping, MappingStatus
from services.sync.store.mappings import MappingCriteria, MappingRepository
from shared.connections.channel_accounts import ChannelAccounts
from shared.contracts.errors import OverLimit
from shared.contracts.ids import new_mapping_id
from shared.runtime.clock import utcnow
from shared.runtime.web.paging import Page, PagingQuery
from shared.runtime.web.routes import Routes
from shared.runtime.web.versions import IfMatch, check_version, expected_version


class MappingsApi:
    """The routes of mappings."""

    def __init__(
        self,
        mappings: MappingRepository,
        accounts: ChannelAccounts,
        rings: MappingRings,
        resolver: LegResolver,
        test: MappingTest,
    ) -> None:
        self._mappings = mappings
        self._accounts = accounts
        self._rings = rings
        self._resolver = resolver
        self._test = test

    def mount(self, app: FastAPI) -> None:
        """Add the routes to the app."""
        add = Routes(app, "/api/mappings").add
        item = "/{mapping_id}"
        add("", self.create, methods=["POST"], status_code=201)
        add("", self.list_all, methods=["GET"])
        add("/preview", self.preview, methods=["POST"])
        add(item, self.read, methods=["GET"])
        add(item, self.change, methods=["PATCH"])
        add(item, self.delete, methods=["DELETE"], status_code=204)
        add(f"{item}/pause", self.pause, methods=["POST"])
        add(f"{item}/resume", self.resume, methods=["POST"])
        add(f"{item}/test", self.test, methods=["POST"])

    async def create(self, body: MappingCreate, key: Writer) -> MappingOut:
        """Map 2 to 10 conversations to each other. Each is looked up at its provider first.

        422 names a scope that an account lacks, or what keeps it from writing in a conversation; 404 names an
        account or a conversation that there is not; 409 names the mapping with which it would form a ring.
        """
        filters, options = filters_of(body.filters), options_of(body.options)
        resolved = await self._resolver.resolve(
            key.workspace, [leg.requested() for leg in body.legs], options
        )
        check(resolved)
        now = utcnow()
        mapping = Mapping(
            id=new_mapping_id(),
            workspace=key.workspace,
            name=body.name,
            legs=tuple(item.leg for item in resolved),
            filters=filters,
            options=options,
            created_at=now,
            changed_at=now,
        )
        await self._rings.insert(mapping)
        return await self._out(mapping)

    async def list_all(
        self,
        key: Reader,
        paging: PagingQuery,
        status: MappingStatus | None = None,
        provider: Annotated[
            str | None, Query(max_length=100, description="Only mappings with a leg of this provider.")
        ] = None,
        conversation: Annotated[
            str | None, Query(max_length=256, description="Only mappings with a leg of this conversation.")
        ] = None,
    ) -> Page[MappingOut]:
        """List the workspace's mappings, newest first.

        With `provider` and `conversation`, one leg has both. With filters, a page may have fewer items than
        `limit`, or none; the list ends where `next_cursor` is null.
        """
        criteria = MappingCriteria(status, provider, conversation)
        found = await self._mappings.list_page(key.workspace, criteria, paging)
        return Page(items=await self._all_out(found.items), next_cursor=found.next_cursor)

    async def preview(self, body: MappingCreate, key: Writer) -> MappingPreviewOut:
        """Return what a mapping would be, without saving it: what each leg can do, and what will not follow.

        The body is that of `POST /api/mappings`.
        """
        options = options_of(body.options)
        resolved = await self._resolver.resolve(
            key.workspace, [leg.requested() for leg in body.legs], options
        )
        legs = [item.leg for item in resolved]
        problems = [error.message for error in direction_errors(legs)]
        if not any(item.problems for item in resolved):
            ring = await self._rings.problem(key.workspace, legs)
            problems += [ring] if ring else []
        return MappingPreviewOut(
            ok=not problems and not any(item.problems for item in resolved),
            legs=[preview_leg_out(item) for item in resolved],
            not_following=[not_following_out(item) for item in not_following(resolved, options)],
            problems=problems,
        )

    async def read(self, mapping_id: str, key: Reader) -> MappingOut:
        """Return one mapping."""
        return await self._out(await self._mappings.find(mapping_id, key.workspace))

    async def change(
        self, mapping_id: str, body: MappingUpdate, key: Writer, if_match: IfMatch = None
    ) -> MappingOut:
        """Change the given fields. New legs are looked up; legs that stay keep their ids.

        What waits for a leg that is no longer there is not sent.
        """
        mapping = await self._mappings.find(mapping_id, key.workspace)
        check_version(expected_version(if_match), mapping.settings_version)
        changes: dict[str, Any] = {}
        if body.name is not None:
            changes["name"] = body.name
        if body.filters is not None:
            changes["filters"] = filters_of(body.filters, mapping.filters)
        if body.options is not None:
            changes["options"] = options_of(body.options, mapping.options)
        if body.legs is None and body.options is None:
            return await self._out(await self._mappings.change(mapping, **changes) if changes else mapping)
        legs = body.legs if body.legs is not None else _named_again(mapping)
        resolved = await self._resolver.resolve(
            key.workspace,
            [leg.requested() for leg in legs],
            changes.get("options", mapping.options),
            mapping.legs,
        )
        check(resolved)
        changes["legs"] = tuple(item.leg for item in resolved)
        return await self._out(await self._rings.change_legs(mapping, **changes))

    async def delete(self, mapping_id: str, key: Writer) -> Response:
        """Delete a mapping. Messages that were forwarded stay where they are."""
        await self._mappings.delete(mapping_id, key.workspace)
        return Response(status_code=204)

    async def pause(self, mapping_id: str, key: Writer) -> MappingOut:
        """Pause a mapping. Messages that are written until it is resumed are not forwarded."""
        mapping = await self._mappings.find(mapping_id, key.workspace)
        return await self._out(await self._mappings.pause(mapping))

    async def resume(self, mapping_id: str, key: Writer) -> MappingOut:
        """Resume a mapping that is paused, or in error once its cause is fixed."""
        mapping = await self._mappings.find(mapping_id, key.workspace)
        return await self._out(await self._mappings.resume(mapping))

    async def test(self, mapping_id: str, key: Writer) -> MappingTestOut:
        """Send a short message to each leg that receives, and return what became of it; six a minute.

        For a channel of the chat, `ok` says that the message is published.
        """
        mapping = await self._mappings.find(mapping_id, key.workspace)
        if not await self._mappings.count_test(mapping):
            raise OverLimit("this mapping was tested six times in this minute: try again in the next one")
        results = await self._test.run(mapping)
        return MappingTestOut(
            ok=all(result.ok for result in results), legs=[leg_test_out(result) for result in results]
        )

    async def _out(self, mapping: Mapping) -> MappingOut:
        [shown] = await self._all_out([mapping])
        return shown

    async def _all_out(self, mappings: Sequence[Mapping]) -> list[MappingOut]:
        """Return mappings as the API shows them, with the problems of their accounts."""
        refs = {account_of(mapping, leg) for mapping in mappings for leg in mapping.legs if not leg.is_chat}
        problems = await self._accounts.problems(refs)
        return [mapping_out(mapping, problems) for mapping in mappings]


def _named_again(mapping: Mapping) -> list[LegCreate]:
    return [
        LegCreate.model_construct(
            provider=leg.provider,
            account=leg.account,
            integration_id=None,
            conversation=leg.conversation,
            direction=leg.direction,
        )
        for leg in mapping.legs
    ]
