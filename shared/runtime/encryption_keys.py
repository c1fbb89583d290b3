"""The installation's encryption keys, from a setting or a file."""

import base64
import binascii
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from shared.contracts.errors import Misconfigured
from shared.runtime.clock import utcnow
from shared.runtime.mongo import Duplicate, Mongo, translate_errors
from shared.runtime.secrets import KEY_BYTES, KEY_FILE_VARIABLE, KEY_VARIABLE, LocalKeyProvider, Vault
from shared.runtime.settings import HubSettings

COLLECTION: Final = "encryption_keys"
"""The ids of the installation's encryption keys, with the time at which each was first used."""


async def first_used_at(mongo: Mongo, key_id: str) -> datetime:
    """Return when a process of the hub first used this encryption key; store now if none has.

    Raises `DatabaseUnavailable`.
    """
    keys = mongo.collection(COLLECTION)
    with translate_errors():
        document = await keys.find_one({"_id": key_id})
    if document is None:
        document = {"_id": key_id, "first_used_at": utcnow()}
        try:
            with translate_errors():
                await keys.insert_one(document)
        except Duplicate:  # another process that starts now was first, by milliseconds
            pass
    first_used: datetime = document["first_used_at"]
    return first_used


def open_vault(settings: HubSettings) -> Vault:
    """Return the vault with the keys of the settings. Raises `Misconfigured` as `load_keys`."""
    keys = load_keys(settings)
    return Vault(keys, direct=keys)


def load_keys(settings: HubSettings) -> LocalKeyProvider:
    """Return the keys of `INTERLINK_ENCRYPTION_KEY`, or of the file in `INTERLINK_ENCRYPTION_KEY_FILE`.

    The permissions of the file are not checked: mounted secrets are readable for everybody in the container
    (Kubernetes 0644, Docker 0444). Raises `Misconfigured` if there are no keys, both variables are set, or a
    key is malformed.
    """
    text = settings.encryption_key.get_secret_value() if settings.encryption_key else ""
    file = settings.encryption_key_file
    if text and file:
        raise Misconfigured(f"{KEY_VARIABLE} and {KEY_FILE_VARIABLE} are both set: leave one of them out")
    if file:
        return read_keys(Path(file), KEY_FILE_VARIABLE)
    if text:
        # Strict: an empty part after a comma is an error, because the variable for the second key was not
        # set.
        return LocalKeyProvider(_decode_keys(KEY_VARIABLE, re.split(r"\s*,\s*|\s+", text.strip())))
    raise Misconfigured(
        f"{KEY_VARIABLE} is not set: make one with 'openssl rand -base64 32' and give every service the "
        f"same, or name a file that holds it in {KEY_FILE_VARIABLE}"
    )


def read_keys(file: Path, about: str) -> LocalKeyProvider:
    """Return the keys in a file, which are separated by commas or white space.

    Raises `Misconfigured`; its text begins with `about`, the name of the setting or option.
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
        if len(key) != KEY_BYTES:
            raise Misconfigured(f"{about}: each key is 32 bytes in base64")
        keys.append(key)
    if not keys:
        raise Misconfigured(f"{about}: there is no key in it")
    return keys
