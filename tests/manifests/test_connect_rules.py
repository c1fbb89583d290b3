"""The checker finds each fault of a provider's `connect` and of its samples, and says what to do."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import shared.providers
from interlink.provider.checker import check
from interlink.provider.connect_rules import connect_faults
from shared.manifests.registry import read_manifest

FOLDERS = Path(next(iter(shared.providers.__path__)))
Break = Callable[[Path], object]


def text(file: str, old: str, new: str) -> Break:
    """Change a file's text; it has to be there."""

    def change(folder: Path) -> None:
        path = folder / file
        whole = path.read_text("utf-8")
        assert old in whole, old
        path.write_text(whole.replace(old, new), "utf-8")

    return change


def manifest(old: str, new: str) -> Break:
    return text("manifest.yaml", old, new)


def sample(old: str, new: str) -> Break:
    return text("connect.yaml", old, new)


def remove(file: str) -> Break:
    return lambda folder: folder.joinpath(file).unlink()


RULES: list[tuple[str, Break, str]] = [
    ("gitlab", remove("connect.yaml"), "connect.yaml: missing"),
    ("gitlab", sample("answers:", "answer:"), "connect.yaml: answer: Extra inputs"),
    ("gitlab", sample("answers:", "answers: ["), "connect.yaml: while parsing"),
    (
        "gitlab",
        text("README.md", "## Connecting accounts", "## Accounts"),
        "README.md: the manifest has connect",
    ),
    (
        "gitlab",
        manifest("scopes: [read_user, api]", "scopes: [api, read_user, api]"),
        "scopes: api is repeated",
    ),
    ("gitlab", manifest("basic: [read_user]", "basic: []"), "purposes.basic: no scope"),
    ("onedrive", manifest("basic: [Files.Read]", "basic: [email]"), "purposes.basic: email is repeated"),
    (
        "slack",
        manifest("parameter: user_scope, token: user", "parameter: user_scope, token: person"),
        "oauth2.user_scopes.token: person is not among answer.others",
    ),
    (
        "gmail",
        manifest("through: google", "through: goggle"),
        "through: goggle has neither oauth2 nor oauth1",
    ),
    (
        "gmail",
        manifest(
            "  through: google\n",
            "  through: google\n  settings: { x: { name: X, about: An x., example: x } }\n",
        ),
        "connect.settings: the app belongs to google",
    ),
    (
        "gmail",
        manifest("through: google", "through: youtube"),
        "through: youtube has neither oauth2 nor oauth1",
    ),
    (
        "gmail",
        manifest("https://www.googleapis.com/auth/gmail.send", "email"),
        "scopes: email is repeated",
    ),
    (
        "gitlab",
        manifest('token_url: "{setting:base_url}/oauth', 'token_url: "{setting:base}/oauth'),
        "connect.oauth2.token_url: unknown value setting:base",
    ),
    (
        "discord",
        manifest("pattern: '[0-9]{1,20}'", "pattern: '[0-9'"),
        "settings.permissions.pattern: unterminated",
    ),
    ("discord", manifest("pattern: '[0-9]{1,20}'", "pattern: '[0-9]{1,2}'"), "add an example that matches"),
    (
        "discord",
        manifest("pattern: '[0-9]{1,20}'", "generated: true"),
        "settings.permissions.generated: the hub cannot generate it",
    ),
    ("discord", manifest("{setting:permissions}", "8"), "connect.settings.permissions: unused"),
    ("gitlab", manifest('"Redirect URI: {redirect_uri}"', "Save."), "app_steps: no step shows"),
    (
        "gitlab",
        manifest("Save application.", "Save application. {url}"),
        "app_steps: {url} is not a placeholder",
    ),
    (
        "slack",
        manifest("token_url: https://", "token_url: http://"),
        "connect.oauth2.token_url: a URL has to begin with https://",
    ),
    (
        "gitlab",
        manifest("pattern: https://[A-Za-z0-9]", "pattern: https?://[A-Za-z0-9]"),
        "the pattern of setting:base_url accepts 'http://a.example'",
    ),
    (
        "gitlab",
        manifest("(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", "(/[^ ]*)*"),
        "the pattern of setting:base_url accepts 'https://a.example/#b'",
    ),
    (
        "jira",
        manifest("pattern: '[a-z0-9][a-z0-9-]{0,62}'", "pattern: '.*'"),
        "connect.entered.api_token.account.call.url: the pattern of field:site accepts 'a/b'",
    ),
    (
        "telegram",
        manifest("  secret-in-address:", "  way:"),
        "access_token is secret: remove it from the URL",
    ),
    ("oidc", manifest("  plain-http:", "  way:"), "accepts 'http://a.example'"),
    (
        "google",
        manifest('        form: { token: "{token}" }', '        query: { token: "{token}" }'),
        "connect.oauth2.revoke.request.query.token: token is secret",
    ),
    (
        "jira",
        manifest("keep: { cloud_id: id,", "keep: { cloud: id,"),
        "api.base: unknown value account:cloud_id",
    ),
    (
        "email",
        manifest("host: smtp.gmail.com", "server: smtp.gmail.com"),
        "presets.gmail.server: unknown field",
    ),
    (
        "email",
        manifest('port: "465", security: tls } }\n', "port: x, security: tls } }\n"),
        "port: x does not match",
    ),
    ("email", manifest("        host:\n", "        server:\n"), "entered.smtp.fields: a login needs host"),
    ("jira", manifest("{field:email}", "ada"), "entered.api_token.fields.email: unused"),
    (
        "bitbucket",
        lambda folder: folder.joinpath("connect.yaml").touch(),
        "the manifest has no connect: remove it",
    ),
    (
        "mailchimp",
        manifest("(?P<dc>[a-z]{2,4}[0-9]{1,3})", "(?P<dc>[a-z]{2,4}[^-]{1,30})"),
        "entered.api_key.account.call.url: the pattern of field:dc accepts 'us/6'",
    ),
    (
        "mailchimp",
        manifest("(?P<dc>", "(?P<center>"),
        "entered.api_key.account.call.url: unknown value field:dc",
    ),
    (
        "jira",
        manifest("pattern: '[a-z0-9][a-z0-9-]{0,62}'", "pattern: 'exam[^.]*'"),
        "the pattern of field:site accepts 'exam/ple'",
    ),
    (
        "oidc",
        sample("  status: 503\n", "  status: 503\n    status: 500\n"),
        "connect.yaml: status: repeated, in lines",
    ),
]
SUBSCRIPTIONS: list[tuple[str, Break, str]] = [
    ("gmail", sample("  mailbox:", "  inbox:"), "connect.yaml: watches.mailbox: missing"),
    ("gmail", sample("  mailbox:", "  inbox:"), "connect.yaml: watches.inbox: the manifest has none"),
    (
        "gmail",
        manifest("  - id: mailbox\n", "  - id: mailbox\n    endpoint: google\n"),
        "google has no webhooks",
    ),
    (
        "gmail",
        manifest("  - id: mailbox\n", "  - id: mailbox\n    endpoint: goggle\n"),
        "goggle has no webhooks",
    ),
    (
        "gmail",
        manifest("scopes: [https://www.googleapis.com/auth/gmail.modify]", "scopes: [gmail.readonly]"),
        "watches.mailbox.scopes: connect does not request gmail.readonly",
    ),
    (
        "gmail",
        manifest("needs: [setting:pubsub_topic]", "needs: [setting:topic]"),
        "needs: unknown value setting:topic",
    ),
    (
        "gmail",
        manifest("    own_endpoint: false\n", ""),
        "watches.mailbox.create: the provider does not get the URL",
    ),
    (
        "gmail",
        manifest("    own_endpoint: false\n", ""),
        "watches.mailbox.endpoint_settings.service_account: missing: the endpoint needs it",
    ),
    (
        "gmail",
        manifest("    ahead_s: 518400", "    ahead_s: 604800"),
        "watches.mailbox.ahead_s: 604800 s is not less than lifetime_s",
    ),
    ("gmail", manifest("about: Changes of the mailbox, published", "about: ''\n    #"), "about: empty"),
    (
        "gmail",
        manifest(
            "watches:\n", "watches:\n  - { id: mailbox, about: x, create: { url: 'https://a.example' } }\n"
        ),
        "watches.two have the same id",
    ),
    (
        "google-calendar",
        manifest('token: "{endpoint:secret}"', "token: x"),
        "watches.events.create: the provider does not get the secret",
    ),
    (
        "google-calendar",
        manifest("        default: primary\n", "        required: true\n        example: primary\n"),
        "watches.events.resource.calendar_id: nobody enters it",
    ),
    (
        "google-calendar",
        manifest("{watch:calendar_id}", "{watch:calendar}"),
        "watches.events.create.url: unknown value watch:calendar",
    ),
    (
        "google-calendar",
        manifest('"{made:resource_id}"', '"{made:resource}"'),
        "watches.events.cancel.json: unknown value made:resource",
    ),
    (
        "google-calendar",
        manifest('json: { id: "{made:id}"', 'json: { id: "{watch:id}"'),
        "watches.events.cancel.json: unknown value watch:id",
    ),
    (
        "google-drive",
        manifest("keep: { page_token: startPageToken }", "keep: { page: startPageToken }"),
        "watches.changes.create.query.pageToken: unknown value watch:page_token",
    ),
    (
        "google-calendar",
        manifest("      calendar_id:\n", "      id:\n"),
        "watches.events.resource.id: {watch:id} is reserved",
    ),
    (
        "google-calendar",
        manifest("keep: { resource_id: resourceId }", "keep: { secret: resourceId }"),
        "watches.events.made.keep.secret: {made:secret} is reserved",
    ),
    (
        "airtable",
        manifest(", secret: macSecretBase64", ""),
        "watches.base.endpoint_secret: the provider generates it",
    ),
    (
        "youtube",
        manifest("{ verify_token:", "{ token:"),
        "watches.own_channel.endpoint_settings.token: unknown setting of the endpoint",
    ),
    (
        "youtube",
        manifest("    lifetime_s: 432000\n", "    lifetime_s: 432000\n    made: { secret: secret }\n"),
        "watches.own_channel.made.secret: the provider does not generate the secret (source: ours)",
    ),
    (
        "twitter",
        manifest(
            "url: https://api.x.com/2/webhooks\n",
            "url: https://api.x.com/2/webhooks?{setting:bearer_token}\n",
        ),
        "watches.webhook.create.url: setting:bearer_token is secret",
    ),
    (
        "youtube",
        manifest('{ verify_token: "{watch:name}" }', '{ verify_token: "{access_token}" }'),
        "watches.own_channel.endpoint_settings.verify_token: unknown value access_token",
    ),
    (
        "twitter",
        manifest("url: https://api.x.com/2/webhooks\n", "url: http://api.x.com/2/webhooks\n"),
        "watches.webhook.create.url: a URL has to begin with https://",
    ),
    (
        "onedrive",
        manifest(
            "connect:\n  through: microsoft\n  scopes: [Files.ReadWrite]\n"
            "  purposes:\n    basic: [Files.Read]\n    sync: [Files.ReadWrite]\n    import: [Files.Read]\n",
            "",
        ),
        "watches: they need an account",
    ),
    (
        "onedrive",
        manifest("changeType: updated", "changeType: created"),
        "connect.yaml: watches.drive.create.body: is",
    ),
    ("onedrive", manifest("method: PATCH", "method: PUT"), "watches.drive.renew.method: is 'PUT'"),
    ("onedrive", sample("    renewed:\n", "    made_again:\n"), "watches.drive.made_again: Extra inputs"),
    (
        "onedrive",
        manifest("made: { expires: expirationDateTime }", "made: { expires: resource }"),
        "watches.drive.made.kept.expires: '/me/drive/root' is not a known time format",
    ),
    (
        "onedrive",
        sample('ends: "2026-01-08T00:00:00.000Z"', 'ends: "2026-01-08T01:00:00.000Z"'),
        "watches.drive.made.ends: is '2026-01-08T00:00:00.000Z'",
    ),
    (
        "onedrive",
        manifest("    cancel: { method: DELETE", "    # cancel: { method: DELETE"),
        "watches.drive.cancel: the manifest has no such request",
    ),
    (
        "google-drive",
        manifest("keep: { page_token: startPageToken }", "keep: { page_token: kind }"),
        "watches.changes.before.kept: is {'page_token': 'drive#startPageToken'}",
    ),
    (
        "twitter",
        manifest("(data.valid == `false` && 'crc_failed') || ", ""),
        "webhook.refused.0: is accepted",
    ),
]
PROOF: list[tuple[str, Break, str]] = [
    (
        "facebook",
        sample("access_token: EAApage", "access_token: another"),
        "choices.token.access_token: is 'EAApage'",
    ),
    (
        "facebook",
        manifest("query: { fields: access_token }", "query: { fields: token }"),
        "choices.token.request.url: is",
    ),
    (
        "slack",
        manifest('scope_separator: ","', 'scope_separator: " "'),
        "authorize: is https://slack.com/oauth/v2",
    ),
    ("slack", manifest("client: { auth: basic,", "client: { auth: body,"), "exchange.headers: is "),
    ("slack", manifest("refused: [invalid_client_id,", "refused: [x,"), "is Refused 'invalid_client_id'"),
    ("slack", manifest("      others:\n        user:", "      others:\n        person:"), "others are"),
    (
        "slack",
        manifest("/api/auth.revoke", "/api/auth.revoke2"),
        "revoke.url: is 'https://slack.com/api/auth.revoke2'",
    ),
    ("slack", manifest("    id: team_id", "    id: team"), "account.whose: is"),
    (
        "slack",
        manifest("token_expired, token_revoked, account_inactive]\n  account", "x]\n  account"),
        "expired.1",
    ),
    (
        "slack",
        sample('"error":"channel_not_found"', '"error":"invalid_auth"'),
        "not_expired.1: the token is rejected",
    ),
    ("slack", sample("expires_in: 43200", "expires_in: 43201"), "tokens are"),
    ("github", manifest("pkce: S256", "pkce: none"), "exchange.body: is"),
    (
        "github",
        manifest("      rotation: single-use\n", "      by: none\n"),
        "refresh: the manifest has no such",
    ),
    ("jira", manifest("label: name\n", "label: url\n"), "choices.found: is"),
    ("jira", manifest("encoding: json", "encoding: form"), "refresh.body: is"),
    (
        "jira",
        sample('email: "ada@example.com", api_token', "email: ada, api_token"),
        "Email does not have the expected format",
    ),
    (
        "oidc",
        manifest('{ issuer: "{setting:issuer}" }', "{ keep: [iss] }"),
        "callback.refused.0: is accepted",
    ),
    ("oidc", manifest('{ issuer: "{setting:issuer}" }', "{ keep: [iss] }"), "callback.kept: is {'iss'"),
    ("asana", manifest("data.gid || data.id", "data.number"), "account: is rejected: no_account"),
    ("linear", sample('"code":"INPUT_ERROR"', '"code":"AUTHENTICATION_ERROR"'), "not_expired.1"),
    ("linear", manifest("{ viewer { id", "{ viewer { name id"), "account.request.body: is"),
    ("telegram", sample("    refused:\n", "    refuse:\n"), "entered.bot_token.refuse: Extra inputs"),
    (
        "telegram",
        sample(
            '{ status: 401, body: \'{"ok":false,"error_code":401', '{ body: \'{"ok":true,"result":{"id":1}'
        ),
        "refused.0: is accepted",
    ),
    ("oidc", manifest(", form_encoded: true", ""), "client.authorization: is 'Basic aHViOmV1"),
    ("oidc", lambda folder: without(folder, "client"), "client: missing: add an id and a secret"),
    ("trello", manifest("OAuthGetRequestToken", "RequestToken"), "request_token.url: is"),
    (
        "trello",
        manifest("scopes: [read, write, account]", "scopes: [read]"),
        "authorize: is https://trello.com/1/",
    ),
    (
        "trello",
        sample("    oauth_verifier: verifier-1", "    oauth_verifier: x"),
        "exchange.signed: is {'oauth_version'",
    ),
    ("trello", sample("state=state-1", "state=state-2"), "request_token.signed: is"),
    (
        "trello",
        sample("    token: request-1\n", "    token: request-2\n"),
        "requested: given: the token is 'request-1'",
    ),
    (
        "trello",
        sample("code: no_callback", "code: no_token"),
        "requested: the callback is not confirmed: is Refused",
    ),
    (
        "trello",
        sample("refused: ConsentGone", "refused: ClientRefused"),
        "the request token was used: is ConsentGone",
    ),
    ("trello", sample("{ signing: {", "{ secret: {"), "answers: granted: others are"),
    (
        "gitlab",
        sample("authorize:", "requested: [{ name: a }]\nauthorize:"),
        "the manifest has no OAuth 1.0a",
    ),
]


