"""A call that is answered without the framework gets, to the byte, what a route of the framework answers."""

from contextlib import nullcontext
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import Receive, Scope

from shared.contracts.errors import (
    BrokerUnavailable,
    FieldError,
    Forbidden,
    Invalid,
    Misconfigured,
    TooLarge,
    Unauthenticated,
)
from shared.runtime.web.bare_route import BareRoute
from shared.runtime.web.problems import install_handlers
from shared.runtime.web.query_parameters import reject_parameters
from shared.runtime.web.routes import Routes

FIELDS = (FieldError("0.id", "Field required"), FieldError("query.ä", 'says "no"'))


class Accepted(BaseModel):
    """What both routes answer."""

    accepted: list[str]


def _app(accepted: list[str], error: Exception | None) -> FastAPI:
    """Return an app with the same route twice: `/framework` and `/bare`."""
    app, log = FastAPI(), structlog.get_logger()

    async def framework() -> Accepted:
        if error:
            raise error
        return Accepted(accepted=accepted)

    async def bare(scope: Scope, receive: Receive) -> tuple[int, bytes]:
        del scope, receive
        if error:
            raise error
        return 202, Accepted(accepted=accepted).model_dump_json().encode()

    for path in ("/framework", "/bare"):
        app.add_api_route(path, framework, methods=["POST"], status_code=202)
    install_handlers(app, log)
    app.add_middleware(BareRoute, path="/bare", handler=bare, log=log)
    return app


async def _answers(app: FastAPI, method: str = "POST") -> list[tuple[int, Any, bytes]]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://hub") as client:
        answers = [await client.request(method, path) for path in ("/framework", "/bare")]
    return [(answer.status_code, answer.headers.raw, answer.content) for answer in answers]


@pytest.mark.parametrize("accepted", [[], ["1", "evt_2"], ['ä "quoted"\t\u2028 \x00 </script>']])
async def test_a_success(accepted: list[str]) -> None:
    framework, bare = await _answers(_app(accepted, None))
    assert bare == framework
    assert bare[0] == 202


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unauthenticated("send an API key"), 401),
        (Forbidden("lacks the scope"), 403),
        (Invalid("some are not valid", errors=FIELDS), 422),
        (TooLarge("at most 500 events"), 413),
        (BrokerUnavailable("Kafka is away", retry_after=2.6), 503),
        (Misconfigured("set it"), 503),
        (ValueError("a bug"), 500),
    ],
)
async def test_an_error(error: Exception, status: int) -> None:
    framework, bare = await _answers(_app([], error))
    assert bare == framework
    assert bare[0] == status


async def test_another_method_is_the_frameworks() -> None:
    framework, bare = await _answers(_app([], None), "PUT")
    assert bare == framework
    assert bare[0] == 405


async def test_a_declared_call_without_a_handler_is_no_success() -> None:
    app = FastAPI()

    async def declared(name: str) -> None:
        """Do something."""

    Routes(app, "").declare("/bare", declared, methods=["POST"], response_model=Accepted)
    operation = app.openapi()["paths"]["/bare"]["post"]
    assert operation["description"] == "Do something."
    assert [parameter["name"] for parameter in operation["parameters"]] == ["name"]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://hub") as client:
        answer = await client.post("/bare?name=x")
    assert answer.status_code == 500
    assert "no handler" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        (b"", []),
        (b"limit=1", []),
        (b"limit=1&x=2&y", ["query.x", "query.y"]),
        (b"x=1&x=2&%C3%A4=3", ["query.x", "query.ä"]),
    ],
)
def test_unknown_parameters(query: bytes, unknown: list[str]) -> None:
    with pytest.raises(Invalid) if unknown else nullcontext() as caught:
        reject_parameters(query, ["limit"])
    assert [item.field for item in (caught.value.errors if caught else ())] == unknown
