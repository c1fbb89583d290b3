"""Mermaid diagrams, rendered when the site is built: its pages need neither a script nor a network."""

import re
from hashlib import sha256
from typing import Final

try:
    import merman
except ImportError:  # there is no wheel for this machine: the page shows the source of the diagram
    merman = None

_BLOCK: Final = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def replace_diagrams(text: str) -> str:
    """Replace each block of Mermaid by a figure with its SVG.

    Raises `ValueError` with the source of a diagram that cannot be rendered.
    """
    return _BLOCK.sub(lambda block: _figure(block[1]), text)


def _figure(source: str) -> str:
    if merman is None:
        return f"```text\n{source}```"
    try:
        svg = merman.Merman().render_svg(source, None)
    except Exception as error:
        raise ValueError(f"this diagram cannot be rendered: {error}\n{source}") from error
    # A page may have several diagrams: styles and markers refer to the id.
    svg = svg.replace("merman", f"diagram-{sha256(source.encode()).hexdigest()[:8]}")
    # Boxes are measured for a narrow font that the reader's machine may not have: leave room for another.
    svg = svg.replace("font-size:14px", "font-size:12.5px")
    return f'<figure class="diagram">{" ".join(svg.split())}</figure>'
