"""A form with a file is read as it comes, in pieces of any size; what is not such a form is refused."""

import pytest
from starlette.types import Message

from services.console.hub_api import Refusal
from services.console.web.file_form import FileForm
from shared.runtime.web.request_body import RequestBody

TYPE = "multipart/form-data; boundary=B"
TOKEN = b'--B\r\nContent-Disposition: form-data; name="token"\r\n\r\nt\r\nt\r\n'
FILE = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a b.zip"\r\nContent-Type: x/y\r\n\r\n'
END = b"\r\n--B--\r\n"


async def read(body: bytes, piece: int, content_type: str = TYPE) -> tuple[FileForm, bytes]:
    """Read a form that comes in pieces of so many bytes."""
    pieces = [body[start : start + piece] for start in range(0, len(body), piece)]

    async def receive() -> Message:
        chunk = pieces.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(pieces)}

    scope = {"headers": [(b"content-length", str(len(body)).encode())]}
    form = FileForm(content_type, RequestBody(scope, receive, max_bytes=len(body)))
    await form.open()
    return form, b"".join([block async for block in form.file()])


@pytest.mark.parametrize("piece", [1, 2, 5, 37, 1000, 100_000])
@pytest.mark.parametrize("content", [b"x", b"\r\n--", b"\r\n--A--\r\n--\r\n", bytes(range(256)) * 20])
async def test_a_form_is_read_in_pieces_of_any_size(piece: int, content: bytes) -> None:
    form, found = await read(TOKEN + FILE + content + END, piece)
    assert found == content
    assert (form.fields, form.file_name, form.file_size) == ({"token": ["t\r\nt"]}, "a b.zip", len(content))


@pytest.mark.parametrize("piece", [1, 100_000])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (TOKEN + FILE + END, "not empty"),
        (TOKEN + FILE.replace(b"a b.zip", b"") + b"x" + END, "not empty"),
        (TOKEN + FILE + b"xxxx" + b"\r\n--B--", "not complete"),
        (TOKEN + FILE + b"xxxxxxxxxxxxxxxxx", "not complete"),
        (TOKEN + FILE + b"x\r\n" + TOKEN + END[2:], "the last field"),
        (TOKEN + END[2:], "no file"),
        (b"--C\r\n", "cannot be read"),
        (b"preamble " + TOKEN + FILE + b"x" + END, "cannot be read"),
        (b"--B\r\nX: y\r\n\r\nx\r\n" + FILE + b"x" + END, "no name"),
        (b"--B\r\nx\r\n" + FILE + b"x" + END, "no headers"),
        (TOKEN + b"x" * 20_000 + FILE + b"x" + END, "too large"),
    ],
)
async def test_what_is_no_such_form_is_refused(piece: int, body: bytes, words: str) -> None:
    with pytest.raises(Refusal) as refused:
        await read(body, piece)
    assert words in refused.value.detail


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "multipart/form-data", "multipart/mixed; boundary=B"]
)
async def test_another_type_of_body_is_refused(content_type: str) -> None:
    with pytest.raises(Refusal):
        await read(TOKEN + FILE + b"x" + END, 100, content_type)
