"""The provider folders, and one of them by its id."""

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from shared.contracts.errors import InterlinkError, Misconfigured
from shared.manifests import registry
from shared.manifests.provider_code import body_reader
from shared.manifests.registry import MANIFEST, Provider, read_manifest
from shared.manifests.webhook import BodyReader
from shared.wire.message_template import MessageTemplateError

PROVIDERS_ROOT: Final = Path(str(files("shared.providers")))
_HISTORY: Final = "history.py"
_PROJECT: Final = PROVIDERS_ROOT.parent.parent


def _is_missing_manifest(entry: Path) -> bool:
    """Return whether a folder should have a manifest and has none.

    A folder with nothing but `__pycache__` is left over from a removed provider. One with a `history.py` may
    do without: its provider sends nothing to the hub, and only its exports are read.
    """
    if not entry.is_dir() or entry.name.startswith(("_", ".")):
        return False
    if entry.joinpath(MANIFEST).is_file() or entry.joinpath(_HISTORY).is_file():
        return False
    return [inner.name for inner in entry.iterdir()] != ["__pycache__"]


def guard_reader(reader: BodyReader | None) -> BodyReader | None:
    """Wrap a reader: an unexpected exception becomes a `Misconfigured` that names it."""
    if reader is None:
        return None
    read = reader

    def guarded(body: bytes) -> Any:
        try:
            # A provider's reader is foreign code: report its bugs as faults of the folder.
            return read(body)
        except InterlinkError:
            raise
        except Exception as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise Misconfigured(
                f"body.py raises {cause}: raise Malformed for a body that cannot be read"
            ) from error

    return guarded


def find_folders(ids: list[str]) -> list[Path]:
    """Return these folders, or all of them, by id, including those without a manifest.

    Raises `Misconfigured` for an unknown id.
    """
    known = {entry.name: entry for entry in PROVIDERS_ROOT.iterdir() if _is_missing_manifest(entry)}
    known |= {folder.name: Path(str(folder)) for folder in registry.provider_folders()}
    unknown = sorted(set(ids) - known.keys())
    if unknown:
        matches = get_close_matches(unknown[0], known, n=1)
        hint = f" (did you mean {matches[0]}?)" if matches else ""
        raise Misconfigured(f"unknown provider: {', '.join(unknown)}{hint}")
    return [known[name] for name in sorted(set(ids) or known)]


def load_provider(name: str) -> tuple[Path, Provider]:
    """Return a folder and its provider. Raises `Misconfigured` if the manifest is not valid."""
    folder = find_folders([name])[0]
    manifest = read_manifest(folder)
    try:
        provider = Provider(manifest, guard_reader(body_reader(name)))
        provider.messages  # noqa: B018 -- compiles the templates
    except (MessageTemplateError, ValueError) as error:
        raise Misconfigured(f"{name}: {error}") from None
    return folder, provider


def load_all() -> tuple[dict[str, Provider], dict[str, str]]:
    """Return every provider, and its README, by id. Raises `Misconfigured`."""
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
    """Return `docs/providers` of the project around this package. Raises `Misconfigured` without one."""
    if not _PROJECT.joinpath("pyproject.toml").is_file():
        raise Misconfigured("this installation is not in a project: name the folder with --folder")
    return _PROJECT / "docs" / "providers"
