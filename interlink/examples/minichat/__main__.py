"""A chat in one page, to see the hub at work: `python -m interlink.examples.minichat`.

This is the page's server. `hub.py` has everything that concerns the hub.
"""

import asyncio
import contextlib
import json
import secrets
import uuid
from collections.abc import AsyncIterator
from os import environ
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, StringConstraints

from interlink.examples.minichat import hub
from interlink.examples.minichat.files import MAX_BYTES, Files
from interlink.examples.minichat.history import History
from interlink.examples.minichat.imported import Imports

PAGE = Path(__file__).with_name("page.html").read_text("utf-8")
HOST, PORT = environ.get("MINICHAT_HOST", "127.0.0.1"), int(environ.get("MINICHAT_PORT", "8090"))
FILES_URL = environ.get("MINICHAT_URL", f"http://{HOST}:{PORT}").rstrip("/")
"""Where the hub fetches files of this chat."""
KEEPALIVE_INTERVAL_S, IMPORT_INTERVAL_S = 15, 0.5
MAX_WAITING = 1000

history, files = History(), Files()
imports = Imports(history)
changed: set[str] = set()  # channels that imports have changed since the pages have shown them
pages: set[asyncio.Queue[str]] = set()  # one queue per open page


def show(lines: str) -> None:
    """Send a server-sent event to every open page. A page that is too slow has to reconnect."""
    for page in list(pages):
        try:
            page.put_nowait(lines)
        except asyncio.QueueFull:
            pages.discard(page)


def apply(event_type: str, data: dict[str, Any]) -> None:
    """Store a change once, and show it."""
    message = history.apply(event_type, data)
    if message is not None:
        show(f"data: {json.dumps(message)}\n\n")


@hub.inbound
async def receive(data: dict[str, Any], event_type: hub.EventType, workspace: hub.Workspace) -> None:
    """Show what happened to a message, if it is for this page's workspace."""
    if workspace == hub.WORKSPACE:
        with contextlib.suppress(KeyError, TypeError, AttributeError):  # not an event of the contract
            apply(event_type, data)


@hub.signals
async def receive_signal(data: dict[str, Any], workspace: hub.Workspace) -> None:
    """Show who types."""
    if workspace == hub.WORKSPACE and hub.is_current(data):
        show(f"event: signal\ndata: {json.dumps(data)}\n\n")


@hub.history
async def receive_batch(batch: dict[str, Any], event_type: hub.EventType, workspace: hub.Workspace) -> None:
    """Store a batch of an import, and confirm it."""
    if workspace != hub.WORKSPACE:
        return
    try:
        stored = imports.apply(event_type, batch)
    except (KeyError, TypeError, AttributeError):  # not an event of the contract
        return
    changed.update(stored.channels)
    await hub.confirm(batch, stored.duplicates, stored.rejected)


async def show_imports() -> None:
    """Show channels that imports have changed, as a whole: thousands of messages may come a second."""
    while True:
        await asyncio.sleep(IMPORT_INTERVAL_S)
        while changed:
            show(channel_event(changed.pop()))


