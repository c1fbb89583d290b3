"""Limits on the bodies of management calls: what a caller sends, and what the application gets of it."""

from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from shared.runtime.web.body_limit import BodyLimit

DISCONNECT: Message = {"type": "http.disconnect"}


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def call(messages: Sequence[Message], *, max_bytes: int = 10) -> tuple[list[bytes], list[Any]]:
    """Send these messages; return the bodies that the application got, and the statuses of the answers."""
    bodies: list[bytes] = []
    statuses: list[Any] = []
    left = list(messages)

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        message = await receive()
        assert not message["more_body"]
        bodies.append(message["body"])

    async def receive() -> Message:
        return left.pop(0)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    await BodyLimit(app, max_bytes=max_bytes)(scope, receive, send)
    return bodies, statuses


async def test_a_body_in_parts_arrives_whole() -> None:
    assert await call([part(b"12345", more=True), part(b"67890")]) == ([b"1234567890"], [])


async def test_a_body_over_the_limit_is_rejected() -> None:
    assert await call([part(b"12345", more=True), part(b"678901", more=True)]) == ([], [413])


@pytest.mark.parametrize("first", [[], [part(b"", more=True)], [part(b'{"a":1,', more=True)]])
async def test_half_a_body_is_no_request(first: list[Message]) -> None:
    """A caller that goes away in the middle: its call would be answered, and remembered, as another one."""
    assert await call([*first, DISCONNECT]) == ([], [])
