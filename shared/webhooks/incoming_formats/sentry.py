"""Sentry's webhooks: issues, issue alerts, metric alerts and errors, and those of the older plugin. Pure.

An inbound endpoint of the provider `sentry` verifies them and knows more kinds; this is for people who give
Sentry the address of an incoming webhook. Source: Sentry's "Integration Platform", "Webhooks".
"""

from typing import Any, Final

from shared.richtext.autolinks import web_url
from shared.webhooks.incoming_formats.alertmanager import FIRING_COLOR, NEUTRAL_COLOR, RESOLVED_COLOR
from shared.webhooks.incoming_formats.formatted import Formatter
from shared.webhooks.incoming_formats.normal_form import (
    NormalForm,
    RawObject,
    bold,
    filled_fields,
    list_of,
    object_of,
    plain_to_markdown,
    text_of,
)

_SUBJECTS: Final = ("issue", "event", "error")
_MAX_TAGS: Final = 50
_RED_LEVELS: Final = frozenset({"fatal", "error", "critical"})


def is_sentry(source: RawObject) -> bool:
    """Return whether a body is a webhook of an integration or of the plugin."""
    if "project_slug" in source and ("event" in source or "triggering_rules" in source):
        return True
    data = source.get("data")
    if not isinstance(data, dict) or "action" not in source:
        return False
    return "metric_alert" in data or any(isinstance(data.get(name), dict) for name in _SUBJECTS)


def read_sentry(source: RawObject, formatter: Formatter) -> NormalForm:
    """Return the message of a webhook."""
    data = object_of(source.get("data"))
    if "metric_alert" in data:
        return _metric_alert(text_of(source.get("action")), data, formatter)
    if data:
        kind = next((name for name in _SUBJECTS if isinstance(data.get(name), dict)), "event")
        rule, action = text_of(data.get("triggered_rule")), text_of(source.get("action"))
        headline = f"Sentry alert: {rule}" if rule else f"Sentry {kind} {action}"
        return _issue(headline, object_of(data.get(kind)), data, formatter)
    rules = ", ".join(filter(None, map(text_of, list_of(source.get("triggering_rules"), 5))))
    event = {**object_of(source.get("event")), **{name: value for name, value in source.items() if value}}
    return _issue(f"Sentry alert: {rules}" if rules else "Sentry alert", event, {}, formatter)


def _issue(headline: str, issue: RawObject, data: RawObject, formatter: Formatter) -> NormalForm:
    form = NormalForm(formatter)
    title = _title(issue)
    project = object_of(issue.get("project"))
    where = text_of(project.get("name")) or text_of(project.get("slug")) or text_of(issue.get("project_name"))
    short_id = text_of(issue.get("shortId"))
    form.set("text", " ".join(filter(None, (bold(plain_to_markdown(headline)), plain_to_markdown(where)))))
    tags = _tags(issue)
    level = text_of(issue.get("level")) or tags.get("level", "")
    resolved = issue.get("status") == "resolved"
    form.add_embed(
        {
            "title": f"{short_id} {title}".strip(),
            "url": _page(issue),
            "color": RESOLVED_COLOR if resolved else FIRING_COLOR if level in _RED_LEVELS else NEUTRAL_COLOR,
            "description": plain_to_markdown(issue.get("culprit")),
            "fields": filled_fields(
                ("Level", level),
                ("Status", issue.get("status")),
                ("Environment", issue.get("environment") or tags.get("environment")),
                ("Release", tags.get("release")),
                ("Server", tags.get("server_name")),
                ("Events", issue.get("count")),
                ("Users", issue.get("userCount")),
                ("Rule", object_of(data.get("issue_alert")).get("title")),
            ),
        }
    )
    return form


def _metric_alert(action: str, data: RawObject, formatter: Formatter) -> NormalForm:
    form = NormalForm(formatter)
    alert = object_of(data.get("metric_alert"))
    rule = object_of(alert.get("alert_rule"))
    title = text_of(data.get("description_title")) or f"{action}: {text_of(rule.get('name'))}"
    form.set("text", bold(plain_to_markdown(title)))
    form.add_embed(
        {
            "title": text_of(rule.get("name")) or title,
            "url": web_url(text_of(data.get("web_url"))) or None,
            "color": {"resolved": RESOLVED_COLOR, "critical": FIRING_COLOR}.get(action, NEUTRAL_COLOR),
            "description": plain_to_markdown(text_of(data.get("description_text")).replace("\\n", "\n")),
            "fields": filled_fields(
                ("Status", action),
                ("Environment", rule.get("environment")),
                ("Projects", ", ".join(map(text_of, list_of(alert.get("projects"), 10)))),
            ),
        }
    )
    return form


def _title(issue: RawObject) -> str:
    metadata = object_of(issue.get("metadata"))
    error = ": ".join(filter(None, (text_of(metadata.get("type")), text_of(metadata.get("value")))))
    return text_of(issue.get("title")) or error or text_of(issue.get("message")) or "Issue"


def _page(issue: RawObject) -> str | None:
    names = ("web_url", "permalink", "issue_url", "url")
    return next(filter(None, (web_url(text_of(issue.get(name))) for name in names)), None)


def _tags(issue: RawObject) -> dict[str, str]:
    """Return the tags, which are pairs, or objects with `key` and `value`."""
    tags: dict[str, Any] = {}
    for tag in list_of(issue.get("tags"), _MAX_TAGS):
        if isinstance(tag, list) and len(tag) == 2:
            tags[text_of(tag[0])] = text_of(tag[1])
        elif isinstance(tag, dict):
            tags[text_of(tag.get("key"))] = text_of(tag.get("value"))
    return tags
