"""Describe the pages of objects as data: lists, filters, columns, and actions with their forms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from shared.runtime.web.api_keys import Scope

Json = Mapping[str, Any]
ColumnKind = Literal["text", "link", "time", "status", "number", "code"]
FieldKind = Literal["text", "secret", "key", "lines", "select", "checks", "number", "time", "flag", "json"]
"""`key` is a secret that may have several lines, such as a key in PEM format."""
SECRETS: Final = ("secret", "key")
"""The field kinds whose stored value is never displayed."""
Group = Literal["Traffic", "Connections", "Conversations", "Settings"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, what it shows of an item, and in which form. The `link` opens the object."""

    title: str
    value: Callable[[Json], Any]
    kind: ColumnKind = "text"
    order: str = ""
    """The order of the list by this column; empty if there is none."""

    @property
    def name(self) -> str:
        """The name of the column in addresses."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of a list, by the query parameter of its API. With `options`, one of them is chosen."""

    name: str
    title: str
    options: Sequence[str] = ()
    is_time: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form. Its value becomes the field `name` of the call's body; an empty one is left out."""

    name: str
    title: str
    kind: FieldKind = "text"
    hint: str = ""
    options: Sequence[str] = ()
    default: str = ""
    required: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    """Texts of options; an option without one is its own text."""
    is_folded: bool = False
    """True if the form shows the field below "More settings"."""


Values = Mapping[str, Any]
"""The values of a form's fields, by name; of those that are filled in."""


def all_values(values: Values, _: Json) -> Any:
    """Return the values of the form as they are, as the body of a call."""
    return dict(values)


def always(_: Json) -> bool:
    """Return True: the action is offered for every object."""
    return True


@dataclass(frozen=True, slots=True)
class Action:
    """One call of an API, as a button. `call` is its path, with `{id}` and `{parent}` of the object.

    `fits` tells whether it makes sense for an object in its state, which is empty for an action of a list.
    With `effect` or `fields` a page asks first. `done` says what happened; `shown` are the fields of the
    answer that a person needs, such as a secret that is shown once; `opens` is the page to go on to.
    """

    name: str
    title: str
    call: str
    scope: Scope
    done: str
    method: str = "POST"
    fits: Callable[[Json], bool] = always
    fields: Sequence[Field] = ()
    body: Callable[[Values, Json], Any] = all_values
    effect: str = ""
    is_destructive: bool = False
    shown: Mapping[str, str] = field(default_factory=dict)
    opens: str = ""

    @property
    def asks(self) -> bool:
        """Return whether a page asks before the call is made."""
        return bool(self.effect or self.fields)


@dataclass(frozen=True, slots=True)
class BulkAction:
    """An action on many rows of a list: on some of them by their ids, or on all hits of a search, as a job.

    `call` takes the `ids`, or the filters of the list by their names, and answers with `results` or a `job`.
    `statuses` are those of a delivery that it is for, by default; with `is_for_statuses` the call takes them,
    and a filter by one status replaces them. `count` is the call that counts the hits of a search.
    """

    name: str
    title: str
    call: str
    scope: Scope
    effect: str
    done: str
    count: str
    statuses: Sequence[str]
    allowed: Sequence[str]
    """Statuses that it can be used for. A filter by another one leaves nothing to do."""
    is_for_statuses: bool = False
    is_destructive: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A link from an object to others. `href` has `{id}` or another field of the object in braces."""

    title: str
    href: str
    fits: Callable[[Json], bool] = always
    scope: Scope | None = None
    """The scope that the link needs; None if that of the object is enough."""


@dataclass(frozen=True, slots=True)
class Part:
    """More of an object, from another call, shown below it. `api` has `{id}` and `{parent}` of the object."""

    title: str
    api: str
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Download:
    """A document about an object that is not shown here: `file` is the end of its name."""

    title: str
    api: str
    file: str
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object: its list, its details, and what a member can do with them.

    `path` is the list's below `/console`, `api` that of its API; `{parent}` is the id of the object that it
    belongs to. `empty` is the first step for somebody who has none, `key` the field of an item with its id.
    """

    path: str
    title: str
    one: str
    icon: str
    api: str
    scope: Scope
    columns: Sequence[Column]
    empty: str
    group: Group | None = None
    """The section of the menu; None if it is reached from another object only."""
    filters: Sequence[Filter] = ()
    key: str = "id"
    name: str = "name"
    has_details: bool = True
    actions: Sequence[Action] = ()
    list_actions: Sequence[Action] = ()
    bulk: Sequence[BulkAction] = ()
    """Actions on rows that are chosen in its list."""
    links: Sequence[Link] = ()
    list_links: Sequence[Link] = ()
    parts: Sequence[Part] = ()
    downloads: Sequence[Download] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the list's API, by the part of the page's address that has their value."""
    template: str = "detail.html"
    """The page of an object: that of all kinds, or one that extends it."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Messages by the value of `done` in an object's address, in addition to those of its actions."""
    busy: frozenset[str] = frozenset()
    """Statuses in which an object changes by itself, so that its page is shown again and again."""
    advice: Callable[[Json], str] = lambda _: ""
    """Returns the next step for an object that has failed; empty if it needs none."""
    repairs: Sequence[Link] = ()
    """Links to the forms in which the next step is done."""
    first: Sequence[str] = ()
    """The fields that its page shows at once; without them, all that are not empty."""
    orders: Sequence[str] = ("newest", "oldest")
    """The orders of its list, by the API's parameter `order`; the first one is that without it.

    With orders, the list is one in time: it has `since` and `until`.
    """

    @property
    def all_filters(self) -> Sequence[Filter]:
        """The filters of its list, with the range of time."""
        return (*self.filters, *TIME_FILTERS) if self.orders else self.filters


def read(name: str) -> Callable[[Json], Any]:
    """Return a function that reads a field of an item; dots lead into objects. Absent fields are None."""

    def value_of(item: Json) -> Any:
        value: Any = item
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    return value_of


def column(title: str, name: str, kind: ColumnKind = "text", order: str = "") -> Column:
    """Return a column that shows a field."""
    return Column(title, read(name), kind, order)


def status_in(*states: str) -> Callable[[Json], bool]:
    """Return a function that tells whether an object has one of these statuses."""
    return lambda item: item.get("status") in states


TIME_FILTERS: Final = (
    Filter("since", "since (UTC)", is_time=True),
    Filter("until", "until (UTC)", is_time=True),
)
OVERLAP: Final = Field(
    "overlap_hours",
    "Hours with both secrets",
    "number",
    "For this long, the old secret is used too.",
    default="24",
)
"""Of rotations of secrets."""
