"""A call of Slack's Web API: its arguments, its permission, and the table of methods."""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.support.fakes.slack_changes import Workspace
from tests.support.fakes.slack_faults import Faults
from tests.support.fakes.slack_state import App, Json, SlackError


@dataclass
class Call:
    """One call that may be made. `complain` says what Slack would let pass and a client must not do."""

    workspace: Workspace
    app: App
    args: dict[str, Any]
    faults: Faults
    complain: Callable[[str], None]
    emoji_names: frozenset[str] = frozenset()

    def text(self, name: str) -> str:
        """Return an argument, empty when it is not there."""
        value = self.args.get(name)
        return "" if value is None else str(value)

    def asking(self, **args: str) -> "Call":
        """Return the same call with other arguments."""
        return replace(self, args=self.args | args)

    def flag(self, name: str) -> bool:
        """Return a boolean argument in any of its notations."""
        return self.text(name).lower() in {"1", "true"}

    def number(self, name: str, default: int) -> int:
        """Return a number; `invalid_arguments`."""
        value = self.text(name)
        if not value:
            return default
        if not value.isdecimal():
            raise invalid(f"[ERROR] must be a number [json-pointer:/{name}]")
        return int(value)

    def value(self, name: str, error: str) -> Any:
        """Return an argument that is JSON, in a form as text; `error` when it is not."""
        value = self.args.get(name)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise SlackError(error) from None

    def need(self, *scopes: str) -> None:
        """Go on with any of these scopes; `missing_scope`."""
        if not self.app.scopes & set(scopes):
            provided = ",".join(sorted(self.app.scopes))
            raise SlackError("missing_scope", needed=scopes[0], provided=provided)

    def page(
        self, found: list[Any], name: str, *, default: int = 100, limit: int = 1000, cap: int = 1000
    ) -> Json:
        """Return a part of what was found, and the cursor of the next; `invalid_cursor`, `invalid_limit`.

        `cap` is how much there is in a page, whatever was asked for.
        """
        size = self.number("limit", default) or default
        if size > limit:
            raise SlackError("invalid_limit")
        size = min(size, cap)
        start = 0
        if cursor := self.text("cursor"):
            try:
                start = int(base64.b64decode(cursor, validate=True).removeprefix(b"next:"))
            except (binascii.Error, ValueError):
                raise SlackError("invalid_cursor") from None
        end = start + size
        following = base64.b64encode(f"next:{end}".encode()).decode() if end < len(found) else ""
        return {name: found[start:end], "response_metadata": {"next_cursor": following}}


def invalid(*messages: str) -> SlackError:
    """Return the refusal of arguments, with what is wrong."""
    return SlackError("invalid_arguments", response_metadata={"messages": list(messages)})


Run = Callable[[Call], Json]


@dataclass(frozen=True)
class Method:
    """A method. `needs` are its required arguments, `may` the others; `reads` takes no JSON body."""

    run: Run
    scopes: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()
    reads: bool = False
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self.needs | self.may | {"token"})


METHODS: Final[dict[str, Method]] = {}


def method(
    name: str, scopes: str = "", needs: str = "", may: str = "", *, reads: bool = False
) -> Callable[[Run], Run]:
    """Register a method; lists are separated by spaces, and any one of the scopes is enough."""

    def register(run: Run) -> Run:
        METHODS[name] = Method(
            run, tuple(scopes.split()), frozenset(needs.split()), frozenset(may.split()), reads
        )
        return run

    return register
