"""The folder of an export, packed by `interlink import`, and the sample that the README names."""

from pathlib import Path

import pytest

from interlink import examples
from interlink.imports.folders import archive_of
from services.importer.reading.reader_process import ReaderLimits
from shared.contracts.errors import Misconfigured
from tests.importer.test_reader_process import everything

SAMPLE = Path(examples.__file__).parent / "slack-export"


def test_a_file_is_uploaded_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(b"{}")
    with archive_of(path) as found:
        assert found == path


def test_the_same_folder_makes_the_same_archive_so_that_an_upload_goes_on(tmp_path: Path) -> None:
    archives = []
    for name in ("first", "second"):
        folder = tmp_path / name / "export"
        (folder / "general").mkdir(parents=True)
        (folder / "general" / "2024-01-01.json").write_bytes(b"[]" * 100_000)
        (folder / "users.json").write_bytes(b"[]")
        with archive_of(folder) as found:
            assert found.name == "export.zip"
            archives.append(found.read_bytes())
        assert not found.exists()
    assert archives[0] == archives[1]


def test_a_link_out_of_the_folder_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"of another folder")
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "above").symlink_to(tmp_path)
    with pytest.raises(Misconfigured, match="has no files"), archive_of(folder):
        pass


def test_the_sample_has_what_an_import_shows() -> None:
    with archive_of(SAMPLE) as path:
        contents, lines = everything(path, ReaderLimits())
    assert contents.kind == "a Slack export"
    assert contents.account == "T024SAMPLE"
    messages = [line["m"] for line in lines if "m" in line]
    assert len(messages) == 12
    assert any(message.get("thread") for message in messages)
    assert not [line for line in lines if "b" in line]
