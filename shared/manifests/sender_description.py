"""A sender that a user describes: the manifest's language for one endpoint.

A provider with `configurable: true` accepts it in place of its own description, so that any sender can be
verified without a provider folder. The author may be hostile to every other user of this hub: a description
is limited in size, and its responses can be neither a page nor a redirect, and set no cookie.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import orjson
from pydantic import Field, ValidationError, field_validator

from shared.contracts.errors import FieldError, Invalid
from shared.manifests.base import ManifestModel
from shared.manifests.models import (
    Alternatives,
    BatchPaths,
    BodyFormat,
    EventNames,
    HandshakeSpec,
    ResponseSpec,
    WebhookSpec,
)
from shared.manifests.schemes import JwtScheme, SchemeSpec

MAX_DESCRIPTION_BYTES: Final = 16 * 1024
"""Size of a description as JSON."""

RESPONSE_TYPES: Final = ("text/plain", "application/json")
RESPONSE_HEADERS: Final = ("retry-after", "webhook-allowed-origin", "webhook-allowed-rate", "x-hook-secret")
"""Headers that handshakes need and browsers ignore."""

MAX_TEMPLATE_CHARACTERS: Final = 2_000
"""Characters of a message's template. A larger one could take longer than `TenantTemplate` promises."""

_UTF_8: Final = "; charset=utf-8"
_MAX_ITEMS: Final = 5
_MAX_ERRORS: Final = 20


_Template = Annotated[str, Field(max_length=MAX_TEMPLATE_CHARACTERS)]


class SenderTemplates(ManifestModel):
    """The Liquid templates of a sender's messages, each with at most 2,000 characters.

    `text` is Markdown. The others make the card below it, as in a manifest's `message`; a part with an empty
    result is left out. A value without a filter is written as `md` writes it.
    """

    text: Annotated[_Template, Field(min_length=1)]
    title: _Template = ""
    url: _Template = ""
    body: _Template = ""
    color: _Template = ""


class SenderDescription(ManifestModel):
    """A sender's description. Fields that are left out are as in the provider's manifest."""

    methods: Annotated[tuple[str, ...] | None, Field(max_length=_MAX_ITEMS)] = None
    verification: Annotated[tuple[SchemeSpec, ...] | None, Field(min_length=1, max_length=_MAX_ITEMS)] = None
    body: BodyFormat | None = None
    batch: Annotated[BatchPaths | None, Field(max_length=_MAX_ITEMS)] = None
    event: EventNames | None = None
    delivery_id: Annotated[Alternatives | None, Field(max_length=_MAX_ITEMS)] = None
    account: Annotated[Alternatives | None, Field(max_length=_MAX_ITEMS)] = None
    occurred: Annotated[Alternatives | None, Field(max_length=_MAX_ITEMS)] = None
    handshakes: Annotated[tuple[HandshakeSpec, ...] | None, Field(max_length=_MAX_ITEMS)] = None
    answers: Annotated[tuple[ResponseSpec, ...] | None, Field(max_length=_MAX_ITEMS)] = None
    message: SenderTemplates | None = None

    @field_validator("handshakes")
    @classmethod
    def _are_distinct(cls, handshakes: tuple[HandshakeSpec, ...] | None) -> tuple[HandshakeSpec, ...] | None:
        for handshake in handshakes or ():
            if not handshake.when:
                raise ValueError("when: says nothing: every request would be this handshake")
            if "setting:secret" in handshake.answer.model_dump_json():
                raise ValueError("answer: must not tell the secret")
            # Otherwise whoever writes the description could have the hub call other servers.
            if handshake.confirms:
                raise ValueError("confirms: is only for providers of the hub: remove it")
        return handshakes

    @field_validator("verification")
    @classmethod
    def _reads_published_keys(cls, schemes: tuple[SchemeSpec, ...] | None) -> tuple[SchemeSpec, ...] | None:
        for scheme in schemes or ():
            if isinstance(scheme, JwtScheme) and scheme.keys and scheme.keys.post:
                raise ValueError("keys.post: is only for providers of the hub: remove it")
        return schemes

    def answer_errors(self) -> Iterator[FieldError]:
        """Yield an error for each answer that could do more than answer a webhook's sender."""
        for number, handshake in enumerate(self.handshakes or ()):
            yield from _response_faults(f"source.handshakes.{number}.answer", handshake.answer)
        for number, answer in enumerate(self.answers or ()):
            yield from _response_faults(f"source.answers.{number}", answer)


def _response_faults(location: str, response: ResponseSpec) -> Iterator[FieldError]:
    if not (200 <= response.status < 300 or 400 <= response.status < 500):
        yield FieldError(f"{location}.status", f"{response.status} is not allowed: use 2xx or 4xx")
    if response.type and response.type.removesuffix(_UTF_8) not in RESPONSE_TYPES:
        yield FieldError(
            f"{location}.type", f"{response.type} is not allowed: use {' or '.join(RESPONSE_TYPES)}"
        )
    for name in response.headers:
        if name.lower() not in RESPONSE_HEADERS:
            allowed = ", ".join(RESPONSE_HEADERS)
            yield FieldError(f"{location}.headers", f"{name} is not allowed: use only {allowed}")


def apply_description(webhook: WebhookSpec, source: Mapping[str, Any]) -> WebhookSpec:
    """Return the manifest's webhook with the fields of the user's description in it.

    Raises `Invalid`, which names each field of the description that is not valid and what to do.
    """
    try:
        size = len(orjson.dumps(source))
    except orjson.JSONEncodeError:
        raise _invalid(FieldError("source", "must be JSON that is not nested too deep")) from None
    if size > MAX_DESCRIPTION_BYTES:
        raise _invalid(FieldError("source", f"has {size} bytes as JSON: use at most {MAX_DESCRIPTION_BYTES}"))
    try:
        description = SenderDescription.model_validate(source)
        answer_errors = tuple(description.answer_errors())
        if answer_errors:
            raise _invalid(*answer_errors)
        overrides = description.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"message"})
        base = webhook.model_dump(mode="json", by_alias=True, exclude_none=True)
        # Validate the whole: a valid part may contradict the provider's manifest.
        return WebhookSpec.model_validate({**base, **overrides})
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False)[:_MAX_ERRORS]
        raise _invalid(
            *(FieldError(".".join(("source", *map(str, item["loc"]))), item["msg"]) for item in details)
        ) from None


def _invalid(*errors: FieldError) -> Invalid:
    return Invalid("some fields are not acceptable", errors=errors[:_MAX_ERRORS])
