"""Tell the chat what became of its messages: `inbound.message.status.changed`."""

from typing import Final, get_args

from services.sync.carry.outcomes import Change
from services.sync.chat_inbound import inbound_record
from services.sync.model.mapping import CHAT, Leg
from services.sync.model.synced_message import SyncedMessage, Target
from shared.contracts.chat import STATUS_CHANGED, ChatStatusChanged
from shared.contracts.envelope import now
from shared.contracts.ids import derive
from shared.runtime.kafka.producer import Producer

_TIMEOUT_S: Final = 5.0


class StatusEvents:
    """Publishes the states of the chat's messages at their targets."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    async def publish(self, change: Change, message: SyncedMessage, leg: Leg, target: Target) -> None:
        """Publish a state of a message of the chat; do nothing for others. Raises `BrokerUnavailable`."""
        if message.provider != CHAT or target.state not in _STATES:
            return
        payload = ChatStatusChanged(
            message_id=message.external_id,
            channel_id=message.conversation,
            mapping_id=message.mapping_id,
            target=leg.id,
            provider=leg.provider,
            conversation_id=leg.conversation,
            conversation_name=leg.name or None,
            state=target.state,
            reason=target.reason,
            fix=target.fix,
            permalink=target.permalink,
        )
        cause = change.request.request_id
        record = inbound_record(
            STATUS_CHANGED,
            payload,
            message.conversation,
            event_id=f"evt_{derive(cause, STATUS_CHANGED, target.state, target.reason or '')}",
            workspace=message.workspace,
            time=now(),
            traceparent=change.traceparent,
        )
        await self._producer.publish(record, timeout_s=_TIMEOUT_S)


_STATES: Final = frozenset(get_args(ChatStatusChanged.model_fields["state"].annotation))
