"""Secrets at rest: AES-256-GCM with a key id, bound to the record and field that they belong to.

A sealed value is `{k: key id, n: nonce, c: ciphertext}`; copied to another record or field it does
not open, because the associated data is part of the authentication (NIST SP 800-38D).
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypedDict

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.contracts.errors import Misconfigured
from shared.runtime.settings import HubSettings

_KEY_BYTES: Final = 32
_MOST_OLD: Final = 4


class Sealed(TypedDict):
    """A secret as it is stored."""

    k: str
    n: bytes
    c: bytes


class Vault:
    """Seals with the first key, opens with any."""

    def __init__(self, keys: list[bytes]) -> None:
        self._ciphers: Mapping[str, AESGCM] = {_key_id(key): AESGCM(key) for key in keys}
        self._current = _key_id(keys[0])

    def seal(self, plain: str, *, record: str, field: str) -> Sealed:
        nonce = os.urandom(12)
        cipher = self._ciphers[self._current].encrypt(nonce, plain.encode(), _bound(record, field))
        return {"k": self._current, "n": nonce, "c": cipher}

    def open(self, sealed: Sealed, *, record: str, field: str) -> str:
        """The secret. Raises `Misconfigured` when its key is not there or it was tampered with."""
        cipher = self._ciphers.get(sealed["k"])
        if cipher is None:
            raise Misconfigured(
                f"a secret of {record} was sealed with key {sealed['k']}, "
                "which INTERLINK_ENCRYPTION_KEY does not have"
            )
        try:
            return cipher.decrypt(sealed["n"], sealed["c"], _bound(record, field)).decode()
        except (InvalidTag, ValueError, TypeError, KeyError):
            raise Misconfigured(
                f"the secret {field!r} of {record} was changed or moved in the store"
            ) from None


class Kept(TypedDict):
    """One of the secrets of a record, which may have several valid at a time."""

    sealed: Sealed
    expires_at: datetime | None


def keep(vault: Vault, record: str, secret: str) -> Kept:
    """A secret as it is kept in the record's `secrets`, without an end."""
    return {"sealed": vault.seal(secret, record=record, field="secret"), "expires_at": None}


def rotated(vault: Vault, record: str, kept: Sequence[Kept], secret: str, overlap: timedelta) -> list[Kept]:
    """The secrets after a rotation: the new one first, those before it valid for `overlap` more."""
    now = datetime.now(UTC)
    until = now + overlap
    old: list[Kept] = [
        {"sealed": each["sealed"], "expires_at": min(until, each["expires_at"] or until)}
        for each in kept
        if each["expires_at"] is None or each["expires_at"] > now
    ]
    return [keep(vault, record, secret), *old[:_MOST_OLD]]


def opened(vault: Vault, record: str, kept: Sequence[Kept]) -> tuple[tuple[str, datetime | None], ...]:
    """The secrets in clear with their ends. Raises `Misconfigured`."""
    return tuple(
        (vault.open(each["sealed"], record=record, field="secret"), each["expires_at"]) for each in kept
    )


def valid_now(keys: Sequence[tuple[bytes, datetime | None]]) -> list[bytes]:
    """The keys that have not ended, the newest first."""
    if len(keys) == 1 and keys[0][1] is None:
        return [keys[0][0]]
    now = datetime.now(UTC)
    return [key for key, ends in keys if ends is None or ends > now]


def open_vault(settings: HubSettings) -> Vault:
    """The vault with the keys of `INTERLINK_ENCRYPTION_KEY`. Raises `Misconfigured`: absent or wrong."""
    if settings.encryption_key is None:
        raise Misconfigured(
            "INTERLINK_ENCRYPTION_KEY is not set: "
            "make one with 'openssl rand -base64 32' and give every service the same"
        )
    keys: list[bytes] = []
    for text in settings.encryption_key.get_secret_value().split(","):
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except (ValueError, binascii.Error):
            key = b""
        if len(key) != _KEY_BYTES:
            raise Misconfigured("INTERLINK_ENCRYPTION_KEY: each key is 32 bytes in base64")
        keys.append(key)
    return Vault(keys)


def local_key(folder: Path) -> str:
    """The embedded default's key: made at first start in the data folder, readable by its owner only."""
    path = folder / "encryption.key"
    if not path.exists():
        write_private(path, base64.b64encode(os.urandom(_KEY_BYTES)).decode())
    return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read (mode 0600), whole or not at all."""
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    scratch.replace(path)


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"interlink key id" + key).hexdigest()[:8]


def _bound(record: str, field: str) -> bytes:
    return f"{record}/{field}".encode()
