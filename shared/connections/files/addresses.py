"""Addresses of the hub for files: `GET /api/files/{token}`, and `/api/files/imported/{token}`.

The token is the file's place at the provider and the time when it expires, sealed by the vault. So nobody
can read it, make one or use one for another file, and nothing is stored. Whoever has the address has the
file, as with every signed address.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from time import time
from typing import Any, Final

import orjson

from shared.connections.files.names import safe_name
from shared.contracts.chat import ChatAttachment
from shared.contracts.errors import Misconfigured
from shared.contracts.ids import attachment_id_for
from shared.contracts.routes import FILES_PATH
from shared.manifests.channel_types import ExternalFile
from shared.runtime.secrets import Sealed, Vault

_DAY_S: Final = 86_400
_MAX_REF: Final = 1000
_MAX_TOKEN: Final = 8000
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+")
_NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file of a provider, and the account that can fetch it. `expires_at` is in seconds since 1970."""

    workspace: str
    provider: str
    account: str
    file: ExternalFile
    expires_at: float

    @property
    def is_expired(self) -> bool:
        return self.expires_at <= time()


class FileAddresses:
    """Makes the addresses of files below a path of the hub, and opens them.

    A token is bound to its path: no other sealed value opens as one, and no token of the other path.
    """

    def __init__(self, vault: Vault, *, public_base: str, days: int, path: str = FILES_PATH) -> None:
        self.path: Final = path
        self._vault = vault
        self._base = f"{public_base}{path}/"
        self._lifetime_s = days * _DAY_S
        self._place: Final = {"workspace": "", "record": path, "field": "token"}

    def attachment(
        self, workspace: str, provider: str, account: str, message_id: str, index: int, file: ExternalFile
    ) -> ChatAttachment:
        """Return a file of a message as the chat gets it. `index` is its position in the message."""
        ref = FileRef(workspace, provider, account, file, time() + self._lifetime_s)
        return ChatAttachment(
            id=attachment_id_for(message_id, index),
            url=self.address(ref),
            filename=safe_name(file.filename),
            content_type=file.content_type,
            size=file.size,
        )

    def address(self, ref: FileRef) -> str:
        """Return the address of a file."""
        return self._base + self.seal(ref)

    def seal(self, ref: FileRef) -> str:
        """Return the token of a file. A reference of more than 1000 characters is left out."""
        file = ref.file
        content = [
            ref.workspace,
            ref.provider,
            ref.account,
            file.id,
            file.ref if len(file.ref) <= _MAX_REF else "",
            safe_name(file.filename),
            file.content_type,
            file.size,
            int(ref.expires_at),
        ]
        sealed = self._vault.seal(orjson.dumps(content).decode(), **self._place)
        key = sealed["k"].encode()
        raw = b"".join(
            (
                len(key).to_bytes(1),
                key,
                len(sealed["w"]).to_bytes(2),
                sealed["w"],
                sealed["n"],
                sealed["c"],
            )
        )
        return _encode(raw)

    def is_own(self, url: str) -> bool:
        """Return whether an address is one of the hub's for files."""
        return url.startswith(self._base)

    def open(self, url_or_token: str) -> FileRef | None:
        """Return the file of an address or a token, also of an expired one; None if it is not the hub's."""
        token = url_or_token.removeprefix(self._base)
        if len(token) > _MAX_TOKEN or not _TOKEN.fullmatch(token):
            return None
        try:
            content = orjson.loads(self._vault.open(_sealed(token), **self._place))
        except (Misconfigured, ValueError, binascii.Error):
            return None
        return _ref(content)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _sealed(token: str) -> Sealed:
    """Return the sealed value of a token. Raises `ValueError`."""
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    if _encode(raw) != token:  # bits of the last character that nobody reads were changed
        raise ValueError("the token is not encoded as it was")
    key_end = 1 + raw[0]
    wrapped_start = key_end + 2
    wrapped_end = wrapped_start + int.from_bytes(raw[key_end:wrapped_start])
    nonce_end = wrapped_end + _NONCE_BYTES
    if len(raw) <= nonce_end:
        raise ValueError("the token is too short")
    return {
        "k": raw[1:key_end].decode("ascii"),
        "w": raw[wrapped_start:wrapped_end],
        "n": raw[wrapped_end:nonce_end],
        "c": raw[nonce_end:],
    }


def _ref(content: Any) -> FileRef:
    workspace, provider, account, file_id, ref, filename, content_type, size, expires_at = content
    file = ExternalFile(file_id, ref, filename, content_type, size)
    return FileRef(workspace, provider, account, file, expires_at)
