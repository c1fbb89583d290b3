"""A mapping: conversations of providers and channels of the chat whose messages appear in each other."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from shared.contracts.ids import derive
from shared.runtime.outbox import OutboxRecord
from shared.runtime.records import StoredPart, stored_null

CHAT: Final = "chat"
"""The provider of a leg that is a channel of the chat. Its account is the workspace."""
Direction = Literal["both", "in", "out"]
"""`in`: messages of the leg go to the others only; `out`: the leg gets messages only."""
ConflictPolicy = Literal["latest", "source", "target", "manual"]
MappingStatus = Literal["active", "paused", "error"]
MAX_LEGS: Final = 10
SharedConversation = tuple[str, str]
"""Provider and conversation, whichever account sees it: two accounts may be in the same one."""


class Leg(StoredPart):
    """A conversation of a provider, or a channel of the chat.

    `account` is the provider's id of the account (the team for a bot), not an integration: a second
    connection of the same account changes nothing. `conversation` is the provider's id, or the channel's id.
    """

    id: str
    provider: str
    account: str
    conversation: str
    name: str = ""
    direction: Direction = "both"

    @property
    def shared(self) -> SharedConversation:
        """The conversation, whichever account and mapping it is in."""
        return self.provider, self.conversation

    @property
    def is_chat(self) -> bool:
        return self.provider == CHAT

    @property
    def sends(self) -> bool:
        """True if its messages go to the other legs."""
        return self.direction in {"both", "in"}

    @property
    def receives(self) -> bool:
        """True if it gets the messages of the other legs."""
        return self.direction in {"both", "out"}


class Filters(StoredPart):
    """Which messages are forwarded. `include_*` empty means all; words are whole words, in any case."""

    bots: bool = False
    include_people: tuple[str, ...] = ()
    exclude_people: tuple[str, ...] = ()
    include_words: tuple[str, ...] = ()
    exclude_words: tuple[str, ...] = ()


class Options(StoredPart):
    """How messages are forwarded.

    `prefix` is put before the author's name; `name_style` says how it is shown.
    """

    name_style: Literal["override", "prefix", "none"] = "override"
    prefix: str = ""
    files: bool = True
    reactions: bool = True
    edits: bool = True
    deletions: bool = True
    mass_mentions: Literal["never", "everyone", "linked_users"] = "never"
    conflicts: ConflictPolicy = "latest"
    retry_for_s: Annotated[int, Field(ge=0)] = 24 * 3600
    failure_notice: bool = False


class Mapping(OutboxRecord):
    """A mapping, as `sync_mappings` has it. `reason` and `fix` explain the status `error`."""

    name: str = ""
    legs: tuple[Leg, ...]
    filters: Filters = Filters()
    options: Options = Options()
    status: MappingStatus = "active"
    reason: str | None = stored_null()
    fix: str | None = stored_null()
    failed_leg: str | None = stored_null()
    """Id of the leg whose conversation refused a change and so caused the status `error`.

    The next change that succeeds there ends the error.
    """
    version: int = 1
    """The number of writes: each is based on the one before."""
    settings_version: int = 1
    """The number of changes of name, legs, filters and options: the `version` of the API."""
    created_at: datetime
    deleted_at: datetime | None = stored_null()

    def leg(self, leg_id: str) -> Leg | None:
        """Return the leg with this id, if the mapping still has it."""
        return next((leg for leg in self.legs if leg.id == leg_id), None)


def account_key(provider: str, account: str) -> str:
    """Return the key of an account: of `sync.requested`, of rates and of queues."""
    return f"{provider}:{account}"


def lane_of(mapping_id: str, account: str, conversation: str) -> str:
    """Return the lane of a mapping to a conversation; `account` is its `account_key`.

    Mappings do not share lanes, so a paused mapping does not delay another one to the same conversation.
    """
    return f"{mapping_id}:{account}:{conversation}"


def link_id(provider: str, account: str, conversation: str, external_id: str) -> str:
    """Derive the id of the link of an external message, so that an event finds it by its fields."""
    return f"lnk_{derive(provider, account, conversation, external_id)}"
