"""`interlink settings`: every environment variable that services read, as a page (`docs/settings.md`).

The description of a setting is the one of its field, so that page and code cannot differ.
"""

import inspect
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from interlink.doctor import own_settings
from shared.runtime.settings import ChatSettings, EgressSettings, HubSettings, KafkaSettings, MongoSettings

_INTRODUCTION: Final = """\
# Settings

Environment variables, as `interlink settings` prints them. `interlink doctor` checks them. A service with a
wrong setting prints its name and does not start. `interlink up` sets what is required, and allows what a
trial on one machine needs. `interlink init` takes the first admin key from `INTERLINK_BOOTSTRAP_ADMIN_KEY`
or the file in `INTERLINK_BOOTSTRAP_ADMIN_KEY_FILE`, else it creates one. OAuth apps of providers have
variables of their own: see `docs/how-to/register-an-app.md`.
"""


def render_page(services: Sequence[str]) -> str:
    """Return the settings of these services as Markdown."""
    own = dict(own_settings(services))
    shown = [name for name, kind in own.items() if issubclass(kind, ChatSettings)]
    calling = [name for name, kind in own.items() if issubclass(kind, EgressSettings)]
    groups: dict[str, type[BaseSettings]] = {
        "Kafka": KafkaSettings,
        "MongoDB": MongoSettings,
        "Every service": HubSettings,
        f"Services that call others: {', '.join(calling)}": EgressSettings,
        f"Services with pages for users of the chat: {', '.join(shown)}": ChatSettings,
        **{f"Only {name}": kind for name, kind in own.items()},
    }
    return _INTRODUCTION + "".join(f"\n## {title}\n\n{_table(kind)}" for title, kind in groups.items())


def _table(kind: type[BaseSettings]) -> str:
    prefix = str(kind.model_config.get("env_prefix", ""))
    own_fields = inspect.get_annotations(kind)  # inherited fields are in the parent's table
    rows = [
        f"| `{prefix}{name.upper()}` | {_default(field)} | {_values(field)} | {field.description or ''} |\n"
        for name, field in kind.model_fields.items()
        if name in own_fields
    ]
    return "| variable | default | values | |\n|---|---|---|---|\n" + "".join(rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value or value == 0 else ""


def _values(field: FieldInfo) -> str:
    """Return the allowed values or bounds, if they fit into a table."""
    kind = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    parts = [field, *(FieldInfo.from_annotation(part) for part in get_args(kind))]
    labels = {"gt": "more than", "ge": "from", "le": "to"}
    return " ".join(
        f"{label} {getattr(bound, name)}"
        for bound in (constraint for part in parts for constraint in part.metadata)
        for name, label in labels.items()
        if hasattr(bound, name)
    )
