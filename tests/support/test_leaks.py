"""The search for secrets finds what is there: a secret of the test's own, in each place and in each form.

It is planted in a run of its own, in a folder of the test: the run that this is a part of never hears of it.
"""

import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from secrets import token_hex, token_urlsafe
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from aiohttp import web
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pymongo import MongoClient

from tests.support import capture, run
from tests.support.backends import Bus, Store
from tests.support.leaks import Search, forms, search
from tests.support.recorded_secrets import MIN_LENGTH, record_secret
from tests.support.subscriber import Subscriber, WebhookRequest
from tests.support.tap import RawRecord, put

ROOT = Path(__file__).parents[2]
KIND = "a canary"


@pytest.fixture
def canary() -> str:
    """A secret that looks different in every form, and is in none of the places yet."""
    return f'{token_urlsafe(8)}/+ "<&é\\{token_hex(8)}'


@pytest.fixture
def inner(tmp_path: Path, canary: str) -> Iterator[Path]:
    """The base folder of a run in which the canary was noted."""
    with run.other_run(tmp_path):
        record_secret(KIND, canary)
        yield tmp_path


def found(base: Path) -> set[tuple[str, str, str]]:
    """What the search finds in a run: what, where, and where there."""
    return {(each.what, each.where, each.at) for each in search(base).findings}


# Forms


def test_every_form_is_found_wherever_it_stands(canary: str) -> None:
    looks = Search({canary: KIND})
    encodings = forms(canary)
    assert len(encodings) >= 10
    assert len(set(encodings.values())) == len(encodings)
    for form, raw in encodings.items():
        for before in range(20):
            for after in (b"", b"\n", b"and so on"):
                text = b"x" * before + raw + after
                assert (f"{KIND}, {form}", before) in looks.found(text), (form, before, after)
            assert not [what for what, _ in looks.found(b"x" * before + raw[:-1]) if what.endswith(form)]


def test_what_stands_in_the_base64_of_more_is_found(canary: str) -> None:
    """As a password in `Authorization: Basic`, behind a name of any length."""
    for length in range(1, 10):
        header = httpx.BasicAuth("n" * length, canary)._auth_header.encode()
        assert [what for what, _ in Search({canary: KIND}).found(header) if "base64" in what]


@pytest.mark.parametrize(
    ("secret", "form"),
    [
        ("whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "decoded from base64"),
        ("a secret with / and a blank", "URL-encoded as a form"),
        ("a secret with / and a blank", "URL-encoded in part"),
        ("a\tsecret\twith tabs and so on", "JSON-escaped"),
        ("a secret's quote and so on", "HTML-escaped"),
        ("a secret's quote and so on", "HTML-escaped by a template"),
    ],
)
def test_forms_that_some_secrets_have(secret: str, form: str) -> None:
    assert f"{KIND}, {form}" in [what for what, _ in Search({secret: KIND}).found(forms(secret)[form])]


def test_many_secrets_are_distinguished() -> None:
    """Also those that begin or end alike."""
    secrets = {f"{front}-{number:06}-{end}": f"{front}{number}{end}" for front in "ab" for end in "xy" * 8
               for number in range(100)}  # fmt: skip
    secrets = {f"begins-alike-{name}-ends-alike": kind for name, kind in secrets.items()}
    looks = Search(secrets)
    for secret, kind in secrets.items():
        assert {what for what, _ in looks.found(f"-{secret}-".encode())} == {f"{kind}, as it is"}


def test_unrecorded_keys_are_found_by_their_format() -> None:
    looks = Search({})
    for key in ("ilk_" + token_urlsafe(32), "ils_" + token_urlsafe(200)):
        assert len(list(looks.found(f"authorization: Bearer {key}\n".encode()))) == 1
    for text in ("the key ilk_abcdef", "user.details_changed", '"prefix":"ilk_Ab12Cd"'):
        assert not list(looks.found(text.encode()))


def test_what_is_like_other_text_is_not_recorded(tmp_path: Path) -> None:
    with run.other_run(tmp_path):
        record_secret(KIND, "", "s1", "0123456789abcdef"[: MIN_LENGTH - 1], "x" * 1000, "\ud800" * 20)
    assert search(tmp_path).secrets == 0


# Places


def test_nothing_is_found_where_nothing_is(inner: Path) -> None:
    (inner / "service.log").write_text("nothing happened\n" * 1000)
    searched = search(inner)
    assert (searched.secrets, searched.counts["logs"], searched.findings) == (1, 1, [])
    assert str(searched).endswith(": none found")


@pytest.mark.parametrize("name", ["service.log", "hub0/logs/service.log", "up.out"])
def test_it_is_found_in_a_log(inner: Path, canary: str, name: str) -> None:
    for number, (form, raw) in enumerate(forms(canary).items()):
        file = inner / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"first\nsecond\n" + b"x" * number + raw + b"\n")
        assert (f"{KIND}, {form}", f"the log {name}", "line 3") in found(inner)
        assert canary not in "\n".join(search(inner).shown())


