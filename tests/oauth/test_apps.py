"""OAuth apps from environment, files and the API: their secrets, scopes and checks."""

import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pymongo import MongoClient

from services.oauth.settings import OAuthSettings
from shared.connections.app_records import COLLECTION
from shared.connections.configured_apps import configured_apps
from shared.contracts.errors import Misconfigured
from shared.manifests.registry import registry
from shared.runtime.settings import load
from tests.cli.commands import complaint, interlink
from tests.support.auth_servers import Client, OidcProvider
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.npm import Unavailable
from tests.support.person import Person
from tests.support.ports import free_port
from tests.support.recorded_secrets import is_recorded, record_secret
from tests.support.second_process import second_process

CALLBACK = "/api/auth/oauth/callback"
APPS = "/api/platform-credentials"
OF_GITHUB = f"of-github-{token_hex(12)}"
OF_NOTION = f"of-notion-{token_hex(12)}"
GITHUB = {"INTERLINK_APP_GITHUB_CLIENT_ID": "Iv1.env", "INTERLINK_APP_GITHUB_CLIENT_SECRET": OF_GITHUB}


# Environment and files


def files(folder: Path, apps: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The environment that names a folder with these files in it."""
    for provider, fields in apps.items():
        (folder / provider).mkdir(parents=True)
        for name, text in fields.items():
            (folder / provider / name).write_text(text, "utf-8")
    return {"INTERLINK_APPS_DIR": str(folder)}


def test_every_field_can_come_from_the_environment() -> None:
    given = configured_apps(
        registry(),
        {
            "INTERLINK_APP_SLACK_CLIENT_ID": "123.456",
            "INTERLINK_APP_SLACK_CLIENT_SECRET": "s3cret with a blank",
            "INTERLINK_APP_SLACK_SIGNING_SECRET": "signs",
            "INTERLINK_APP_SLACK_SETTING_USER_SCOPE": "search:read",
            "INTERLINK_APP_ZOOM_CLIENT_ID": "",
            "INTERLINK_APPS": "not one of them",
            "PATH": "/bin",
        },
    )
    assert given.keys() == {"slack"}, "a variable that is empty is not set"
    slack = given["slack"]
    assert (slack.client_id, slack.source, slack.verified) == ("123.456", "environment", True)
    assert slack.secrets == {"client_secret": "s3cret with a blank", "signing_secret": "signs"}
    assert slack.settings == {"user_scope": "search:read"}
    assert "s3cret" not in repr(slack)


def test_every_field_can_come_from_files(tmp_path: Path) -> None:
    fields = {"client_id": "id\n", "client_secret": "  secret \r\n", "setting_tenant": "contoso.example"}
    environment = files(tmp_path / "apps", {"microsoft": fields, "zoom": {}})
    microsoft = configured_apps(registry(), environment)["microsoft"]
    assert (microsoft.client_id, microsoft.source, microsoft.verified) == ("id", "file", True)
    assert microsoft.secrets == {"client_secret": "secret"}
    assert microsoft.settings == {"tenant": "contoso.example"}
    assert configured_apps(registry(), environment).keys() == {"microsoft"}, "an empty folder says nothing"


def test_a_secret_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    """The files are links into a folder `..data`, itself a link to one with a date in its name."""
    place = tmp_path / "apps" / "github"
    real = place / "..2026_11_21"
    real.mkdir(parents=True)
    (place / "..data").symlink_to(real.name)
    for name, text in {"client_id": "Iv1.x", "client_secret": "secret"}.items():
        (real / name).write_text(text, "utf-8")
        (place / name).symlink_to(f"..data/{name}")
    assert (
        configured_apps(registry(), {"INTERLINK_APPS_DIR": str(tmp_path / "apps")})["github"].client_id
        == "Iv1.x"
    )


def test_defaults_of_the_manifest_are_filled_in() -> None:
    prefix = "INTERLINK_APP_MICROSOFT_"
    given = configured_apps(registry(), {f"{prefix}CLIENT_ID": "id", f"{prefix}CLIENT_SECRET": "secret"})
    assert given["microsoft"].settings == {"tenant": "common"}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"GITHUBB_CLIENT_ID": "x"}, "INTERLINK_APP_GITHUBB_CLIENT_ID: .* app of 'githubb'"),
        ({"GMAIL_CLIENT_ID": "x"}, "INTERLINK_APP_GMAIL_CLIENT_ID: .* app of google"),
        ({"GOOGLE_CALENDAR_CLIENT_ID": "x"}, "GOOGLE_CALENDAR_CLIENT_ID: .* app of google"),
        ({"TELEGRAM_CLIENT_ID": "x"}, "TELEGRAM_CLIENT_ID: .* connected without an app"),
        ({"GITHUB": "x"}, "INTERLINK_APP_GITHUB: ends in none of"),
        ({"GITHUB_SECRET": "x"}, "INTERLINK_APP_GITHUB_SECRET: ends in none of"),
        ({"GITHUB_SETTING_": "x"}, "INTERLINK_APP_GITHUB_SETTING_: ends in none of"),
        ({"GITHUB_CLIENT_SECRET": "x"}, "github .* has no client id"),
        ({"GITHUB_CLIENT_ID": "x"}, "github .* has no client secret"),
        ({"GITHUB_CLIENT_ID": "a b", "GITHUB_CLIENT_SECRET": "x"}, "GITHUB_CLIENT_ID: .*printable ASCII"),
        ({"GITHUB_CLIENT_ID": "a", "GITHUB_CLIENT_SECRET": "x\ny"}, "GITHUB_CLIENT_SECRET: .*one line"),
        (
            {"GITHUB_CLIENT_ID": "a", "GITHUB_CLIENT_SECRET": "s", "GITHUB_SETTING_X": "y"},
            r"setting\.x: unknown field",
        ),
        ({"OIDC_CLIENT_ID": "a", "OIDC_CLIENT_SECRET": "x"}, r"setting\.authorize_url: required"),
        (
            {"MICROSOFT_CLIENT_ID": "a", "MICROSOFT_CLIENT_SECRET": "x", "MICROSOFT_SETTING_TENANT": "a/b"},
            r"setting\.tenant: .*does not have the expected format",
        ),
    ],
)
def test_an_environment_that_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(Misconfigured, match=message) as refused:
        configured_apps(registry(), {f"INTERLINK_APP_{name}": value for name, value in environment.items()})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("provider", "fields", "message"),
    [
        ("githubb", {"client_id": "x"}, "githubb: .* app of 'githubb'"),
        ("gmail", {"client_id": "x"}, "app of google"),
        ("github", {"client_id": "x", "clientsecret": "x"}, "clientsecret: no such field"),
        ("github", {"client_id": "x", "README.md": "x"}, "README.md: no such field"),
        ("github", {"client_id": "x", "client_secret": ""}, "client_secret: is empty"),
        ("github", {"client_id": "x", "client_secret": " \n"}, "client_secret: is empty"),
        ("github", {"client_id": "x", "client_secret": "x" * 20_000}, "client_secret: has more than"),
        ("github", {"client_id": "x", "client_secret": "a\nb"}, "client_secret: .*one line"),
        ("github", {"client_secret": "x"}, "has no client id"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, provider: str, fields: dict[str, str], message: str) -> None:
    with pytest.raises(Misconfigured, match=message):
        configured_apps(registry(), files(tmp_path, {provider: fields}))


def test_folders_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "client_id").touch()
    (tmp_path / "b" / "github" / "client_id").mkdir(parents=True)
    (tmp_path / "c" / "github").mkdir(parents=True)
    (tmp_path / "c" / "github" / "client_id").write_bytes(b"\xff\xfe")
    for folder, message in (
        (tmp_path / "nowhere", "No such file"),
        (tmp_path / "a" / "client_id", "Not a directory"),
        (tmp_path / "a", "needs a folder for each provider"),
        (tmp_path / "b", "cannot be read"),
        (tmp_path / "c", "is not text"),
    ):
        with pytest.raises(Misconfigured, match=message):
            configured_apps(registry(), {"INTERLINK_APPS_DIR": str(folder)})


def test_an_app_is_in_one_place(tmp_path: Path) -> None:
    filed = files(tmp_path, {"github": {"client_id": "x", "client_secret": "x"}})
    with pytest.raises(Misconfigured, match="leave one of them out"):
        configured_apps(registry(), filed | GITHUB)


# A hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    """With an app of GitHub in its environment, and one of Notion in files."""
    folder = tmp_path_factory.mktemp("hub")
    filed = files(folder / "apps", {"notion": {"client_id": "of-a-file", "client_secret": OF_NOTION}})
    record_secret("a client secret", OF_NOTION)
    with Hub(folder, bus, store, services=("gateway", "oauth"), env=GITHUB | filed, entrance=True) as started:
        yield started


@pytest.fixture(scope="module")
def other(hub: Hub) -> str:
    """The admin key of another workspace, which is not the operator's."""
    key = hub.other_workspace()
    eventually(lambda: status(hub, "GET", APPS, key=key) == 200)
    return key


@pytest.fixture(scope="module")
def server(hub: Hub) -> Iterator[OidcProvider]:
    try:
        others = Client("theirs", "the-secret-of-the-others", [hub.url("gateway") + CALLBACK])
        with OidcProvider([client(hub), others]) as server:
            yield server
    except Unavailable as error:
        pytest.skip(str(error))


def client(hub: Hub) -> Client:
    return Client("hub", "the-secret-of-the-hub", [hub.url("gateway") + CALLBACK])


def oidc(hub: Hub, server: OidcProvider, **fields: Any) -> dict[str, Any]:
    """What registers the app at the server: right, but for `fields`."""
    settings = {
        "authorize_url": server.authorize_url,
        "token_url": server.token_url,
        "userinfo_url": server.userinfo_url,
    }
    return {"client_id": "hub", "client_secret": client(hub).secret, "settings": settings} | fields


def status(hub: Hub, method: str, path: str, body: Any = None, *, key: str = "") -> int:
    headers = {"authorization": f"Bearer {key or hub.admin_key}"}
    return httpx.request(method, hub.url("oauth") + path, json=body, headers=headers, timeout=30).status_code


def used(hub: Hub, provider: str, *, key: str | None = None, **fields: Any) -> str:
    """The client id that an account is connected with now."""
    authorization = hub.call("POST", "/api/auth/oauth/connect", {"provider": provider, **fields}, key=key)
    [found] = parse_qs(urlsplit(str(authorization["authorization_url"])).query)["client_id"]
    return found


def refused(hub: Hub, provider: str, *, key: str | None = None) -> str:
    """Why no account can be connected now."""
    message = hub.call("POST", "/api/auth/oauth/connect", {"provider": provider}, key=key, expect=409)
    return str(message["detail"])


def settled(hub: Hub, path: str, body: Mapping[str, Any], *, key: str | None = None) -> dict[str, Any]:
    """PUT, which always answers with what is there now."""
    shown: dict[str, Any] = hub.call("PUT", path, body, key=key)
    assert shown == hub.call("GET", path, key=key)
    return shown


def unreadable(hub: Hub, path: str) -> bool:
    """Whether an app is there, and is not used."""
    shown = [app for app in hub.call("GET", APPS)["items"] if path.endswith(app["provider"])]
    return any(app["reason"].startswith("unreadable") for app in shown if not app["verified"])


@contextmanager
def documents(hub: Hub) -> Iterator[Any]:
    """The collection in the store."""
    with MongoClient[dict[str, Any]](hub.env["MONGODB_URI"]) as mongo:
        yield mongo.get_default_database()[COLLECTION]


@pytest.fixture(scope="module")
def beside(hub: Hub, bus: Bus, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """One more process of the service."""
    with second_process("oauth", hub, tmp_path_factory.mktemp("another"), bus, store) as made:
        yield made


# What an operator enters


def test_secrets_go_in_and_never_come_out(hub: Hub) -> None:
    secrets = {name: token_hex(16) for name in ("client_secret", "signing_secret", "key")}
    body = {
        "client_id": "blackbaud-app",
        "client_secret": secrets["client_secret"],
        "signing_secret": secrets["signing_secret"],
        "settings": {"subscription_key": secrets["key"]},
        "verified": True,
    }
    shown = settled(hub, f"{APPS}/blackbaud", body)
    assert shown == {
        "provider": "blackbaud",
        "app": None,
        "scope": "workspace",
        "source": "api",
        "client_id": "blackbaud-app",
        "secrets": ["client_secret", "signing_secret"],
        "settings": {"subscription_key": None},
        "verified": True,
        "reason": None,
        "redirect_uri": hub.url("gateway") + CALLBACK,
        "updated_at": shown["updated_at"],
    }
    wrong = {**body, "client_id": "a b", "more": secrets["key"]}
    for item in (wrong, {**body, "settings": {"x": secrets["key"]}}):
        hub.call("PUT", f"{APPS}/blackbaud", item, expect=422)
    assert all(map(is_recorded, secrets.values())), "they are searched for at the end of the run"


def test_fields_that_are_left_out_stay_unchanged(hub: Hub) -> None:
    path = f"{APPS}/slack"
    first = {
        "client_id": "1.2",
        "client_secret": "s1",
        "settings": {"user_scope": "search:read"},
        "verified": True,
    }
    settled(hub, path, first)
    again = settled(hub, path, {"signing_secret": "s2", "verified": True})
    assert (again["client_id"], again["secrets"]) == ("1.2", ["client_secret", "signing_secret"])
    assert again["settings"] == {"user_scope": "search:read"}
    assert hub.call("DELETE", path, expect=204) is None
    hub.call("GET", path, expect=404)
    hub.call("DELETE", path, expect=404)
    alone = hub.call("PUT", path, {"client_id": "1.2", "verified": True}, expect=422)
    assert [fault["field"] for fault in alone["errors"]] == ["client_secret"], (
        "nothing of the old one is left"
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"client_secret": "s"}, "client_id"),
        ({"client_id": "x"}, "client_secret"),
        ({"client_id": "x\r\ny", "client_secret": "s"}, "client_id"),
        ({"client_id": "x", "client_secret": "s\n"}, "client_secret"),
        ({"client_id": "x", "client_secret": ""}, "client_secret"),
        ({"client_id": "x", "client_secret": "s", "settings": {"tenant": "a/b"}}, "settings.tenant"),
        ({"client_id": "x", "client_secret": "s", "settings": {"tenent": "a"}}, "settings.tenent"),
        ({"client_id": "x", "client_secret": "s", "scope": "everybody"}, "scope"),
        ({"client_id": "x", "client_secret": "s", "source": "file"}, "source"),
    ],
)
def test_an_invalid_field_is_named(hub: Hub, body: dict[str, Any], field: str) -> None:
    message = hub.call("PUT", f"{APPS}/microsoft", body, expect=422)
    assert [fault["field"] for fault in message["errors"]] == [field]
    hub.call("GET", f"{APPS}/microsoft", expect=404)


