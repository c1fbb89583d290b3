"""The base of every model of a manifest."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

EventName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]


class ManifestModel(BaseModel):
    """Part of a manifest. An unknown field is an error, not an extension."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


def as_list(value: object) -> object:
    """Wrap a single string in a list, so that a field accepts one value or several."""
    return [value] if isinstance(value, str) else value
