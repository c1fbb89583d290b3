"""Forward who types in the chat to the providers that can show it. Old signals are dropped."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydantic import ValidationError

from services.sync.model.mapping import CHAT
from services.sync.store.mapping_index import MappedLeg, MappingIndex
from services.sync.translate.outputs import signal_record
from shared.connections.channel_accounts import ChannelAccounts
from shared.contracts.chat import SIGNAL, ChatSignal
from shared.contracts.errors import Malformed
from shared.manifests.channel_types import Signals
from shared.runtime.clock import utcnow
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.kafka.producer import Producer, Record

MAX_AGE_S: Final = 10.0
_ACK_TIMEOUT_S: Final = 5.0


class SignalHandler:
    """The handler of `chat.signals`."""

    def __init__(self, accounts: ChannelAccounts, index: MappingIndex, producer: Producer) -> None:
        self._accounts = accounts
        self._index = index
        self._producer = producer

    async def handle(self, batch: Sequence[ConsumedEvent]) -> None:
        """Publish a request for each target that shows who types; one for each channel of a batch.

        Raises `Malformed` for what is no signal, `DatabaseUnavailable` and `BrokerUnavailable`.
        """
        await self._index.ensure_current()
        records: dict[tuple[str, str, str], Record] = {}
        for consumed in batch:
            event = consumed.event
            if event.type != SIGNAL or not self._index.has_workspace(event.workspace):
                continue
            signal = _parse(consumed)
            age_s = (utcnow() - datetime.fromisoformat(event.time)).total_seconds()
            if (signal.kind, signal.state) != ("typing", "started") or age_s > MAX_AGE_S:
                continue
            if signal.origin is not None and signal.origin.mapping_id:
                continue  # the hub has published it
            for mapped in self._index.find(event.workspace, CHAT, event.workspace, signal.channel_id):
                records |= {
                    (event.workspace, mapped.mapping.id, leg.id): signal_record(
                        event, mapped.mapping, leg, signal.author
                    )
                    for leg in mapped.mapping.legs
                    if self._shows(mapped, leg.id)
                }
        if records:
            await self._producer.publish_all(list(records.values()), timeout_s=_ACK_TIMEOUT_S)

    def _shows(self, mapped: MappedLeg, leg_id: str) -> bool:
        """Return whether a leg gets the signals of another one, and its provider can show them."""
        leg = mapped.mapping.leg(leg_id)
        return (
            leg is not None
            and mapped.mapping.status != "paused"
            and mapped.leg.sends
            and leg.receives
            and leg.id != mapped.leg.id
            and isinstance(self._accounts.channel(leg.provider), Signals)
        )


def _parse(consumed: ConsumedEvent) -> ChatSignal:
    try:
        return ChatSignal.model_validate_json(consumed.event.data)
    except ValidationError as error:
        raise Malformed(f"not a signal of the chat: {error.error_count()} wrong fields") from None
