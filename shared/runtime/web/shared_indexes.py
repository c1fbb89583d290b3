"""The indexes of the collections that every service uses."""

from collections.abc import Mapping, Sequence
from typing import Final

from shared.runtime import daily_usage, hourly_counts, workspaces
from shared.runtime.mongo import Index
from shared.runtime.web import api_keys, audit_entries, idempotency_keys, members

SHARED_INDEXES: Final[Sequence[Mapping[str, Sequence[Index]]]] = (
    api_keys.INDEXES,
    members.INDEXES,
    idempotency_keys.INDEXES,
    audit_entries.INDEXES,
    hourly_counts.INDEXES,
    daily_usage.INDEXES,
    workspaces.INDEXES,
)
