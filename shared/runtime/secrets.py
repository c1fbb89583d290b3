"""Secrets at rest: envelope encryption with AES-256-GCM, bound to workspace, record and field.

A sealed value is `{k: key id, w: wrapped data key, n: nonce, c: ciphertext}`. Every value has a data key
of its own, which the encryption key wraps: a new encryption key costs one new `w` for each value, and the
values stay as they are. Copied to another record, field or workspace a value does not open, because these
are its associated data (NIST SP 800-38D). A value without `w` is one of version 0.3.0, which the
encryption key sealed itself, bound to record and field.
"""

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NotRequired, Protocol, TypedDict, TypeGuard

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.contracts.errors import Conflict, Misconfigured
from shared.runtime.settings import HubSettings

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_MAX_OLD_SECRETS: Final = 4
_KEY_VARIABLE: Final = "INTERLINK_ENCRYPTION_KEY"
_KEY_FILE_VARIABLE: Final = "INTERLINK_ENCRYPTION_KEY_FILE"
_DATA_KEY_AAD: Final = b"interlink data key"
"""The associated data of a wrapped data key. It has no `/`, which that of a value of 0.3.0 always has."""
_SEALED_PARTS: Final = frozenset("kwnc")
_SEALED_PARTS_0_3: Final = frozenset("knc")


class Sealed(TypedDict):
    """A secret as it is stored."""

    k: str
    w: NotRequired[bytes]
    n: bytes
    c: bytes


def is_sealed(value: Any) -> TypeGuard[Sealed]:
    """Whether it has the form of a sealed value. What came as JSON never has: JSON has no bytes."""
    return (
        isinstance(value, dict)
        and len(value) in (3, 4)
        and value.keys() in (_SEALED_PARTS, _SEALED_PARTS_0_3)
        and isinstance(value["k"], str)
        and all(isinstance(value[name], bytes) for name in value if name != "k")
    )


class UnknownKey(Exception):
    """The key is not there."""


class KeyProvider(Protocol):
    """What holds the encryption keys: this process, or a key management service.

    `unwrap` is called for every value that is opened, in the event loop: what asks over a network keeps
    what it has unwrapped. `current` does not change while a vault uses it.
    """

    @property
    def current(self) -> str:
        """The id of the key that wraps."""

    def wrap(self, data_key: bytes) -> bytes:
        """The data key as it may be stored, wrapped by the current key."""

    def unwrap(self, key: str, wrapped: bytes) -> bytes:
        """The data key. Raises `UnknownKey`, or `ValueError` when this key did not wrap it."""


class LocalKeyProvider:
    """Keys in memory: the first wraps, any unwraps."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers: Mapping[str, AESGCM] = {_key_id(key): AESGCM(key) for key in keys}
        self.ids: Sequence[str] = tuple(self._ciphers)
        self.current: str = self.ids[0]

    def wrap(self, data_key: bytes) -> bytes:
        """The nonce and the wrapped key in one. Nonces are random: good for 2^32 values of one key."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._ciphers[self.current].encrypt(nonce, data_key, _DATA_KEY_AAD)

    def unwrap(self, key: str, wrapped: bytes) -> bytes:
        """The data key. Raises `UnknownKey`, `ValueError`."""
        return self.decrypt(key, wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _DATA_KEY_AAD)

    def decrypt(self, key: str, nonce: bytes, cipher: bytes, bound: bytes) -> bytes:
        """What this key encrypted itself. Raises `UnknownKey`, `ValueError`."""
        found = self._ciphers.get(key)
        if found is None:
            raise UnknownKey
        try:
            return found.decrypt(nonce, cipher, bound)
        except InvalidTag:
            raise ValueError("not encrypted so by this key") from None