def without(folder: Path, name: str) -> None:
    """Take a part out of the samples."""
    path = folder / "connect.yaml"
    parts = re.split(r"^(?=\w)", path.read_text("utf-8"), flags=re.MULTILINE)
    left = [part for part in parts if not part.startswith(f"{name}:")]
    assert len(left) == len(parts) - 1, name
    path.write_text("".join(left), "utf-8")


def broken(tmp_path: Path, name: str, breaking: Break) -> list[str]:
    folder = tmp_path / name
    folder.mkdir()
    for file in ("manifest.yaml", "connect.yaml", "README.md"):
        if FOLDERS.joinpath(name, file).is_file():
            shutil.copy(FOLDERS / name / file, folder)
    breaking(folder)
    return list(connect_faults(folder, read_manifest(folder)))


@pytest.mark.parametrize(("name", "breaking", "fault"), RULES)
def test_a_fault_of_the_manifest_is_found(tmp_path: Path, name: str, breaking: Break, fault: str) -> None:
    faults = broken(tmp_path, name, breaking)
    assert any(fault in line for line in faults), faults
    assert all("\n" not in line for line in faults)


@pytest.mark.parametrize(("name", "breaking", "fault"), PROOF)
def test_a_difference_from_a_sample_is_found(tmp_path: Path, name: str, breaking: Break, fault: str) -> None:
    faults = broken(tmp_path, name, breaking)
    assert any(fault in line for line in faults), faults
    assert all("\n" not in line for line in faults)


@pytest.mark.parametrize(("name", "breaking", "fault"), SUBSCRIPTIONS)
def test_a_fault_of_a_subscription_is_found(tmp_path: Path, name: str, breaking: Break, fault: str) -> None:
    faults = broken(tmp_path, name, breaking)
    assert any(fault in line for line in faults), faults
    assert all("\n" not in line for line in faults)


@pytest.mark.parametrize("name", ["gmail", "jira", "email", "oidc", "trello", "onedrive", "youtube"])
def test_a_folder_somewhere_else_is_checked_too(tmp_path: Path, name: str) -> None:
    assert broken(tmp_path, name, lambda _: None) == []


def test_the_checker_runs_the_rules_of_connect(tmp_path: Path) -> None:
    shutil.copytree(FOLDERS / "email", tmp_path / "email")
    assert check(tmp_path / "email") == []
    tmp_path.joinpath("email", "connect.yaml").unlink()
    assert [line.partition(" missing")[0] for line in check(tmp_path / "email")] == ["email/connect.yaml:"]