def channel_event(channel_id: str) -> str:
    """Return the server-sent event with a channel's name and last messages."""
    return f"event: channel\ndata: {json.dumps(imports.shown(channel_id))}\n\n"


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Serve the page with or without Kafka."""
    tasks = [asyncio.create_task(hub.connect()), asyncio.create_task(show_imports())]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await hub.broker.stop()


app = FastAPI(lifespan=lifespan)
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000)]
Emoji = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]


class Post(BaseModel):
    """A message that a person writes: a text, files or both."""

    channel: Name
    author: Name
    text: Text = ""
    reply_to: str | None = None
    files: Annotated[list[str], "ids of uploaded files"] = []


class Edit(BaseModel):
    author: Name
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]


class React(BaseModel):
    author: Name
    emoji: Emoji
    change: Literal["added", "removed"] = "added"


class Typing(BaseModel):
    channel: Name
    author: Name


async def publish(event_type: str, data: dict[str, Any], status: int = 200) -> Response:
    """Publish what a person did, and show it. Answer 503 if Kafka did not acknowledge it."""
    if not await hub.publish(event_type, data):
        return JSONResponse({"detail": "Kafka did not accept it: try again"}, 503)
    apply(event_type, data)
    return JSONResponse({"message_id": data["message_id"]}, status)


def person(name: str) -> dict[str, str]:
    """Return the author of this name. A chat with accounts has real ids."""
    return {"id": f"usr_{name.lower()}", "name": name}


def stored(message_id: str, author: str | None = None) -> dict[str, Any]:
    """Return a message that can still be changed; by its author, if one is named."""
    message = history.messages.get(message_id)
    if message is None or message["deleted"]:
        raise HTTPException(404, "this message is not there any more")
    if author is not None and message["author"].get("id") != person(author)["id"]:
        raise HTTPException(403, "only the author can change a message")
    return message


@app.post("/messages", status_code=201)
async def write(post: Post) -> Response:
    """Publish a message."""
    attached = [file for file_id in post.files[:10] if (file := files.get(file_id))]
    if not post.text and not attached:
        raise HTTPException(422, "write a text, or attach a file")
    data: dict[str, Any] = {
        "message_id": f"msg_{uuid.uuid4().hex}",
        "channel_id": post.channel,
        "text": post.text,
        "author": person(post.author),
        "created_at": hub.now(),
        "attachments": [
            {
                "id": file.id,
                "url": f"{FILES_URL}/files/{file.id}",
                "filename": file.filename,
                "content_type": file.content_type,
                "size": len(file.content),
            }
            for file in attached
        ],
    }
    if post.reply_to:
        answered = stored(post.reply_to)
        thread = answered["thread_id"] or answered["message_id"]
        data |= {"reply_to_id": answered["message_id"], "thread_id": thread}
    return await publish("message.created", data, 201)


@app.patch("/messages/{message_id}")
async def edit(message_id: str, change: Edit) -> Response:
    """Publish another text of a message: the event has the whole message."""
    message = stored(message_id, change.author)
    names = ("message_id", "channel_id", "author", "attachments", "thread_id", "reply_to_id", "created_at")
    data = {name: message[name] for name in names if message.get(name)}
    return await publish("message.updated", {**data, "text": change.text, "edited_at": hub.now()})


@app.delete("/messages/{message_id}")
async def delete(message_id: str, author: Name) -> Response:
    """Publish that a message was deleted."""
    message = stored(message_id, author)
    data = {"message_id": message_id, "channel_id": message["channel_id"], "deleted_at": hub.now()}
    return await publish("message.deleted", data)


@app.post("/messages/{message_id}/reactions")
async def react(message_id: str, reaction: React) -> Response:
    """Publish a reaction, or that it was taken back."""
    data = {
        "message_id": message_id,
        "channel_id": stored(message_id)["channel_id"],
        "emoji": reaction.emoji,
        "author": person(reaction.author),
        "reacted_at": hub.now(),
    }
    return await publish(f"message.reaction.{reaction.change}", data)


@app.post("/typing", status_code=204)
async def type_(typing: Typing) -> Response:
    """Publish that somebody types. It is no loss if that fails."""
    await hub.signal(person(typing.author), typing.channel)
    return Response(status_code=204)


@app.post("/files", status_code=201)
async def upload(
    request: Request,
    filename: Annotated[str, StringConstraints(min_length=1, max_length=200)],
    x_minichat: Annotated[str, Header(description="Any value: other sites cannot send this header.")],  # noqa: ARG001
) -> dict[str, str]:
    """Store a file to attach: the body as it is, up to 5 MB."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BYTES:
            raise HTTPException(413, "a file has at most 5 MB here")
    content_type = request.headers.get("content-type", "application/octet-stream")
    return {"id": files.add(filename, content_type, bytes(content)).id}


@app.get("/files/{file_id}")
async def download(file_id: str) -> Response:
    """Return a file, never to be shown as a page of this site."""
    file = files.get(file_id)
    if file is None:
        raise HTTPException(404, "this file is not there any more")
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    return Response(file.content, media_type=file.content_type, headers=headers)


@app.get("/events")
async def events() -> StreamingResponse:
    """Stream the stored messages and then every change, as server-sent events."""

    async def stream() -> AsyncIterator[str]:
        page: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        pages.add(page)
        try:
            for channel_id in history.channels():
                if channel_id in imports.channels:
                    yield channel_event(channel_id)
                    continue
                for message in history.shown(channel_id):
                    yield f"data: {json.dumps(message)}\n\n"
            while page in pages:
                try:
                    yield await asyncio.wait_for(page.get(), KEEPALIVE_INTERVAL_S)
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            pages.discard(page)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@app.get("/")
async def front() -> HTMLResponse:
    """Return the page. Its policy allows only the page's own script and style, whatever a message holds."""
    nonce = secrets.token_urlsafe(16)
    local = "http://127.0.0.1:* http://localhost:*"  # a hub on this machine has no TLS
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src 'self' https: data: {local}; "
        f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
    )
    return HTMLResponse(PAGE.replace("{nonce}", nonce), headers={"Content-Security-Policy": policy})


@app.get("/healthz")
async def health() -> dict[str, str]:
    """Answer that the process is alive."""
    return {"status": "alive"}


if __name__ == "__main__":
    uvicorn.run(app, host=HOST, port=PORT, access_log=False, log_level="warning", timeout_graceful_shutdown=1)
