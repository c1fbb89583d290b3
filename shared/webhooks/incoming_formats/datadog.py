"""Datadog's webhook with its default payload, and with the further variables that people add. Pure.

Source: Datadog's "Webhooks" integration, `$EVENT_TITLE`, `$EVENT_MSG` and the others.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from shared.richtext.autolinks import web_url
from shared.webhooks.incoming_formats.alertmanager import FIRING_COLOR, NEUTRAL_COLOR, RESOLVED_COLOR
from shared.webhooks.incoming_formats.formatted import Formatter
from shared.webhooks.incoming_formats.normal_form import (
    NormalForm,
    RawObject,
    bold,
    filled_fields,
    object_of,
    plain_to_markdown,
    text_of,
)

_MARKDOWN_FENCE: Final = "%%%"
"""Delimits Markdown on both sides."""
_COLORS: Final = {
    "error": FIRING_COLOR,
    "triggered": FIRING_COLOR,
    "re-triggered": FIRING_COLOR,
    "success": RESOLVED_COLOR,
    "recovered": RESOLVED_COLOR,
}
_LINKS: Final = ("link", "url", "alert_url", "event_url")


def is_datadog(source: RawObject) -> bool:
    """Return whether a body has the fields of the default payload."""
    return "title" in source and "body" in source and ("event_type" in source or "last_updated" in source)


def read_datadog(source: RawObject, formatter: Formatter) -> NormalForm:
    """Return the message of an event or monitor."""
    form = NormalForm(formatter)
    title = " ".join(text_of(source.get("title")).split())
    form.set("text", bold(plain_to_markdown(title)), "title")
    state = text_of(source.get("alert_transition")) or text_of(source.get("alert_status"))
    kind = text_of(source.get("alert_type"))
    form.add_embed(
        {
            "title": title,
            "url": next(filter(None, (web_url(text) for text in _texts(source, _LINKS))), None),
            "color": _COLORS.get(state.lower()) or _COLORS.get(kind.lower()) or NEUTRAL_COLOR,
            "description": _message(text_of(source.get("body")), formatter),
            "fields": filled_fields(
                ("Status", state),
                ("Priority", next(_texts(source, ("alert_priority", "priority")), "")),
                ("Type", kind or source.get("event_type")),
                ("Host", next(_texts(source, ("hostname", "host_name", "host")), "")),
                ("Scope", source.get("alert_scope")),
                ("Tags", source.get("tags")),
                ("Organization", object_of(source.get("org")).get("name")),
            ),
        }
    )
    return form


def _texts(source: RawObject, names: Iterable[str]) -> Iterator[str]:
    return (text for name in names if (text := text_of(source.get(name))))


def _message(body: str, formatter: Formatter) -> str:
    """Return the event's message. Text outside of the fences is plain."""
    if body.count(_MARKDOWN_FENCE) < 2:
        return plain_to_markdown(body)
    before, markdown, after = body.split(_MARKDOWN_FENCE, 2)
    parts = (
        plain_to_markdown(before),
        formatter.markdown(markdown.strip()),
        plain_to_markdown(after.replace(_MARKDOWN_FENCE, "")),
    )
    return "\n".join(filter(None, parts))