@pytest.fixture
async def topic(bus: Bus) -> str:
    name = f"t{token_hex(4)}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bus.env["KAFKA_BOOTSTRAP_SERVERS"])
    await admin.start()
    await admin.create_topics([NewTopic(name, 3, 1)])
    await admin.close()
    return name


def test_it_is_found_on_a_topic(inner: Path, canary: str, bus: Bus, topic: str) -> None:
    """In each partition, as key, value and header, and again in what came later."""
    bootstrap = bus.env["KAFKA_BOOTSTRAP_SERVERS"]
    secret = canary.encode()
    records = [
        RawRecord(secret, b"{}", ()),
        RawRecord(b"k", secret, ()),
        RawRecord(b"k", None, [("h", None), ("i", secret)]),
    ]
    for partition, record in enumerate(records):
        put(bus, topic, [RawRecord(b"k", b"v", ()), record], partition)
    capture.topics(bootstrap)
    what, where = f"{KIND}, as it is", f"the topic {topic}"
    assert found(inner) == {(what, where, f"partition {number}, offset 1") for number in range(3)}
    assert search(inner).counts["messages"] == 6
    for form, raw in forms(canary).items():
        place = put(bus, topic, [RawRecord(b"k", b"x" + raw, ())], 0)[0]
        capture.topics(bootstrap)
        assert (f"{KIND}, {form}", where, f"partition 0, offset {place[1]}") in found(inner)
    count = 6 + len(forms(canary))
    assert search(inner).counts["messages"] == count, "each is read once"
    put(bus, topic, [RawRecord(b"k", b"v", ())] * 500, 2)
    for _ in range(2):
        capture.topics(bootstrap)
        assert search(inner).counts["messages"] == count + 500


def test_what_cannot_be_read_is_a_finding(inner: Path, store: Store) -> None:
    capture.topics("127.0.0.1:1")
    capture.documents(empty := store.uri())
    first, second = search(inner).shown()
    assert first.startswith(f"not searched: the store at {empty}, ")
    assert second.startswith("not searched: the topics of 127.0.0.1:1, ")


def test_it_is_found_in_the_store(inner: Path, canary: str, store: Store) -> None:
    uri = store.uri()
    documents: list[dict[str, Any]] = [
        {"_id": 1, "a": {"b": [{"c": canary}]}},
        {"_id": canary},
        {"_id": 3, canary: 1},
        {"_id": 4, "nothing": "here"},
        *({"_id": form, "raw": raw} for form, raw in forms(canary).items()),
    ]
    with MongoClient[dict[str, Any]](uri) as mongo:
        mongo.get_default_database().things.insert_many(documents)
    capture.documents(uri)
    searched = search(inner)
    assert searched.counts["documents"] == len(documents)
    name = urlsplit(uri).path[1:]
    where = f"the collection things in {name}"
    assert {(f"{KIND}, {form}", where) for form in forms(canary)} == {each[:2] for each in found(inner)}
    assert len(searched.findings) >= 3 + len(forms(canary))


@pytest.fixture
def server() -> Iterator[Subscriber]:
    """It stands for the hub: nobody has said that it is another's."""
    with Subscriber() as running:
        capture.include_ports(urlsplit(running.url).port or 0)
        yield running


