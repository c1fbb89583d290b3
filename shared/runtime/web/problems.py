"""Errors as RFC 9457 problem details; the same bytes for FastAPI routes and the bare webhook path."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shared.contracts.errors import FieldError, Misconfigured, Rejected, RetryLater
from shared.runtime.logs import Log

MEDIA_TYPE: Final = "application/problem+json"
_MAX_FAULTS: Final = 50
_MAX_FIELD_LENGTH: Final = 200
_UNION_BRANCH: Final = re.compile(r"(function-[a-z]+|constrained-[a-z]+|nullable|list)\[.+\]")

SANDBOX_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of an answer that has words of strangers in it: no browser takes it for a page."""

SCHEMA_REF_PREFIX: Final = "#/components/schemas/"
SCHEMA_NAME: Final = "Problem"
SCHEMA: Final[dict[str, Any]] = {
    "description": "Why a call was refused, or could not be done (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "Always `about:blank`: `status` says it all."},
        "title": {"type": "string", "description": "The words of the status."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What is wrong, and what to do where that is known."},
        "errors": {
            "type": "array",
            "description": "The fields and parameters that are not acceptable.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {
                    "field": {
                        "type": "string",
                        "description": "A dotted path into the body, or a parameter's place and name.",
                    },
                    "message": {"type": "string"},
                },
            },
        },
    },
}
"""What `problem` makes, for OpenAPI; without references, so that the documents of all services merge."""
_RETRY_AFTER_HEADER: Final = {
    "Retry-After": {"description": "In how many seconds.", "schema": {"type": "integer"}}
}


def problem(status: int, detail: str, *, errors: tuple[FieldError, ...] = ()) -> bytes:
    """The body of a problem: type, title, status, detail and, for a bad body, the wrong fields."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        body["errors"] = [{"field": error.field, "message": error.message} for error in errors]
    return orjson.dumps(body)


def problem_response(
    status: int, detail: str, *, errors: tuple[FieldError, ...] = (), headers: dict[str, str] | None = None
) -> Response:
    return Response(problem(status, detail, errors=errors), status, headers, MEDIA_TYPE)


def openapi_response(said: str, *, retry_after: bool = False) -> dict[str, Any]:
    """A response of OpenAPI that is a problem; `again`: one with `Retry-After`."""
    response: dict[str, Any] = {
        "description": said,
        "content": {MEDIA_TYPE: {"schema": {"$ref": SCHEMA_REF_PREFIX + SCHEMA_NAME}}},
    }
    return response | {"headers": _RETRY_AFTER_HEADER} if retry_after else response


def field_errors(faults: list[Any]) -> tuple[FieldError, ...]:
    """Pydantic's faults as ours, the first 50; the input itself is never repeated, it may hold a secret."""
    return tuple(
        FieldError(_fault_path(fault["loc"])[:_MAX_FIELD_LENGTH], _fault_message(fault)[:_MAX_FIELD_LENGTH])
        for fault in faults[:_MAX_FAULTS]
    )


def _fault_message(fault: Mapping[str, Any]) -> str:
    """What is wrong; what a framework says of its own types, as the caller would say it."""
    if fault["type"] == "model_attributes_type":
        return "send a JSON object, with the header Content-Type: application/json"
    if fault["type"] == "extra_forbidden":
        return "no such field"
    return str(fault["msg"])


def _fault_path(loc: tuple[str | int, ...]) -> str:
    """Where a fault is, as the caller wrote it: without the names that pydantic gives to alternatives."""
    own = (str(part) for part in loc if part != "body")
    return ".".join(part for part in own if not _UNION_BRANCH.match(part)) or "body"


def to_utc(moment: datetime) -> datetime:
    """A validator: a time of the caller's as we keep it; at the edge of the calendar there may be none."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999 in UTC") from None


def install_handlers(app: FastAPI, log: Log) -> None:
    """Answer every error of this app as problem details, never a traceback."""

    async def rejected(_request: Request, error: Exception) -> Response:
        assert isinstance(error, Rejected)  # noqa: S101 -- registered for this class only
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return problem_response(error.status, error.detail, errors=error.errors, headers=headers)

    async def later(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RetryLater)  # noqa: S101
        return problem_response(
            503, str(error), headers={"Retry-After": str(max(1, round(error.retry_after)))}
        )

    async def misconfigured(request: Request, error: Exception) -> Response:
        log.error("request failed", route=request.url.path, error=str(error))
        return problem_response(503, str(error))

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        errors = field_errors(list(error.errors()))
        if any(fault["type"] == "json_invalid" for fault in error.errors()):
            return problem_response(400, "the body is not JSON", errors=errors)
        return problem_response(422, "some fields are not acceptable", errors=errors)

    async def http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        return problem_response(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("request failed", route=request.url.path, exc_info=error)
        return problem_response(500, "an unexpected error: the log of the service has it")

    app.add_exception_handler(Rejected, rejected)
    app.add_exception_handler(RetryLater, later)
    app.add_exception_handler(Misconfigured, misconfigured)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)
