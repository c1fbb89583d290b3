"""Compare the form of an object with the stored one, if another person has changed it meanwhile."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.console.hub_api import Refusal
from services.console.pages.kinds import SECRETS, Field
from services.console.pages.rendering import visible
from services.console.web.forms import Form, first

_OUTDATED = 412


@dataclass(frozen=True, slots=True)
class Edit:
    """The version of an object that a form is based on, and the differences from the stored one.

    Each difference has the title of a field, the value in the form, and the stored value.
    """

    version: int
    differences: Sequence[tuple[str, str, str]] = ()


def based_on(form: Form) -> int | None:
    """Return the version that a form is based on; None if it names none."""
    text = first(form, "version")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def is_outdated(refusal: Refusal) -> bool:
    """Return whether a call was refused because somebody else has changed the object."""
    return refusal.status == _OUTDATED


def compared(fields: Sequence[Field], mine: Form, stored: Form, version: int) -> Edit:
    """Return an edit based on the stored version, with each field that differs between form and object."""
    pairs = [(field.title, _text(mine, field), _text(stored, field)) for field in fields]
    return Edit(version, [(title, own, other) for title, own, other in pairs if own != other])


def _text(form: Form, field: Field) -> str:
    texts = [text.replace("\r\n", "\n").strip() for text in form.get(field.name, [])]
    if field.kind in SECRETS:
        return "(entered)" if any(texts) else ""
    if field.kind == "flag":
        return "yes" if any(texts) else "no"
    text = ", ".join(sorted(texts)) if field.kind == "checks" else (texts[0] if texts else "")
    return visible(field.labels.get(text, text), 2000)


CHANGED = Refusal(
    _OUTDATED,
    "Changed meanwhile",
    "Another person has changed this since you opened it. Store your values over theirs, or open it again.",
)
