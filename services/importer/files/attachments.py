"""Give the files of messages their attachments, before the bytes are there.

The id of a file is derived from the import, the message and its position in it. So a message is published
with the address of its file, and the phase of files stores the bytes afterwards.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from services.importer.files.records import FileRecord, SkipReason, file_id_of
from shared.connections.files.addresses import FileAddresses, FileRef
from shared.connections.files.names import media_type, safe_name
from shared.contracts.chat import MAX_ATTACHMENTS
from shared.contracts.ids import attachment_id_for
from shared.manifests.channel_types import ExternalFile
from shared.manifests.history_types import ARCHIVE_REF

FileMode = Literal["all", "up_to", "addresses", "none"]
MESSAGE_LEFT_OUT: Final = "message_left_out"
NOT_PLANNED: Final = "not_planned"
MESSAGE_FAILED: Final = "message_failed"
TOO_MANY: Final = "too_many_in_the_import"
MAX_FILES: Final = 500_000
"""Files of one import that have a record: as many as an archive may have by default."""
_MAX_ENTRY: Final = 1_000
_MAX_SIZE: Final = 2**62

Line = Mapping[str, Any]
"""A message's line (`reading.message_lines`)."""


@dataclass(slots=True)
class MessageFiles:
    """The files of one message: attachments for the chat, records to store, and counts by dotted names."""

    attachments: list[dict[str, Any]] = field(default_factory=list)
    records: list[FileRecord] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of both kinds: of files that the hub stores, and of files at their providers."""

    imported: FileAddresses
    provider: FileAddresses


class FilePlanner:
    """Decides what becomes of the files of an import's messages.

    `max_bytes` bounds a file in the mode `up_to`. Addresses work until `expires_at`; a dry run makes none.
    `planned` is how many files of the import have a record already.
    """

    def __init__(
        self,
        addresses: Addresses | None,
        *,
        import_id: str,
        workspace: str,
        provider: str,
        account: str,
        mode: FileMode,
        max_bytes: int | None,
        expires_at: datetime,
        planned: int = 0,
    ) -> None:
        self._addresses = addresses
        self._import_id = import_id
        self._workspace = workspace
        self._provider = provider
        self._account = account
        self._mode = mode
        self._max_bytes = max_bytes
        self._expires_at = expires_at
        self._left = MAX_FILES - planned

    def plan(self, line: Line, message_id: str, position: int) -> MessageFiles:
        """Return the files of a message that is imported. `position` is that of its unit."""
        result = MessageFiles()
        counts = result.counts
        counts["found"] = count_files(line)
        if self._mode == "none":
            counts[f"skipped.{NOT_PLANNED}"] = counts["found"]
            return result
        if counts["found"] > self._left:
            counts[f"skipped.{TOO_MANY}"] = counts["found"]
            return result
        self._left -= counts["found"]
        for index, item in enumerate(line.get("files", ())):
            file = ExternalFile(*item)
            attachment_id = attachment_id_for(message_id, index)
            record = self._record(file, attachment_id, message_id, position)
            if record.state != "skipped" and len(result.attachments) == MAX_ATTACHMENTS:
                record = record.model_copy(
                    update={"state": "skipped", "reason": "too_many_in_a_message", "source": "", "entry": ""}
                )
            result.records.append(record)
            if record.state == "skipped":
                counts[f"skipped.{record.reason}"] += 1
                continue
            counts["selected"] += 1
            if record.state == "address":
                counts["imported"] += 1
            result.attachments.append(self._attachment(file, record))
        for index, (name, reason) in enumerate(line.get("lost_files", ())):
            # Behind the others: their positions are the same whichever files are lost.
            lost_id = attachment_id_for(message_id, len(line.get("files", ())) + index)
            result.records.append(
                self._new(lost_id, message_id, position, name=safe_name(name), state="skipped", reason=reason)
            )
            counts[f"skipped.{reason}"] += 1
        return result

    def _record(self, file: ExternalFile, attachment_id: str, message_id: str, position: int) -> FileRecord:
        size = file.size if file.size is not None and 0 <= file.size < _MAX_SIZE else None
        known: dict[str, Any] = {
            "name": safe_name(file.filename),
            "content_type": media_type(file.content_type) if file.content_type else None,
            "size": size,
        }

        def made(**fields: Any) -> FileRecord:
            return self._new(attachment_id, message_id, position, **known, **fields)

        entry = file.ref.removeprefix(ARCHIVE_REF) if file.ref.startswith(ARCHIVE_REF) else ""
        reason: SkipReason
        if self._mode == "addresses":
            if entry:
                reason = "only_in_the_archive"
                return made(state="skipped", reason=reason)
            return made(state="address")
        if self._max_bytes is not None and size is not None and size > self._max_bytes:
            reason = "larger_than_planned"
            return made(state="skipped", reason=reason)
        if entry:
            return made(state="waiting", entry=entry[:_MAX_ENTRY])
        source = self._addresses.provider.seal(self._ref(file)) if self._addresses else ""
        return made(state="waiting", source=source)

    def _new(self, attachment_id: str, message_id: str, position: int, **fields: Any) -> FileRecord:
        return FileRecord(
            id=file_id_of(self._import_id, attachment_id),
            import_id=self._import_id,
            workspace=self._workspace,
            position=position,
            message_id=message_id,
            attachment_id=attachment_id,
            expires_at=self._expires_at,
            **fields,
        )

    def _attachment(self, file: ExternalFile, record: FileRecord) -> dict[str, Any]:
        """Return the file as `ChatAttachment` has it."""
        if self._addresses is None:
            url = ""
        elif record.state == "address":
            url = self._addresses.provider.address(self._ref(file))
        else:
            stored = ExternalFile(record.id, "", record.name, record.content_type, record.size)
            url = self._addresses.imported.address(self._ref(stored))
        return {
            "id": record.attachment_id,
            "url": url,
            "filename": record.name,
            "content_type": record.content_type,
            "size": record.size,
        }

    def _ref(self, file: ExternalFile) -> FileRef:
        return FileRef(self._workspace, self._provider, self._account, file, self._expires_at.timestamp())


class UnitFiles:
    """The files of the messages of one unit, until its batches are settled."""

    def __init__(self, planner: FilePlanner, position: int) -> None:
        self._planner = planner
        self._position = position
        self._by_message: dict[str, MessageFiles] = {}
        self._counts: Counter[str] = Counter()

    def attach(self, line: Line, message_id: str) -> Sequence[dict[str, Any]]:
        """Return the attachments of a message that is published."""
        if "files" not in line and "lost_files" not in line:  # as in most
            return ()
        found = self._planner.plan(line, message_id, self._position)
        self._by_message[message_id] = found
        return found.attachments

    def skip(self, line: Line, reason: str = MESSAGE_LEFT_OUT) -> None:
        """Count the files of a message that is left out."""
        self._leave(count_files(line), f"skipped.{reason}")

    def repeat(self, line: Line) -> None:
        """Count the files of a message that the chat has already."""
        self._leave(count_files(line), "duplicate")

    def settle(self, duplicates: Iterable[str], rejected: Iterable[str]) -> None:
        """Leave the files of messages out that the chat had already, or rejected."""
        for ids, name in ((duplicates, "duplicate"), (rejected, f"skipped.{MESSAGE_FAILED}")):
            for message_id in ids:
                if (found := self._by_message.pop(message_id, None)) is not None:
                    self._leave(found.counts["found"], name)

    def records(self) -> list[FileRecord]:
        """Return the files to store."""
        return [record for found in self._by_message.values() for record in found.records]

    def counts(self) -> Counter[str]:
        """Return the counts of the files by dotted names: `found`, `skipped.tombstone`."""
        return sum((found.counts for found in self._by_message.values()), self._counts)

    def _leave(self, number: int, name: str) -> None:
        if number:
            self._counts["found"] += number
            self._counts[name] += number


def count_files(line: Line) -> int:
    """Return how many files a message has, with those that are lost."""
    return len(line.get("files", ())) + len(line.get("lost_files", ()))
