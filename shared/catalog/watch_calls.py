"""What the requests of a watch are filled with, and what is kept of their answers. No I/O."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from shared.catalog.connect import Request, Selection
from shared.catalog.connect_texts import texts_of_request
from shared.catalog.connector import Connector
from shared.catalog.samples import TOKENS
from shared.catalog.watches import Before, Made, Watch
from shared.contracts.envelope import rfc3339
from shared.contracts.ids import derive
from shared.wire.expressions import Expression, Unusable
from shared.wire.fills import Fill
from shared.wire.moments import moment_of

_LONGEST: Final = 2000


def watch_values(
    name: str,
    resource: Mapping[str, str],
    *,
    url: str,
    secret: str,
    made: Mapping[str, str],
    ends: datetime | None,
) -> dict[str, str]:
    """What requests are filled with beside the account's values.

    `url` and `secret` are the endpoint's, `made` is what was kept when the watch was made, `ends` is the end
    that is asked for.
    """
    values = {f"watch:{key}": text for key, text in resource.items()}
    values |= {"watch:name": name, "endpoint:url": url, "endpoint:secret": secret}
    values |= {f"made:{key}": text for key, text in made.items()}
    if ends is not None:
        values["watch:expires_at"] = rfc3339(ends)
        values["watch:expires_ms"] = str(int(ends.timestamp() * 1000))
    return values


def new_watch(id_: str, first: Mapping[str, str]) -> dict[str, str]:
    """What the request that makes a watch has besides: a new UUID, and what was asked for first."""
    return {"watch:id": id_, **{f"watch:{name}": text for name, text in first.items()}}


def needs_account(request: Request) -> bool:
    """Whether a request has something of the account's credential in it, which an app's own has not."""
    return request.token or any(name in TOKENS or name.startswith("field:") for name in _names(request))


def lacking(
    watch: Watch, connector: Connector, known: Mapping[str, str], *, of: Request | None = None
) -> str:
    """What has to be entered before a watch, or one request of it, can be made; empty for nothing.

    `known` are the values of the account and of its app.
    """
    for name in watch.needs:
        if known.get(name) or (of is not None and name not in _names(of)):
            continue
        kind, _, short = name.partition(":")
        if kind != "setting":
            return f"the account has no {short}"
        title = connector.settings[short].name
        return f"the app of {connector.app} has no {title}: enter it as its setting {short}"
    return ""


def made_with(watch: Watch, known: Mapping[str, str]) -> str:
    """A digest of the settings that a watch depends on: another one when it has to be made with others."""
    return derive(*(known.get(name, "") for name in watch.needs)) if watch.needs else ""


def asked_first(before: Before, document: Any) -> dict[str, str]:
    """What is kept of the answer to the request that comes first."""
    return {name: _text(selection, document) for name, selection in before.keep.items()}


def kept_of(made: Made, document: Any) -> dict[str, str]:
    """What is kept of the answer that made or renewed a watch; its `secret` is not for all to see."""
    selections = {"id": made.id, "expires": made.expires, "secret": made.secret, **made.keep}
    found = ((name, _text(selection, document)) for name, selection in selections.items())
    return {name: text for name, text in found if text}


def end_of(kept: Mapping[str, str]) -> datetime | None:
    """The end that the platform told; None when it told none that can be read."""
    return moment_of(kept.get("expires", ""))


def _names(request: Request) -> set[str]:
    return {name for _, text, _ in texts_of_request("", request) for name in Fill(text).names}


def _text(selection: Selection, document: Any) -> str:
    try:
        value = Expression(selection).apply(document)
    except Unusable:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value)[:_LONGEST]
