"""A form with a file as its last field, read as it comes: the file is never in memory as a whole."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from services.console.web.forms import BadForm, Form
from shared.contracts.errors import Malformed
from shared.runtime.web.request_body import RequestBody, blocks
from shared.wire.multipart import MULTIPART_CONTENT_TYPE, delimiter_of, parse_part

_MAX_FIELDS_BYTES: Final = 16 * 1024
"""Bytes before the file: the fields of the form, and the headers of the file."""
_FIELDS_TIMEOUT_S: Final = 15.0
_END: Final = b"--\r\n"
_LINE: Final = b"\r\n"


class FileForm:
    """The form of one request. `fields` and `file_name` are there after `open`."""

    def __init__(self, content_type: str, body: RequestBody) -> None:
        """Raise `BadForm` if the request is no such form, or does not say how long it is."""
        if content_type.partition(";")[0].strip().lower() != MULTIPART_CONTENT_TYPE or body.size is None:
            raise BadForm("the form cannot be read: choose the file, and send it from this page")
        try:
            self._delimiter = delimiter_of(content_type)
        except Malformed as error:
            raise BadForm(error.detail) from None
        self._body = body
        self._size = body.size
        self._start = b""
        self.fields: Form = {}
        self.file_name = ""
        self.file_size = 0
        """Bytes of the file, as the size of the form and of what stands around the file tell."""

    async def open(self) -> None:
        """Read the fields before the file. Raises `BadForm`, `ClientDisconnect`, `TimeoutError`."""
        buffer = bytearray(_LINE)  # the first delimiter has no line break before it
        stream = self._body.stream()
        async with asyncio.timeout(_FIELDS_TIMEOUT_S):
            while not self._parse(bytes(buffer)):
                if len(buffer) > _MAX_FIELDS_BYTES:
                    raise BadForm("the form is too large before the file: send it from this page")
                chunk = await anext(stream, None)
                if chunk is None:
                    raise BadForm("the form has no file: choose one")
                buffer += chunk

    def _parse(self, buffer: bytes) -> bool:
        """Read the fields, and the head of the file; return False if they are not complete yet."""
        head, *sections = buffer.split(self._delimiter)
        if head and len(buffer) > len(self._delimiter):
            raise BadForm("the form cannot be read: send it from this page")
        fields: dict[str, list[str]] = {}
        read = len(head)
        for section in sections:
            read += len(self._delimiter)
            is_last = section is sections[-1]
            if is_last and b"\r\n\r\n" not in section:
                return False
            try:
                part = parse_part(section)
            except Malformed as error:
                raise BadForm(error.detail) from None
            if part.filename is not None:
                start = read + len(section) - len(part.data)
                self._start = buffer[start:]
                self.fields, self.file_name = fields, part.filename
                self.file_size = self._size - (start - len(_LINE)) - len(self._delimiter) - len(_END)
                if not part.filename or self.file_size <= 0:
                    raise BadForm("File: choose one that is not empty")
                return True
            if is_last:
                return False
            fields.setdefault(part.name, []).append(part.data.decode("utf-8", "replace"))
            read += len(section)
        return False

    async def file(self) -> AsyncIterator[bytes]:
        """Yield the file in blocks of about 1 MiB at most.

        Raises `BadForm` if something else follows it; `ClientDisconnect`; `TimeoutError` if it comes too
        slowly.
        """
        left, end = self.file_size, b""
        seen = b""
        async for block in self._blocks():
            own, end = block[:left], end + block[left:]
            left -= len(own)
            if self._delimiter in seen + own:
                raise BadForm("the file has to be the last field of the form: send it from this page")
            seen = own[-len(self._delimiter) :]
            if own:
                yield own
        if left or end != self._delimiter + _END:
            raise BadForm("the form is not complete: send it again")

    async def _blocks(self) -> AsyncIterator[bytes]:
        if self._start:
            yield self._start
        async for block in blocks(self._body):
            yield block
