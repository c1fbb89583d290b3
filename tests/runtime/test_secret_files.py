"""Settings that name files or servers: their values, and the errors of wrong ones."""

from pathlib import Path
from typing import Any

import pytest

from shared.contracts.errors import Misconfigured
from shared.runtime.kafka.connection import connection
from shared.runtime.mongo import Mongo
from shared.runtime.settings import EgressSettings, KafkaSettings, MongoSettings, load


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("from-a-file\n", encoding="utf-8")
    return path


def test_the_brokers_password_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, secret: Path) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "interlink")
    with pytest.raises(Misconfigured, match="KAFKA_SASL_PASSWORD"):
        connection(load(KafkaSettings))
    monkeypatch.setenv("KAFKA_SASL_PASSWORD_FILE", str(secret))
    assert connection(load(KafkaSettings))["sasl_plain_password"] == "from-a-file"


def test_the_databases_password_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, secret: Path) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://interlink@mongo:27017/interlink?authSource=admin")
    monkeypatch.setenv("MONGODB_PASSWORD_FILE", str(secret))
    client: Any = Mongo(load(MongoSettings), app="test").collection("x").database.client
    assert client.options._options["password"] == "from-a-file"


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_the_error_names_a_secret_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    monkeypatch.setenv("MONGODB_URI", "mongodb://interlink@mongo:27017/interlink")
    monkeypatch.setenv("MONGODB_PASSWORD_FILE", str(file))
    with pytest.raises(Misconfigured, match=f"^MONGODB_PASSWORD_FILE: {file} (cannot be read|is empty)"):
        Mongo(load(MongoSettings), app="test")


def test_dns_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(EgressSettings).name_servers == ()
    monkeypatch.setenv("INTERLINK_DNS_SERVERS", "10.0.0.2, [2001:db8::1]:5353")
    assert load(EgressSettings).name_servers == (("10.0.0.2", 53), ("2001:db8::1", 5353))
    monkeypatch.setenv("INTERLINK_DNS_SERVERS", "dns.example.com")
    with pytest.raises(Misconfigured, match=r"INTERLINK_DNS_SERVERS: .*addresses separated by commas"):
        load(EgressSettings)
