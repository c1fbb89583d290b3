"""Request and response bodies of mappings."""

from collections.abc import Mapping as Fields
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.sync.api.fields import ExternalId, Name, ProviderName
from services.sync.mapping_preview import NotFollowing, RequestedLeg, ResolvedLeg
from services.sync.mapping_test import LegResult
from services.sync.model.mapping import (
    MAX_LEGS,
    ConflictPolicy,
    Direction,
    Filters,
    Leg,
    Mapping,
    MappingStatus,
    Options,
)
from shared.connections.channel_accounts import AccountRef
from shared.contracts.envelope import rfc3339

_MAX_RETRY_S: Final = 7 * 24 * 3600
_NO_FILTERS: Final = Filters()
_USUAL: Final = Options()
_Entries = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(max_length=200)]


class LegCreate(BaseModel):
    """A leg: a channel of the chat (provider `chat`), or a conversation of a connected account.

    The account is named by its id at the provider, or by an integration of it. A workspace that has one
    account of the provider need not name it.
    """

    model_config = ConfigDict(extra="forbid")

    provider: Annotated[ProviderName, Field(description="`chat`, or a provider with conversations.")]
    account: Annotated[
        ExternalId | None, Field(description="The provider's id of the account: the team, the bot.")
    ] = None
    integration_id: Annotated[
        ExternalId | None,
        Field(description="An integration of the account, instead of `account`. Only the account is stored."),
    ] = None
    conversation: Annotated[
        ExternalId, Field(description="The provider's id of the conversation, or the channel of the chat.")
    ]
    direction: Annotated[
        Direction,
        Field(description="`in`: its messages go to the others only; `out`: it gets messages only."),
    ] = "both"

    def requested(self) -> RequestedLeg:
        """Return the leg as it was named."""
        return RequestedLeg(
            self.provider, self.conversation, self.account, self.integration_id, self.direction
        )


class FiltersBody(BaseModel):
    """Which messages are forwarded. Words are whole words, in any case. Persons are ids of their provider."""

    model_config = ConfigDict(extra="forbid")

    bots: Annotated[bool, Field(description="Forward messages of bots too.")] = False
    include_people: Annotated[_Entries, Field(description="Only those of these persons; empty: of all.")] = ()
    exclude_people: Annotated[_Entries, Field(description="None of these persons.")] = ()
    include_words: Annotated[
        _Entries, Field(description="Only those with one of these words; empty: all.")
    ] = ()
    exclude_words: Annotated[
        _Entries, Field(description="None with one of these words. An edit that adds one is not forwarded.")
    ] = ()


class OptionsBody(BaseModel):
    """The options of a mapping."""

    model_config = ConfigDict(extra="forbid")

    name_style: Annotated[
        Literal["override", "prefix", "none"],
        Field(description="How the author is shown: as the author, before the text, or not at all."),
    ] = "override"
    prefix: Annotated[str, Field(max_length=100, description="Text before the author's name.")] = ""
    files: bool = True
    reactions: bool = True
    edits: bool = True
    deletions: bool = True
    mass_mentions: Annotated[
        Literal["never", "everyone", "linked_users"],
        Field(description="Whose mentions of everyone stay mentions."),
    ] = "never"
    conflicts: Annotated[
        ConflictPolicy, Field(description="Which edit stays if both sides edited a message.")
    ] = "latest"
    retry_for_s: Annotated[
        int, Field(ge=0, le=_MAX_RETRY_S, description="Seconds for which a message is tried.")
    ] = 24 * 3600
    failure_notice: Annotated[
        bool, Field(description="Write into the source conversation if a message cannot be sent.")
    ] = False


_Legs = Annotated[list[LegCreate], Field(min_length=2, max_length=MAX_LEGS)]


class MappingCreate(BaseModel):
    """`POST /api/mappings` and its preview."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    legs: _Legs
    filters: FiltersBody = FiltersBody()
    options: OptionsBody = OptionsBody()


class MappingUpdate(BaseModel):
    """`PATCH`: an absent field stays as it is, also in `filters` and `options`. `legs` are all legs."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    legs: _Legs | None = None
    filters: FiltersBody | None = None
    options: OptionsBody | None = None


class LegOut(BaseModel):
    """A leg. `name` is the conversation's, as it was when the leg was saved.

    `problem` says why its account cannot be used now, and the fix; null if it can.
    """

    id: str
    provider: str
    account: str
    conversation: str
    name: str
    direction: Direction
    problem: str | None


