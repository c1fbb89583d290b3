"""Polling triggers: what a provider is asked for again and again, because no webhook brings it.

Their requests have the values of `connect`, and `{poll:...}`: the params by their names, and

- `cursor`, `page`: where the last poll ended, and the next page of this one;
- `since`, `since_s`: when the last complete poll began, as RFC 3339 and in Unix seconds;
- `item`: the item whose details are asked for;
- `row`, `row_end`: the first and the last row to read, for cursors that count rows.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from shared.manifests.base import EventName, ManifestModel
from shared.manifests.connect_models import ApiRequest, JmesPath, Setting, SettingName

CURSOR_VALUES: Final = ("cursor", "page", "since", "since_s", "item", "row", "row_end")
"""`{poll:...}` that the poller sets itself."""

MIN_INTERVAL_S: Final = 60
MAX_INTERVAL_S: Final = 86_400


def _without_cursor_values(params: dict[str, Setting]) -> dict[str, Setting]:
    taken = sorted(params.keys() & set(CURSOR_VALUES))
    if taken:
        raise ValueError(f"the poller sets {', '.join(taken)} itself: name the param otherwise")
    return params


class PollCursor(ManifestModel):
    """Rule by which the next poll goes on where this one ended.

    - `token`: the provider says it: `value` is selected from each response.
    - `newest`: the greatest `value` of all items. Items at the boundary come again; those that were published
      are skipped.
    - `clock`: the time at which the last complete poll began, less `overlap_s`. For items without a time.
    - `seen`: everything comes each time; items whose id was not there before are new.
    - `rows`: the number of rows that are known; the last known row is read again, to see whether it is there.
    - `changed_rows`: as `seen`, for rows: those whose content is another one than before.
    """

    by: Literal["token", "newest", "clock", "seen", "rows", "changed_rows"] = Field(
        description="The rule of the cursor."
    )
    value: JmesPath = Field(
        default="null", description="`token`: of the response. `newest`: of an item; a text or a number."
    )
    numeric: bool = Field(
        default=False, description="Whether `newest` compares whole numbers, such as snowflakes, not texts."
    )
    overlap_s: int = Field(
        default=60,
        ge=0,
        le=3600,
        description=(
            "`newest` and `clock`: seconds before the first poll, or before the last one, that are read "
            "again: for times that are rounded, and for items that appear late."
        ),
    )
    page_rows: int = Field(default=200, ge=2, le=1000, description="Rows of one request.")


class PollStart(ManifestModel):
    """The request of the first poll, which sets the cursor and publishes nothing."""

    request: ApiRequest = Field(description="The request. `{poll:page}` is empty for the first page.")
    cursor: JmesPath = Field(description="The cursor in the response (the last one, if there are pages).")
    page: JmesPath = Field(default="null", description="The next page of the response, if there is one.")
    empty: str = Field(default="", description="The cursor if the response has none: nothing is there yet.")


class PollDetails(ManifestModel):
    """A further request for each new item. Its response is the item's field `detail`."""

    item: JmesPath = Field(default="id", description="`{poll:item}` of the request, selected from the item.")
    request: ApiRequest = Field(description="The request. An item that answers 404 or 410 is skipped.")


class PollRecovery(ManifestModel):
    """Asks for what was missed when the provider does not know the cursor any more."""

    request: ApiRequest = Field(description="The request, with `{poll:since}` or `{poll:since_s}`.")
    items: JmesPath = Field(description="The items in the response.")
    page: JmesPath = Field(default="null", description="The next page of the response, if there is one.")


class PollAge(ManifestModel):
    """Tells new items from changed ones by the time at which they were created."""

    created: JmesPath = Field(description="The time at which the item was created.")
    wanted: Literal["new", "older"] = Field(
        description="`new`: created since the last complete poll; `older`: created before it."
    )


class PollSpec(ManifestModel):
    """One polling trigger. Its id is that of a trigger of the catalogue."""

    about: str = Field(description="What is asked for, and what to know about it.")
    event: EventName = Field(description="The event that each item becomes: one of `handled`.")
    kinds: tuple[SettingName, ...] = Field(
        default=(), description="Kinds of credentials that can ask for it; empty: all of the provider."
    )
    scopes: tuple[str, ...] = Field(default=(), description="Granted scopes without which it does not work.")
    params: Annotated[dict[SettingName, Setting], AfterValidator(_without_cursor_values)] = Field(
        default={}, description="What a person enters: the calendar, the folder, the address of the feed."
    )
    interval_s: int = Field(
        default=300,
        ge=MIN_INTERVAL_S,
        le=MAX_INTERVAL_S,
        description="Seconds between two polls, if the trigger says nothing else.",
    )
    min_interval_s: int = Field(
        default=MIN_INTERVAL_S, ge=MIN_INTERVAL_S, le=3600, description="The shortest allowed interval."
    )
    format: Literal["json", "feed"] = Field(
        default="json", description="What the response is: JSON, or an RSS or Atom feed."
    )
    conditional: bool = Field(
        default=False, description="Whether `If-None-Match` and `If-Modified-Since` are sent."
    )
    start: PollStart | None = Field(default=None, description="The request of the first poll.")
    request: ApiRequest = Field(description="The request of each other poll.")
    page_request: ApiRequest | None = Field(
        default=None, description="The request of further pages, if it differs by more than a parameter."
    )
    items: JmesPath = Field(description="The items in the response.")
    page: JmesPath = Field(default="null", description="The next page of the response, if there is one.")
    more: JmesPath = Field(
        default="null", description="Whether there is more behind the new cursor: it is asked for at once."
    )
    cursor: PollCursor = Field(description="How the next poll knows where this one ended.")
    newest_first: bool = Field(
        default=False, description="Whether the items of a response begin with the newest."
    )
    max_pages: int = Field(default=5, ge=1, le=10, description="Pages of one poll; the next one goes on.")
    details: PollDetails | None = Field(default=None, description="A further request for each new item.")
    where: JmesPath = Field(default="", description="A condition on an item with its details.")
    age: PollAge | None = Field(default=None, description="Whether new items or changed ones are wanted.")
    id: JmesPath = Field(
        default="id",
        description="What makes the item's event one and the same: the delivery id is derived from it.",
    )
    id_of_content: bool = Field(
        default=False, description="Whether the item's content belongs to its id, because it has no version."
    )
    occurred: JmesPath = Field(default="null", description="The time of the event.")
    data: JmesPath = Field(default="@", description="The event's data, of an item with its details.")
    example: dict[str, Any] = Field(
        default={}, description="An example of the event's data, for documents and to try the message with."
    )
    expired: tuple[int, ...] = Field(
        default=(), description="Statuses by which the provider says that the cursor is not valid any more."
    )
    recover: PollRecovery | None = Field(
        default=None, description="Asks for what was missed when the cursor is not valid any more."
    )

    @model_validator(mode="after")
    def _complete(self) -> "PollSpec":
        if self.cursor.by == "token" and self.start is None:
            raise ValueError("start: missing: only the provider knows the first token")
        if self.cursor.by in ("token", "newest") and self.cursor.value == "null":
            raise ValueError("cursor.value: missing: say where the cursor is")
        if self.recover is not None and not self.expired:
            raise ValueError("recover: without expired it is never used: remove it")
        if self.interval_s < self.min_interval_s:
            raise ValueError("interval_s: shorter than min_interval_s")
        return self