def test_a_stored_secret_is_not_sent_to_a_new_server(hub: Hub, server: OidcProvider) -> None:
    """Who may change an app's addresses, but does not know its secret, cannot have it sent to himself."""
    path = f"{APPS}/oidc"
    before = settled(hub, path, oidc(hub, server, verified=True))
    asked: list[str] = []
    for change in (
        {"settings": {"token_url": "http://127.0.0.1:9/token"}},
        {"settings": {"revoke_url": "http://127.0.0.1:9/revoke"}},
        {"client_id": "another"},
    ):
        message = hub.call("PUT", path, change, expect=422)
        asked += [fault["field"] for fault in message["errors"]]
    assert asked == ["client_secret"] * 3
    assert hub.call("GET", path) == before
    same = hub.call("PUT", path, {"client_id": "hub", "settings": oidc(hub, server)["settings"]})
    assert same["verified"], "what stays as it was is not a change"


def test_accounts_of_one_app(hub: Hub) -> None:
    message = hub.call("PUT", f"{APPS}/gmail", {"client_id": "x", "client_secret": "s"}, expect=409)
    assert "app of google" in message["detail"]
    hub.call("GET", f"{APPS}/gmail", expect=404)
    settled(hub, f"{APPS}/google", {"client_id": "of-google", "client_secret": "s", "verified": True})
    assert hub.call("GET", f"{APPS}/gmail")["provider"] == "google"
    assert used(hub, "gmail") == used(hub, "google-calendar") == "of-google"
    hub.call("PUT", f"{APPS}/telegram", {"client_id": "x", "client_secret": "s"}, expect=409)
    for method in ("GET", "DELETE"):
        hub.call(method, f"{APPS}/nobody", expect=404)
    hub.call("POST", f"{APPS}/nobody/verify", expect=404)
    hub.call("PUT", f"{APPS}/nobody", {"client_id": "x"}, expect=404)


