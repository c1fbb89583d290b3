"""Texts of `interlink provider new` that an author has to replace."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.manifests.registry import MANIFEST

README: Final = "README.md"
PLACEHOLDERS: Final = {
    MANIFEST: (
        "# Made by `interlink provider new`.",
        "No document yet.",
        "this folder is as `interlink provider new` made it",
        "What the provider does without a response.",
        "https://example.com/icon.png",
        "Open the provider's settings and choose Webhooks, Add webhook.",
    ),
    README: (
        "Describe in one paragraph what the provider sends",
        "At the provider: name the pages and the fields",
        "Describe how a user sees that it works.",
        "| what the provider does without a response |",
        "| how a request that somebody else repeats is recognised |",
        "this folder is as `interlink provider new` made it",
    ),
}
"""Texts by file, as in the start folder. Each is in a line of its own."""


def remaining_placeholders(folder: Path) -> Iterator[str]:
    """Yield a line for each text of the start folder that a provider's folder still has."""
    advice = "a text of `interlink provider new`: replace"
    for name, texts in PLACEHOLDERS.items():
        file = folder / name
        lines = file.read_text("utf-8", "replace").splitlines() if file.is_file() else []
        for number, line in enumerate(lines, start=1):
            for text in texts:
                if text in line:
                    yield f"{folder.name}/{name}:{number}: {advice} {text!r}"
