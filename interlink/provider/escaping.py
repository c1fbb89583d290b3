"""Finds values of a payload that reach a message without escaping: they could forge links and mentions."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from interlink.provider.fixture_result import HANDSHAKE_SECRET
from shared.contracts.errors import InterlinkError
from shared.manifests.fixtures import Fixture, settings_with_secret
from shared.manifests.message_templates import EventTemplates
from shared.manifests.models import WebhookSpec
from shared.manifests.registry import MANIFEST, Provider
from shared.wire.bodies import parse_object
from shared.wire.message_template import MessageTemplateError

_MARKER: Final = "@*[{}<"
"""Appended to a value of the payload. `md` puts backslashes into it, a URL ends before `<`, and `url` writes
it as `%3C`."""
_MARKER_PATTERN: Final = re.compile(r"@\*\[(\d+)<")
_CONDITION_PATTERN: Final = re.compile(r"{%-?\s*(?:if|elsif|unless|case|when|assign)\b(.*?)%}", re.DOTALL)
_NAME_PATTERN: Final = re.compile(r"[A-Za-z_][\w-]*")
_MAX_SINGLE_MARKERS: Final = 60
"""Fields of a payload that are marked one at a time."""


@dataclass(frozen=True, slots=True)
class _PayloadText:
    """A text in a payload: its object or list, its key there, its path and its value."""

    container: Any
    key: str | int
    path: tuple[str | int, ...]
    value: str

    @property
    def normalized_path(self) -> tuple[str | int, ...]:
        """The path, with all elements of a list as one."""
        return tuple(0 if isinstance(step, int) else step for step in self.path)

    @property
    def name(self) -> str:
        """The last name in the path."""
        return next((step for step in reversed(self.path) if isinstance(step, str)), "")

    def is_mentioned(self, sources: str) -> bool:
        """Return whether templates may use this text: they contain the first and last name of its path."""
        return str(self.path[0]) in sources and self.name in sources

    def mark(self, number: int) -> None:
        self.container[self.key] = self.value + _MARKER.format(number)

    def restore(self) -> None:
        self.container[self.key] = self.value


def escaping_faults(provider: Provider, webhook: WebhookSpec, fixtures: Iterable[Fixture]) -> Iterator[str]:
    """Yield the texts of a payload that a message contains as they are.

    Three rounds of marking: all texts; those that no condition reads, because a marked text may change what
    the message says; and each of the others alone.
    """
    reported: set[tuple[str, tuple[str | int, ...], str]] = set()
    tried: set[tuple[str, tuple[str | int, ...]]] = set()
    for fixture in fixtures:
        for event, payload in _message_payloads(provider, fixture):
            templates = provider.messages[event]
            texts = list(_payload_texts(payload, ()))
            sources = _template_sources(webhook, event)
            condition_names = set(_NAME_PATTERN.findall(" ".join(_CONDITION_PATTERN.findall(sources))))
            # 1. All texts at once.
            leaks = _unescaped_texts(templates, payload, texts)
            # 2. Without texts that conditions read: marked, they may hide a part of the message.
            unconditional = [text for text in texts if text.value and text.name not in condition_names]
            leaks += _unescaped_texts(templates, payload, unconditional)
            # 3. Texts that conditions read, one by one.
            conditional = [
                text
                for text in texts
                if (not text.value or text.name in condition_names) and text.is_mentioned(sources)
            ]
            for text in conditional[:_MAX_SINGLE_MARKERS]:
                if (event, text.normalized_path) not in tried:
                    tried.add((event, text.normalized_path))
                    leaks += _unescaped_texts(templates, payload, [text])
            for text, part in leaks:
                location = "webhook.actor" if part == "actor" else f"webhook.handled.{event}"
                if (location, text.normalized_path, part) not in reported:
                    reported.add((location, text.normalized_path, part))
                    yield (
                        f"{MANIFEST}: {location}: {'.'.join(map(str, text.path))} is not escaped in {part}: "
                        "use a filter: md, bold, link, excerpt, markdown, wiki, subject or url"
                    )


def _message_payloads(provider: Provider, fixture: Fixture) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each event of a fixture that makes a message, with its payload.

    Yield nothing for a fixture that cannot be read: it already has faults.
    """
    assert provider.definition  # noqa: S101 -- see Fixture.request
    request = fixture.request(provider, settings_with_secret(HANDSHAKE_SECRET, {}))
    try:
        if provider.definition.handshake(request) or provider.definition.verified_handshake(request):
            return
        for webhook_event in provider.definition.events(request):
            if webhook_event.event in provider.messages:
                yield (
                    webhook_event.event,
                    parse_object(provider.payload(webhook_event.content_type, webhook_event.data)),
                )
    except InterlinkError:
        return


def _payload_texts(value: Any, path: tuple[str | int, ...]) -> Iterator[_PayloadText]:
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        if isinstance(item, str):
            yield _PayloadText(value, key, (*path, key), item)
        else:
            yield from _payload_texts(item, (*path, key))


def _template_sources(webhook: WebhookSpec, event: str) -> str:
    """Return all templates that an event's message may use."""
    message = webhook.handled[event].message
    parts = [source for _, source in message] if message else []
    return "\n".join([webhook.actor, *webhook.phrases.values(), *parts])


def _unescaped_texts(
    templates: EventTemplates, payload: Mapping[str, Any], texts: Sequence[_PayloadText]
) -> list[tuple[_PayloadText, str]]:
    """Mark all `texts` and return those that a part of the message contains as they are."""
    for number, text in enumerate(texts):
        text.mark(number)
    try:
        parts = templates.rendered(payload)
    except MessageTemplateError:
        return []
    finally:
        for text in texts:
            text.restore()
    return [
        (texts[int(number)], part)
        for part, rendered in parts.items()
        for number in _MARKER_PATTERN.findall(rendered)
    ]


def unescaped_fields(templates: EventTemplates, payload: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the fields of a payload that a message contains as they are, each with the part of the message.

    The fields are marked all at once; then one at a time, because a marked text may hide another one; then
    all but one, which is empty, because a template may say something else without it.
    """
    payload = deepcopy(payload)
    texts = list(_payload_texts(payload, ()))
    leaks = _unescaped_texts(templates, payload, texts)
    for text in texts[:_MAX_SINGLE_MARKERS]:
        leaks += _unescaped_texts(templates, payload, [text])
        text.container[text.key] = ""
        leaks += _unescaped_texts(templates, payload, [other for other in texts if other is not text])
        text.restore()
    return sorted({(".".join(map(str, text.path)), part) for text, part in leaks})