def test_two_changes_at_once_lose_nothing(hub: Hub) -> None:
    path = f"{APPS}/box"
    for _ in range(5):
        hub.call("PUT", path, {"client_id": "b", "client_secret": "s", "verified": True})
        with ThreadPoolExecutor(4) as pool:
            bodies = [{"signing_secret": "s", "verified": True}, *[{"client_id": "b", "verified": True}] * 3]
            done = list(pool.map(lambda body: status(hub, "PUT", path, body), bodies))
        assert done == [200] * 4
        assert hub.call("GET", path)["secrets"] == ["client_secret", "signing_secret"]
        hub.call("DELETE", path, expect=204)
        first = {"client_id": "b", "client_secret": "s", "verified": True}
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda body: status(hub, "PUT", path, body), [first] * 4))
        assert done == [200] * 4


# What the platform says


def test_the_provider_is_asked_whether_it_accepts_the_app(hub: Hub, server: OidcProvider) -> None:
    path = f"{APPS}/oidc"
    wrong = settled(hub, path, oidc(hub, server, client_secret="not-this-one"))
    assert not wrong["verified"]
    assert "invalid_client" in wrong["reason"]
    assert "is not verified" in refused(hub, "oidc")
    nobody = settled(hub, path, oidc(hub, server, client_id="nobody"))
    assert not nobody["verified"]
    right = settled(hub, path, oidc(hub, server))
    assert (right["verified"], right["reason"]) == (True, None)
    assert used(hub, "oidc") == "hub"
    asked = server.stats()
    assert hub.call("POST", f"{path}/verify")["verified"]
    message = server.stats().since(asked)
    assert message.refused == {"authorization_code": {"invalid_grant": 1}}
    assert message.faults == []


