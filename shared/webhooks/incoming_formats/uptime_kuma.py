"""Notifications of Uptime Kuma's type "Webhook" (`server/notification-providers/webhook.js`). Pure."""

from typing import Final

from shared.richtext.autolinks import web_url
from shared.webhooks.incoming_formats.alertmanager import FIRING_COLOR, NEUTRAL_COLOR, RESOLVED_COLOR
from shared.webhooks.incoming_formats.formatted import Formatter
from shared.webhooks.incoming_formats.normal_form import (
    NormalForm,
    RawObject,
    filled_fields,
    object_of,
    plain_to_markdown,
    text_of,
)

FORM_FIELD: Final = "data"
"""The field of the multipart form that has the JSON, if the notification's type is form-data."""

_STATES: Final = {
    0: ("Down", FIRING_COLOR),
    1: ("Up", RESOLVED_COLOR),
    2: ("Pending", NEUTRAL_COLOR),
    3: ("Maintenance", NEUTRAL_COLOR),
}


def is_uptime_kuma(source: RawObject) -> bool:
    """Return whether a body is a notification; both objects are null in a test of the notification."""
    return isinstance(source.get("msg"), str) and "heartbeat" in source and "monitor" in source


def read_uptime_kuma(source: RawObject, formatter: Formatter) -> NormalForm:
    """Return the message of a notification."""
    form = NormalForm(formatter)
    heartbeat, monitor = object_of(source.get("heartbeat")), object_of(source.get("monitor"))
    form.set("text", plain_to_markdown(source.get("msg")), "msg")
    if not heartbeat and not monitor:
        return form
    status = heartbeat.get("status")
    state, color = _STATES.get(status if isinstance(status, int) else -1, ("", NEUTRAL_COLOR))
    ping = text_of(heartbeat.get("ping"))
    form.add_embed(
        {
            "title": text_of(monitor.get("name")) or "Monitor",
            "url": web_url(text_of(monitor.get("url"))) or None,
            "color": color,
            "description": plain_to_markdown(heartbeat.get("msg")),
            "fields": filled_fields(
                ("Status", state),
                ("Response time", f"{ping} ms" if ping else ""),
                ("Host", monitor.get("hostname")),
                ("Time", _time(heartbeat)),
            ),
        }
    )
    return form


def _time(heartbeat: RawObject) -> str:
    local, zone = text_of(heartbeat.get("localDateTime")), text_of(heartbeat.get("timezone"))
    if local:
        return f"{local} ({zone})" if zone else local
    time = text_of(heartbeat.get("time"))
    return f"{time} UTC" if time else ""
