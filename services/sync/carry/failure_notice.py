"""A short notice where a message was written, when it could not be delivered and the mapping asks for it."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Final

from services.sync.carry.outcomes import Change, Stopped
from services.sync.carry.scene import Scene, SceneCalls
from services.sync.model.mapping import Leg, account_key
from services.sync.model.mapping import Mapping as SyncMapping
from services.sync.model.synced_message import SyncedMessage
from services.sync.own_messages import own_chat_record, own_message
from services.sync.store.messages import SyncedMessages
from shared.connections.channel_accounts import ChannelAccounts, channel_account
from shared.connections.channel_calls import NotReached, OutcomeUnknown
from shared.contracts.errors import Rejected, RetryLater
from shared.contracts.ids import derive
from shared.manifests.channel_types import ChannelFailure, Place, Sends
from shared.manifests.registry import Provider
from shared.runtime.clock import utcnow
from shared.runtime.kafka.producer import Producer
from shared.runtime.logs import Log

_TIMEOUT_S: Final = 10.0
_PERIOD_S: Final = 10.0
"""In this time, a mapping gets one notice of a target: who reads it knows that others may be missing too."""
_MAX_KNOWN: Final = 10_000
_REASON: Final = 300
"""Characters of a reason."""


class FailureNotices:
    """Writes notices. At most one for each message and target, and none if it cannot be written at once."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        accounts: ChannelAccounts,
        calls: SceneCalls,
        messages: SyncedMessages,
        producer: Producer,
        log: Log,
    ) -> None:
        self._providers = providers
        self._accounts = accounts
        self._calls = calls
        self._messages = messages
        self._producer = producer
        self._log = log
        self._last: dict[tuple[str, str], float] = {}

    async def write(
        self, change: Change, mapping: SyncMapping, leg: Leg, message: SyncedMessage, reason: str
    ) -> None:
        """Tell the source of a message that it was given up at a leg. A failure is nothing to repeat.

        Raises `DatabaseUnavailable`.
        """
        source = mapping.leg(message.leg)
        if not mapping.options.failure_notice or source is None or self._is_too_soon(mapping, leg):
            return
        # Stored before the notice is sent: after a crash there is none, rather than two.
        target = message.targets.get(leg.id)
        if target is None or target.notified_at is not None:
            return
        if not await self._messages.change_target(
            message, leg.id, ["failed", "unknown"], {"notified_at": utcnow()}, ()
        ):
            return
        text = f"Not delivered to {leg.name or leg.provider}: {reason[:_REASON]}"
        event_id = f"evt_{derive(message.id, leg.id, 'failure_notice')}"
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._send(change, mapping, source, message, text, event_id)
        except (
            TimeoutError,
            ChannelFailure,
            Stopped,
            NotReached,
            OutcomeUnknown,
            Rejected,
            RetryLater,
        ) as error:
            self._log.info("notice.failed", synced_id=message.id, leg=leg.id, error=repr(error))

    def _is_too_soon(self, mapping: SyncMapping, leg: Leg) -> bool:
        key, now = (mapping.id, leg.id), monotonic()
        if now - self._last.get(key, -_PERIOD_S) < _PERIOD_S:
            return True
        if len(self._last) >= _MAX_KNOWN:
            self._last.clear()
        self._last[key] = now
        return False

    async def _send(
        self,
        change: Change,
        mapping: SyncMapping,
        source: Leg,
        message: SyncedMessage,
        text: str,
        event_id: str,
    ) -> None:
        if source.is_chat:
            record = own_chat_record(
                mapping, source, text, event_id, thread=message.thread, reply_to=message.external_id
            )
            await self._producer.publish(record, timeout_s=_TIMEOUT_S)
            return
        spec = self._providers[source.provider].manifest.channel
        channel = self._accounts.channel(source.provider)
        if spec is None or not isinstance(channel, Sends):
            return
        integration = await self._accounts.find(message.workspace, source.provider, source.account)
        # The call is one of the source's account, at its rates.
        own = replace(change, account_key=account_key(source.provider, source.account), completion=None)
        account = channel_account(integration)
        scene = Scene(own, mapping, source, message, integration, account, channel, spec)
        place = Place(source.conversation, message.thread, message.external_id)
        await self._calls.run(scene, channel.send(own_message(place, text, event_id), account))