def test_an_app_that_the_operator_declares_verified_is_not_checked(hub: Hub, server: OidcProvider) -> None:
    path, before = f"{APPS}/oidc", server.stats()
    off = settled(hub, path, oidc(hub, server, verified=False))
    assert not off["verified"]
    assert "is not verified" in refused(hub, "oidc")
    assert settled(hub, path, oidc(hub, server, verified=True))["verified"]
    assert used(hub, "oidc") == "hub"
    assert server.stats().since(before).called == {}


def test_a_provider_that_is_down(hub: Hub, server: OidcProvider) -> None:
    """A new app is not verified; one that is verified stays so."""
    path, down = f"{APPS}/oidc", f"http://127.0.0.1:{free_port()}/token"
    settings = oidc(hub, server)["settings"] | {"token_url": down}
    new = settled(hub, path, oidc(hub, server, settings=settings))
    assert not new["verified"]
    assert new["reason"].startswith("not_asked")
    hub.call("POST", f"{path}/verify", expect=503)
    settled(hub, path, oidc(hub, server, settings=settings, verified=True))
    hub.call("POST", f"{path}/verify", expect=503)
    assert hub.call("GET", path)["verified"]
    assert used(hub, "oidc") == "hub"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (500, None),
        (429, {"error": "slow_down"}),
        (400, {"error": "invalid_request"}),
        (200, b"<html>"),
        (200, {}),
    ],
)
def test_a_provider_that_does_not_say_whether_the_app_is_right(
    hub: Hub, server: OidcProvider, answer: int, body: Any
) -> None:
    path = f"{APPS}/oidc"
    server.fail_next(answer, body)
    new = settled(hub, path, oidc(hub, server))
    assert not new["verified"]
    assert new["reason"].startswith("not_asked")
    assert hub.call("POST", f"{path}/verify")["verified"], "it was only that answer"
    server.fail_next(answer, body)
    assert status(hub, "POST", f"{path}/verify") in (200, 503)
    assert hub.call("GET", path)["verified"], "and is no word against the app"


