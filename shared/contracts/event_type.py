"""An event type: its names, the model of its data and an example."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import Any

from pydantic import BaseModel, TypeAdapter

PayloadType = type[BaseModel] | UnionType


@dataclass(frozen=True)
class EventType:
    """An event type: canonical name, description in a sentence, model of its data, an example, aliases."""

    name: str
    about: str
    payload: PayloadType
    example: Mapping[str, Any]
    aliases: tuple[str, ...] = ()

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema (2020-12) of the data. It allows fields that it does not name."""
        payload: Any = self.payload  # a type form, which no annotation can say before PEP 747
        return TypeAdapter[Any](payload).json_schema()
