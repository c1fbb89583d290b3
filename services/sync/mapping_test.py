"""The test of a mapping: a short message to each leg that receives, the same way as others go."""

import asyncio
from dataclasses import dataclass
from typing import Final

from services.sync.lookups import Lookups
from services.sync.model.mapping import Leg, Mapping
from services.sync.own_messages import own_chat_record, own_message
from shared.connections.channel_accounts import ChannelAccounts
from shared.contracts.errors import Rejected, RetryLater
from shared.contracts.ids import new_event_id
from shared.manifests.channel_failures import split_fix
from shared.manifests.channel_types import Place
from shared.runtime.kafka.producer import Producer

_PUBLISH_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class LegResult:
    """The result of a test at a leg. `reason` and `fix` are empty if the message is there."""

    leg: Leg
    ok: bool
    permalink: str | None = None
    reason: str = ""
    fix: str = ""


class MappingTest:
    """Sends the test messages of mappings."""

    def __init__(self, accounts: ChannelAccounts, lookups: Lookups, producer: Producer) -> None:
        self._accounts = accounts
        self._lookups = lookups
        self._producer = producer

    async def run(self, mapping: Mapping) -> list[LegResult]:
        """Send a message to each leg that receives, and return the results in the order of the legs."""
        text = f"This is a test of the mapping {mapping.name or mapping.id}. Nobody has to answer."
        return await asyncio.gather(
            *(self._result(mapping, leg, text) for leg in mapping.legs if leg.receives)
        )

    async def _result(self, mapping: Mapping, leg: Leg, text: str) -> LegResult:
        try:
            return LegResult(leg, ok=True, permalink=await self._send(mapping, leg, text))
        except (Rejected, RetryLater) as error:
            reason, fix = split_fix(error.detail if isinstance(error, Rejected) else str(error))
            return LegResult(leg, ok=False, reason=reason, fix=fix or "")

    async def _send(self, mapping: Mapping, leg: Leg, text: str) -> str | None:
        if leg.is_chat:
            record = own_chat_record(mapping, leg, text, new_event_id())
            await self._producer.publish(record, timeout_s=_PUBLISH_TIMEOUT_S)
            return None
        integration = await self._accounts.find(mapping.workspace, leg.provider, leg.account)
        message = own_message(Place(leg.conversation), text, new_event_id())
        return (await self._lookups.send(integration, message)).permalink
