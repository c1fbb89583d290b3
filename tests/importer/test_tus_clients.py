"""Two clients of tus that others have written upload exports, through the entrance of the hub."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import aiohttp
import pytest

from tests.importer.archives import slack_export, slack_message, zipped
from tests.importer.test_imports import reached
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.npm import Unavailable, installed
from tests.support.slow_line import SlowLine, slow_line

_FOLDER: Final = Path(__file__).parents[1] / "support" / "tus"
_MAX: Final = 6_000_000
_CHUNK: Final = 1_000_000


@pytest.fixture(scope="module")
def line() -> Iterator[SlowLine]:
    """The line between the clients and the hub's entrance: 4 MB a second."""
    with slow_line(0, 4e6) as found:
        yield found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store, line: SlowLine) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("tus")
    env = {
        "INTERLINK_UPLOAD_FOLDER": str(folder / "uploads"),
        "INTERLINK_MAX_UPLOAD_BYTES": str(_MAX),
        "INTERLINK_PUBLIC_URL": line.url,
    }
    options: dict[str, Any] = {"services": ("gateway", "importer"), "entrance": True}
    with Hub(folder, bus, store, env=env, workspace=f"w-{token_hex(4)}", **options) as started:
        line.port = started.ports["gateway"]
        yield started


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An export of 4 MB."""
    days = {"general/2024-01-01": [slack_message("1704067200.000100", "hello")]}
    path = tmp_path / f"export-{token_hex(4)}.zip"
    path.write_bytes(zipped(slack_export(days) | {"noise.bin": os.urandom(4_000_000)}).getvalue())
    return path


def javascript(hub: Hub, archive: Path, **options: Any) -> dict[str, Any]:
    """Upload with tus-js-client; what it says happened."""
    if shutil.which("node") is None:
        pytest.skip("node is not on the PATH")
    try:
        folder = installed(_FOLDER)
    except Unavailable as why:
        pytest.skip(str(why))
    given = {
        "endpoint": f"{hub.env['INTERLINK_PUBLIC_URL']}/api/uploads",
        "key": hub.admin_key,
        "file": str(archive),
        "store": str(archive.with_suffix(".urls")),
        "chunk": _CHUNK,
        **options,
    }
    done = subprocess.run(
        ["node", "upload.mjs", json.dumps(given)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def upload_id(url: str) -> str:
    return url.rpartition("/")[2]


def is_an_export(hub: Hub, upload: str) -> bool:
    """Whether what the hub has is the export, byte for byte: a ZIP archive has checksums."""
    created = hub.call("POST", "/api/imports", {"upload_id": upload}, expect=201)
    return bool(reached(hub, created["id"], "ready", "failed")["status"] == "ready")


def cut_meanwhile(line: SlowLine) -> threading.Thread:
    """Cut a line, in a thread, when it has brought half of an upload."""

    before = line.forwarded

    def cut() -> None:
        eventually(lambda: line.forwarded > before + 2_500_000)
        line.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    return thread


class TestJavaScript:
    def test_an_upload_that_was_stopped_resumes(self, hub: Hub, archive: Path) -> None:
        stopped = javascript(hub, archive, stop_after=2 * _CHUNK)
        assert stopped["stopped"]
        found = upload_id(stopped["url"])
        state = hub.call("GET", f"/api/uploads/{found}")
        assert state["received"] >= 2 * _CHUNK
        assert not state["complete"]
        resumed = javascript(hub, archive)
        assert resumed["url"] == stopped["url"]
        assert resumed["resumed"]
        assert resumed["statuses"][0] == 200  # HEAD, and then only what was missing
        assert len(resumed["statuses"]) <= 1 + 3
        assert hub.call("GET", f"/api/uploads/{found}")["complete"]
        assert is_an_export(hub, found)

    def test_a_broken_line_is_resumed(self, hub: Hub, line: SlowLine, archive: Path) -> None:
        cutting = cut_meanwhile(line)
        done = javascript(hub, archive)
        cutting.join()
        assert "error" not in done
        assert is_an_export(hub, upload_id(done["url"]))

    def test_an_upload_is_terminated(self, hub: Hub, archive: Path) -> None:
        ended = javascript(hub, archive, stop_after=_CHUNK, terminate=True)
        hub.call("GET", f"/api/uploads/{upload_id(ended['url'])}", expect=404)

    def test_a_refusal_reaches_the_client(self, hub: Hub, tmp_path: Path) -> None:
        large = tmp_path / "large.zip"
        large.write_bytes(bytes(_MAX + 1))
        assert javascript(hub, large)["status"] == 413
        assert javascript(hub, large, key="ilk_unknown")["status"] == 401


class TestAiotus:
    async def test_a_file_is_uploaded_and_described(self, hub: Hub, archive: Path) -> None:
        import aiotus  # noqa: PLC0415 -- without it, only these tests fail

        headers = {"Authorization": f"Bearer {hub.admin_key}"}
        endpoint = f"{hub.env['INTERLINK_PUBLIC_URL']}/api/uploads"
        with archive.open("rb") as file:
            metadata = {"filename": archive.name.encode()}
            location = await aiotus.upload(endpoint, file, metadata, headers=headers, chunksize=_CHUNK)
        assert location is not None
        found = upload_id(str(location))
        state = hub.call("GET", f"/api/uploads/{found}")
        assert (state["name"], state["complete"]) == (archive.name, True)
        stored = await aiotus.metadata(location, headers=headers)
        assert stored == {"filename": archive.name.encode()}
        assert is_an_export(hub, found)

    async def test_a_broken_line_is_resumed(self, hub: Hub, line: SlowLine, archive: Path) -> None:
        import aiotus  # noqa: PLC0415

        headers = {"Authorization": f"Bearer {hub.admin_key}"}
        quick = aiotus.RetryConfiguration(max_retry_period_seconds=0.2)
        cutting = cut_meanwhile(line)
        with archive.open("rb") as file:
            location = await aiotus.upload(
                f"{line.url}/api/uploads", file, {}, headers=headers, chunksize=_CHUNK, config=quick
            )
        cutting.join()
        assert location is not None
        assert is_an_export(hub, upload_id(str(location)))

    async def test_the_limits_are_announced(self, hub: Hub) -> None:
        import yarl  # noqa: PLC0415
        from aiotus import core  # noqa: PLC0415

        async with aiohttp.ClientSession() as session:
            found = await core.configuration(
                session, yarl.URL(f"{hub.env['INTERLINK_PUBLIC_URL']}/api/uploads")
            )
        assert found.max_size == _MAX
        assert found.protocol_versions == ["1.0.0"]
        assert {"creation", "checksum", "expiration", "termination"} <= set(found.protocol_extensions)
