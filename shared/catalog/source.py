"""A sender that a user describes by hand: a part of the manifest's language, for one endpoint.

It is what a provider with `configurable: true` takes in place of its own description, so that any platform
can be verified without a folder.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, field_validator

from shared.catalog.manifest import (
    Alternatives,
    Answer,
    BatchPaths,
    Bodies,
    Handshake,
    Naming,
    Webhook,
    naming,
)
from shared.catalog.ways import Part, Way

_MOST: Final = 5


class Source(Part):
    """What is left out is as the provider's manifest has it."""

    methods: Annotated[tuple[str, ...] | None, Field(max_length=_MOST)] = None
    verification: Annotated[tuple[Way, ...] | None, Field(min_length=1, max_length=_MOST)] = None
    body: Bodies | None = None
    batch: Annotated[BatchPaths | None, Field(max_length=_MOST)] = None
    event: Annotated[Naming | None, BeforeValidator(naming)] = None
    delivery_id: Annotated[Alternatives | None, Field(max_length=_MOST)] = None
    account: Annotated[Alternatives | None, Field(max_length=_MOST)] = None
    occurred: Annotated[Alternatives | None, Field(max_length=_MOST)] = None
    handshakes: Annotated[tuple[Handshake, ...] | None, Field(max_length=_MOST)] = None
    answers: Annotated[tuple[Answer, ...] | None, Field(max_length=_MOST)] = None

    @field_validator("handshakes")
    @classmethod
    def _are_told_apart(cls, handshakes: tuple[Handshake, ...] | None) -> tuple[Handshake, ...] | None:
        for handshake in handshakes or ():
            if not handshake.when:
                raise ValueError("when: says nothing: every request would be this handshake")
            if "setting:secret" in handshake.answer.model_dump_json():
                raise ValueError("answer: must not tell the secret")
        return handshakes


def described(webhook: Webhook, source: Mapping[str, Any]) -> Webhook:
    """The manifest's webhook with what the user's description says instead. Raises `ValidationError`."""
    given = Source.model_validate(source).model_dump(mode="json", by_alias=True, exclude_none=True)
    whole = webhook.model_dump(mode="json", by_alias=True, exclude_none=True)
    return Webhook.model_validate({**whole, **given})
