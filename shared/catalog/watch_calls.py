"""What the requests of a watch are filled with, and what is kept of their answers. No I/O."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from shared.catalog.connect import Selection
from shared.catalog.watches import Before, Made
from shared.contracts.envelope import rfc3339
from shared.wire.expressions import Expression, Unusable
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


def _text(selection: Selection, document: Any) -> str:
    try:
        value = Expression(selection).apply(document)
    except Unusable:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value)[:_LONGEST]
