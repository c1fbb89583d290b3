"""Apply a change at its target, with the provider's channel and the account's token."""

from collections.abc import Mapping

from services.sync.carry.edits import MessageEditor
from services.sync.carry.messages import MessageSender
from services.sync.carry.outcomes import Change, Done, Outcome
from services.sync.carry.reactions import ReactionSetter
from services.sync.carry.scene import Scene, SceneCalls
from services.sync.model.mapping import Leg
from services.sync.model.mapping import Mapping as SyncMapping
from services.sync.model.synced_message import SyncedMessage
from shared.connections.channel_accounts import ChannelAccounts, channel_account
from shared.contracts.errors import Invalid
from shared.manifests.channel_types import Place, Signals
from shared.manifests.registry import Provider


class Work:
    """Applies changes of every kind."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        accounts: ChannelAccounts,
        calls: SceneCalls,
        messages: MessageSender,
        edits: MessageEditor,
        reactions: ReactionSetter,
    ) -> None:
        self._providers = providers
        self._accounts = accounts
        self._calls = calls
        self._messages = messages
        self._edits = edits
        self._reactions = reactions

    async def apply(self, change: Change, mapping: SyncMapping, leg: Leg, message: SyncedMessage) -> Outcome:
        """Apply a change at its target.

        Raises `ChannelFailure`, `Stopped`, and what `ChannelCalls.run` and `ChannelAccounts.find` raise.
        """
        target = message.targets.get(leg.id)
        if target is not None and target.discarded_at and change.received_at <= target.discarded_at:
            return Done()
        integration = await self._accounts.find(change.workspace, leg.provider, leg.account)
        spec, channel = self._providers[leg.provider].manifest.channel, self._accounts.channel(leg.provider)
        if spec is None or channel is None:
            raise Invalid(f"{leg.provider} has no conversations: remove the leg from the mapping")
        scene = Scene(change, mapping, leg, message, integration, channel_account(integration), channel, spec)
        match change.request.kind:
            case "message":
                return await self._messages.send(scene)
            case "edit":
                return await self._edits.edit(scene)
            case "delete":
                return await self._edits.delete(scene)
            case "reaction":
                return await self._reactions.react(scene)
        return Done()

    async def signal(self, change: Change, leg: Leg) -> None:
        """Show that somebody types, if the provider's rates allow it now. Raises as `apply`."""
        spec, channel = self._providers[leg.provider].manifest.channel, self._accounts.channel(leg.provider)
        if spec is None or not isinstance(channel, Signals):
            return
        integration = await self._accounts.find(change.workspace, leg.provider, leg.account)
        operation = channel.signal(Place(leg.conversation), channel_account(integration))
        await self._calls.run_now(change, leg, spec, operation, integration.id)