class MappingOut(BaseModel):
    """A mapping. With the status `error`, `reason` and `fix` say what a person has to do."""

    id: str
    name: str
    legs: list[LegOut]
    filters: FiltersBody
    options: OptionsBody
    status: MappingStatus
    reason: str | None
    fix: str | None
    version: int
    created_at: str
    changed_at: str


class LegTestOut(BaseModel):
    """The result of the test message at one leg."""

    leg_id: str
    provider: str
    conversation: str
    ok: bool
    permalink: str | None
    reason: str | None
    fix: str | None


class MappingTestOut(BaseModel):
    """The result of each leg that receives messages."""

    ok: Annotated[bool, Field(description="True if all legs got the message.")]
    legs: list[LegTestOut]


class CapabilityOut(BaseModel):
    """A capability of a leg. `reason` explains why it is missing, `note` names a manual step."""

    capability: str
    name: str
    available: bool
    reason: str | None
    note: str | None
    scopes: Annotated[dict[str, str], Field(description="The scopes that it needs, and what for.")]
    missing_scopes: list[str]


class PreviewLegOut(BaseModel):
    """A leg as it was found. The list of capabilities is empty for the chat, which has all of them."""

    provider: str
    account: str
    conversation: str
    name: str
    direction: Direction
    capabilities: list[CapabilityOut]
    problems: list[str]


class NotFollowingOut(BaseModel):
    """A kind of change that is not forwarded between two legs (positions in `legs`), with the reason."""

    from_leg: int
    to_leg: int
    what: str
    reason: str


class MappingPreviewOut(BaseModel):
    """The preview of a mapping. `problems` concern the whole mapping; with any, it cannot be saved."""

    ok: bool
    legs: list[PreviewLegOut]
    not_following: list[NotFollowingOut]
    problems: list[str]


def filters_of(body: FiltersBody, stored: Filters = _NO_FILTERS) -> Filters:
    """Return stored filters with those that a body names."""
    return stored.model_copy(update=_given(body))


def options_of(body: OptionsBody, stored: Options = _USUAL) -> Options:
    """Return stored options with those that a body names."""
    return stored.model_copy(update=_given(body))


def _given(body: BaseModel) -> Fields[str, Any]:
    return {name: getattr(body, name) for name in body.model_fields_set}


def mapping_out(mapping: Mapping, problems: Fields[AccountRef, str]) -> MappingOut:
    """Return a mapping as the API shows it. `problems` are those of its accounts."""
    return MappingOut(
        id=mapping.id,
        name=mapping.name,
        legs=[
            LegOut(**leg.model_dump(), problem=problems.get(account_of(mapping, leg))) for leg in mapping.legs
        ],
        filters=FiltersBody.model_construct(**mapping.filters.model_dump()),
        options=OptionsBody.model_construct(**mapping.options.model_dump()),
        status=mapping.status,
        reason=mapping.reason,
        fix=mapping.fix,
        version=mapping.settings_version,
        created_at=rfc3339(mapping.created_at),
        changed_at=rfc3339(mapping.changed_at),
    )


def account_of(mapping: Mapping, leg: Leg) -> AccountRef:
    """Return the account of a leg."""
    return AccountRef(mapping.workspace, leg.provider, leg.account)


def leg_test_out(result: LegResult) -> LegTestOut:
    """Return the result of a leg as the API shows it."""
    leg = result.leg
    return LegTestOut(
        leg_id=leg.id,
        provider=leg.provider,
        conversation=leg.conversation,
        ok=result.ok,
        permalink=result.permalink,
        reason=result.reason or None,
        fix=result.fix or None,
    )


def preview_leg_out(resolved: ResolvedLeg) -> PreviewLegOut:
    """Return a leg of a preview as the API shows it."""
    leg = resolved.leg
    return PreviewLegOut(
        provider=leg.provider,
        account=leg.account,
        conversation=leg.conversation,
        name=leg.name,
        direction=leg.direction,
        capabilities=[
            CapabilityOut(
                capability=status.capability,
                name=status.name,
                available=status.available,
                reason=status.reason or None,
                note=status.note or None,
                scopes=dict(resolved.scopes.get(status.capability, {})),
                missing_scopes=list(status.missing_scopes),
            )
            for status in resolved.capabilities
        ],
        problems=[error.message for _, error in resolved.problems],
    )


def not_following_out(found: NotFollowing) -> NotFollowingOut:
    """Return what does not follow as the API shows it."""
    return NotFollowingOut(from_leg=found.source, to_leg=found.target, what=found.what, reason=found.reason)
