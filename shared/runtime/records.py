"""Stored records: one frozen model per collection, between the driver's documents and the rest of the code.

A repository is the only code that handles documents of its collection. It returns records, and takes records
or named values. A field of a document has one name in Python, and where the stored name differs it stands
beside it as an alias, here and nowhere else.

While a deployment is replaced step by step, documents of a newer release are read too: fields that a model
does not know are ignored. Repositories write single fields (`$set`) instead of whole documents, so such
fields also stay in the database.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.contracts.errors import Misconfigured
from shared.runtime.mongo import Document

_MAX_ERRORS: Final = 3
_STORED_AS_IS: Final = frozenset({type(None), bool, int, float, str, bytes, datetime})
"""The usual types of values, which need no conversion."""


def stored_null() -> Any:
    """Return the default of a field that is stored as null while it has no value.

    A field with the plain default None is not stored at all then.
    """
    return Field(default_factory=type(None))


class StoredPart(BaseModel):
    """A part of a record: a document inside a document."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )

    @classmethod
    def stored_name(cls, field: str) -> str:
        """Return the name under which a field is stored. Raises `KeyError` if the model has no such field."""
        return cls.model_fields[field].alias or field

    @classmethod
    def stored_fields(cls, values: Mapping[str, Any]) -> Document:
        """Return changed fields, given by their names in Python, as a document to `$set`.

        Values that are parts or collections of parts become documents too. Raises `KeyError` for an unknown
        field.
        """
        return {cls.stored_name(name): _to_stored(value) for name, value in values.items()}

    def document(self) -> Document:
        """Return the document to store. Fields that are None by default, and are None, are left out."""
        values = self.__dict__  # pydantic's fields; `getattr` would look at the class first
        return {
            stored_name: value if type(value) in _STORED_AS_IS else _to_stored(value)
            for name, stored_name, is_optional in _layout(type(self))
            if (value := values[name]) is not None or not is_optional
        }

    @classmethod
    def stored_query(cls, values: Mapping[str, Any]) -> Document:
        """Return the query for these values, given by the names of their fields in Python.

        A set of values stands for any of them. Raises `KeyError` for an unknown field.
        """
        return {
            cls.stored_name(name): {"$in": list(value)}
            if isinstance(value, set | frozenset)
            else _to_stored(value)
            for name, value in values.items()
        }


class Record(StoredPart):
    """A document of a collection."""

    id: str = Field(alias="_id")

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Return the record in a document.

        Raises `Misconfigured` if a field is missing or has another type.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            # The input is left out: it may be a secret.
            errors = [
                f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
                for detail in error.errors(include_input=False, include_url=False)[:_MAX_ERRORS]
            ]
            raise Misconfigured(
                f"the stored {cls.__name__} {document.get('_id')!r} cannot be read: {'; '.join(errors)}"
            ) from None


@cache
def _layout(model: type[StoredPart]) -> Sequence[tuple[str, str, bool]]:
    """Return name, stored name, and whether None is left out, for each field of a model."""
    return [(name, field.alias or name, field.default is None) for name, field in model.model_fields.items()]


def _to_stored(value: Any) -> Any:
    """Return a value in the types of the driver."""
    kind = type(value)
    if kind in _STORED_AS_IS:
        return value
    # These first: asking whether a value is a model takes longer than the rest.
    if kind is tuple or kind is list:
        return [_to_stored(item) for item in value]
    if kind is dict:
        return {name: _to_stored(item) for name, item in value.items()}
    if isinstance(value, StoredPart):
        return value.document()
    if isinstance(value, Mapping):
        return {name: _to_stored(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_to_stored(item) for item in value]
    return value
