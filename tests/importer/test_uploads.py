"""Uploads by tus 1.0, header by header: https://tus.io/protocols/resumable-upload."""

import base64
import errno
import hashlib
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr
from pymongo import MongoClient

from services.importer.uploads.folder import UploadFolder
from services.importer.uploads.records import Uploads
from shared.runtime.mongo import Mongo
from shared.runtime.settings import MongoSettings
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub

_GIB = 1024**3
CHUNK = "application/offset+octet-stream"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def hub(folder: Path, bus: Bus, store: Store) -> Iterator[Hub]:
    env = {"INTERLINK_UPLOAD_FOLDER": str(folder / "files")}
    with Hub(folder, bus, store, services=("importer",), env=env, workspace=f"w-{token_hex(4)}") as started:
        yield started


@pytest.fixture
def client(hub: Hub) -> Iterator[httpx.Client]:
    with hub.client("importer") as found:
        found.headers["Tus-Resumable"] = "1.0.0"
        yield found


def created(client: httpx.Client, size: int) -> str:
    """Announce an upload; its address."""
    answer = client.post("/api/uploads", headers={"Upload-Length": str(size)})
    assert answer.status_code == 201, answer.text
    return path_of(answer)


def path_of(answer: httpx.Response) -> str:
    """The path of a new upload, whose address is below the hub's public URL."""
    return urlsplit(answer.headers["location"]).path


def append(client: httpx.Client, address: str, offset: int, part: bytes, **more: str) -> httpx.Response:
    headers = {"Upload-Offset": str(offset), "Content-Type": CHUNK, **more}
    return client.patch(address, content=part, headers=headers)


def offset(client: httpx.Client, address: str) -> int:
    answer = client.head(address)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def checksum(algorithm: str, part: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.new(algorithm, part).digest()).decode()
    return {"Upload-Checksum": f"{algorithm} {digest}"}


def test_options_announce_version_extensions_and_20_gb(hub: Hub) -> None:
    answer = httpx.options(f"{hub.url('importer')}/api/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-max-size"] == str(20 * _GIB)
    assert answer.headers["tus-extension"] == "creation,checksum,expiration,termination"
    assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256,md5"


def test_an_upload_over_the_limit_is_refused(client: httpx.Client) -> None:
    refused = client.post("/api/uploads", headers={"Upload-Length": str(20 * _GIB + 1)})
    assert refused.status_code == 413
    assert "INTERLINK_MAX_UPLOAD_BYTES" in refused.json()["detail"]
    for length in ("0", "-1", "1e3", ""):
        assert client.post("/api/uploads", headers={"Upload-Length": length}).status_code == 400


def test_no_request_brings_more_than_was_announced(client: httpx.Client) -> None:
    address = created(client, 10)
    assert append(client, address, 0, b"x" * 11).status_code == 413
    assert offset(client, address) == 0
    unannounced = client.patch(
        address, content=iter([b"x" * 8, b"x" * 8]), headers={"Upload-Offset": "0", "Content-Type": CHUNK}
    )
    assert unannounced.status_code == 413
    stored = offset(client, address)
    assert append(client, address, stored, b"x" * (10 - stored)).status_code == 204
    assert append(client, address, 10, b"x").status_code == 413


def test_an_upload_expires_after_seven_days(hub: Hub, client: httpx.Client) -> None:
    answer = client.post("/api/uploads", headers={"Upload-Length": "4"})
    address = path_of(answer)
    expires = parsedate_to_datetime(answer.headers["upload-expires"])
    assert timedelta(days=7) - timedelta(minutes=2) < expires - datetime.now(UTC) <= timedelta(days=7)
    appended = append(client, address, 0, b"ab")
    for again in (client.head(address), appended):
        assert again.headers["upload-expires"] == answer.headers["upload-expires"]
    database: Any = MongoClient(hub.env["MONGODB_URI"]).get_default_database()
    past = datetime.now(UTC) - timedelta(seconds=1)
    database["uploads"].update_one({"_id": address.rpartition("/")[2]}, {"$set": {"expires_at": past}})
    assert client.head(address).status_code == 404
    assert append(client, address, 2, b"cd").status_code == 404


async def test_files_of_uploads_that_have_ended_are_deleted(hub: Hub, folder: Path) -> None:
    files = UploadFolder(folder / "files")
    with hub.client("importer") as client:
        lives = created(client, 4).rpartition("/")[2]
        for name in (lives, "upl_unknown", "upl_unknown_but_new"):
            files.path_of(name).write_bytes(b"ab")
    for name in (lives, "upl_unknown"):
        os.utime(files.path_of(name), (0, 0))
    mongo = Mongo(MongoSettings(uri=SecretStr(hub.env["MONGODB_URI"])), app="test")
    try:
        await Uploads(mongo, files, max_bytes=100, bytes_per_workspace=100, days=7).sweep()
    finally:
        mongo.close()
    assert files.path_of(lives).exists()
    assert not files.path_of("upl_unknown").exists()
    assert files.path_of("upl_unknown_but_new").exists()


