"""What `interlink provider check` finds wrong with polling triggers."""

import shutil
from pathlib import Path

import pytest

from interlink.provider.checker import check
from shared.manifests.registry import MANIFEST, provider_folders

FOLDERS = {folder.name: folder for folder in provider_folders()}

FAULTS = [
    ("rss", "{poll:url}", "{poll:uri}", "request.url: unknown value poll:uri"),
    ("rss", "bold }}{% endif", "upcase }}{% endif", "title is not escaped in text of its message"),
    ("rss", "actor_icon: https", "# ", "actor, actor_icon: missing"),
    ("rss", "          required: true\n", "          secret: true\n", "params are shown"),
    ("rss", "cursor: { by: seen }", "cursor: { by: rows }", "cursor.by: {poll:row}"),
    ("gmail", 'labelId: "{poll:label}"', 'labelId: "{poll:lable}"', "unknown value poll:lable"),
    ("gmail", "      event: label.created\n", "      event: label.made\n", "label.made is not in handled"),
    ("gmail", "    label.created:", "    mailbox.changed:", "is not in handled"),
    (
        "google-drive",
        "scopes: [https://www.googleapis.com/auth/drive]\n      start",
        "scopes: [other]\n      start",
        "scopes: connect does not request other",
    ),
    ("google-sheets", "      example: { id: 7, title: Plan, index: 1 }\n", "", "example: missing"),
    ("discord", "kinds: [bot_token]", "kinds: [other]", "kinds: unknown kind of credentials other"),
    ("dropbox", "/2/files/list_folder/continue", ".{poll:path}/x", "changes the URL"),
]


@pytest.mark.parametrize(("provider", "old", "new", "fault"), FAULTS)
def test_a_fault_of_a_polling_trigger_is_found(
    tmp_path: Path, provider: str, old: str, new: str, fault: str
) -> None:
    folder = tmp_path / provider
    shutil.copytree(Path(str(FOLDERS[provider])), folder)
    manifest = folder / MANIFEST
    text = manifest.read_text("utf-8")
    assert old in text
    manifest.write_text(text.replace(old, new), "utf-8")
    assert any(fault in line for line in check(folder)), check(folder)


@pytest.mark.parametrize("provider", ["rss", "gmail", "google-drive", "discord", "dropbox"])
def test_the_real_ones_have_none(provider: str) -> None:
    assert check(Path(str(FOLDERS[provider]))) == []