def test_a_secret_that_the_provider_repeats_is_redacted(hub: Hub, server: OidcProvider) -> None:
    secret = f"told-{token_hex(12)}"
    detail = {"error": "invalid_client", "error_description": f"the secret {secret} is not that of hub"}
    server.fail_next(401, detail)
    shown = settled(hub, f"{APPS}/oidc", oidc(hub, server, client_secret=secret))
    assert "the secret [hidden] is not that of hub" in shown["reason"]


def test_an_app_that_the_provider_rejects_later(hub: Hub, server: OidcProvider) -> None:
    """The person who connects gets an error; nobody is redirected until the app is fixed."""
    path = f"{APPS}/oidc"
    hub.call("PUT", path, oidc(hub, server, client_secret="rotated-meanwhile", verified=True))
    with Person(hub, "ada", entrance="gateway") as ada:
        page = ada.go(ada.connect("oidc")["authorization_url"])
    assert (page.status_code, "app_refused" in page.text) == (400, True)
    shown = hub.call("GET", path)
    assert not shown["verified"]
    assert "invalid_client" in shown["reason"]
    assert "is not verified" in refused(hub, "oidc")
    levels = [line["level"] for line in hub.log_lines("oauth") if line["event"] == "app.credentials_rejected"]
    assert "error" in levels
    hub.call("PUT", path, oidc(hub, server))
    with Person(hub, "ada", entrance="gateway") as ada:
        assert ada.connected("oidc")


