"""The OpenAPI document of a service, complete enough for generated clients.

FastAPI describes routes, parameters and bodies. This module adds what holds for every call: operation ids,
tags, scopes, error responses and `Idempotency-Key`.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from shared.runtime.web import problems

_MUTATING: Final = frozenset({"post", "put", "patch", "delete"})
_FASTAPI_ERROR_SCHEMAS: Final = ("HTTPValidationError", "ValidationError")
"""Schemas of FastAPI's own error responses, which `problems.install_handlers` replaces."""
_IDEMPOTENCY_KEY_PARAMETER: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "A name that you choose for this call. Once it has succeeded, repeats within a day get "
    "its response again. A refusal is not remembered: the same call may succeed later.",
}
_COMMON_ERRORS: Final = {
    401: "There is no API key, or it is unknown, expired or revoked.",
    403: "The API key lacks the scope.",
    422: "Fields or parameters are not acceptable: `errors` names them.",
    503: "Kafka, MongoDB or another service does not answer: try again later.",
}
_ITEM_ERRORS: Final = {404: "There is no item with this id in this workspace."}
_PAGE_ERRORS: Final = {400: "The cursor is not `next_cursor` of a page."}
_VERSION_ERRORS: Final = {412: "The item has another version than `If-Match` names: somebody has changed it."}
_MUTATION_ERRORS: Final = {
    400: "The body or the `Idempotency-Key` is malformed.",
    408: "The body took too long.",
    409: "It conflicts with an existing item, or with a call under way that has the same `Idempotency-Key`.",
    413: "The body is too large.",
}
_SENTENCE_END: Final = re.compile(r"\.(?=\s|$)")
_PLURALS: Final = ((re.compile(r"ies$"), "y"), (re.compile(r"(?<=[sxh])es$"), ""), (re.compile(r"s$"), ""))


class OpenApiApp(FastAPI):
    """A FastAPI app whose OpenAPI document also describes what holds for every call."""

    _text: bytes | None = None

    def openapi(self) -> dict[str, Any]:
        """Return the document, which is generated once."""
        if self.openapi_schema is None:
            self.openapi_schema = complete_document(super().openapi())
        return self.openapi_schema

    async def document(self, _request: Request) -> Response:
        """Answer with the document. It is serialised once, because anybody may request it at any rate."""
        if self._text is None:
            self._text = orjson.dumps(self.openapi())
        return Response(self._text, media_type="application/json")


def complete_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return FastAPI's document with tags, summaries, problem responses and `Idempotency-Key`."""
    components = document.get("components", {})
    schemas = {
        name: clean_schema(schema)
        for name, schema in components.get("schemas", {}).items()
        if name not in _FASTAPI_ERROR_SCHEMAS
    }
    return {
        **document,
        "paths": {
            path: {method: _complete_operation(path, method, call) for method, call in calls.items()}
            for path, calls in document["paths"].items()
        },
        "components": {**components, "schemas": {**schemas, problems.SCHEMA_NAME: problems.SCHEMA}},
    }


def clean_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without what breaks client generators: `title` (a second name), and object defaults."""

    def is_plain(key: str, value: Any) -> bool:
        return key != "default" or not isinstance(value, dict)

    cleaned = {name: value for name, value in schema.items() if name != "title"}
    if "properties" in cleaned:
        cleaned["properties"] = {
            name: {key: value for key, value in schema_of_field.items() if is_plain(key, value)}
            for name, schema_of_field in cleaned["properties"].items()
        }
    return cleaned


def _complete_operation(path: str, method: str, call: Mapping[str, Any]) -> dict[str, Any]:
    summary, rest = _first_sentence(call.get("description") or call.get("summary", ""))
    operation = {name: value for name, value in call.items() if name != "description"}
    operation |= {"tags": call.get("tags") or [path.split("/")[2]], "summary": summary}
    declared = {
        status: response for status, response in call["responses"].items() if not _is_fastapi_error(response)
    }
    if "security" not in call:  # a route for browsers, which send no API key
        own = {"security": [], "responses": declared}
        return operation | own | ({"description": rest} if rest else {})
    scopes = [
        f"`{scope}`"
        for requirement in call["security"]
        for scopes in requirement.values()
        for scope in scopes
    ]
    operation["description"] = f"{rest}\n\nScope of the API key: {', '.join(scopes)}.".lstrip()
    parameters = call.get("parameters", ())
    # A route that passes the header on describes it itself.
    if method in _MUTATING and _IDEMPOTENCY_KEY_PARAMETER["name"] not in {
        item["name"] for item in parameters
    }:
        operation["parameters"] = [*parameters, _IDEMPOTENCY_KEY_PARAMETER]
    # The route's own responses take precedence over the common ones.
    operation["responses"] = dict(sorted((_error_responses(path, method, call) | declared).items()))
    return operation


def _error_responses(path: str, method: str, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the error responses of a call with an API key, by status."""
    descriptions = dict(_COMMON_ERRORS)
    if "{" in path:
        descriptions |= _ITEM_ERRORS
    if method in _MUTATING:
        descriptions |= _MUTATION_ERRORS
    names = {parameter["name"] for parameter in call.get("parameters", ())}
    descriptions |= _PAGE_ERRORS if "cursor" in names else {}
    descriptions |= _VERSION_ERRORS if "If-Match" in names else {}
    return {
        str(status): problems.openapi_response(description, retry_after=status == 503)
        for status, description in descriptions.items()
    }


def _is_fastapi_error(response: Mapping[str, Any]) -> bool:
    return any(
        content.get("schema", {}).get("$ref", "").endswith(_FASTAPI_ERROR_SCHEMAS)
        for content in response.get("content", {}).values()
    )


def _first_sentence(text: str) -> tuple[str, str]:
    """Return the first sentence of a docstring on one line, without its full stop, and the rest."""
    end = _SENTENCE_END.search(text)
    if end is None:
        return " ".join(text.split()), ""
    return " ".join(text[: end.start()].split()), text[end.end() :].strip()


def operation_id(route: APIRoute) -> str:
    """Return the name of a client's method: verb and resource, such as `rotate_inbound_endpoint_secret`.

    The verb is the first word of the route function's name; for a `GET` it is `list` or `read`. The resource
    comes from the path, without a last part that repeats the name of the function.
    """
    reads = route.methods == {"GET"}
    function = route.name.split("_")
    parts = route.path_format.removeprefix("/api").strip("/").split("/")
    verb, rest = function[0], list[str]()
    if reads:
        verb = verb if verb == "list" else "read"
    elif parts[-1] in (verb, "-".join(function)):
        rest = [] if parts[-1] == verb else function[1:]
        parts = parts[:-1]
    creates_item = verb == "create"  # an item of the collection at the end of the path
    words = [
        _singular(part) if following.startswith("{") or (creates_item and not following) else part
        for part, following in zip(parts, [*parts[1:], ""], strict=True)
        if not part.startswith("{")
    ]
    return "_".join([verb, *words, *rest]).replace("-", "_")


def _singular(word: str) -> str:
    for plural, end in _PLURALS:
        if plural.search(word):
            return plural.sub(end, word)
    return word
