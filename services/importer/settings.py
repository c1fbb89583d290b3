"""The settings of the importer service."""

from pathlib import Path
from typing import Final

from pydantic import Field

from shared.runtime.settings import EgressSettings

_GIB: Final = 1024**3


class ImporterSettings(EgressSettings):
    """`INTERLINK_*` settings that only the importer reads."""

    upload_folder: Path = Field(
        default=Path(".interlink/uploads"),
        description=(
            "The folder of uploaded exports. Processes with the same folder share their work: on several "
            "machines, mount one volume, or have each machine take the imports of its own uploads."
        ),
    )
    max_upload_bytes: int = Field(
        default=20 * _GIB, ge=1024, le=1024 * _GIB, description="The largest upload, in bytes."
    )
    upload_bytes_per_workspace: int = Field(
        default=40 * _GIB,
        ge=1024,
        description="Bytes of all uploads that a workspace may have stored at a time.",
    )
    upload_days: int = Field(
        default=7, ge=1, le=90, description="Days after which an upload is deleted, complete or not."
    )
    imports_running_per_workspace: int = Field(
        default=2, ge=1, le=100, description="Imports of one workspace that run at a time; others wait."
    )
    imports_per_process: int = Field(
        default=4, ge=1, le=100, description="Imports that one process works on at a time."
    )
    imports_per_workspace: int = Field(
        default=1_000,
        ge=25,
        le=1_000_000,
        description="Imports of one workspace that are stored; each is removed 30 days after its end.",
    )
    embedded_broker_import_bytes: int = Field(
        default=1 * _GIB,
        ge=1024,
        description=(
            "Bytes of memory that imports may take of the embedded broker, which never deletes a record. "
            "Kafka has no such limit."
        ),
    )
    history_messages_per_second: int = Field(
        default=2_000,
        ge=1,
        le=1_000_000,
        description=(
            "Messages per second of each import, if the chat confirms no batches; and of all imports of a "
            "process together while live messages come in."
        ),
    )
    import_max_entries: int = Field(
        default=500_000, ge=1, le=10_000_000, description="Files that an uploaded archive may have."
    )
    import_file_days: int = Field(
        default=365,
        ge=1,
        le=36_500,
        description=(
            "Days for which files of an import are stored, and their addresses work, after it was created."
        ),
    )
    import_file_bytes_per_workspace: int = Field(
        default=100 * _GIB,
        ge=1024,
        description="Bytes of all files of imports that a workspace may have stored at a time.",
    )
    import_max_file_bytes: int = Field(
        default=_GIB,
        ge=1024,
        le=_GIB,
        description="The largest file of a message that an import stores, in bytes.",
    )
    import_max_bytes: int = Field(
        default=200 * _GIB,
        ge=1024,
        description="Bytes that an uploaded archive may have when it is unpacked.",
    )
