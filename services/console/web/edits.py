"""Two people edit the same object: the second one sees what differs, and chooses."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.console.hub_api import Refusal
from services.console.pages.kinds import Field
from services.console.pages.rendering import visible
from services.console.web.forms import Form, first

_OUTDATED = 412


@dataclass(frozen=True, slots=True)
class Edit:
    """The version of an object that a form is based on, and what was stored meanwhile.

    `differences` are titles with the person's own value, and the stored one.
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
    """Return the stored version, and the fields whose values differ from those of the form."""
    pairs = [(field.title, _text(mine, field), _text(stored, field)) for field in fields]
    return Edit(version, [(title, own, other) for title, own, other in pairs if own != other])


def _text(form: Form, field: Field) -> str:
    texts = [text.replace("\r\n", "\n").strip() for text in form.get(field.name, [])]
    if field.kind == "secret":
        return "(entered)" if any(texts) else ""
    if field.kind == "flag":
        return "yes" if any(texts) else "no"
    text = ", ".join(sorted(texts)) if field.kind == "checks" else (texts[0] if texts else "")
    return visible(field.labels.get(text, text), 2000)


CHANGED = Refusal(
    _OUTDATED,
    "Changed meanwhile",
    "Somebody else has stored this since you opened it. Store yours over it, or take what is stored.",
)