def says(server: Subscriber, status: int = 200, body: bytes = b"", headers: Mapping[str, str] = {}) -> str:
    """Let it answer so; where."""

    def answer(_got: WebhookRequest) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    server.answer = answer
    return server.url.removesuffix("/hook")


def test_it_is_found_in_an_answer(inner: Path, canary: str, server: Subscriber) -> None:
    for form, raw in forms(canary).items():
        url = says(server, 200, b"so " + raw)
        httpx.get(f"{url}/api/{len(form)}/x?y=z")
        assert (f"{KIND}, {form}", f"an answer to GET /api/{len(form)}/x", "status 200") in found(inner)


def test_it_is_found_in_an_address_to_go_to(inner: Path, canary: str, server: Subscriber) -> None:
    """Whichever client is sent there."""
    form = "URL-encoded"
    code = forms(canary)[form].decode()
    url = says(server, 302, headers={"location": f"https://127.0.0.1:1/back?code={code}"})
    httpx.get(f"{url}/a")
    asyncio.run(get(f"{url}/b"))
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    connection.request("GET", "/c?e=f")
    connection.getresponse().read()
    connection.close()
    assert found(inner) == {(f"{KIND}, {form}", f"an answer to GET /{path}", "status 302") for path in "abc"}


async def get(url: str) -> None:
    async with httpx.AsyncClient() as client:
        await client.get(url)


def test_who_is_not_the_hub_may_say_it(inner: Path, canary: str, server: Subscriber) -> None:
    url = says(server, 200, canary.encode())
    capture.exclude_ports(urlsplit(url).port or 0)
    httpx.get(f"{url}/api/x")
    searched = search(inner)
    assert (searched.findings, searched.counts["answers"]) == ([], 0)


def test_an_answer_that_may_show_a_secret_tells_of_it(inner: Path, server: Subscriber) -> None:
    """Where it is shown once it is no finding; wherever else it is, it is one."""
    key = token_urlsafe(32)
    url = says(server, 201, json.dumps({"id": "key_1", "key": key}).encode())
    httpx.post(f"{url}/api/api-keys", json={"name": "x"})
    assert search(inner).findings == []
    httpx.get(f"{url}/api/api-keys")
    (inner / "service.log").write_text(f'{{"said": "{key}"}}')
    assert {each[:2] for each in found(inner)} == {
        ("an API key, as it is", where) for where in ("an answer to GET /api/api-keys", "the log service.log")
    }


def test_a_secret_in_a_request_is_recorded(inner: Path, server: Subscriber) -> None:
    detail = {name: token_hex(16) for name in ("client", "signing", "entered", "key", "header", "code")}
    url = says(server, 422, json.dumps(list(detail.values())).encode())
    auth = {"authorization": f"Bearer {detail['key']}"}
    app = {
        "client_secret": detail["client"],
        "signing_secret": detail["signing"],
        "settings": {"tenant": "x" * 20},
    }
    httpx.put(f"{url}/api/platform-credentials/slack", json=app, headers=auth)
    httpx.post(f"{url}/api/integrations", json={"fields": {"password": detail["entered"], "host": "h" * 20}})
    httpx.patch(f"{url}/api/outgoing-webhooks/x", json={"headers": {"x-key": detail["header"]}})
    httpx.get(f"{url}/api/auth/oauth/callback?code={detail['code']}&state=s")
    searched = search(inner)
    assert searched.secrets == 1 + len(detail)
    assert len(searched.findings) == 4 * len(detail)


# The end of a run


def test_a_run_in_which_a_secret_was_seen_fails(tmp_path: Path, canary: str) -> None:
    """It is found by the main process, with what a worker has recorded, though every test has passed."""
    (tmp_path / "test_it.py").write_text(
        f"""
from tests.support.recorded_secrets import record_secret

def test_it(tmp_path):
    record_secret({KIND!r}, {canary!r})
    (tmp_path / "service.log").write_text({canary!r})
"""
    )
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    command += ["--basetemp", str(tmp_path / "base"), str(tmp_path / "test_it.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    message = done.stdout + done.stderr
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, message
    assert "1 passed" in message
    assert "secrets: 1 looked for in 1 logs" in message
    assert f"{KIND}, as it is: the log popen-gw0/test_it0/service.log, line 1" in message
    assert canary not in message
