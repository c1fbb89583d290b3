"""Field types and the base model that the gateway's request bodies share."""

from collections.abc import Container
from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.contracts.errors import FieldError, Invalid

Name = Annotated[str, Field(min_length=1, max_length=200)]
Channel = Annotated[str, Field(min_length=1, max_length=200)]
RateLimit = Annotated[int, Field(ge=1, le=100_000_000, description="Requests per minute.")]


def _network(text: str) -> str:
    return str(ip_network(text, strict=False))


Networks = Annotated[list[Annotated[str, AfterValidator(_network)]], Field(max_length=100)]


class StrictModel(BaseModel):
    """A request body in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


def sent_fields(body: BaseModel, nullable: Container[str] = ()) -> dict[str, Any]:
    """Return the fields that a caller sent. A null is left out unless its field is in `nullable`."""
    sent = body.model_dump(exclude_unset=True)
    return {name: value for name, value in sent.items() if value is not None or name in nullable}


def invalid_field(field: str, message: str) -> Invalid:
    """Return the error for one wrong field. `field` is a dotted path."""
    return Invalid("some fields are not acceptable", errors=(FieldError(field, message),))
