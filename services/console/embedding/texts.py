"""The texts of embedded pages: a catalogue per language, from the English text to its translation.

`texts/en.json` lists all texts. To add a language, copy it to `texts/de.json`, for example, and translate the
values. A text that a catalogue lacks is shown in English.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson

DEFAULT: Final = "en"
_FOLDER: Final = Path(__file__).parent / "texts"
_MAX_ACCEPTED: Final = 20


class Catalogues:
    """The catalogues of all languages, read from their files once."""

    def __init__(self, folder: Path = _FOLDER) -> None:
        self._catalogues: dict[str, Mapping[str, str]] = {
            path.stem: orjson.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))
        }

    @property
    def languages(self) -> list[str]:
        """The languages that have a catalogue."""
        return sorted(self._catalogues)

    def texts(self, language: str) -> Mapping[str, str]:
        """Return the translations of a language by the English text."""
        return self._catalogues[language]

    def choose(self, wanted: str | None, accepted: str) -> str:
        """Return the best language that has a catalogue.

        `wanted` is that of the session, `accepted` an `Accept-Language` header. English is the last resort.
        """
        if wanted and wanted in self._catalogues:
            return wanted
        for language in _by_preference(accepted):
            for known in (language, language.partition("-")[0]):
                if known in self._catalogues:
                    return known
        return DEFAULT


def _by_preference(accepted: str) -> list[str]:
    """Return the languages of an `Accept-Language` header, the most wanted first."""
    weights: dict[str, float] = {}
    for item in accepted.split(",")[:_MAX_ACCEPTED]:
        language, _, weight = item.strip().partition(";q=")
        try:
            weights.setdefault(language.strip().lower(), float(weight or 1))
        except ValueError:
            continue
    return sorted((name for name, weight in weights.items() if weight > 0), key=lambda name: -weights[name])
