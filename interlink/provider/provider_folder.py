"""Where providers' folders are, and one of them by its id."""

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Final

from interlink.provider.checker import guard_reader
from shared.contracts.errors import Misconfigured
from shared.manifests import registry
from shared.manifests.registry import MANIFEST, Provider, body_reader, read_manifest
from shared.wire.message_template import MessageTemplateError

PROVIDERS_ROOT: Final = Path(str(files("shared.providers")))
_PROJECT: Final = PROVIDERS_ROOT.parent.parent


def _is_missing_manifest(entry: Path) -> bool:
    """Whether it is a folder that should have one. What a removed provider left to Python is none."""
    if not entry.is_dir() or entry.name.startswith(("_", ".")) or entry.joinpath(MANIFEST).is_file():
        return False
    return [inner.name for inner in entry.iterdir()] != ["__pycache__"]


def find_folders(ids: list[str]) -> list[Path]:
    """These folders, or all of them, by id, also those that lack their manifest.

    Raises `Misconfigured` for an id that nobody has.
    """
    known = {entry.name: entry for entry in PROVIDERS_ROOT.iterdir() if _is_missing_manifest(entry)}
    known |= {folder.name: Path(str(folder)) for folder in registry.provider_folders()}
    unknown = sorted(set(ids) - known.keys())
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise Misconfigured(f"no such provider: {', '.join(unknown)}{hint}")
    return [known[name] for name in sorted(set(ids) or known)]


def load_provider(name: str) -> tuple[Path, Provider]:
    """A folder and what is in it. Raises `Misconfigured` for one that the checker would not accept either."""
    folder = find_folders([name])[0]
    manifest = read_manifest(folder)
    try:
        provider = Provider(manifest, guard_reader(body_reader(name)))
        provider.messages  # noqa: B018 -- compiles the templates
    except (MessageTemplateError, ValueError) as error:
        raise Misconfigured(f"{name}: {error}") from None
    return folder, provider


def load_all() -> tuple[dict[str, Provider], dict[str, str]]:
    """Every provider, and its README, by id. Raises `Misconfigured`."""
    known: dict[str, Provider] = {}
    readmes: dict[str, str] = {}
    for folder in find_folders([]):
        if not folder.joinpath(MANIFEST).is_file():
            continue
        known[folder.name] = load_provider(folder.name)[1]
        try:
            readmes[folder.name] = folder.joinpath("README.md").read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"{folder.name}/README.md: {error}") from None
    return known, readmes


def pages_folder() -> Path:
    """`docs/providers` of the project that this runs from. Raises `Misconfigured` when there is none."""
    if not _PROJECT.joinpath("pyproject.toml").is_file():
        raise Misconfigured("there is no project around this installation: say where with --folder")
    return _PROJECT / "docs" / "providers"
