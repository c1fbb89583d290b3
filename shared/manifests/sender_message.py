"""Chat messages of senders that a workspace describes: by its templates, or by a readable default. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from shared.contracts.errors import FieldError, Invalid
from shared.contracts.messages import Author, Embed, EmbedField
from shared.manifests.message_templates import MAX_TEXT_LENGTH, RenderedMessage, message_of_parts
from shared.manifests.models import WebhookSpec
from shared.manifests.registry import dialect_filters
from shared.manifests.sender_description import SenderDescription, SenderTemplates, apply_description
from shared.manifests.webhook import WebhookDefinition
from shared.richtext.autolinks import web_url
from shared.richtext.excerpt import fit_markdown
from shared.richtext.fragments import escape, link
from shared.webhooks.incoming_formats.fitting import CUT_MARK
from shared.webhooks.incoming_formats.normal_form import bold, plain_to_markdown, text_of
from shared.wire.bodies import parse_object
from shared.wire.mentions import defuse_mentions
from shared.wire.message_template import MessageTemplateError
from shared.wire.tenant_template import (
    TenantEnvironment,
    TenantTemplate,
    bounded_payload,
    render_message,
    tenant_environment,
)

_TITLE_NAMES: Final = (
    ("title", "subject", "headline", "summary", "alertname", "name"),
    ("event_name", "eventName", "alert_name", "alertName", "incident_name"),
)
_TEXT_NAMES: Final = (
    ("text", "message", "body", "description", "content", "msg"),
    ("details", "detail", "reason", "error", "comment", "note"),
)
_LINK_NAMES: Final = (
    ("url", "link", "html_url", "htmlUrl", "web_url", "webUrl", "permalink"),
    ("href", "target_url", "targetUrl", "details_url", "detailsUrl", "alert_url", "build_url"),
)
_FACT_NAMES: Final = (
    ("status", "state", "level", "severity", "priority", "result", "environment", "service", "host"),
    ("hostname", "project", "repository", "branch", "version", "user", "author", "time", "timestamp", "date"),
)
_UNNAMED_EVENT: Final = "received"
"""The name of an event that has none, which tells readers nothing."""
_LETTER: Final = re.compile(r"[^\W_]")
_MAX_FACTS: Final = 10
_MAX_NESTED: Final = 20
_MAX_TITLE_LENGTH: Final = 256
_MAX_FACT_LENGTH: Final = 300
_PARTS: Final = ("text", "title", "url", "body", "color")


class SenderMessages:
    """Renders messages of the events of one described sender. Compiled."""

    __slots__ = ("_templates", "definition")

    def __init__(self, webhook: WebhookSpec | None, source: Mapping[str, Any] | None) -> None:
        """Compile a sender's description, or that of the provider's manifest for None. Raises `Invalid`."""
        assert webhook  # noqa: S101 -- only a provider with webhooks takes a description
        self.definition = WebhookDefinition(apply_description(webhook, source) if source else webhook)
        templates = SenderDescription.model_validate(source).message if source else None
        self._templates = _compile(templates) if templates else {}

    def message(self, event: str, content_type: str, data: bytes, author: str) -> tuple[RenderedMessage, str]:
        """Return the message of an event, and why its templates could not be used ('' if they could).

        Without templates, or if they fail on this payload, it is the default message. `author` is the name
        that the message is shown as from. Raises `Malformed` if the data cannot be read.
        """
        author = defuse_mentions(author)
        payload = bounded_payload(parse_object(self.definition.json(content_type, data)))
        problem = ""
        if self._templates:
            try:
                return self._rendered(payload, event, author), ""
            except MessageTemplateError as error:
                problem = str(error)
        return default_message(payload, event, author), problem

    def _rendered(self, payload: Mapping[str, Any], event: str, author: str) -> RenderedMessage:
        context = {**payload, "event_name": event}
        rendered = render_message(self._templates, context)
        parts = {part: defuse_mentions(markdown) for part, markdown in rendered.items()}
        if not _LETTER.search(parts["text"]):
            raise MessageTemplateError("text: the template has nothing to show for this payload")
        return message_of_parts({**parts, "actor": escape(author)})


@cache
def _environment() -> TenantEnvironment:
    return tenant_environment(dialect_filters())


def check_message(source: Mapping[str, Any] | None) -> None:
    """Raise `Invalid` if the templates of a valid description are not valid Liquid."""
    templates = SenderDescription.model_validate(source).message if source else None
    if templates:
        _compile(templates)


def _compile(templates: SenderTemplates) -> dict[str, TenantTemplate]:
    compiled: dict[str, TenantTemplate] = {}
    errors: list[FieldError] = []
    for part in _PARTS:
        text = getattr(templates, part)
        try:
            if text:
                compiled[part] = TenantTemplate(text, part, _environment())
        except MessageTemplateError as error:
            errors.append(FieldError(f"source.message.{part}", str(error)))
    if errors:
        raise Invalid("some fields are not acceptable", errors=tuple(errors))
    return compiled


def default_message(payload: Mapping[str, Any], event: str, author: str) -> RenderedMessage:
    """Return a readable message of any payload: title, text and link by their usual names, and some facts.

    If none of these names is there, it shows the first values of the payload.
    """
    objects = [payload, *(item for item in list(payload.values())[:_MAX_NESTED] if isinstance(item, Mapping))]
    title, text = _first(objects, _TITLE_NAMES), _first(objects, _TEXT_NAMES)
    if not (title or text) and event == _UNNAMED_EVENT:
        objects = _nested_objects(payload)
        title, text = _first(objects, _TITLE_NAMES), _first(objects, _TEXT_NAMES)
    url = next(filter(None, map(web_url, _texts(objects, _LINK_NAMES))), "")
    name_of_event = event if event != _UNNAMED_EVENT or not text else ""
    heading = " ".join((title or name_of_event).split())[:_MAX_TITLE_LENGTH]
    if url and not heading:
        heading = "Open"
    headline = link(bold(escape(heading)), url) if url else bold(plain_to_markdown(heading))
    body = plain_to_markdown(text) if text != title else ""
    facts = dict(_facts(objects, title or text))
    name = " ".join(author.split())[:_MAX_TITLE_LENGTH] or "Webhook"
    shown = fit_markdown("\n".join(filter(None, (headline, body))), MAX_TEXT_LENGTH, CUT_MARK)
    return RenderedMessage(
        author=Author(name=name),
        text=defuse_mentions(shown)[:MAX_TEXT_LENGTH],
        embeds=[Embed(fields=[_field(*fact) for fact in facts.items()])] if facts else [],
    )


def _nested_objects(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the payload and objects in it, outer ones first; of a list, its first item."""
    objects = [payload]
    for outer in objects:
        values = (value[0] if isinstance(value, list) and value else value for value in outer.values())
        objects += [value for value in values if isinstance(value, Mapping)][: _MAX_NESTED - len(objects)]
        if len(objects) >= _MAX_NESTED:
            break
    return objects


