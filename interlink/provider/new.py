"""Creates a new provider's folder, which passes the checker and marks what to replace."""

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
    """Create the folder `root/name` of the provider called `title` and return it.

    `scheme` is one of `start/schemes.yaml`. Raises `Misconfigured` if the id is malformed, reserved or taken,
    or if the folder cannot be written.
    """
    try:
        _ID.validate_python(name)
    except ValidationError:
        raise Misconfigured(
            f"{name!r} is not a valid id: use at most 40 of a to z, 0 to 9, _ and -, but not _ or - first"
        ) from None
    if name in RESERVED_IDS:
        raise Misconfigured(f"{name!r} is reserved: choose another id")
    title = title or name.replace("-", " ").replace("_", " ").title()
    if not _NAME.fullmatch(title):
        raise Misconfigured("--name: use at most 60 characters, without braces, quotes, < > | and \\")
    folder = root / name
    try:
        folder.mkdir()
    except FileExistsError:
        raise Misconfigured(f"{name!r} already exists: {folder}") from None
    except OSError as error:
        raise Misconfigured(f"{folder}: {error.strerror}") from None
    try:
        _write_files(folder, name, title, scheme)
    # Leave no half-written folder behind, whatever happens.
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise Misconfigured(f"{folder}: {error.strerror}") from None
        raise
    return folder


def _write_files(folder: Path, name: str, title: str, scheme: str) -> None:
    template = _TEMPLATES.joinpath
    scheme_parts: Mapping[str, str] = yaml.safe_load(template("schemes.yaml").read_text("utf-8"))[scheme]
    parts = {
        "SCHEME": textwrap.indent(scheme_parts["scheme"].rstrip(), " " * 4),
        "SECRET": textwrap.indent(scheme_parts["secret"].rstrip(), " " * 4),
        "SIGNATURE": scheme_parts["signature"],
        "YAML_ID": name if yaml.safe_load(name) == name else f'"{name}"',
        "ID": name,
        "NAME": title,
    }
    fixture = folder / "fixtures" / _FIXTURE
    fixture.mkdir(parents=True)
    for file in (MANIFEST, "README.md"):
        folder.joinpath(file).write_text(
            _substitute(template(f"{file}.txt").read_text("utf-8"), parts), "utf-8"
        )
    for file in ("request.json", "body.json"):
        fixture.joinpath(file).write_bytes(template(file).read_bytes())
    for _ in run(folder, Provider(read_manifest(folder)), write=True):
        pass


def _substitute(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
