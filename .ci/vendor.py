"""Renew the console's files of others from npm: `python .ci/vendor.py`, or `--check` to compare only.

`services/console/static/vendor/lock.json` names each file with its package, version, licence and SHA-256.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FOLDER = Path("services/console/static/vendor")
LOCK = FOLDER / "lock.json"
PACKAGES: dict[str, tuple[str, dict[str, str]]] = {
    "@tabler/core": ("1.6.1", {"dist/css/tabler.min.css": "tabler.min.css"}),
    "idiomorph": ("0.8.0", {"dist/idiomorph.min.js": "idiomorph.min.js"}),
    "@tabler/icons": ("3.52.0", {}),
}
ICONS = (
    *("home", "plug", "inbox", "send", "list", "alert-triangle", "link", "message", "upload", "tag", "key"),
    *("history", "logout", "search", "refresh", "sun-moon", "chevron-right", "users", "menu-2", "copy"),
    *("activity", "device-desktop", "git-merge", "stack-2", "plus", "download", "player-pause", "chart-bar"),
    *("help",),
)


def main() -> int:
    """Return 0 if the files are those of the packages, or were renewed."""
    files, lock = {}, []
    for package, (version, wanted) in PACKAGES.items():
        contents, licence = _package(package, version)
        if package == "@tabler/icons":
            found = {"icons.svg": _sprite(contents)}
        else:
            found = {target: contents[source] for source, target in wanted.items()}
        for name, data in found.items():
            files[name] = data
            digest = hashlib.sha256(data).hexdigest()
            lock.append(
                {"file": name, "package": package, "version": version, "licence": licence, "sha256": digest}
            )
    if "--check" in sys.argv:
        different = [name for name, data in files.items() if (FOLDER / name).read_bytes() != data]
        for name in different:
            print(f"{name} is not the file of its package: run python .ci/vendor.py")  # noqa: T201
        return bool(different)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (FOLDER / name).write_bytes(data)
    LOCK.write_text(json.dumps(lock, indent=2) + "\n", encoding="utf-8")
    return 0


def _package(name: str, version: str) -> tuple[dict[str, bytes], str]:
    """Return the files of a package by their paths, and its licence."""
    with TemporaryDirectory() as folder:
        subprocess.run(  # noqa: S603
            ["npm", "pack", "--silent", f"{name}@{version}"],  # noqa: S607
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (archive,) = Path(folder).iterdir()
        with tarfile.open(archive) as tar:
            files = {
                member.name.removeprefix("package/"): tar.extractfile(member).read()  # type: ignore[union-attr]
                for member in tar
                if member.isfile()
            }
    about: Any = json.loads(files["package.json"])
    return files, str(about.get("license") or "0BSD")


def _sprite(files: dict[str, bytes]) -> bytes:
    """Return the icons as symbols of one SVG document."""
    symbols = []
    for name in ICONS:
        text = files[f"icons/outline/{name}.svg"].decode()
        inner = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
        parts = " ".join(line.strip() for line in inner.splitlines() if line.strip())
        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{parts}</symbol>')
    return f'<svg xmlns="http://www.w3.org/2000/svg">{"".join(symbols)}</svg>\n'.encode()


if __name__ == "__main__":
    sys.exit(main())
