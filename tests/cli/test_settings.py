"""`interlink settings`: the page of every environment variable."""

import re
from pathlib import Path

from services.delivery.settings import DeliverySettings
from shared.runtime.settings import EgressSettings, HubSettings, KafkaSettings, MongoSettings
from tests.cli.commands import invoked

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
ROW = re.compile(r"\| `([A-Z_]+)` \| (.*?) \| (.*?) \| (.*?) \|")


def rows() -> dict[str, tuple[str, str, str]]:
    found = [ROW.fullmatch(line) for line in PAGE.read_text("utf-8").splitlines()]
    return {row[1]: (row[2], row[3], row[4]) for row in found if row}


def test_the_page_of_the_project_is_current() -> None:
    assert invoked("settings").stdout == PAGE.read_text("utf-8")


def test_every_setting_is_there_and_says_what_it_means() -> None:
    table = rows()
    for kind in (KafkaSettings, MongoSettings, HubSettings, EgressSettings, DeliverySettings):
        prefix = str(kind.model_config.get("env_prefix"))
        assert {f"{prefix}{name.upper()}" for name in kind.model_fields} <= table.keys()
    assert [name for name, (_, _, description) in table.items() if not description] == []


def test_defaults_and_values_are_those_of_the_code() -> None:
    table = rows()
    assert table["MONGODB_URI"][0] == "**required**"
    assert table["KAFKA_REPLICATION_FACTOR"][:2] == ("", "from 1 to 10")
    assert table["INTERLINK_ALLOW_HTTP"][:2] == ("`false`", "`true`, `false`")
    assert table["INTERLINK_LOG_LEVEL"][:2] == ("`info`", "`debug`, `info`, `warning`, `error`")
    assert table["INTERLINK_BODY_TIMEOUT_S"][:2] == ("`10.0`", "more than 0 to 120")
    assert table["INTERLINK_DEDUPE_WINDOW_S"][:2] == ("`600.0`", "from 0 to 86400")
    assert table["INTERLINK_ENCRYPTION_KEY"][0] == ""
