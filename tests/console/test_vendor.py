"""The files of others in the package: what the lock says, and where npm is, what their packages have."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "services" / "console" / "static"
VENDOR = STATIC / "vendor"


def test_the_lock_names_every_file_with_its_licence_and_hash() -> None:
    lock = json.loads((VENDOR / "lock.json").read_text("utf-8"))
    files = {item["file"]: item["sha256"] for item in lock}
    assert files == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.name != "lock.json"
    }
    assert {item["licence"] for item in lock} <= {"MIT", "0BSD", "BSD-2-Clause"}
    assert sum((VENDOR / name).stat().st_size for name in files) < 1024 * 1024


def test_what_is_our_own_is_small() -> None:
    # The element for pages of chats has a bound of its own: no page of the console loads it.
    sizes = {path.name: path.stat().st_size for path in STATIC.glob("*.js")}
    assert sizes.pop("interlink-connect.js") <= 12 * 1024
    scripts = sum(sizes.values())
    styles = sum(path.stat().st_size for path in STATIC.glob("*.css"))
    assert scripts <= 15 * 1024
    assert styles <= 10 * 1024


def test_the_files_are_those_of_npm() -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm on the PATH")
    check = [sys.executable, ".ci/vendor.py", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode > 1 or "npm" in done.stderr:
        pytest.skip("npm does not get its packages here")
    assert done.returncode == 0, done.stdout
