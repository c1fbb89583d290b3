"""What a mapping would be: its legs as they are found, what each can do, and what follows from leg to leg.

Saving a mapping resolves its legs by the same functions, so a preview and what is saved cannot differ.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.sync.lookups import Lookups
from services.sync.model.mapping import CHAT, Direction, Leg, Options
from shared.connections.integration_record import Integration
from shared.contracts.errors import Conflict, FieldError, Invalid, NotFound, Rejected
from shared.contracts.ids import new_leg_id
from shared.manifests.capabilities import NAMES, CapabilityStatus, capabilities
from shared.manifests.channel_models import Capability
from shared.manifests.connector import Connector
from shared.manifests.registry import Provider
from shared.manifests.scopes import missing_scopes

_PROBLEM_ORDER: Final[Sequence[type[Rejected]]] = (NotFound, Conflict, Invalid)


@dataclass(frozen=True, slots=True)
class RequestedLeg:
    """A leg as a person names it. The account of the chat is the workspace."""

    provider: str
    conversation: str
    account: str | None = None
    integration_id: str | None = None
    direction: Direction = "both"


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that follows from leg to leg: what the source and the target need for it.

    `option` is the option that is true if it is wanted, '' if it always is.
    """

    name: str
    source: Capability | None
    target: Capability | None
    option: str = ""
    value: object = True

    def is_wanted(self, options: Options) -> bool:
        """Return whether these options want it."""
        return not self.option or getattr(options, self.option) == self.value


FEATURES: Final[Sequence[Feature]] = (
    Feature("messages", "read_messages", "send"),
    Feature("names of authors", None, "author_names", "name_style", "override"),
    Feature("threads", None, "threads"),
    Feature("files", "download_files", "upload_files", "files"),
    Feature("edits", "read_edits", "edit", "edits"),
    Feature("deletions", "read_deletions", "delete", "deletions"),
    Feature("reactions", "read_reactions", "react", "reactions"),
)
_OFF: Final = {"name_style": "prefix", "files": "false", "edits": "false", "deletions": "false"}
"""The value of an option that does without the feature; false for those that are not here."""


@dataclass(slots=True)
class ResolvedLeg:
    """A leg with what was found of it. The chat has every capability and no integration."""

    leg: Leg
    integration: Integration | None = None
    capabilities: Sequence[CapabilityStatus] = ()
    scopes: Mapping[Capability, Mapping[str, str]] = field(default_factory=dict)
    """The scopes that capabilities need, each with what it is for."""
    problems: list[tuple[type[Rejected], FieldError]] = field(default_factory=list)

    def status(self, capability: Capability) -> CapabilityStatus | None:
        """Return the status of a capability; None for the chat, and if the account was not found."""
        return next((status for status in self.capabilities if status.capability == capability), None)


@dataclass(frozen=True, slots=True)
class NotFollowing:
    """What does not follow from one leg to another, by their positions, with the reason."""

    source: int
    target: int
    what: str
    reason: str


class LegResolver:
    """Resolves the legs of mappings. Methods raise `DatabaseUnavailable`, and `RetryLater` of a provider."""

    def __init__(
        self, lookups: Lookups, providers: Mapping[str, Provider], connectors: Mapping[str, Connector]
    ) -> None:
        self._lookups = lookups
        self._providers = providers
        self._connectors = connectors

    async def resolve(
        self, workspace: str, requested: Sequence[RequestedLeg], options: Options, known: Collection[Leg] = ()
    ) -> list[ResolvedLeg]:
        """Return each leg as it was found, with its problems.

        A leg that is among `known` keeps its id and name, and is not looked up at the provider again.
        """
        resolved = await asyncio.gather(
            *(self._leg(workspace, index, leg, options, known) for index, leg in enumerate(requested))
        )
        places: dict[tuple[str, str], int] = {}
        for index, item in enumerate(resolved):
            first = places.setdefault(item.leg.shared, index)
            if first != index:
                text = f"the same conversation as legs.{first}: leave one of them out"
                item.problems.append((Invalid, FieldError(f"legs.{index}.conversation", text)))
        return list(resolved)

    async def _leg(
        self, workspace: str, index: int, wanted: RequestedLeg, options: Options, known: Collection[Leg]
    ) -> ResolvedLeg:
        place = f"legs.{index}"
        leg = Leg(
            id=new_leg_id(),
            provider=wanted.provider,
            account=wanted.account or "",
            conversation=wanted.conversation,
            direction=wanted.direction,
        )
        found = ResolvedLeg(leg)
        try:
            if wanted.provider == CHAT:
                found.leg = _with_known(_chat_leg(workspace, wanted, leg), known)
                return found
            integration = await self._lookups.account(
                workspace, wanted.provider, wanted.account, wanted.integration_id
            )
        except Rejected as error:
            found.problems.append((type(error), FieldError(place, error.detail)))
            return found
        account = integration.account
        found.integration = integration
        found.leg = _with_known(leg.model_copy(update={"account": account.id if account else ""}), known)
        self._add_capabilities(found, integration)
        found.problems += _missing_scopes(found, place, options)
        if found.leg.id == leg.id and not found.problems:
            await self._look_up(found, integration, place)
        return found

    def _add_capabilities(self, found: ResolvedLeg, integration: Integration) -> None:
        provider = self._providers[integration.provider]
        spec = provider.manifest.channel
        found.scopes = spec.scopes if spec else {}
        needed = [scope for scopes in found.scopes.values() for scope in scopes]
        connector = self._connectors.get(integration.provider)
        missing = missing_scopes(connector.oauth2 if connector else None, needed, integration.scopes)
        found.capabilities = capabilities(provider, set(needed) - set(missing))

    async def _look_up(self, found: ResolvedLeg, integration: Integration, place: str) -> None:
        try:
            conversation = await self._lookups.conversation(integration, found.leg.conversation)
        except Rejected as error:
            found.problems.append((type(error), FieldError(f"{place}.conversation", error.detail)))
            return
        found.leg = found.leg.model_copy(update={"conversation": conversation.id, "name": conversation.name})
        if conversation.problem:
            found.problems.append((Invalid, FieldError(f"{place}.conversation", conversation.problem)))


