"""Render pages: everything that strangers wrote is escaped, cut, and made visible."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import orjson
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from services.console.pages import import_words, mapping_words
from services.console.pages.charts import count_bars, hourly_bars
from services.console.pages.failures import next_step
from services.console.pages.fields import href_of, is_empty, with_unit
from services.console.pages.path_words import delivery_words, execution_words, unmatched_words

MAX_SHOWN: Final = 64 * 1024
"""Characters of one value that a page shows; the rest is in the download of the object."""
_MAX_NAME: Final = 200
"""A cut text of more characters says how many are missing; a name has no room for it."""
_INVISIBLE: Final = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Control and direction characters, but for tab and line feed, and characters without a width."""
_GOOD: Final = frozenset(
    (
        *("active", "delivered", "connected", "completed", "sent", "stored", "done", "ready", "accepted"),
        *("applied", "verified", "closed"),
    )
)
_BAD: Final = frozenset(
    (
        *("failed", "failing", "dead_letter", "error", "reauth_required", "rejected", "not ready", "refused"),
        *("bad_signature", "invalid_signature", "signature"),
    )
)
_BUSY: Final = frozenset(
    (
        *("pending", "delivering", "retrying", "waiting", "sending", "reading", "running", "verifying"),
        *("undoing", "paused", "open", "unknown"),
    )
)


def visible(value: Any, limit: int = MAX_SHOWN) -> str:
    """Return a value as text, cut at `limit` characters, with control and direction characters named."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else _json(value) if isinstance(value, dict | list) else str(value)
    if len(text) > limit:
        rest = f" ({len(text) - limit:,} more characters: see the download)" if limit > _MAX_NAME else ""
        text = f"{text[:limit]}…{rest}"
    return _INVISIBLE.sub(lambda found: f"[{_name_of(found[0])}]", text)


def _json(value: Any, option: int = 0) -> str:
    try:
        return orjson.dumps(value, option=option).decode()
    except orjson.JSONEncodeError:  # nested too deep
        return "(nested too deep to be shown: see the download)"


def _name_of(character: str) -> str:
    return unicodedata.name(character, f"U+{ord(character):04X}")


def time_element(value: Any) -> Markup:
    """Return a time as a `<time>` element in UTC. The page's script converts it to the reader's zone."""
    if not isinstance(value, str) or not value:
        return Markup("")
    try:
        moment = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        return Markup("{}").format(visible(value, 40))
    shown = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(value, shown, shown)


def status_class(value: Any) -> str:
    """Return the colour of a status: good, bad, in between, or nothing of these."""
    if value in _GOOD:
        return "green"
    return "red" if value in _BAD else "yellow" if value in _BUSY else "secondary"


def pretty(value: Any) -> str:
    """Return JSON, indented, for people; a text that is JSON as well. It is cut as `visible` cuts."""
    if isinstance(value, str):
        if len(value) > MAX_SHOWN or not value.startswith(("{", "[")):
            return visible(value)
        try:
            value = orjson.loads(value)
        except ValueError:
            return visible(value)
    return visible(_json(value, orjson.OPT_INDENT_2))


def label(name: str) -> str:
    """Return the name of a field for people."""
    text = visible(name, 100).replace("_", " ")
    for unit in (" ms", " s", " at", " hours", " days", " bytes"):
        text = text.removesuffix(unit)
    text = text[:1].upper() + text[1:]
    return {"Url": "Address"}.get(text, text)


def address_of(value: Any) -> str:
    """Return the value if it is an http(s) address that can be a link; empty if not."""
    is_link = isinstance(value, str) and value.startswith(("https://", "http://")) and len(value) < 2000
    return value if is_link and not _INVISIBLE.search(value) else ""


def _untranslated(text: str) -> str:
    """Return a text of the hub's own as it is: the pages of members are in English."""
    return text


class Renderer:
    """Renders the templates with what every page has."""

    def __init__(
        self,
        shared: Mapping[str, Any],
        *,
        folders: Sequence[str] = ("templates",),
        filters: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
    ) -> None:
        """Set names and filters for all templates. One is taken from the first of `folders` that has it."""
        self._environment = Environment(
            loader=ChoiceLoader([PackageLoader("services.console", folder) for folder in folders]),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        self._environment.globals |= shared
        self._environment.filters |= {
            "visible": visible,
            "time": time_element,
            "status_class": status_class,
            "pretty": pretty,
            "label": label,
            "address": address_of,
            "href": href_of,
            "unit": with_unit,
            "next_step": next_step,
            "execution_words": execution_words,
            "delivery_words": delivery_words,
            "unmatched_words": unmatched_words,
            "hourly_bars": hourly_bars,
            "count_bars": count_bars,
            "count_sentences": import_words.count_sentences,
            "trial_sentences": import_words.trial_sentences,
            "plan_sentences": import_words.plan_sentences,
            "legs_picture": mapping_words.legs_picture,
            "undo_sentences": import_words.undo_sentences,
            "t": _untranslated,
            **filters,
        }
        self._environment.tests |= {
            "empty": is_empty,
        }

    def render(self, template: str, **values: Any) -> str:
        """Return a page. Raises `jinja2.UndefinedError` if the template needs a value that is missing."""
        return self._environment.get_template(template).render(**values)
