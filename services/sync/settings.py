"""The settings of the sync service."""

from pathlib import Path
from typing import Final

from pydantic import Field, HttpUrl, SecretStr

from shared.contracts.errors import Misconfigured
from shared.runtime.settings import EgressSettings, read_secret_file

_MIB: Final = 1024 * 1024


class SyncSettings(EgressSettings):
    """`INTERLINK_*` settings that only sync reads."""

    mappings_per_workspace: int = Field(
        default=1_000, ge=1, le=10_000, description="The maximum number of mappings of one workspace."
    )
    people_links_per_workspace: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="The maximum number of links between persons and users of one workspace.",
    )
    max_file_bytes: int = Field(
        default=50 * _MIB,
        ge=1024,
        le=1024 * _MIB,
        description=(
            "The largest file that is forwarded or served, in bytes. The limits of providers hold as well."
        ),
    )
    file_address_days: int = Field(
        default=7,
        ge=1,
        le=30,
        description="Days for which the address of a provider's file (`/api/files/...`) works.",
    )
    file_disk_bytes: int = Field(
        default=2048 * _MIB,
        ge=_MIB,
        description=(
            "Bytes of this process's temporary files. Messages with files wait when they are used up; one "
            "workspace gets at most a quarter."
        ),
    )
    file_folder: Path | None = Field(
        default=None,
        description=(
            "The folder for temporary files, by default the system's. It should be on a disk, not in memory."
        ),
    )
    chat_files_url: HttpUrl | None = Field(
        default=None,
        description=(
            "The address of the chat's files, such as `http://chat:3000/files`. Addresses below it may be "
            "internal, on any port, and get the token, and the workspace in `Interlink-Workspace`, which the "
            "chat should check."
        ),
    )
    chat_files_token: SecretStr | None = Field(
        default=None, description="A bearer token for the files below `INTERLINK_CHAT_FILES_URL`."
    )
    chat_files_token_file: Path | None = Field(
        default=None, description="A file that contains this token instead: a mounted secret."
    )

    @property
    def chat_files_base(self) -> str:
        """The address of the chat's files, without a slash at its end; empty if there is none."""
        return str(self.chat_files_url).rstrip("/") if self.chat_files_url else ""

    def read_chat_files_token(self) -> str:
        """Return the token for the chat's files; empty if there is none.

        Raises `Misconfigured` if it is set twice, or without an address, or if its file cannot be read.
        """
        token = self.chat_files_token.get_secret_value() if self.chat_files_token else ""
        file = self.chat_files_token_file
        if token and file:
            raise Misconfigured(
                "INTERLINK_CHAT_FILES_TOKEN and INTERLINK_CHAT_FILES_TOKEN_FILE are both set: leave one of "
                "them out"
            )
        if file:
            token = read_secret_file(file, "INTERLINK_CHAT_FILES_TOKEN_FILE")
        if token and not self.chat_files_url:
            raise Misconfigured(
                "INTERLINK_CHAT_FILES_TOKEN is set without INTERLINK_CHAT_FILES_URL: set the address that it "
                "is for"
            )
        if not token.isascii() or not token.isprintable():
            raise Misconfigured("INTERLINK_CHAT_FILES_TOKEN: must be printable ASCII characters")
        return token
