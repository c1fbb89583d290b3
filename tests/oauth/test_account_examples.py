"""The examples of `docs/how-to/use-an-account.md`: what a reader copies from the page works."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.account_calls import AccountCalls, account_calls
from tests.support.backends import Bus, Store

_PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "use-an-account.md"
_TITLE: Final = "It does not start"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[AccountCalls]:
    with account_calls(tmp_path_factory.mktemp("examples"), bus, store) as made:
        yield made


@pytest.fixture
def account(world: AccountCalls) -> tuple[str, str]:
    """An account by OAuth: the integration's id, and the account's name."""
    return world.connected()


@pytest.fixture
def env(world: AccountCalls, account: tuple[str, str]) -> Mapping[str, str]:
    """The settings of the page's examples, and the authority of the test's provider for each language."""
    authority = str(world.hub.folder.parent / "authority.pem")
    trust = dict.fromkeys(("CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"), authority)
    return (
        os.environ
        | trust
        | {
            "HUB": world.hub.url("gateway"),
            "ACCOUNT": account[0],
            "ADMIN_KEY": world.hub.admin_key,
            "KEY": str(world.key()["key"]),
            "TOKEN_KEY": str(world.key("tokens:read")["key"]),
            "API": f"{world.api.url}/api/v4",
        }
    )


def blocks(language: str) -> list[str]:
    """Return the code blocks of the page in a language; those of a shell have none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", _PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [block for named, block in found if named == language]


def run(command: list[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not on the PATH")
    return found


def check_calls(world: AccountCalls, name: str, output: str) -> None:
    """Look at what the provider got from the two calls through the hub."""
    assert name in output
    sent = world.last()
    assert (sent["method"], sent["path"], sent["account"]) == ("POST", "projects/7/issues", name)
    assert json.loads(sent["body"]) == {"title": _TITLE}


def test_curl(world: AccountCalls, account: tuple[str, str], env: Mapping[str, str]) -> None:
    _, make_key, calls, issue = blocks("")
    made = json.loads(run(["bash", "-ec", make_key], env))
    assert made["accounts"]["methods"] == ["GET", "POST"]
    check_calls(world, account[1], run(["bash", "-ec", calls], {**env, "KEY": made["key"]}))
    assert world.last()["query"] == "confidential=true"
    token = json.loads(run(["bash", "-ec", issue], env))["access_token"]
    assert world.api.access_tokens[token] == account[1]


def test_node(world: AccountCalls, account: tuple[str, str], env: Mapping[str, str], tmp_path: Path) -> None:
    node = needs("node")
    calls, tokens = scripts(tmp_path, "js", "mjs")
    check_calls(world, account[1], run([node, calls], env))
    check_tokens(world, account[1], env, [node, tokens])


def test_go(world: AccountCalls, account: tuple[str, str], env: Mapping[str, str], tmp_path: Path) -> None:
    go = needs("go")
    calls, tokens = scripts(tmp_path, "go", "go")
    check_calls(world, account[1], run([go, "run", calls], env))
    check_tokens(world, account[1], env, [go, "run", tokens])


def scripts(folder: Path, language: str, suffix: str) -> list[str]:
    """Write the page's two examples in a language into files, and return their paths."""
    paths = []
    for number, block in enumerate(blocks(language)):
        path = folder / f"example{number}.{suffix}"
        path.write_text(block)
        paths.append(str(path))
    return paths


def check_tokens(world: AccountCalls, name: str, env: Mapping[str, str], command: list[str]) -> None:
    """Run the example with tokens, also when the provider has ended the token before its time."""
    assert name in run(command, env)
    world.api.spoil(name)
    refreshes: Any = world.api.refreshes
    assert name in run(command, env)
    assert world.api.refreshes == refreshes + 1
