"""The test of a mapping: a short message to each leg that receives, the same way as others go."""

import asyncio
from dataclasses import dataclass
from typing import Final

from services.sync.accounts import SyncAccounts
from services.sync.lookups import Lookups
from services.sync.model.mapping import Leg, Mapping
from shared.contracts.chat import MESSAGE_CREATED, ChatAuthor, ChatMessage, ChatOrigin
from shared.contracts.envelope import Event, now
from shared.contracts.errors import Rejected, RetryLater
from shared.contracts.ids import derive, message_id_for, new_event_id
from shared.contracts.topics import CHAT_INBOUND
from shared.manifests.channel_types import Outgoing, Person, Place
from shared.richtext.tree import Document, Paragraph, Text
from shared.runtime.kafka.producer import Producer, event_record
from shared.wire.tracing import child_traceparent

_SOURCE: Final = "/sync/test"
_AUTHOR: Final = "Interlink"
_PUBLISH_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class LegResult:
    """What became of the message at a leg. `reason` and `fix` are empty if it is there."""

    leg: Leg
    ok: bool
    permalink: str | None = None
    reason: str = ""
    fix: str = ""


class MappingTest:
    """Sends the test messages of mappings."""

    def __init__(self, accounts: SyncAccounts, lookups: Lookups, producer: Producer) -> None:
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
            reason, fix = reason_and_fix(error.detail if isinstance(error, Rejected) else str(error))
            return LegResult(leg, ok=False, reason=reason, fix=fix)

    async def _send(self, mapping: Mapping, leg: Leg, text: str) -> str | None:
        if leg.is_chat:
            await self._publish(mapping, leg, text)
            return None
        integration = await self._accounts.find(mapping.workspace, leg.provider, leg.account)
        message = Outgoing(
            place=Place(leg.conversation),
            body=Document((Paragraph((Text(text),)),)),
            author=Person(_AUTHOR, _AUTHOR, bot=True),
            # An event brings it back: the marker says that it is the hub's own.
            marker=derive(new_event_id(), leg.id),
            show_author=False,
        )
        return (await self._lookups.send(integration, message)).permalink

    async def _publish(self, mapping: Mapping, leg: Leg, text: str) -> None:
        event_id = new_event_id()
        message = ChatMessage(
            message_id=message_id_for(event_id),
            channel_id=leg.conversation,
            text=text,
            author=ChatAuthor(id=f"author_{derive(_SOURCE)}", name=_AUTHOR, bot=True),
            origin=ChatOrigin(mapping_id=mapping.id),
            created_at=now(),
        )
        event = Event(
            id=event_id,
            type=MESSAGE_CREATED,
            source=_SOURCE,
            workspace=mapping.workspace,
            time=now(),
            data=message.model_dump_json().encode(),
            subject=leg.conversation,
            traceparent=child_traceparent(""),
        )
        await self._producer.publish(
            event_record(CHAT_INBOUND, leg.conversation, event), timeout_s=_PUBLISH_TIMEOUT_S
        )


def reason_and_fix(text: str) -> tuple[str, str]:
    """Return the problem and the fix of a text that has both, with a colon between them."""
    reason, _, fix = text.partition(": ")
    return reason.strip(), fix.strip()