def _texts(objects: Iterable[Mapping[str, Any]], names: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the texts under names: the usual names first, in each object, then the rarer ones."""
    objects = list(objects)
    for group in names:
        for item in objects:
            for name in group:
                text = text_of(item.get(name))
                if text:
                    yield text


def _first(objects: Iterable[Mapping[str, Any]], names: Sequence[Sequence[str]]) -> str:
    return next(_texts(objects, names), "")


def _facts(objects: Sequence[Mapping[str, Any]], readable: str) -> Iterator[tuple[str, str]]:
    """Yield names and values: those of usual names; without any text, the first ones of the payload."""
    names: Iterable[str] = (name for group in _FACT_NAMES for name in group)
    if not readable:
        names = dict.fromkeys(name for item in objects for name in list(item)[:_MAX_NESTED])
    count = 0
    for name in names:
        value = next((text for item in objects if (text := _fact_text(item.get(name)))), "")
        if value:
            yield name, value
            count += 1
            if count == _MAX_FACTS:
                return


def _fact_text(value: object) -> str:
    """Return a value on one line; of an object its name."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in ("name", "login", "title", "id") if value.get(name)), "")
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(text_of(value).split())


def _field(name: str, value: str) -> EmbedField:
    shown = value if len(value) <= _MAX_FACT_LENGTH else f"{value[: _MAX_FACT_LENGTH - 1]}…"
    label = defuse_mentions(" ".join(name.split())[:80])
    return EmbedField(name=label, value=defuse_mentions(plain_to_markdown(shown)), inline=True)