def test_a_check_result_counts_only_for_the_app_that_was_checked(hub: Hub, server: OidcProvider) -> None:
    """While the platform thinks about the right secret, somebody enters a wrong one."""
    path, taken = f"{APPS}/oidc", b'{"error": "invalid_grant"}'
    with socket.create_server(("127.0.0.1", 0)) as platform, ThreadPoolExecutor(1) as pool:
        platform.settimeout(10)
        url = f"http://127.0.0.1:{platform.getsockname()[1]}/token"
        right = oidc(hub, server, settings=oidc(hub, server)["settings"] | {"token_url": url}, verified=False)
        hub.call("PUT", path, right)
        asking = pool.submit(status, hub, "POST", f"{path}/verify")
        asked, _ = platform.accept()
        with asked:
            hub.call("PUT", path, {**right, "client_secret": "not-this-one"})
            head = (
                f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(taken)}"
            )
            asked.recv(65536)
            asked.sendall(head.encode() + b"\r\n\r\n" + taken)
            assert asking.result(60) == 409
    shown = hub.call("GET", path)
    assert (shown["verified"], shown["reason"]) == (False, None)


# Whose app it is


def test_a_workspaces_own_app_goes_before_the_installations(hub: Hub, other: str) -> None:
    path = f"{APPS}/zoom"
    assert f"PUT {path}" in refused(hub, "zoom", key=other)
    body = {"client_id": "the-operators", "client_secret": "s", "verified": True}
    shown = hub.call("PUT", path, {**body, "scope": "installation"})
    assert (shown["scope"], shown["verified"]) == ("installation", True)
    assert used(hub, "zoom") == used(hub, "zoom", key=other) == "the-operators"
    assert hub.call("GET", path, key=other)["scope"] == "installation"
    settled(hub, path, {**body, "client_id": "their-own"}, key=other)
    assert (used(hub, "zoom"), used(hub, "zoom", key=other)) == ("the-operators", "their-own")
    settled(hub, path, {"verified": False}, key=other)
    assert "is not verified" in refused(hub, "zoom", key=other), "not the other one instead"
    hub.call("DELETE", path, key=other, expect=204)
    assert used(hub, "zoom", key=other) == "the-operators"
    hub.call("DELETE", path, expect=404)
    hub.call("DELETE", f"{path}?scope=installation", expect=204)
    assert "no app is registered" in refused(hub, "zoom")