def check(resolved: Sequence[ResolvedLeg]) -> None:
    """Raise the problems of legs, if there are any: `NotFound`, `Conflict` or `Invalid`."""
    problems = [problem for item in resolved for problem in item.problems]
    problems += [(Invalid, error) for error in direction_errors([item.leg for item in resolved])]
    for kind in _PROBLEM_ORDER:
        errors = tuple(error for found, error in problems if found is kind)
        if errors:
            detail = "; ".join(f"{error.field}: {error.message}" for error in errors)
            raise kind(detail, errors=errors)


def direction_errors(legs: Sequence[Leg]) -> Iterator[FieldError]:
    """Yield what is wrong with the directions of legs: a leg that sends needs another one that receives."""
    if not any(leg.sends and other.receives for leg in legs for other in legs if other is not leg):
        yield FieldError("legs", "no message would go anywhere: one leg has to send, and another to receive")


def not_following(resolved: Sequence[ResolvedLeg], options: Options) -> Iterator[NotFollowing]:
    """Yield what will not follow from leg to leg, although the options want it."""
    for source_index, source in enumerate(resolved):
        for target_index, target in enumerate(resolved):
            if source is target or not (source.leg.sends and target.leg.receives):
                continue
            for feature in FEATURES:
                if feature.is_wanted(options):
                    reason = _unavailable(source, feature.source) or _unavailable(target, feature.target)
                    if reason:
                        yield NotFollowing(source_index, target_index, feature.name, reason)


def _unavailable(resolved: ResolvedLeg, capability: Capability | None) -> str:
    status = resolved.status(capability) if capability else None
    return "" if status is None or status.available else status.reason


def _chat_leg(workspace: str, wanted: RequestedLeg, leg: Leg) -> Leg:
    """Return the leg of a channel of the chat. Raises `NotFound`, `Invalid`."""
    if wanted.integration_id is not None:
        raise Invalid("a channel of the chat has no integration: leave integration_id out")
    if wanted.account not in (None, workspace):
        raise NotFound(f"no chat {wanted.account!r} in this workspace: leave `account` out")
    return leg.model_copy(update={"account": workspace})


def _with_known(leg: Leg, known: Collection[Leg]) -> Leg:
    """Return the leg with id and name of the known leg of the same account and conversation, if any."""
    for other in known:
        if (other.account, other.shared) == (leg.account, leg.shared):
            return other.model_copy(update={"direction": leg.direction})
    return leg


def _missing_scopes(
    resolved: ResolvedLeg, place: str, options: Options
) -> Iterator[tuple[type[Rejected], FieldError]]:
    """Yield the scopes that the account lacks for what the mapping wants of it."""
    leg = resolved.leg
    wanted: dict[Capability, str] = {"look_up_conversations": ""}
    for feature in FEATURES:
        if feature.is_wanted(options):
            if leg.sends and feature.source:
                wanted.setdefault(feature.source, feature.option)
            if leg.receives and feature.target:
                wanted.setdefault(feature.target, feature.option)
    for capability, option in wanted.items():
        status = resolved.status(capability)
        if status is None or not status.missing_scopes:
            continue
        scopes = ", ".join(status.missing_scopes)
        text = (
            f"the account {leg.account} of {leg.provider} lacks the scope {scopes}, which it needs to "
            f"{NAMES[capability]}: connect the account again with the purpose sync, and allow it"
        )
        if option:
            text += f"; or set options.{option} to {_OFF.get(option, 'false')}"
        yield Invalid, FieldError(place, text)
