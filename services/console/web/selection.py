"""Read filters, time range, order and columns of a list from its address, and write them into one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol
from urllib.parse import urlencode

from services.console.pages.kinds import Column, Kind
from services.console.web.forms import field_time, utc_time

_MAX_VALUE: Final = 500
MAX_CURSOR: Final = 2000
_COLUMNS: Final = "columns"
_ORDER: Final = "order"


class Parameters(Protocol):
    """The parameters of an address, or the fields of a form."""

    def get(self, key: str, default: str) -> str: ...
    def getlist(self, key: str) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Filters, order and columns of a list, without the cursor.

    `order` is empty for the default order of the kind, `columns` for all columns.
    """

    kind: Kind
    values: dict[str, str]
    order: str
    columns: tuple[str, ...]

    @classmethod
    def of(cls, kind: Kind, parameters: Parameters) -> "Selection":
        """Return the selection of an address. Unknown filters, orders and columns are ignored."""
        values = {item.name: parameters.get(item.name, "")[:_MAX_VALUE] for item in kind.all_filters}
        values |= {item.name: field_time(values[item.name]) for item in kind.all_filters if item.is_time}
        order = parameters.get(_ORDER, "")
        known = [column.name for column in kind.columns]
        wanted = set(parameters.getlist(_COLUMNS)).intersection(known)
        columns = tuple(name for name in known if name in wanted)
        return cls(
            kind,
            values,
            order if order in kind.orders[1:] else "",
            columns if len(columns) < len(known) else (),
        )

    @property
    def filters(self) -> dict[str, str]:
        """The filters that have a value."""
        return {name: value for name, value in self.values.items() if value}

    @property
    def shown(self) -> list[Column]:
        """The columns that are shown, in the order of the kind."""
        return [column for column in self.kind.columns if not self.columns or column.name in self.columns]

    def api_parameters(self) -> dict[str, str]:
        """Return the parameters of the list's API. Raises `BadForm` for a time that is none."""
        found = {
            item.name: utc_time(text, item.title) if item.is_time else text
            for item in self.kind.all_filters
            if (text := self.values[item.name])
        }
        return found | ({_ORDER: self.order} if self.order else {})

    def ordered(self, order: str) -> str:
        """Return the query of the list's address in an order, from its first page on."""
        return replace(self, order=order).query()

    def query(self, **more: str) -> str:
        """Return the query of the list's address, and more parameters."""
        pairs: list[tuple[str, str]] = list(self.filters.items())
        pairs += [(_ORDER, self.order)] if self.order else []
        pairs += [(_COLUMNS, name) for name in self.columns]
        return urlencode([*pairs, *((name, value) for name, value in more.items() if value)])


def address(base: str, query: str) -> str:
    """Return an address with its query, if there is one."""
    return f"{base}?{query}" if query else base


def kind_of(kinds: Iterable[Kind], path: str) -> Kind | None:
    """Return the kind whose list has this path below `/console`; None if there is none."""
    parts = path.split("/")
    for kind in kinds:
        pattern = kind.path.split("/")
        if len(pattern) == len(parts) and all(
            wanted == part or (wanted.startswith("{") and part)
            for wanted, part in zip(pattern, parts, strict=True)
        ):
            return kind
    return None