def test_only_the_operator_changes_the_installations_apps(hub: Hub, other: str) -> None:
    body = {"client_id": "x", "client_secret": "s", "verified": True, "scope": "installation"}
    hub.call("PUT", f"{APPS}/dropbox", body)
    hub.call("PUT", f"{APPS}/dropbox", {**body, "client_id": "mine"}, key=other, expect=403)
    hub.call("POST", f"{APPS}/dropbox/verify?scope=installation", key=other, expect=403)
    hub.call("DELETE", f"{APPS}/dropbox?scope=installation", key=other, expect=403)
    assert hub.call("GET", f"{APPS}/dropbox")["client_id"] == "x"
    hub.call("POST", f"{APPS}/dropbox/verify", key=other, expect=404)
    hub.call("DELETE", f"{APPS}/dropbox", key=other, expect=404)


def test_another_workspaces_app_is_not_found(hub: Hub, other: str) -> None:
    name = f"theirs-{token_hex(4)}"
    hub.call("PUT", f"{APPS}/jira", {"client_id": name, "client_secret": "s", "verified": True}, key=other)
    hub.call("GET", f"{APPS}/jira", expect=404)
    hub.call("POST", f"{APPS}/jira/verify", expect=404)
    hub.call("DELETE", f"{APPS}/jira", expect=404)
    assert name not in repr(hub.call("GET", APPS))
    assert name in repr(hub.call("GET", APPS, key=other))
    assert "no app is registered" in refused(hub, "jira")


def test_an_account_stays_with_the_app_that_it_was_connected_with(hub: Hub, server: OidcProvider) -> None:
    """When the workspace gets an app of its own, and when the one before is not there any more."""
    path = f"{APPS}/oidc"
    assert status(hub, "DELETE", path) in (204, 404)
    hub.call("PUT", path, oidc(hub, server, scope="installation"))
    with Person(hub, "bob", entrance="gateway") as bob:
        of_bob = bob.connected("oidc")
    own = {"client_id": "theirs", "client_secret": "the-secret-of-the-others"}
    assert settled(hub, path, oidc(hub, server, **own))["verified"]
    assert used(hub, "oidc") == "theirs"
    before = server.stats()
    assert hub.call("POST", f"/api/integrations/{of_bob}/refresh")["status"] == "connected"
    assert server.stats().since(before).granted == {"refresh_token": 1}
    hub.call("DELETE", f"{path}?scope=installation", expect=204)
    before = server.stats()
    hub.call("POST", f"/api/integrations/{of_bob}/refresh", expect=503)
    assert server.stats().since(before).called == {}, "the other app is not given its tokens"
    shown = hub.call("GET", f"/api/integrations/{of_bob}/status")
    assert (shown["status"], shown["last_error"]["code"]) == ("connected", "app_missing")
    with Person(hub, "bob", entrance="gateway") as bob:
        bob.go(bob.reconnect(of_bob)["authorization_url"])
    assert hub.call("POST", f"/api/integrations/{of_bob}/refresh")["status"] == "connected"


def test_environment_and_files_override_apps_of_the_api(hub: Hub, other: str) -> None:
    for provider, source, name in (("github", "environment", "Iv1.env"), ("notion", "file", "of-a-file")):
        path = f"{APPS}/{provider}"
        shown = hub.call("GET", path, key=other)
        assert (shown["source"], shown["client_id"], shown["verified"]) == (source, name, True)
        assert (shown["scope"], shown["secrets"]) == ("installation", ["client_secret"])
        assert used(hub, provider) == used(hub, provider, key=other) == name
        body = {"client_id": "own", "client_secret": "s", "verified": True}
        message = hub.call("PUT", path, {**body, "scope": "installation"}, expect=409)
        assert f"comes from the {source}" in message["detail"]
        for method, suffix in (("POST", "/verify?scope=installation"), ("DELETE", "?scope=installation")):
            hub.call(method, path + suffix, expect=404)
        hub.call("PUT", path, body, key=other)
        assert (used(hub, provider), used(hub, provider, key=other)) == (name, "own")
        hub.call("DELETE", path, key=other, expect=204)
        assert used(hub, provider, key=other) == name
    hub.call("GET", APPS)


