"""The checker's rules for a manifest's `polling`: requests, params, cursors and messages."""

from collections.abc import Iterator, Mapping
from typing import Final

from interlink.provider.escaping import unescaped_fields
from interlink.provider.template_rules import input_fields, setting_faults, text_faults
from shared.manifests.connector import Connector
from shared.manifests.models import PollingSection
from shared.manifests.polling import PollSpec
from shared.manifests.registry import Provider
from shared.manifests.template_texts import LocatedText, request_texts
from shared.wire.message_template import MessageTemplateError
from shared.wire.request_template import RequestTemplate

_POLL: Final = frozenset({"poll:cursor", "poll:page", "poll:since", "poll:since_s"})
_ROWS: Final = frozenset({"poll:row", "poll:row_end"})
_ITEM: Final = "poll:item"
_ROW_CURSORS: Final = ("rows", "changed_rows")


def polling_faults(
    provider: Provider, section: PollingSection, connector: Connector | None, known: set[str]
) -> Iterator[str]:
    """Yield the faults of a provider's polling triggers.

    `known` are the names of a connected account's values; none without a connector.
    """
    manifest = provider.manifest
    if not (manifest.webhook or manifest.integration or section.setup_steps):
        yield "setup_steps: empty: describe the steps at the provider"
    both = set(section.handled) & set(manifest.webhook.handled if manifest.webhook else ())
    for name in sorted(both):
        yield f"handled.{name}: a webhook brings it too: name one of them otherwise"
    for name, event in section.handled.items():
        if event.triggers:
            yield f"handled.{name}.triggers: remove it: the event comes from the trigger that asks for it"
    messages = [event.message for event in section.handled.values() if event.message]
    if messages and not (section.actor and section.actor_icon):
        yield "actor, actor_icon: missing: messages need an author with an icon"
    for trigger, spec in section.triggers.items():
        for fault in (
            *_definition_faults(spec, connector),
            *_template_faults(spec, connector, manifest.exemptions, known),
            *_message_faults(provider, spec),
        ):
            yield f"triggers.{trigger}.{fault}"


def _definition_faults(spec: PollSpec, connector: Connector | None) -> Iterator[str]:
    if not spec.about:
        yield "about: empty: say what is asked for"
    yield from setting_faults("params", spec.params)
    for name, setting in spec.params.items():
        if setting.secret:
            yield f"params.{name}.secret: params are shown: use the account's credentials"
        if not setting.pattern:
            yield f"params.{name}.pattern: empty: a param is part of a request"
    if connector is None:
        if spec.scopes or spec.kinds:
            yield "scopes, kinds: the provider has no accounts: remove them"
    else:
        yield from (
            f"scopes: connect does not request {scope}" for scope in set(spec.scopes) - {*connector.scopes}
        )
        yield from (
            f"kinds: unknown kind of credentials {kind}"
            for kind in set(spec.kinds) - connector.manual_credentials.keys()
        )
    has_rows = any(name in _ROWS for _, text, _ in _texts(spec) for name in RequestTemplate(text).names)
    if has_rows != (spec.cursor.by in _ROW_CURSORS):
        yield "cursor.by: {poll:row} and {poll:row_end} are for cursors that count rows, and needed there"


def _template_faults(
    spec: PollSpec, connector: Connector | None, exemptions: Mapping[str, str], known: set[str]
) -> Iterator[str]:
    """Yield unknown values and unsafe URLs in each request."""
    inputs = input_fields("poll", spec.params)
    if connector is not None:
        inputs |= input_fields("setting", connector.settings) | input_fields("param", connector.params)
    common = known | {f"poll:{name}" for name in spec.params}
    for text in _texts(spec):
        location, template, _ = text
        names = common | ({_ITEM} if location.startswith("details.") else _POLL | _ROWS)
        # The address of a feed is entered whole: the egress rules decide about it, not the manifest.
        if connector is None and location.endswith(".url") and template[1:-1] in inputs:
            continue
        yield from text_faults(text, names, inputs, exemptions)


def _message_faults(provider: Provider, spec: PollSpec) -> Iterator[str]:
    """Yield what is wrong with the message of the trigger's example."""
    templates = provider.messages.get(spec.event)
    if templates is None:
        return
    if not spec.example:
        yield "example: missing: the message is tried with it"
        return
    try:
        templates.message(spec.example)
    except MessageTemplateError as error:
        yield f"example: the message cannot be made of it: {error}"
        return
    for path, part in unescaped_fields(templates, spec.example):
        yield (
            f"event: {path} is not escaped in {part} of its message: "
            "use a filter: md, bold, link, excerpt, subject or url"
        )


def _texts(spec: PollSpec) -> Iterator[LocatedText]:
    yield from request_texts("start.request", spec.start.request if spec.start else None)
    yield from request_texts("request", spec.request)
    yield from request_texts("page_request", spec.page_request)
    yield from request_texts("details.request", spec.details.request if spec.details else None)
    yield from request_texts("recover.request", spec.recover.request if spec.recover else None)
