"""Secrets at rest: envelope encryption with AES-256-GCM, bound to workspace, record and field.

A sealed value is `{k: key id, w: wrapped data key, n: nonce, c: ciphertext}`. Each value has a data key of
its own, which the encryption key wraps. So a new encryption key only needs a new `w` in each value, and `n`
and `c` stay as they are. The associated data of a value are its workspace, record and field (NIST SP
800-38D): a value that was copied to another place does not open there.

A value without `w` is from version 0.3.0. The encryption key sealed it directly, bound to record and field.
"""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NotRequired, Protocol, TypedDict, TypeGuard

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import GetPydanticSchema
from pydantic_core import core_schema

from shared.contracts.errors import Misconfigured

KEY_BYTES: Final = 32
KEY_VARIABLE: Final = "INTERLINK_ENCRYPTION_KEY"
KEY_FILE_VARIABLE: Final = "INTERLINK_ENCRYPTION_KEY_FILE"

_NONCE_BYTES: Final = 12
_DATA_KEY_AAD: Final = b"interlink data key"
"""The associated data of a wrapped data key. It has no `/`, unlike the associated data of 0.3.0, so no
ciphertext of one kind opens as the other."""
_SEALED_PARTS: Final = frozenset("kwnc")
_SEALED_PARTS_0_3: Final = frozenset("knc")


class Sealed(TypedDict):
    """A secret as it is stored: key id, wrapped data key, nonce, ciphertext."""

    k: str
    w: NotRequired[bytes]
    n: bytes
    c: bytes


StoredSecret = Annotated[Sealed, GetPydanticSchema(lambda _type, _handler: core_schema.any_schema())]
"""A sealed value as a field of a record. Its form is checked when it is opened, not when it is read."""


def is_sealed(value: Any) -> TypeGuard[Sealed]:
    """Return whether a value has the form of a sealed one. No value from JSON has it: JSON has no bytes."""
    return (
        isinstance(value, dict)
        and len(value) in (3, 4)
        and value.keys() in (_SEALED_PARTS, _SEALED_PARTS_0_3)
        and isinstance(value["k"], str)
        and all(isinstance(value[name], bytes) for name in value if name != "k")
    )


def pack(sealed: Sealed) -> str:
    """Return a sealed value as one word, for a header or a cookie."""
    parts = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in sealed.items()
    }
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode()


def unpack(word: str) -> Sealed:
    """Return the value that `pack` was given. Raises `ValueError`, `TypeError` or `KeyError` for others."""
    parts = orjson.loads(base64.urlsafe_b64decode(word))
    sealed: Any = {
        name: base64.b64decode(value, validate=True) if name != "k" else value
        for name, value in parts.items()
    }
    # All four parts are required: without `w` it would open as a value of version 0.3.0.
    return {"k": sealed["k"], "w": sealed["w"], "n": sealed["n"], "c": sealed["c"]}


class UnknownKey(Exception):
    """No encryption key has this id."""


class KeyProvider(Protocol):
    """The holder of the encryption keys: this process, or a key management service.

    `unwrap` is called in the event loop for every value that is opened, so a provider that asks over the
    network has to cache what it has unwrapped. `current` must not change while a vault uses the provider.
    """

    @property
    def current(self) -> str:
        """The id of the key that wraps."""

    def wrap(self, data_key: bytes) -> bytes:
        """Return the data key wrapped by the current key, to be stored."""

    def unwrap(self, key: str, wrapped: bytes) -> bytes:
        """Return the data key. Raises `UnknownKey`, or `ValueError` if this key did not wrap it."""


