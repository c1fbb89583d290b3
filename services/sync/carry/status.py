"""Tell the chat what became of its messages: `inbound.message.status.changed`."""

from typing import Final, get_args

from services.sync.carry.outcomes import Change
from services.sync.model.mapping import CHAT, Leg
from services.sync.model.synced_message import SyncedMessage, Target
from shared.contracts.chat import STATUS_CHANGED, ChatStatusChanged
from shared.contracts.envelope import Event, now
from shared.contracts.ids import derive
from shared.contracts.topics import CHAT_INBOUND
from shared.runtime.kafka.producer import Producer, event_record
from shared.wire.tracing import child_traceparent

_TIMEOUT_S: Final = 5.0
_SOURCE: Final = "/sync"


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
            state=target.state,
            reason=target.reason,
            fix=target.fix,
            permalink=target.permalink,
        )
        cause = change.request.request_id
        event = Event(
            id=f"evt_{derive(cause, STATUS_CHANGED, target.state, target.reason or '')}",
            type=STATUS_CHANGED,
            source=_SOURCE,
            workspace=message.workspace,
            time=now(),
            data=payload.model_dump_json().encode(),
            subject=message.conversation,
            traceparent=child_traceparent(change.traceparent),
        )
        record = event_record(CHAT_INBOUND, message.conversation, event)
        await self._producer.publish(record, timeout_s=_TIMEOUT_S)


_STATES: Final = frozenset(get_args(ChatStatusChanged.model_fields["state"].annotation))
