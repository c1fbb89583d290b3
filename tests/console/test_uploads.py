"""A file is uploaded by the page's script, resumed, imported, tried and cancelled."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from services.console.web.imports import PART_BYTES
from tests.console.person import Answer, Person
from tests.importer.archives import slack_export, slack_message, zipped
from tests.support.browser import CHROMIUM, Tab, browser
from tests.support.eventually import eventually
from tests.support.hub import Hub


def export() -> bytes:
    """A small export of Slack."""
    message = slack_message("1704067200.000100", f"imported {token_hex(4)}")
    return zipped(slack_export({"general/2024-01-01": [message]})).getvalue()


@pytest.fixture
async def tab(hub: Hub) -> AsyncIterator[Tab]:
    async with browser(width=1280, height=900) as started, started.user() as tab:
        await tab.goto(f"{hub.url('gateway')}/console/sign-in?next=/console/imports/new")
        await tab.fill("#key", hub.admin_key)
        await tab.press("button.btn-primary")
        await tab.at("^[^?]*/console/imports/new$")
        yield tab


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
async def test_a_file_is_uploaded_and_imported_in_a_browser(hub: Hub, tab: Tab, tmp_path: Path) -> None:
    file = tmp_path / "export of «slack».zip"
    file.write_bytes(export())
    await tab.choose("#file", file)
    await tab.press("form.upload button")
    await tab.at("/console/imports/imp_")
    await tab.until("document.body.innerText.includes('Its contents are read')", 30)
    about = hub.call("GET", "/api/imports")["items"][0]["contents"]["description"]
    assert about in await tab.text()
    assert await tab.evaluate("document.querySelector('h1').innerText") == file.name
    assert tab.complaints == []


def test_an_upload_of_many_parts_is_resumed(hub: Hub, admin: Person) -> None:
    content = export() + bytes(3 * PART_BYTES)  # whatever it is, it is stored as it was sent
    page = admin.open("/console/imports/new")
    headers = {
        "x-form-token": page.form("/imports/new").fields["token"],
        "origin": admin.base,
        "tus-resumable": "1.0.0",
    }
    announced = admin.client.post(
        "/console/uploads",
        headers={**headers, "upload-length": str(len(content)), "upload-metadata": "filename eC56aXA="},
    )
    assert announced.status_code == 201
    address = announced.headers["location"]
    offset = 0
    while offset < len(content):
        part = content[offset : offset + PART_BYTES]
        sent = {"upload-offset": str(offset), "content-type": "application/offset+octet-stream"}
        answer = admin.client.patch(address, content=part, headers=headers | sent)
        assert answer.status_code == 204, answer.text
        again = admin.client.patch(address, content=part, headers=headers | sent)
        assert again.status_code == 409, "what is there is not taken twice"
        offset = int(admin.client.head(address, headers=headers).headers["upload-offset"])
        assert offset == int(answer.headers["upload-offset"])
    stored = hub.call("GET", f"/api/uploads/{address.rpartition('/')[2]}")
    assert (stored["complete"], stored["name"]) == (True, "x.zip")
    too_large = admin.client.patch(address, content=bytes(PART_BYTES + 1), headers=headers)
    assert too_large.status_code == 413


def test_a_file_is_uploaded_and_imported_without_script(hub: Hub, admin: Person, person: Person) -> None:
    page = admin.open("/console/imports/new")
    form = page.form("/imports/upload")
    assert ("form", "multipart/form-data") in [
        (tag, found.get("enctype")) for tag, found in page.elements if tag == "form"
    ]
    headers = {"origin": admin.base}

    def send(content: bytes, *, name: str = "export of «slack».zip", **fields: str) -> Answer:
        files = {"file": (name, content, "application/zip")}
        data = form.fields | fields
        return Answer(admin.client.post(form.action, data=data, files=files, headers=headers))

    content = export() + bytes(3 * PART_BYTES + 7)  # several parts; what follows an archive is ignored or not
    sent = send(content)
    assert sent.path.startswith("/console/imports/imp_"), sent.text
    [upload] = [item for item in hub.call("GET", "/api/uploads")["items"] if item["size"] == len(content)]
    assert (upload["complete"], upload["name"]) == (True, "export of «slack».zip")
    [stored] = Path(".interlink/uploads").rglob(f"{upload['id']}*")  # the default folder
    assert stored.read_bytes() == content
    sent = send(export())
    assert eventually(lambda: "Its contents are read" in admin.open(sent.path).text)

    before = [item["id"] for item in hub.call("GET", "/api/uploads")["items"]]
    for content, name, words in (
        (b"", "x.zip", "choose one that is not empty"),
        (b"x", "", "choose"),
        (b"a\r\n--BOUNDARY\r\nb", "x.zip", "the last field of the form"),
    ):
        files = {"file": (name, content, "application/zip")}
        sent_headers = headers | {"content-type": "multipart/form-data; boundary=BOUNDARY"}
        answer = admin.client.post(form.action, data=form.fields, files=files, headers=sent_headers)
        assert answer.status_code in (400, 422), words
        assert words in Answer(answer).text
    assert [item["id"] for item in hub.call("GET", "/api/uploads")["items"]] == before, "nothing stays"

    # Refused before the file is read.
    stranger = Person(admin.base)
    reader = hub.call("POST", "/api/api-keys", {"name": "reader", "scopes": ["imports:read"]})
    person.sign_in(reader["key"])
    token = person.open("/console").form("/sign-out").fields["token"]
    for client, fields, origin, status in (
        (admin.client, form.fields, "https://attacker.example", 403),
        (admin.client, {"token": "0" * 64}, admin.base, 403),
        (admin.client, {}, admin.base, 403),
        (stranger.client, form.fields, admin.base, 401),
        (person.client, {"token": token}, admin.base, 403),
    ):
        files = {"file": ("x.zip", bytes(2 * PART_BYTES), "application/zip")}
        answer = client.post(form.action, data=fields, files=files, headers={"origin": origin})
        assert answer.status_code == status
    plain = admin.client.post(form.action, data=form.fields, headers=headers)
    assert (plain.status_code, "from this page" in plain.text) == (400, True)
    assert [item["id"] for item in hub.call("GET", "/api/uploads")["items"]] == before
    stranger.close()


def test_an_upload_of_a_form_outlives_the_importer_and_one_that_breaks_leaves_nothing(
    hub: Hub, admin: Person
) -> None:
    form = admin.open("/console/imports/new").form("/imports/upload")
    before = hub.call("GET", "/api/uploads")["items"]
    head = (
        f'--B\r\nContent-Disposition: form-data; name="token"\r\n\r\n{form.fields["token"]}\r\n'
        '--B\r\nContent-Disposition: form-data; name="file"; filename="x.zip"\r\n\r\n'
    ).encode()
    content, end = bytes(60 * PART_BYTES), b"\r\n--B--\r\n"
    console = psutil.Process(hub.pid("console"))
    cookies = "; ".join(f"{name}={value}" for name, value in admin.client.cookies.items())
    host = urlsplit(admin.base).netloc
    start = (
        f"POST {form.action} HTTP/1.1\r\nHost: {host}\r\nOrigin: {admin.base}\r\nCookie: {cookies}\r\n"
        "Content-Type: multipart/form-data; boundary=B\r\n"
        f"Content-Length: {len(head + content + end)}\r\n\r\n"
    ).encode()

    def received() -> int:
        new = [item for item in hub.call("GET", "/api/uploads")["items"] if item not in before]
        return new[0]["received"] if new else 0

    def started() -> socket.socket:
        connection = socket.create_connection((host.partition(":")[0], int(host.partition(":")[2])))
        connection.sendall(start + head + content[: 2 * PART_BYTES])
        eventually(lambda: received() >= PART_BYTES)
        return connection

    with started() as connection:
        connection.shutdown(socket.SHUT_RDWR)
    eventually(lambda: hub.call("GET", "/api/uploads")["items"] == before)
    before_bytes = console.memory_info().rss
    with started() as connection:
        hub.kill("importer")
        hub.start_service("importer")
        connection.sendall(content[2 * PART_BYTES :] + end)
        connection.settimeout(60)
        assert connection.recv(1000).startswith(b"HTTP/1.1 303")
    assert received() == len(content)
    assert console.memory_info().rss - before_bytes < 20 * PART_BYTES, "the file is not held in memory"


def test_uploads_of_other_sites_are_refused(hub: Hub, admin: Person) -> None:
    token = admin.open("/console/imports/new").form("/imports/new").fields["token"]
    length = {"upload-length": "5", "tus-resumable": "1.0.0"}
    for headers in (
        {"origin": admin.base},
        {"origin": "https://attacker.example", "x-form-token": token},
        {"x-form-token": token},
        {"origin": admin.base, "x-form-token": "0" * 64},
    ):
        assert admin.client.post("/console/uploads", headers={**length, **headers}).status_code == 403
    anybody = httpx.post(f"{admin.base}/console/uploads", headers=length | {"origin": admin.base})
    assert anybody.status_code == 401


def test_an_import_is_tried_reported_and_cancelled(hub: Hub, admin: Person) -> None:
    content = export()
    tus = {"tus-resumable": "1.0.0"}
    with hub.client("importer") as client:
        made = client.post("/api/uploads", headers={**tus, "upload-length": str(len(content))})
        upload = made.headers["location"].rpartition("/")[2]
        sent = {**tus, "upload-offset": "0", "content-type": "application/offset+octet-stream"}
        client.patch(f"/api/uploads/{upload}", headers=sent, content=content).raise_for_status()
    page = admin.open("/console/imports/new")
    form = next(item for item in page.forms if item.fields.get("upload_id") == upload)
    form.action = "/console/imports/new#own"
    started = admin.send(page, "#own")
    assert started.path.startswith("/console/imports/imp_")
    here = started.path

    def has(text: str) -> bool:
        return text in admin.open(here).text

    eventually(lambda: has("Its contents are read"))
    admin.send(admin.open(here), "/do/dry-run")
    eventually(lambda: hub.call("GET", "/api/imports")["items"][0]["dry_run"])
    eventually(lambda: has("Its contents are read"))
    for part in ("issues", "channels", "people", "files"):
        assert admin.open(f"{here}/{part}").status == 200
    assert "general" in admin.open(f"{here}/channels").text
    report = admin.client.get(admin.open(here).link("/report.csv"))
    assert report.headers["content-disposition"].startswith("attachment")
    assert b"general" in report.content
    shown = admin.client.get(admin.open(here).link("/report.html"))
    assert (shown.status_code, shown.headers["content-type"]) == (200, "application/octet-stream")
    cancelled = admin.send(admin.open(f"{here}/do/cancel"), "/do/cancel")
    assert "It was cancelled." in cancelled.text
    assert hub.call("GET", "/api/imports")["items"][0]["status"] == "cancelled"
