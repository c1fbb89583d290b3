"""Field types and the base model that the gateway's request bodies share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.errors import FieldError, Invalid

Name = Annotated[str, Field(min_length=1, max_length=200)]
Channel = Annotated[str, Field(min_length=1, max_length=200)]
RateLimit = Annotated[int, Field(ge=1, le=100_000_000, description="Requests per minute.")]


class StrictModel(BaseModel):
    """A request body in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


def invalid_field(field: str, message: str) -> Invalid:
    """Return the error for one wrong field. `field` is a dotted path."""
    return Invalid("some fields are not acceptable", errors=(FieldError(field, message),))
