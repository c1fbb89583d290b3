"""The OpenAPI document of a service, as generated clients need it: names, keys, refusals, repeats.

FastAPI knows routes, parameters and bodies. What holds for every call is here, and no service has to say it.
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
"""Schemas of refusals that FastAPI would make, were it not for `problems.install`."""
_IDEMPOTENCY_KEY_PARAMETER: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "A name of your own for this call. Repeated within a day, it gets the first answer again.",
}
_COMMON_ERRORS: Final = {
    401: "There is no API key, or it is unknown, expired or revoked.",
    403: "The API key lacks the scope.",
    422: "Fields or parameters are not acceptable: `errors` names them.",
    503: "What it needs does not answer: send it again later.",
}
_ITEM_ERRORS: Final = {404: "There is no such thing in this workspace."}
_PAGE_ERRORS: Final = {400: "The cursor is not `next_cursor` of a page."}
_MUTATION_ERRORS: Final = {
    400: "The body or the `Idempotency-Key` is malformed.",
    408: "The body took too long.",
    409: "It clashes with what is there, or with a call under way that has the same `Idempotency-Key`.",
    413: "The body is too large.",
}
_SENTENCE_END: Final = re.compile(r"\.(?=\s|$)")
_PLURALS: Final = ((re.compile(r"ies$"), "y"), (re.compile(r"(?<=[sxh])es$"), ""), (re.compile(r"s$"), ""))


class OpenApiApp(FastAPI):
    """An app whose OpenAPI document says of every call what holds for all of them."""

    _text: bytes | None = None

    def openapi(self) -> dict[str, Any]:
        """The document; made once."""
        if self.openapi_schema is None:
            self.openapi_schema = complete_document(super().openapi())
        return self.openapi_schema

    async def document(self, _request: Request) -> Response:
        """Answer with the document as JSON, written once: anybody may ask for it, as often as he likes."""
        if self._text is None:
            self._text = orjson.dumps(self.openapi())
        return Response(self._text, media_type="application/json")


def complete_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """FastAPI's document with tags, summaries, problems and `Idempotency-Key`."""
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
    """A schema without what generators stumble over: a second name (`title`), defaults that are objects."""

    def is_plain(key: str, value: Any) -> bool:
        return key != "default" or not isinstance(value, dict)

    kept = {name: value for name, value in schema.items() if name != "title"}
    if "properties" in kept:
        kept["properties"] = {
            name: {key: value for key, value in each.items() if is_plain(key, value)}
            for name, each in kept["properties"].items()
        }
    return kept


def _complete_operation(path: str, method: str, call: Mapping[str, Any]) -> dict[str, Any]:
    summary, rest = _first_sentence(call.get("description") or call.get("summary", ""))
    made = {name: value for name, value in call.items() if name != "description"}
    made |= {"tags": call.get("tags") or [path.split("/")[2]], "summary": summary}
    if "security" not in call:  # for browsers, which get pages
        return made | {"security": []} | ({"description": rest} if rest else {})
    scopes = [f"`{scope}`" for each in call["security"] for scopes in each.values() for scope in scopes]
    made["description"] = f"{rest}\n\nScope of the API key: {', '.join(scopes)}.".lstrip()
    if method in _MUTATING:
        made["parameters"] = [*call.get("parameters", ()), _IDEMPOTENCY_KEY_PARAMETER]
    stated = {status: answer for status, answer in call["responses"].items() if not _is_fastapi_error(answer)}
    made["responses"] = dict(sorted((_error_responses(path, method, call) | stated).items()))
    return made


def _error_responses(path: str, method: str, call: Mapping[str, Any]) -> dict[str, Any]:
    """How a call with an API key is refused, by status."""
    refusals = dict(_COMMON_ERRORS)
    if "{" in path:
        refusals |= _ITEM_ERRORS
    if method in _MUTATING:
        refusals |= _MUTATION_ERRORS
    if any(each["name"] == "cursor" for each in call.get("parameters", ())):
        refusals |= _PAGE_ERRORS
    return {
        str(status): problems.openapi_response(said, retry_after=status == 503)
        for status, said in refusals.items()
    }


def _is_fastapi_error(response: Mapping[str, Any]) -> bool:
    return any(
        content.get("schema", {}).get("$ref", "").endswith(_FASTAPI_ERROR_SCHEMAS)
        for content in response.get("content", {}).values()
    )


def _first_sentence(text: str) -> tuple[str, str]:
    """A docstring's first sentence on one line, without its full stop, and the rest."""
    end = _SENTENCE_END.search(text)
    if end is None:
        return " ".join(text.split()), ""
    return " ".join(text[: end.start()].split()), text[end.end() :].strip()


def operation_id(route: APIRoute) -> str:
    """A name for the method of a client: verb and thing, as `rotate_inbound_endpoint_secret`.

    The verb is the first word of the function's name; of a `GET` it is `list` or `read`. The thing is what
    the path says, but for a last part that is the name of the function.
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
    one = verb == "create"  # of the things at the end of the path
    words = [
        _singular(part) if following.startswith("{") or (one and not following) else part
        for part, following in zip(parts, [*parts[1:], ""], strict=True)
        if not part.startswith("{")
    ]
    return "_".join([verb, *words, *rest]).replace("-", "_")


def _singular(word: str) -> str:
    for plural, end in _PLURALS:
        if plural.search(word):
            return plural.sub(end, word)
    return word
