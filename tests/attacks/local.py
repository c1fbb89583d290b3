"""What another user of the machine tries on a hub that `interlink up` runs there."""

from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.uri_parser import parse_uri

from tests.attacks.attack import Attack
from tests.cli.commands import interlink
from tests.support.hub import Hub

_UNAUTHORIZED = 13
Command = Callable[[MongoClient[dict[str, Any]], str], object]


def _without_login(command: Command) -> Callable[[Hub], None]:
    """An attempt to use the running store over its port, with no login or a wrong one."""

    def attempt(hub: Hub) -> None:
        known = parse_uri(hub.env["MONGODB_URI"])
        if known["username"] != "interlink":
            pytest.skip("the store of this run is not the embedded one")
        [(host, port)] = known["nodelist"]
        with MongoClient[dict[str, Any]](host, port, directConnection=True) as nobody:
            assert nobody.admin.command("hello")["ok"], "it answers there"
            with pytest.raises(OperationFailure) as caught:
                command(nobody, known["database"])
            assert caught.value.code == _UNAUTHORIZED
        with (
            MongoClient[dict[str, Any]](
                host, port, directConnection=True, username="interlink", password="wrong"
            ) as liar,
            pytest.raises(OperationFailure, match="authentication failed"),
        ):
            command(liar, known["database"])

    return attempt


def _open_data_folder(hub: Hub) -> None:
    for mode in (0o755, 0o750, 0o711, 0o704, 0o777):
        folder = hub.folder / f"open-{mode:o}"
        folder.mkdir()
        folder.chmod(mode)
        done = interlink("up", "--data-dir", str(folder), cwd=hub.folder)
        assert done.returncode != 0
        [line] = done.stderr.strip().splitlines()
        assert "is open to other users of this machine" in line
        assert f"chmod 700 {folder.name}" in line
        assert list(folder.iterdir()) == [], "nothing was put where others can read it"


ATTACKS = (
    Attack("local: write an API key", _without_login(lambda m, db: m[db].api_keys.insert_one({"_id": "x"}))),
    Attack("local: read API keys", _without_login(lambda m, db: m[db].api_keys.find_one())),
    Attack(
        "local: make an endpoint's secret known",
        _without_login(lambda m, db: m[db].inbound_endpoints.update_many({}, {"$set": {"secrets": []}})),
    ),
    Attack(
        "local: create a user",
        _without_login(lambda m, _: m.admin.command("createUser", "x", pwd="x", roles=["root"])),
    ),
    Attack("local: drop the database", _without_login(lambda m, db: m.drop_database(db))),
    Attack("local: see the databases", _without_login(lambda m, _: m.list_database_names())),
    Attack("local: read what lies in the data folder", _open_data_folder),
)
