"""A chat in one page, to see the hub at work: `python -m interlink.examples.minichat`.

This is the page's server. `hub.py` has everything that concerns the hub.
"""

import asyncio
import contextlib
import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from os import environ
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, StringConstraints

from interlink.examples.minichat import hub

PAGE = Path(__file__).with_name("page.html").read_text("utf-8")
MAX_MESSAGES, KEEPALIVE_INTERVAL_S = 200, 15

history: OrderedDict[str, dict[str, Any]] = OrderedDict()  # this service's "database"
pages: set[asyncio.Queue[dict[str, Any]]] = set()  # one queue per open page


def show(message: dict[str, Any]) -> None:
    """Store a message once and send it to every open page. A page that is too slow has to reconnect."""
    if message["message_id"] in history:
        return
    history[message["message_id"]] = message
    if len(history) > MAX_MESSAGES:
        history.popitem(last=False)
    for page in list(pages):
        try:
            page.put_nowait(message)
        except asyncio.QueueFull:
            pages.discard(page)


@hub.inbound
async def receive(message: hub.Inbound, workspace: hub.Workspace, event_type: hub.EventType) -> None:
    """Show a new message that is for this page's workspace."""
    if (workspace, event_type) == (hub.WORKSPACE, hub.CREATED):
        show(message.model_dump())


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Serve the page with or without Kafka."""
    connecting = asyncio.create_task(hub.connect())
    yield
    connecting.cancel()
    await asyncio.wait([connecting])
    await hub.broker.stop()


app = FastAPI(lifespan=lifespan)


class Post(BaseModel):
    """A message that a person writes."""

    channel: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]
    author: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]


@app.post("/messages", status_code=201)
async def write(post: Post) -> Response:
    """Publish a message. Answer 503 if Kafka did not acknowledge it."""
    message = await hub.publish(post.channel, post.author, post.text)
    if message is None:
        return JSONResponse({"detail": "Kafka did not accept the message: try again"}, 503)
    show(message.model_dump())
    return JSONResponse({"message_id": message.message_id}, 201)


@app.get("/events")
async def events() -> StreamingResponse:
    """Stream the stored messages and then every new one, as server-sent events."""

    async def stream() -> AsyncIterator[str]:
        page: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MAX_MESSAGES)
        pages.add(page)
        try:
            for message in list(history.values()):
                yield f"data: {json.dumps(message)}\n\n"
            while page in pages:
                try:
                    message = await asyncio.wait_for(page.get(), KEEPALIVE_INTERVAL_S)
                except TimeoutError:
                    yield ": still here\n\n"
                else:
                    yield f"data: {json.dumps(message)}\n\n"
        finally:
            pages.discard(page)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@app.get("/")
async def front() -> HTMLResponse:
    """Return the page. Its policy allows only the page's own script and style, whatever a message holds."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        "default-src 'none'; connect-src 'self'; img-src https: data:; "
        f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
    )
    return HTMLResponse(PAGE.replace("{nonce}", nonce), headers={"Content-Security-Policy": policy})


@app.get("/healthz")
async def health() -> dict[str, str]:
    """Answer that the process is alive."""
    return {"status": "alive"}


if __name__ == "__main__":
    host, port = environ.get("MINICHAT_HOST", "127.0.0.1"), int(environ.get("MINICHAT_PORT", "8090"))
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="warning", timeout_graceful_shutdown=1)