class LocalKeyProvider:
    """Encryption keys in memory: the first wraps, any unwraps."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers: Mapping[str, AESGCM] = {_key_id(key): AESGCM(key) for key in keys}
        self.ids: Sequence[str] = tuple(self._ciphers)
        self.current: str = self.ids[0]

    def wrap(self, data_key: bytes) -> bytes:
        """Return the nonce, followed by the wrapped key.

        Nonces are random, which is safe for 2^32 values of one encryption key.
        """
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._ciphers[self.current].encrypt(nonce, data_key, _DATA_KEY_AAD)

    def unwrap(self, key: str, wrapped: bytes) -> bytes:
        """Return the data key. Raises `UnknownKey`, or `ValueError` if this key did not wrap it."""
        return self.decrypt(key, wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _DATA_KEY_AAD)

    def decrypt(self, key: str, nonce: bytes, cipher: bytes, associated_data: bytes) -> bytes:
        """Return what the encryption key itself has encrypted.

        Raises `UnknownKey`, or `ValueError` if the key or the associated data are not those of the
        ciphertext.
        """
        aead = self._ciphers.get(key)
        if aead is None:
            raise UnknownKey
        try:
            return aead.decrypt(nonce, cipher, associated_data)
        except InvalidTag:
            raise ValueError("not encrypted by this key with these associated data") from None


class Vault:
    """Seals and opens secrets. Each value gets a data key of its own, wrapped by the current encryption key.

    `direct` holds the encryption keys that values of version 0.3.0 were sealed with.
    """

    def __init__(self, keys: KeyProvider, *, direct: LocalKeyProvider | None = None) -> None:
        self._keys = keys
        self._direct = direct

    @property
    def current(self) -> str:
        """The id of the encryption key that new values are sealed with."""
        return self._keys.current

    def seal(self, plain: str, *, workspace: str, record: str, field: str) -> Sealed:
        """Seal a secret for one place. It opens only with the same workspace, record and field."""
        data_key, nonce = os.urandom(KEY_BYTES), os.urandom(_NONCE_BYTES)
        cipher = AESGCM(data_key).encrypt(nonce, plain.encode(), _associated_data(workspace, record, field))
        return {"k": self._keys.current, "w": self._keys.wrap(data_key), "n": nonce, "c": cipher}

    def open(self, sealed: Sealed, *, workspace: str, record: str, field: str) -> str:
        """Return the secret.

        Raises `Misconfigured` if its encryption key is missing, or if the value was changed or moved.
        """
        try:
            return self._decrypt(sealed, workspace, record, field).decode()
        except UnknownKey:
            raise _missing_key_error(sealed, record) from None
        except (InvalidTag, ValueError, TypeError, KeyError):
            raise Misconfigured(
                f"the secret {field!r} of {record} was changed or moved in the database: enter it again"
            ) from None

    def _decrypt(self, sealed: Sealed, workspace: str, record: str, field: str) -> bytes:
        if "w" in sealed:
            cipher = AESGCM(self._keys.unwrap(sealed["k"], sealed["w"]))
            return cipher.decrypt(sealed["n"], sealed["c"], _associated_data(workspace, record, field))
        if self._direct is None:
            raise UnknownKey
        return self._direct.decrypt(sealed["k"], sealed["n"], sealed["c"], f"{record}/{field}".encode())

    def rewrap(self, sealed: Sealed, *, record: str) -> Sealed:
        """Return the value with its data key wrapped by the current encryption key.

        Raises `Misconfigured` if its encryption key is missing, or if the value was changed.
        """
        try:
            data_key = self._keys.unwrap(sealed["k"], sealed["w"])
        except UnknownKey:
            raise _missing_key_error(sealed, record) from None
        except (ValueError, TypeError, KeyError):
            raise Misconfigured(f"a secret of {record} was changed in the database: enter it again") from None
        return {**sealed, "k": self._keys.current, "w": self._keys.wrap(data_key)}


def _missing_key_error(sealed: Sealed, record: str) -> Misconfigured:
    return Misconfigured(
        f"a secret of {record} was sealed with key {sealed['k']}, which {KEY_VARIABLE} "
        f"(or {KEY_FILE_VARIABLE}) does not have: add that key, or enter the secret again"
    )


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"interlink key id" + key).hexdigest()[:8]


def _associated_data(*parts: str) -> bytes:
    """Return the parts, each after its length, so that no two places have the same associated data."""
    return b"".join(len(encoded).to_bytes(4) + encoded for encoded in (part.encode() for part in parts))
