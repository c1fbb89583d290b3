"""Replace the addresses of files that have expired at their provider."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import time
from typing import Final

from services.importer.accounts.address_refresher import AddressRefresher
from services.importer.files.records import FileRecord
from shared.connections.files.addresses import FileAddresses, FileRef

_MARGIN_S: Final = 3_600.0
"""Addresses that expire so soon are replaced: other files may come before theirs."""


class NewAddresses:
    """Replaces the sealed addresses of the files of one account's import."""

    def __init__(self, refresher: AddressRefresher, addresses: FileAddresses) -> None:
        self._refresher = refresher
        self._addresses = addresses

    async def replace(self, records: Sequence[FileRecord], *, refused: bool = False) -> list[FileRecord]:
        """Return the files with new addresses where theirs have expired, or all with `refused`.

        A file for which the provider gives none keeps its address. Raises as `AddressRefresher.refreshed`.
        """
        refs = {record.id: ref for record in records if (ref := self._addresses.open(record.source))}
        expired_at = float("inf") if refused else time() + _MARGIN_S
        found = await self._refresher.refreshed([ref.file for ref in refs.values()], expired_at)
        return [self._with(record, refs.get(record.id), found) for record in records]

    def _with(self, record: FileRecord, ref: FileRef | None, found: Mapping[str, str]) -> FileRecord:
        address = None if ref is None else found.get(ref.file.ref)
        if ref is None or address is None:
            return record
        source = self._addresses.seal(replace(ref, file=replace(ref.file, ref=address)))
        return record.model_copy(update={"source": source})
