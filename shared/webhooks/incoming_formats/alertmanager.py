"""Alerts of Prometheus Alertmanager's `webhook_configs`, and of Grafana, whose body has more fields. Pure.

Sources: prometheus/alertmanager `notify/webhook` and `template.Data`; Grafana's "webhook notifier", and its
body before version 9 (one alert, with `evalMatches`).
"""

from collections.abc import Iterable
from typing import Final

from shared.richtext.autolinks import web_url
from shared.richtext.fragments import link
from shared.webhooks.incoming_formats.formatted import Formatter
from shared.webhooks.incoming_formats.normal_form import (
    MAX_EMBEDS,
    MAX_FIELDS,
    NormalForm,
    NormalObject,
    RawObject,
    bold,
    field,
    filled_fields,
    list_of,
    object_of,
    plain_to_markdown,
    text_of,
)

FIRING_COLOR: Final = "#d63232"
RESOLVED_COLOR: Final = "#36a64f"
NEUTRAL_COLOR: Final = "#daa038"

_MAX_ALERTS: Final = 1000
"""Alerts that are counted."""
_MAX_LABELS: Final = 15
_NO_END: Final = "0001-"
"""Beginning of the time that means "not ended"."""
_HIDDEN_LABELS: Final = frozenset({"alertname", "__alert_rule_uid__", "grafana_folder"})
_TITLE_ANNOTATIONS: Final = ("summary", "title", "message")
_TEXT_ANNOTATIONS: Final = ("description", "message", "summary")
_LINKS: Final = (
    ("Runbook", "runbook_url"),
    ("Dashboard", "dashboardURL"),
    ("Panel", "panelURL"),
    ("Silence", "silenceURL"),
)
_STATE_COLORS: Final = {"alerting": FIRING_COLOR, "ok": RESOLVED_COLOR}


def is_alertmanager(source: RawObject) -> bool:
    """Return whether a body is a group of alerts."""
    return isinstance(source.get("alerts"), list) and ("groupKey" in source or "receiver" in source)


def is_legacy_grafana(source: RawObject) -> bool:
    """Return whether a body is an alert of Grafana before version 9."""
    return "ruleName" in source and "state" in source


def read_alertmanager(source: RawObject, formatter: Formatter) -> NormalForm:
    """Return one message for a group of alerts, with an embed for each of the first ten."""
    form = NormalForm(formatter)
    alerts = [object_of(alert) for alert in list_of(source.get("alerts"), _MAX_ALERTS)]
    form.set("text", _headline(source, alerts))
    # Firing alerts first: they are what people look for when there are too many.
    shown = sorted(alerts, key=lambda alert: alert.get("status") == "resolved")[:MAX_EMBEDS]
    common_name = text_of(object_of(source.get("commonLabels")).get("alertname"))
    for alert in shown:
        form.add_embed(_alert(form, alert, common_name))
    left = len(alerts) - len(shown)
    if left:
        form.notes.append(f"… and {left} more {'alert' if left == 1 else 'alerts'}")
    truncated = source.get("truncatedAlerts")
    if isinstance(truncated, int) and truncated > 0:
        form.notes.append(f"… and {truncated} that the sender left out")
    return form


def _headline(source: RawObject, alerts: list[RawObject]) -> str:
    title = text_of(source.get("title"))
    if not title:
        resolved = sum(alert.get("status") == "resolved" for alert in alerts)
        counts = ((len(alerts) - resolved, "FIRING"), (resolved, "RESOLVED"))
        states = ", ".join(f"{name}:{count}" for count, name in counts if count)
        labels = {**object_of(source.get("commonLabels")), **object_of(source.get("groupLabels"))}
        name = text_of(labels.get("alertname")) or " ".join(
            filter(None, map(text_of, list(labels.values())[:_MAX_LABELS]))
        )
        title = f"[{states or text_of(source.get('status')).upper()}] {name or 'Alerts'}"
    headline = bold(plain_to_markdown(" ".join(title.split())))
    page = web_url(text_of(source.get("externalURL")))
    return f"{headline} {link('Open', page)}" if page else headline


def _alert(form: NormalForm, alert: RawObject, common_name: str) -> NormalObject:
    """Return the embed of one alert. `common_name` is the name of all, which the message's text has."""
    labels, annotations = object_of(alert.get("labels")), object_of(alert.get("annotations"))
    title = _first(annotations, _TITLE_ANNOTATIONS)
    description = _first(annotations, _TEXT_ANNOTATIONS)
    urls = {**annotations, **alert}
    links = [link(label, url) for label, name in _LINKS if (url := web_url(text_of(urls.get(name))))]
    form.add_image(alert.get("imageURL"))
    ends = text_of(alert.get("endsAt"))
    name_of_alert = text_of(labels.get("alertname"))
    fields = [] if not title or name_of_alert == common_name else filled_fields(("Alert", name_of_alert))
    fields += [
        field(name, value)
        for name, value in list(labels.items())[:_MAX_LABELS]
        if name not in _HIDDEN_LABELS and text_of(value)
    ]
    fields += filled_fields(
        ("Value", _values(alert)),
        ("Started", alert.get("startsAt")),
        ("Ended", "" if ends.startswith(_NO_END) or alert.get("status") != "resolved" else ends),
    )
    return {
        "title": title or name_of_alert or "Alert",
        "url": web_url(text_of(alert.get("generatorURL"))) or None,
        "color": RESOLVED_COLOR if alert.get("status") == "resolved" else FIRING_COLOR,
        "description": "\n".join(
            filter(None, (plain_to_markdown(description) if description != title else "", " ".join(links)))
        ),
        "fields": fields[:MAX_FIELDS],
    }


def _first(source: RawObject, names: Iterable[str]) -> str:
    return next((text for name in names if (text := text_of(source.get(name)))), "")


def _values(alert: RawObject) -> str:
    """Return the measured values of Grafana's alert."""
    values = list(object_of(alert.get("values")).items())[:_MAX_LABELS]
    named = ", ".join(f"{name}={text_of(value)}" for name, value in values if text_of(value))
    return named or text_of(alert.get("valueString"))


def read_legacy_grafana(source: RawObject, formatter: Formatter) -> NormalForm:
    """Return the message of one alert of Grafana before version 9."""
    form = NormalForm(formatter)
    title = text_of(source.get("title")) or text_of(source.get("ruleName"))
    form.set("text", bold(plain_to_markdown(title)))
    matches = [object_of(match) for match in list_of(source.get("evalMatches"), MAX_FIELDS - 1)]
    form.add_embed(
        {
            "title": text_of(source.get("ruleName")) or title,
            "url": web_url(text_of(source.get("ruleUrl"))) or None,
            "color": _STATE_COLORS.get(text_of(source.get("state")), NEUTRAL_COLOR),
            "description": plain_to_markdown(source.get("message")),
            "fields": filled_fields(
                ("State", source.get("state")),
                *((text_of(match.get("metric")) or "Value", match.get("value")) for match in matches),
            ),
        }
    )
    form.add_image(source.get("imageUrl"))
    return form
