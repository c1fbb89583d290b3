"""The theme of embedded pages: five CSS variables, of which only colours and lengths are accepted."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_LENGTH: Final = r"^([0-9]|[1-9][0-9])(\.[0-9]{1,2})?(px|rem)$"
_COLOUR: Final = r"^#[0-9a-fA-F]{6}$"
_LIGHT: Final = 0.179
"""The luminance above which black text has more contrast than white."""
_MIN_CONTRAST: Final = 4.5
"""WCAG 2.2, 1.4.3."""

Colour = Annotated[str, Field(pattern=_COLOUR, description="A colour such as #1a7f37.")]
Length = Annotated[str, Field(pattern=_LENGTH, description="A length in px or rem, such as 6px.")]


class Theme(BaseModel):
    """The variables, named without `--interlink-`. Absent ones have the console's values."""

    model_config = ConfigDict(extra="forbid")

    accent: Colour | None = None
    background: Colour | None = None
    text: Colour | None = None
    font_size: Annotated[str, Field(pattern=r"^(1[2-9]|2[0-4])px$")] | None = None
    radius: Length | None = None

    @model_validator(mode="after")
    def _is_legible(self) -> Self:
        if (self.background is None) != (self.text is None):
            raise ValueError("background and text are set together")
        if self.background and self.text and contrast(self.background, self.text) < _MIN_CONTRAST:
            raise ValueError("text cannot be read on background: a contrast of 4.5:1 is needed")
        return self

    def variables(self) -> dict[str, str]:
        """Return the variables that are set."""
        return self.model_dump(exclude_none=True)


def stylesheet(variables: Mapping[str, str]) -> str:
    """Return the stylesheet of a stored theme. Raises `ValueError` if it is invalid."""
    theme = Theme.model_validate(variables)  # once more, as the values become CSS
    rules = {f"--interlink-{name.replace('_', '-')}": value for name, value in theme.variables().items()}
    if theme.accent:
        on_accent = "#000000" if luminance(theme.accent) > _LIGHT else "#ffffff"
        rules |= {"--tblr-primary": theme.accent, "--tblr-primary-fg": on_accent}
    if theme.background and theme.text:
        for name in ("--tblr-body-bg", "--tblr-bg-surface", "--tblr-bg-forms"):
            rules[name] = theme.background
        for name in ("--tblr-body-color", "--tblr-secondary-color", "--tblr-link-color"):
            rules[name] = theme.text
    if theme.radius:
        rules["--tblr-border-radius"] = theme.radius
    if theme.font_size:
        rules["font-size"] = theme.font_size
    body = ";".join(f"{name}:{value}" for name, value in rules.items())
    return f":root,[data-bs-theme]{{{body}}}\n"


def is_dark(variables: Mapping[str, str]) -> bool | None:
    """Return whether a theme is dark; None if it leaves that to the browser."""
    background = variables.get("background")
    return luminance(background) <= _LIGHT if background else None


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour `#rrggbb`, as WCAG defines it."""
    parts = [int(part, 16) / 255 for part in re.findall("[0-9a-fA-F]{2}", colour)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
