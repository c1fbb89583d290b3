"""A chat in one page, so that the hub can be seen at work: `python -m examples.minichat`.

How it works with the hub is in `hub.py`; this is the page's server.
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

from examples.minichat import hub

PAGE = Path(__file__).with_name("page.html").read_text("utf-8")
KEPT, SILENCE_S = 200, 15

history: OrderedDict[str, dict[str, Any]] = OrderedDict()  # this service's "database"
pages: set[asyncio.Queue[dict[str, Any]]] = set()  # one queue per open page


def show(message: dict[str, Any]) -> None:
    """Keep a message, once, and hand it to every open page; one that does not keep up has to reconnect."""
    if message["message_id"] in history:
        return
    history[message["message_id"]] = message
    if len(history) > KEPT:
        history.popitem(last=False)
    for page in list(pages):
        try:
            page.put_nowait(message)
        except asyncio.QueueFull:
            pages.discard(page)


@hub.inbound
async def receive(message: hub.Inbound, workspace: hub.Workspace) -> None:
    """Show what comes for our workspace."""
    if workspace == hub.WORKSPACE:
        show(message.model_dump())


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Serve the page whether Kafka is there or not."""
    connecting = asyncio.create_task(hub.connect())
    yield
    connecting.cancel()
    await asyncio.wait([connecting])
    await hub.broker.stop()


app = FastAPI(lifespan=lifespan)


class Post(BaseModel):
    """What a person writes."""

    channel: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]
    author: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80)]
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]


@app.post("/messages", status_code=201)
async def write(post: Post) -> Response:
    """Send what a person wrote; 503 when it is not on Kafka."""
    message = await hub.publish(post.channel, post.author, post.text)
    if message is None:
        return JSONResponse({"detail": "Kafka did not take the message: try again"}, 503)
    show(message.model_dump())
    return JSONResponse({"message_id": message.message_id}, 201)


@app.get("/events")
async def events() -> StreamingResponse:
    """Server-sent events: the messages that are kept, then every new one."""

    async def stream() -> AsyncIterator[str]:
        page: asyncio.Queue[dict[str, Any]] = asyncio.Queue(KEPT)
        pages.add(page)
        try:
            for message in list(history.values()):
                yield f"data: {json.dumps(message)}\n\n"
            while page in pages:
                try:
                    message = await asyncio.wait_for(page.get(), SILENCE_S)
                except TimeoutError:
                    yield ": still here\n\n"
                else:
                    yield f"data: {json.dumps(message)}\n\n"
        finally:
            pages.discard(page)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@app.get("/")
async def front() -> HTMLResponse:
    """The page. The browser runs its script and style only, whatever a message may hold."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        "default-src 'none'; connect-src 'self'; img-src https: data:; "
        f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
    )
    return HTMLResponse(PAGE.replace("{nonce}", nonce), headers={"Content-Security-Policy": policy})


@app.get("/healthz")
async def health() -> dict[str, str]:
    """The process is alive."""
    return {"status": "alive"}


if __name__ == "__main__":
    host, port = environ.get("MINICHAT_HOST", "127.0.0.1"), int(environ.get("MINICHAT_PORT", "8090"))
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="warning", timeout_graceful_shutdown=1)