def test_a_wrong_offset_changes_nothing(client: httpx.Client) -> None:
    address = created(client, 6)
    assert append(client, address, 0, b"abc").headers["upload-offset"] == "3"
    for wrong in (0, 2, 4, 6):
        refused = append(client, address, wrong, b"x")
        assert refused.status_code == 409
        assert "3 bytes have arrived" in refused.json()["detail"]
    assert append(client, address, 3, b"def").status_code == 204


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
def test_bytes_without_their_checksum_do_not_count(client: httpx.Client, algorithm: str) -> None:
    address = created(client, 6)
    wrong = append(client, address, 0, b"abc", **checksum(algorithm, b"abd"))
    assert wrong.status_code == 460
    assert wrong.headers["tus-resumable"] == "1.0.0"
    assert offset(client, address) == 0
    assert append(client, address, 0, b"abc", **checksum(algorithm, b"abc")).status_code == 204
    for header in ("crc32 AAAA", "sha1 !", "sha1"):
        refused = append(client, address, 3, b"def", **{"Upload-Checksum": header})
        assert refused.status_code in (400, 460)
    assert offset(client, address) == 3


def test_another_version_and_another_type_are_refused(client: httpx.Client) -> None:
    address = created(client, 6)
    for method, path in (("POST", "/api/uploads"), ("PATCH", address), ("HEAD", address)):
        refused = client.request(method, path, headers={"Tus-Resumable": "0.2.2"})
        assert refused.status_code == 412
        assert refused.headers["tus-version"] == "1.0.0"
    as_form = client.patch(
        address, content=b"x", headers={"Upload-Offset": "0", "Content-Type": "text/plain"}
    )
    assert as_form.status_code == 415


def test_a_deleted_upload_is_gone_with_its_file(client: httpx.Client, folder: Path) -> None:
    address = created(client, 6)
    append(client, address, 0, b"abc")
    file = folder / "files" / address.rpartition("/")[2]
    assert file.read_bytes() == b"abc"
    assert client.delete(address).status_code == 204
    assert not file.exists()
    assert client.delete(address).status_code == 404
    assert append(client, address, 3, b"def").status_code == 404


def test_another_workspace_finds_no_upload(hub: Hub, client: httpx.Client, folder: Path) -> None:
    address = created(client, 6)
    append(client, address, 0, b"abc")
    with hub.client("importer", hub.other_workspace()) as stranger:
        assert stranger.head(address).status_code == 404
        assert stranger.get(address).status_code == 404
        assert append(stranger, address, 3, b"xyz").status_code == 404
        assert stranger.delete(address).status_code == 404
        assert stranger.get("/api/uploads").json()["items"] == []
    with httpx.Client(base_url=hub.url("importer")) as nobody:
        assert append(nobody, address, 3, b"xyz").status_code == 401
    assert (folder / "files" / address.rpartition("/")[2]).read_bytes() == b"abc"


def test_of_two_clients_one_writes(hub: Hub, client: httpx.Client, folder: Path) -> None:
    """While one sends slowly, the other one is refused; its bytes are nowhere."""
    address = created(client, 2_000_000)
    head = (
        f"PATCH {address} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {hub.admin_key}\r\n"
        f"Upload-Offset: 0\r\nContent-Type: {CHUNK}\r\nContent-Length: 2000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", hub.ports["importer"]), timeout=20) as first:
        first.sendall(head.encode() + b"a" * 1_500_000)
        eventually(lambda: offset(client, address) > 0)
        second = append(client, address, offset(client, address), b"b" * 10)
        assert second.status_code == 409
        assert "another request writes" in second.json()["detail"]
        first.sendall(b"a" * 500_000)
        assert b"204" in first.recv(4096)
    assert (folder / "files" / address.rpartition("/")[2]).read_bytes() == b"a" * 2_000_000


def test_received_bytes_of_a_broken_line_count_without_a_checksum(hub: Hub, client: httpx.Client) -> None:
    for with_checksum in (False, True):
        address = created(client, 4_000_000)
        more = f"Upload-Checksum: {checksum('sha1', b'a')['Upload-Checksum']}\r\n" if with_checksum else ""
        head = (
            f"PATCH {address} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {hub.admin_key}\r\n{more}"
            f"Upload-Offset: 0\r\nContent-Type: {CHUNK}\r\nContent-Length: 4000000\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", hub.ports["importer"]), timeout=20) as line:
            line.sendall(head.encode() + b"a" * 3_000_000)
            eventually(lambda: offset(client, address) > 0)  # noqa: B023 -- asked at once
        expected = 0 if with_checksum else 3_000_000
        assert eventually(lambda: offset(client, address) == expected)  # noqa: B023 -- asked at once


def test_a_disk_without_hard_links_has_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Volumes that several machines mount often have none: those of SMB."""

    def link(_source: Path, _name: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", link)
    first = UploadFolder(tmp_path)
    assert first.id.startswith("fld_")
    assert UploadFolder(tmp_path).id == first.id
    assert [file.name for file in tmp_path.iterdir()] == ["folder-id"]


def test_bytes_stop_at_the_reserve_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads that are announced one after another may have more bytes together than the disk."""
    files = UploadFolder(tmp_path)
    monkeypatch.setattr(files, "free_bytes", lambda: _GIB + 4)
    with files.appending("upl_1") as file:
        files.append(file, b"abcd")
        with pytest.raises(OSError, match="reserve"):
            files.append(file, b"abcde")
    assert files.size_of("upl_1") == 4


def test_a_workspace_has_a_bounded_number_of_bytes(client: httpx.Client) -> None:
    """Announced bytes count, so that nobody reserves more than his share."""
    addresses = []
    for _ in range(4):
        answer = client.post("/api/uploads", headers={"Upload-Length": str(19 * _GIB)})
        if answer.status_code != 201:
            break
        addresses.append(path_of(answer))
    assert answer.status_code == 409
    assert "DELETE /api/uploads/{id}" in answer.json()["detail"] or "no room" in answer.json()["detail"]
    for address in addresses:
        assert client.delete(address).status_code == 204