# Several processes, and a store that somebody has changed


def test_a_changed_app_is_used_by_every_process_at_once(hub: Hub, beside: Hub) -> None:
    path = f"{APPS}/linkedin"
    hub.call("PUT", path, {"client_id": "first", "client_secret": "s", "verified": True})
    assert status(beside, "GET", path) == 200
    hub.call("PUT", path, {"client_id": "second", "client_secret": "s", "verified": True})
    assert beside.call("GET", path)["client_id"] == "second"
    beside.call("PUT", path, {"signing_secret": "s", "verified": True})
    assert status(hub, "DELETE", path) == 204
    assert status(beside, "GET", path) == 404


def test_an_app_with_a_tampered_document_is_not_used(hub: Hub, beside: Hub, other: str) -> None:
    """Nor is the installation's in its place: it would be given the tokens of accounts of the first one."""
    path, body = f"{APPS}/paypal", {"client_secret": "s", "verified": True}
    hub.call("PUT", path, {**body, "client_id": "the-operators", "scope": "installation"})
    for key, name in ((hub.admin_key, "mine"), (other, "theirs")):
        hub.call("PUT", path, {**body, "client_id": name}, key=key)
    with documents(hub) as found:
        theirs = found.find_one({"provider": "paypal", "client_id": "theirs"})
        assert found.update_one(
            {"provider": "paypal", "client_id": "mine"},
            {"$set": {"secrets": theirs["secrets"]}, "$currentDate": {"changed_at": True}},
        ).modified_count
    for item in (hub, beside):
        eventually(partial(unreadable, item, path))
        assert "the app of paypal cannot be decrypted" in refused(item, "paypal")
        item.call("POST", f"{path}/verify", expect=409)
        assert used(item, "paypal", key=other) == "theirs"
    lost = hub.call("PUT", path, {"client_id": "mine", "verified": True}, expect=422)
    assert [fault["field"] for fault in lost["errors"]] == ["client_secret"]
    hub.call("PUT", path, {**body, "client_id": "mine"})
    assert used(hub, "paypal") == "mine"
    assert beside.call("GET", path)["verified"]


# The start


@pytest.mark.parametrize(
    "text",
    [
        "https://chat.example.com/x",
        "https://ok.example.com,*",
        "https://*.example.com",
        "https://x@chat.example.com",
        "https://@chat.example.com",
        "https://chat.example.com?x",
        "https://chat.example.com:x",
        "https://",
        "//chat.example.com",
        "chat.example.com",
        "javascript:alert(1)",
        "null",
    ],
)
def test_a_text_that_is_not_an_origin_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("INTERLINK_RETURN_ORIGINS", text)
    with pytest.raises(Misconfigured, match=r"^INTERLINK_RETURN_ORIGINS: .*") as refused:
        load(OAuthSettings)
    assert "\n" not in str(refused.value)


def test_origins_are_stored_as_browsers_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " https://Chat.Example.com:443/ ,http://localhost:3000,,https://a.example.com:8443,http://[::1]:80"
    monkeypatch.setenv("INTERLINK_RETURN_ORIGINS", text)
    assert load(OAuthSettings).origins == {
        "https://chat.example.com",
        "http://localhost:3000",
        "https://a.example.com:8443",
        "http://[::1]",
    }
    monkeypatch.delenv("INTERLINK_RETURN_ORIGINS")
    assert load(OAuthSettings).origins == frozenset()


def test_a_configuration_error_is_one_line_at_startup(hub: Hub, tmp_path: Path) -> None:
    settings = hub.env | {"INTERLINK_PORT": str(free_port()), "INTERLINK_APP_GITHUB_CLIENT_ID": ""}
    done = interlink("serve", "oauth", cwd=tmp_path, **settings)
    assert complaint(done) == "the app of github in the environment has no client id"