class Vault:
    """Seals with a new data key for each value, which the current encryption key wraps.

    `direct` are the keys that values of version 0.3.0 were sealed with.
    """

    def __init__(self, keys: KeyProvider, *, direct: LocalKeyProvider | None = None) -> None:
        self._keys = keys
        self._direct = direct

    @property
    def current(self) -> str:
        """The id of the key that what is sealed now depends on."""
        return self._keys.current

    def seal(self, plain: str, *, workspace: str, record: str, field: str) -> Sealed:
        data_key, nonce = os.urandom(_KEY_BYTES), os.urandom(_NONCE_BYTES)
        cipher = AESGCM(data_key).encrypt(nonce, plain.encode(), _associated_data(workspace, record, field))
        return {"k": self._keys.current, "w": self._keys.wrap(data_key), "n": nonce, "c": cipher}

    def open(self, sealed: Sealed, *, workspace: str, record: str, field: str) -> str:
        """The secret. Raises `Misconfigured` when its key is not there or it was changed or moved."""
        try:
            return self._decrypt(sealed, workspace, record, field).decode()
        except UnknownKey:
            raise _missing_key_error(sealed, record) from None
        except (InvalidTag, ValueError, TypeError, KeyError):
            raise Misconfigured(
                f"the secret {field!r} of {record} was changed or moved in the store: enter it again"
            ) from None

    def _decrypt(self, sealed: Sealed, workspace: str, record: str, field: str) -> bytes:
        if "w" in sealed:
            cipher = AESGCM(self._keys.unwrap(sealed["k"], sealed["w"]))
            return cipher.decrypt(sealed["n"], sealed["c"], _associated_data(workspace, record, field))
        if self._direct is None:
            raise UnknownKey
        return self._direct.decrypt(sealed["k"], sealed["n"], sealed["c"], f"{record}/{field}".encode())

    def rewrap(self, sealed: Sealed, *, record: str) -> Sealed:
        """The same value with its data key wrapped by the current key. Raises `Misconfigured`."""
        try:
            data_key = self._keys.unwrap(sealed["k"], sealed["w"])
        except UnknownKey:
            raise _missing_key_error(sealed, record) from None
        except (ValueError, TypeError, KeyError):
            raise Misconfigured(f"a secret of {record} was changed in the store: enter it again") from None
        return {**sealed, "k": self._keys.current, "w": self._keys.wrap(data_key)}


def _missing_key_error(sealed: Sealed, record: str) -> Misconfigured:
    return Misconfigured(
        f"a secret of {record} was sealed with key {sealed['k']}, which {_KEY_VARIABLE} "
        f"(or {_KEY_FILE_VARIABLE}) does not have: add that key, or enter the secret again"
    )


class StoredSecret(TypedDict):
    """One of the secrets of a record, which may have several valid at a time."""

    sealed: Sealed
    expires_at: datetime | None


def store_secret(vault: Vault, workspace: str, record: str, secret: str) -> StoredSecret:
    """A secret as it is kept in the record's `secrets`, without an end."""
    sealed = vault.seal(secret, workspace=workspace, record=record, field="secret")
    return {"sealed": sealed, "expires_at": None}


def rotate_secret(
    vault: Vault, document: Mapping[str, Any], secret: str, overlap: timedelta
) -> list[StoredSecret]:
    """A record's `secrets` after a rotation: the new one first, those before it valid for `overlap` more.

    Those that cannot be opened any more are left out. Raises `Conflict` if more than five would be valid:
    no secret ends earlier than its owner was told.
    """
    now = datetime.now(UTC)
    until = now + overlap
    kept: Sequence[StoredSecret] = document["secrets"]
    old: list[StoredSecret] = [
        {"sealed": each["sealed"], "expires_at": min(until, each["expires_at"] or until)}
        for each in kept
        if (each["expires_at"] is None or each["expires_at"] > now) and _is_readable(vault, document, each)
    ]
    if overlap and len(old) > _MAX_OLD_SECRETS:
        raise Conflict(
            f"{len(old)} secrets are still valid, which is too many beside a new one: wait until "
            "one has ended, or send overlap_hours 0, which ends them all now"
        )
    return [store_secret(vault, document["workspace"], document["_id"], secret), *old]


