"""Rejection of unknown query parameters, as of unknown fields in a body."""

from collections.abc import Collection
from typing import Final

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams

from shared.contracts.errors import FieldError, Invalid

_MAX_ERRORS: Final = 50
_MAX_FIELD_LENGTH: Final = 200


def reject_unknown_parameters(request: Request) -> None:
    """Raise `Invalid` if the URL has a query parameter that its route does not have.

    Otherwise a misspelt filter would silently return everything. The error does not repeat values, which may
    be secrets.
    """
    if not request.scope["query_string"]:
        return
    route = request.scope["route"]
    if not isinstance(route, APIRoute):
        raise TypeError("not a FastAPI route")
    fields = get_flat_params(route.dependant)
    known = [field.alias for field in fields if isinstance(field.field_info, Query)]
    reject_parameters(request.scope["query_string"], known)


def reject_parameters(query_string: bytes, known: Collection[str] = ()) -> None:
    """Raise `Invalid` if a query string has a parameter that is not in `known`."""
    unknown = [name for name in QueryParams(query_string) if name not in known]
    if unknown:
        message = (
            f"no such parameter: there are {', '.join(known)}" if known else "this call has no parameters"
        )
        raise Invalid(
            "there are unknown parameters in the address",
            errors=tuple(
                FieldError(f"query.{name}"[:_MAX_FIELD_LENGTH], message) for name in unknown[:_MAX_ERRORS]
            ),
        )
