"""The `secrets` of a record: sealed, and several valid at a time while a rotation overlaps."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict

from shared.contracts.errors import Conflict, Misconfigured
from shared.runtime.secrets import Sealed, Vault

_MAX_OLD_SECRETS: Final = 4


class StoredSecret(TypedDict):
    """One of the secrets of a record. It is valid until `expires_at`, or without an end."""

    sealed: Sealed
    expires_at: datetime | None


def store_secret(vault: Vault, workspace: str, record: str, secret: str) -> StoredSecret:
    """Return a secret as an item of the record's `secrets`, valid without an end."""
    sealed = vault.seal(secret, workspace=workspace, record=record, field="secret")
    return {"sealed": sealed, "expires_at": None}


def rotate_secret(
    vault: Vault, document: Mapping[str, Any], secret: str, overlap: timedelta
) -> list[StoredSecret]:
    """Return a record's `secrets` with a new one first. Those before it stay valid for `overlap` at most.

    Secrets that have expired or cannot be opened are left out. Raises `Conflict` if more than five would be
    valid: no secret may end earlier than the response to an earlier rotation said.
    """
    now = datetime.now(UTC)
    until = now + overlap
    stored: Sequence[StoredSecret] = document["secrets"]
    old: list[StoredSecret] = [
        {"sealed": item["sealed"], "expires_at": min(until, item["expires_at"] or until)}
        for item in stored
        if (item["expires_at"] is None or item["expires_at"] > now) and _is_readable(vault, document, item)
    ]
    if overlap and len(old) > _MAX_OLD_SECRETS:
        raise Conflict(
            f"{len(old)} secrets are still valid, which is too many beside a new one: wait until "
            "one has expired, or send overlap_hours 0, which ends them all now"
        )
    return [store_secret(vault, document["workspace"], document["_id"], secret), *old]


def _is_readable(vault: Vault, document: Mapping[str, Any], stored: StoredSecret) -> bool:
    try:
        decrypt_all(vault, {**document, "secrets": [stored]})
    except Misconfigured:
        return False
    return True


def decrypt_all(vault: Vault, document: Mapping[str, Any]) -> tuple[tuple[str, datetime | None], ...]:
    """Return a record's `secrets` in clear, each with its end. Raises `Misconfigured` as `Vault.open`."""
    workspace, record = document["workspace"], document["_id"]
    return tuple(
        (vault.open(item["sealed"], workspace=workspace, record=record, field="secret"), item["expires_at"])
        for item in document["secrets"]
    )


def old_secrets_until(secrets: Sequence[StoredSecret]) -> list[datetime]:
    """Return until when each secret before the newest one is valid; those that have ended are left out."""
    now = datetime.now(UTC)
    return [ends for item in secrets if (ends := item["expires_at"]) is not None and ends > now]


def unexpired_keys(keys: Sequence[tuple[bytes, datetime | None]]) -> list[bytes]:
    """Return the keys that have not expired, in their order: the newest first."""
    if len(keys) == 1 and keys[0][1] is None:  # the usual case, without asking for the time
        return [keys[0][0]]
    now = datetime.now(UTC)
    return [key for key, expires_at in keys if expires_at is None or expires_at > now]