def _is_readable(vault: Vault, document: Mapping[str, Any], kept: StoredSecret) -> bool:
    try:
        decrypt_all(vault, {**document, "secrets": [kept]})
    except Misconfigured:
        return False
    return True


def decrypt_all(vault: Vault, document: Mapping[str, Any]) -> tuple[tuple[str, datetime | None], ...]:
    """A record's `secrets` in clear, with their ends. Raises `Misconfigured`."""
    workspace, record = document["workspace"], document["_id"]
    return tuple(
        (vault.open(each["sealed"], workspace=workspace, record=record, field="secret"), each["expires_at"])
        for each in document["secrets"]
    )


def unexpired_keys(keys: Sequence[tuple[bytes, datetime | None]]) -> list[bytes]:
    """The keys that have not ended, the newest first."""
    if len(keys) == 1 and keys[0][1] is None:
        return [keys[0][0]]
    now = datetime.now(UTC)
    return [key for key, ends in keys if ends is None or ends > now]


def open_vault(settings: HubSettings) -> Vault:
    """The vault with the keys of the settings. Raises `Misconfigured`: absent or wrong."""
    keys = load_keys(settings)
    return Vault(keys, direct=keys)


def load_keys(settings: HubSettings) -> LocalKeyProvider:
    """The keys of `INTERLINK_ENCRYPTION_KEY`, or of the file that `INTERLINK_ENCRYPTION_KEY_FILE` names.

    Who else may read the file is not judged: what mounts secrets makes them readable for all in the
    container (Kubernetes 0644, Docker 0444), and who gets into the container is decided elsewhere.
    Raises `Misconfigured`.
    """
    given = settings.encryption_key.get_secret_value() if settings.encryption_key else ""
    file = settings.encryption_key_file
    if given and file:
        raise Misconfigured(f"{_KEY_VARIABLE} and {_KEY_FILE_VARIABLE} are both set: leave one of them out")
    if file:
        return read_keys(Path(file), _KEY_FILE_VARIABLE)
    if given:
        # Strict: with nothing behind a comma, the variable of the other key was not set.
        return LocalKeyProvider(_decode_keys(_KEY_VARIABLE, re.split(r"\s*,\s*|\s+", given.strip())))
    raise Misconfigured(
        f"{_KEY_VARIABLE} is not set: make one with 'openssl rand -base64 32' and give every service the "
        f"same, or name a file that holds it in {_KEY_FILE_VARIABLE}"
    )


def read_keys(file: Path, about: str) -> LocalKeyProvider:
    """The keys in a file, with commas or white space between.

    Raises `Misconfigured`, which says what it is `about`.
    """
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise Misconfigured(f"{about}: {file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise Misconfigured(f"{about}: {file} is not a file of text") from None
    return LocalKeyProvider(_decode_keys(about, filter(None, re.split(r"[,\s]+", text))))


def _decode_keys(about: str, texts: Iterable[str]) -> list[bytes]:
    keys: list[bytes] = []
    for text in texts:
        try:
            key = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            key = b""
        if len(key) != _KEY_BYTES:
            raise Misconfigured(f"{about}: each key is 32 bytes in base64")
        keys.append(key)
    if not keys:
        raise Misconfigured(f"{about}: there is no key in it")
    return keys


EMBEDDED_KEY_FILE: Final = "encryption.key"
"""The file of the embedded default's key in its data folder."""


def embedded_key(folder: Path) -> str:
    """The embedded default's key: made at first start in the data folder, readable by its owner only."""
    path = folder / EMBEDDED_KEY_FILE
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


def _associated_data(*parts: str) -> bytes:
    """Each part after its length, so that no two places read the same."""
    return b"".join(len(raw).to_bytes(4) + raw for raw in (part.encode() for part in parts))
