"""A sender that a user describes by hand: a part of the manifest's language, for one endpoint.

It is what a provider with `configurable: true` takes in place of its own description, so that any platform
can be verified without a folder. Its author may be hostile to everybody else at this hub: a description is
bounded in size, and its answers can be no page and no redirect, and set no cookie.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import orjson
from pydantic import BeforeValidator, Field, ValidationError, field_validator

from shared.contracts.errors import FieldError, Invalid
from shared.manifests.models import (
    Alternatives,
    BatchPaths,
    BodyFormat,
    EventNaming,
    HandshakeSpec,
    ResponseSpec,
    WebhookSpec,
    parse_event_naming,
)
from shared.manifests.schemes import ManifestModel, SchemeSpec

MAX_DESCRIPTION_BYTES: Final = 16 * 1024
"""Of a description, written as JSON."""

RESPONSE_TYPES: Final = ("text/plain", "application/json")
RESPONSE_HEADERS: Final = ("retry-after", "webhook-allowed-origin", "webhook-allowed-rate", "x-hook-secret")
"""What handshakes need, and no browser heeds."""

_UTF_8: Final = "; charset=utf-8"
_MAX_ITEMS: Final = 5
_MAX_FAULTS: Final = 20


class SenderDescription(ManifestModel):
    """What is left out is as the provider's manifest has it."""

    methods: Annotated[tuple[str, ...] | None, Field(max_length=_MAX_ITEMS)] = None
    verification: Annotated[tuple[SchemeSpec, ...] | None, Field(min_length=1, max_length=_MAX_ITEMS)] = None
    body: BodyFormat | None = None
    batch: Annotated[BatchPaths | None, Field(max_length=_MAX_ITEMS)] = None
    event: Annotated[EventNaming | None, BeforeValidator(parse_event_naming)] = None
    delivery_id: Annotated[Alternatives | None, Field(max_length=_MAX_ITEMS)] = None
    account: Annotated[Alternatives | None, Field(max_length=_MAX_ITEMS)] = None
    occurred: Annotated[Alternatives | None, Field(max_length=_MAX_ITEMS)] = None
    handshakes: Annotated[tuple[HandshakeSpec, ...] | None, Field(max_length=_MAX_ITEMS)] = None
    answers: Annotated[tuple[ResponseSpec, ...] | None, Field(max_length=_MAX_ITEMS)] = None

    @field_validator("handshakes")
    @classmethod
    def _are_told_apart(
        cls, handshakes: tuple[HandshakeSpec, ...] | None
    ) -> tuple[HandshakeSpec, ...] | None:
        for handshake in handshakes or ():
            if not handshake.when:
                raise ValueError("when: says nothing: every request would be this handshake")
            if "setting:secret" in handshake.answer.model_dump_json():
                raise ValueError("answer: must not tell the secret")
        return handshakes

    def answer_faults(self) -> Iterator[FieldError]:
        """Yield a fault for each answer that could do more than answer a webhook's sender."""
        for number, handshake in enumerate(self.handshakes or ()):
            yield from _response_faults(f"source.handshakes.{number}.answer", handshake.answer)
        for number, answer in enumerate(self.answers or ()):
            yield from _response_faults(f"source.answers.{number}", answer)


def _response_faults(where: str, answer: ResponseSpec) -> Iterator[FieldError]:
    if not (200 <= answer.status < 300 or 400 <= answer.status < 500):
        yield FieldError(f"{where}.status", f"{answer.status} is not allowed: use 2xx or 4xx")
    if answer.type and answer.type.removesuffix(_UTF_8) not in RESPONSE_TYPES:
        yield FieldError(f"{where}.type", f"{answer.type} is not allowed: use {' or '.join(RESPONSE_TYPES)}")
    for name in answer.headers:
        if name.lower() not in RESPONSE_HEADERS:
            allowed = ", ".join(RESPONSE_HEADERS)
            yield FieldError(f"{where}.headers", f"{name} is not allowed: use only {allowed}")


def apply_description(webhook: WebhookSpec, source: Mapping[str, Any]) -> WebhookSpec:
    """Return the manifest's webhook with what the user's description says instead.

    Raises `Invalid`, which names each field of the description that is not acceptable and what to do.
    """
    try:
        size = len(orjson.dumps(source))
    except orjson.JSONEncodeError:
        raise _invalid(FieldError("source", "must be JSON that is not nested too deep")) from None
    if size > MAX_DESCRIPTION_BYTES:
        raise _invalid(FieldError("source", f"has {size} bytes as JSON: use at most {MAX_DESCRIPTION_BYTES}"))
    try:
        checked = SenderDescription.model_validate(source)
        faults = tuple(checked.answer_faults())
        if faults:
            raise _invalid(*faults)
        given = checked.model_dump(mode="json", by_alias=True, exclude_none=True)
        whole = webhook.model_dump(mode="json", by_alias=True, exclude_none=True)
        return WebhookSpec.model_validate({**whole, **given})
    except ValidationError as error:
        errors = error.errors(include_input=False, include_url=False)[:_MAX_FAULTS]
        raise _invalid(
            *(FieldError(".".join(("source", *map(str, each["loc"]))), each["msg"]) for each in errors)
        ) from None


def _invalid(*faults: FieldError) -> Invalid:
    return Invalid("some fields are not acceptable", errors=faults[:_MAX_FAULTS])
