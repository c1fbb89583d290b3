"""A new provider's folder: it passes the checker as it is, and says what to replace."""

import re
import shutil
import textwrap
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

import yaml
from pydantic import TypeAdapter, ValidationError

from interlink.provider.checker import RESERVED_IDS
from interlink.provider.run_fixtures import run
from shared.contracts.errors import Misconfigured
from shared.manifests.connect_models import ProviderId
from shared.manifests.registry import MANIFEST, Provider, read_manifest

_ID: Final = TypeAdapter(ProviderId)
_NAME: Final = re.compile(r"[^\W_][^\x00-\x1f\x7f{}<>|\\`\"]{0,59}")
_TEMPLATES: Final = files("interlink.provider").joinpath("start")
_FIXTURE: Final = "item_created"


def create(root: Path, name: str, title: str, scheme: str) -> Path:
    """Make the folder `root/name` for the platform called `title`; `scheme` is one of `start/schemes.yaml`.

    Raises `Misconfigured` for an id that is malformed, reserved or taken, and when it cannot be written.
    """
    try:
        _ID.validate_python(name)
    except ValidationError:
        raise Misconfigured(
            f"{name!r} is no id: a to z, 0 to 9, _ and -, 40 characters at most, with no _ or - in front"
        ) from None
    if name in RESERVED_IDS:
        raise Misconfigured(f"{name!r} is reserved: take another id")
    title = title or name.replace("-", " ").replace("_", " ").title()
    if not _NAME.fullmatch(title):
        raise Misconfigured("--name: 60 characters at most, without braces, quotes, < > | and \\")
    folder = root / name
    try:
        folder.mkdir()
    except FileExistsError:
        raise Misconfigured(f"{name!r} is there already: {folder}") from None
    except OSError as error:
        raise Misconfigured(f"{folder}: {error.strerror}") from None
    try:
        _write_files(folder, name, title, scheme)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise Misconfigured(f"{folder}: {error.strerror}") from None
        raise
    return folder


def _write_files(folder: Path, name: str, title: str, scheme: str) -> None:
    begin = _TEMPLATES.joinpath
    scheme_parts: Mapping[str, str] = yaml.safe_load(begin("schemes.yaml").read_text("utf-8"))[scheme]
    parts = {
        "WAY": textwrap.indent(scheme_parts["way"].rstrip(), " " * 4),
        "SECRET": textwrap.indent(scheme_parts["secret"].rstrip(), " " * 4),
        "SIGNATURE": scheme_parts["signature"],
        "YAML_ID": name if yaml.safe_load(name) == name else f'"{name}"',
        "ID": name,
        "NAME": title,
    }
    case = folder / "fixtures" / _FIXTURE
    case.mkdir(parents=True)
    for file in (MANIFEST, "README.md"):
        folder.joinpath(file).write_text(_substitute(begin(f"{file}.txt").read_text("utf-8"), parts), "utf-8")
    for file in ("request.json", "body.json"):
        case.joinpath(file).write_bytes(begin(file).read_bytes())
    for _ in run(folder, Provider(read_manifest(folder)), write=True):
        pass


def _substitute(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
