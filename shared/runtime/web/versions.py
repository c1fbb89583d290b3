"""Optimistic concurrency: with `If-Match`, nobody overwrites what another person has changed.

An object that people edit has a `version`, a number that each change of its settings raises. A call that
changes it can name the version that it is based on. The repository writes only while that version is stored,
so of two processes one is refused.
"""

import re
from typing import Annotated, Final

from fastapi import Header

from shared.contracts.errors import Malformed, Outdated, Rejected
from shared.runtime.mongo import Collection, Document, translate_errors

_TAG: Final = re.compile(r'("?)(0|[1-9][0-9]{0,8})\1')

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        max_length=32,
        description='The `version` that the change is based on, such as `"3"`. 412 if another one is stored. '
        "Without the header, the change is made in any case.",
    ),
]


def expected_version(if_match: str | None) -> int | None:
    """Return the version in the header; None without the header, or for `*`. Raises `Malformed`."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = _TAG.fullmatch(if_match.strip())
    if found is None:
        raise Malformed('If-Match: send the `version` of the object in quotes, such as "3"')
    return int(found[2])


def version_query(expected: int | None) -> Document:
    """Return the condition of a write that is based on a version; 0 is that of a document without one."""
    if expected is None:
        return {}
    return {"version": {"$in": [0, None]} if expected == 0 else expected}


async def why_unchanged(
    collection: Collection, query: Document, expected: int | None, not_found: Rejected
) -> Rejected:
    """Return the error of a write with `version_query` that found no document: `Outdated` or `not_found`."""
    with translate_errors():
        stored: Document | None = await collection.find_one(query, {"version": 1})
    if stored is None or expected is None:
        return not_found
    return _outdated(expected, stored.get("version", 0))


def check_version(expected: int | None, stored: int) -> None:
    """Raise `Outdated` if the caller expects another version than the stored one."""
    if expected is not None and expected != stored:
        raise _outdated(expected, stored)


def _outdated(expected: int, stored: int) -> Outdated:
    return Outdated(
        f"it was changed since you read it: it has version {stored}, and this change is based on {expected}. "
        "Read it again, then repeat your change"
    )
