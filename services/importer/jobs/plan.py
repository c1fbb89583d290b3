"""The plan of an import: what of an export becomes part of the chat. A person can change and reuse it."""

from collections.abc import Collection
from datetime import datetime
from functools import cache
from typing import Annotated, Final, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from shared.contracts.ids import derive

MAX_EXCEPTIONS: Final = 20_000
_BY_ID: Final = ("channels", "people", "answers")
"""Fields whose entries are changed one by one."""

Id = Annotated[str, Field(min_length=1, max_length=256)]


@cache
def _time_zones() -> Collection[str]:
    """Return the names of all time zones. Collecting them takes milliseconds."""
    return available_timezones()


def _known_zone(name: str) -> str:
    if name not in _time_zones():
        raise ValueError("must be the name of a time zone, such as Europe/Berlin or UTC")
    return name


class ChannelPlan(BaseModel):
    """The target of one conversation: a new channel, an existing one, or none.

    `mapped` is the channel of the chat with which sync joins the conversation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    into: Literal["new", "existing", "mapped", "leave_out"]
    channel_id: Annotated[
        Id | None, Field(description="The channel of the chat; only for `existing`, and required there.")
    ] = None
    name: Annotated[str | None, Field(max_length=256, description="Another name for a new channel.")] = None

    @model_validator(mode="after")
    def _check_channel(self) -> Self:
        if (self.into == "existing") != (self.channel_id is not None):
            raise ValueError("channel_id is required for into: existing, and only for it")
        return self


class PersonPlan(BaseModel):
    """The match of a person of the export: a user of the chat, a guest, or left out with all messages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    as_: Annotated[Literal["user", "guest", "leave_out"], Field(alias="as")]
    user_id: Annotated[Id | None, Field(description="The user of the chat; only for `user`.")] = None
    by: Annotated[
        Literal["manual", "name"],
        Field(description="How the user was found; `name` for a proposal that somebody has reviewed."),
    ] = "manual"

    @model_validator(mode="after")
    def _check_user(self) -> Self:
        if (self.as_ == "user") != (self.user_id is not None):
            raise ValueError("user_id is required for as: user, and only for it")
        return self


class FilesPlan(BaseModel):
    """The treatment of files of messages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Annotated[
        Literal["all", "up_to", "addresses", "none"],
        Field(
            description="`all`: the hub stores them. `up_to`: those of at most `max_bytes` bytes. "
            "`addresses`: none, and messages have addresses at which it streams files from the provider."
        ),
    ] = "all"
    max_bytes: Annotated[
        int | None, Field(ge=1, le=1024**4, description="Only for `up_to`, and required there.")
    ] = None

    @model_validator(mode="after")
    def _check_max_bytes(self) -> Self:
        if (self.mode == "up_to") != (self.max_bytes is not None):
            raise ValueError("max_bytes is the size of `up_to`: send it with this mode only")
        return self


class Plan(BaseModel):
    """The selection of an import. `channels` and `people` name exceptions to the other fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: Annotated[
        dict[Id, ChannelPlan], Field(max_length=MAX_EXCEPTIONS, description="By the export's id.")
    ] = {}
    people: Annotated[
        dict[Id, PersonPlan], Field(max_length=MAX_EXCEPTIONS, description="By the export's id.")
    ] = {}
    answers: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=256)]],
        Field(max_length=50, description="Answers to `contents.choices`, by the id of the choice."),
    ] = {}
    other_channels: Annotated[
        Literal["mapped", "new", "leave_out"],
        Field(
            description="Conversations that `channels` does not name. With `mapped`, one that sync joins "
            "with a channel of the chat goes there, and each other one into a new channel."
        ),
    ] = "mapped"
    match_people: Annotated[
        bool,
        Field(
            description="If true, a person whom `people` does not name becomes the user to whom they are "
            "linked (/api/people-links), or to whom their verified e-mail address belongs. Others are guests."
        ),
    ] = True
    direct_messages: Annotated[
        bool,
        Field(
            description="Whether messages of two people or of a closed group are imported: they were written "
            "for those people only."
        ),
    ] = False
    archived_channels: bool = True
    bots: bool = True
    system_messages: bool = False
    threads: Annotated[bool, Field(description="Whether replies in threads are imported.")] = True
    reactions: bool = True
    pins: bool = True
    files: FilesPlan = FilesPlan()
    edits: Annotated[
        bool,
        Field(
            description="Whether messages of an earlier import that were edited since are published again, "
            "as changed. An undo does not restore their earlier text."
        ),
    ] = False
    since: AwareDatetime | None = None
    until: Annotated[AwareDatetime | None, Field(description="Messages before this time.")] = None
    time_zone: Annotated[
        str,
        Field(max_length=64, description="The days of the report are those of this zone."),
        AfterValidator(_known_zone),
    ] = "UTC"

    @model_validator(mode="after")
    def _check_span(self) -> Self:
        if self.since and self.until and self.until <= self.since:
            raise ValueError("until is the end of the time range: send a later time than since")
        return self

    @property
    def digest(self) -> str:
        """The same for every plan that selects the same."""
        return derive(self.model_dump_json(by_alias=True))

    def span(self) -> tuple[float, float]:
        """Return the Unix times from which and before which messages are imported."""
        return _unix(self.since, float("-inf")), _unix(self.until, float("inf"))


class PlanUpdate(BaseModel):
    """Changes of a plan: an absent field stays as it is, and null sets its default.

    Of `channels`, `people` and `answers`, only entries that are named change; null takes one out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: Annotated[dict[Id, ChannelPlan | None] | None, Field(max_length=MAX_EXCEPTIONS)] = None
    people: Annotated[dict[Id, PersonPlan | None] | None, Field(max_length=MAX_EXCEPTIONS)] = None
    answers: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=256)] | None] | None,
        Field(max_length=50),
    ] = None
    other_channels: Literal["mapped", "new", "leave_out"] | None = None
    match_people: bool | None = None
    direct_messages: bool | None = None
    archived_channels: bool | None = None
    bots: bool | None = None
    system_messages: bool | None = None
    threads: bool | None = None
    reactions: bool | None = None
    pins: bool | None = None
    files: FilesPlan | None = None
    edits: bool | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    time_zone: Annotated[str, Field(max_length=64), AfterValidator(_known_zone)] | None = None

    def applied_to(self, plan: Plan) -> Plan:
        """Return the plan with these changes. Raises `pydantic.ValidationError` if they do not fit it."""
        fields = plan.model_dump(mode="json", by_alias=True)
        for name, value in self.model_dump(mode="json", by_alias=True, exclude_unset=True).items():
            if value is None:
                del fields[name]
            elif name in _BY_ID:
                merged = fields[name] | value
                fields[name] = {key: entry for key, entry in merged.items() if entry is not None}
            else:
                fields[name] = value
        return Plan.model_validate(fields)


def _unix(moment: datetime | None, default: float) -> float:
    return moment.timestamp() if moment else default
