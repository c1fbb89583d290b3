"""Errors as problem details (RFC 9457), the same for FastAPI routes and for the plain ASGI webhook path."""

import re
from collections.abc import Mapping
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
PROBLEM_PAGES: Final = "/api/problems/"
"""Every service answers these paths: the page of a status."""
_MAX_ERRORS: Final = 50
_MAX_FIELD_LENGTH: Final = 200
_UNION_BRANCH: Final = re.compile(r"(function-[a-z]+|constrained-[a-z]+|nullable|list)\[.+\]")

SANDBOX_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}
"""Headers for a response that repeats text of the caller, so that no browser shows it as a page."""

SCHEMA_REF_PREFIX: Final = "#/components/schemas/"
SCHEMA_NAME: Final = "Problem"
SCHEMA: Final[dict[str, Any]] = {
    "description": "Why a call was rejected or failed (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {
            "type": "string",
            "description": "Address of a page about the status, relative to the hub: `/api/problems/404`.",
        },
        "title": {"type": "string", "description": "The name of the HTTP status."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "The problem and, if it is known, the fix."},
        "errors": {
            "type": "array",
            "description": "The fields and parameters that are not acceptable.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {
                    "field": {
                        "type": "string",
                        "description": "A dotted path into the body, or a parameter such as `query.limit`.",
                    },
                    "message": {"type": "string"},
                },
            },
        },
    },
}
"""The OpenAPI schema of a problem, without references: so the documents of all services can be merged."""
_RETRY_AFTER_HEADER: Final = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
}


_CHECKSUM_MISMATCH: Final = 460
"""Of the protocol tus: the one status here that HTTP does not name."""


def phrase(status: int) -> str:
    """Return the name of a status of HTTP or of tus."""
    return "Checksum Mismatch" if status == _CHECKSUM_MISMATCH else HTTPStatus(status).phrase


def problem(status: int, detail: str, *, errors: tuple[FieldError, ...] = ()) -> bytes:
    """Return the JSON body of a problem: type, title, status, detail and, if there are any, wrong fields."""
    body: dict[str, Any] = {
        "type": f"{PROBLEM_PAGES}{status}",
        "title": phrase(status),
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


def openapi_response(description: str, *, retry_after: bool = False) -> dict[str, Any]:
    """Return the OpenAPI response object of a problem; with `retry_after`, one that has that header."""
    response: dict[str, Any] = {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": SCHEMA_REF_PREFIX + SCHEMA_NAME}}},
    }
    return response | {"headers": _RETRY_AFTER_HEADER} if retry_after else response


def field_errors(details: list[Any]) -> tuple[FieldError, ...]:
    """Return the first 50 of pydantic's errors as field errors, without the input, which may be a secret."""
    return tuple(
        FieldError(_error_path(detail["loc"])[:_MAX_FIELD_LENGTH], _error_message(detail)[:_MAX_FIELD_LENGTH])
        for detail in details[:_MAX_ERRORS]
    )


def _error_message(detail: Mapping[str, Any]) -> str:
    """Return an error's message. Messages about pydantic's own types are replaced by ones about the call."""
    if detail["type"] == "model_attributes_type":
        return "send a JSON object, with the header Content-Type: application/json"
    if detail["type"] == "extra_forbidden":
        return "no such field"
    return str(detail["msg"])


def _error_path(loc: tuple[str | int, ...]) -> str:
    """Return the dotted path of an error, without pydantic's names of the branches of a union."""
    parts = (str(part) for part in loc if part != "body")
    return ".".join(part for part in parts if not _UNION_BRANCH.match(part)) or "body"


KNOWN_ERRORS: Final = (Rejected, RetryLater, Misconfigured)
"""The errors that `error_response` answers; any other one is unexpected."""


def error_response(error: Rejected | RetryLater | Misconfigured, path: str, log: Log) -> Response:
    """Return the answer to a call that failed, as problem details. `path` is for the log."""
    if isinstance(error, Rejected):
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        if error.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(error.retry_after)))
        return problem_response(error.status, error.detail, errors=error.errors, headers=headers)
    if isinstance(error, RetryLater):
        retry_after = str(max(1, round(error.retry_after)))
        return problem_response(503, str(error), headers={"Retry-After": retry_after})
    log.error("request.failed", route=path, error=str(error))
    return problem_response(503, str(error))


def install_handlers(app: FastAPI, log: Log) -> None:
    """Answer all errors of an app as problem details, and never with a traceback."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, KNOWN_ERRORS)  # noqa: S101 -- registered for these classes only
        return error_response(error, request.url.path, log)

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        errors = field_errors(list(error.errors()))
        if any(detail["type"] == "json_invalid" for detail in error.errors()):
            return problem_response(400, "the body is not JSON", errors=errors)
        return problem_response(422, "some fields are not acceptable", errors=errors)

    async def http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        return problem_response(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("request.failed", route=request.url.path, exc_info=error)
        return problem_response(500, "an unexpected error: see the log of the service")

    for error_class in KNOWN_ERRORS:
        app.add_exception_handler(error_class, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)
