"""Settings that name files or servers: their values, and the errors of wrong ones."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pymongo import ReadPreference

from shared.contracts.errors import Misconfigured
from shared.runtime.kafka.connection import broker_connection, connection
from shared.runtime.mongo import Mongo
from shared.runtime.settings import EgressSettings, KafkaSettings, MongoSettings, load
from tests.support.certificates import Authority


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


@pytest.mark.parametrize("servers", ["kafka-1:9092", "kafka-1:9092, [2001:db8::1]:9093"])
def test_every_client_gets_all_bootstrap_servers(monkeypatch: pytest.MonkeyPatch, servers: str) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
    for arguments in (connection, broker_connection):
        assert arguments(load(KafkaSettings))["bootstrap_servers"] == servers.split(", ")


@pytest.mark.parametrize("servers", ["kafka", "kafka:9092,", "https://kafka:9092", "kafka:0"])
def test_bootstrap_servers_are_hosts_with_ports(monkeypatch: pytest.MonkeyPatch, servers: str) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
    with pytest.raises(Misconfigured, match=r"KAFKA_BOOTSTRAP_SERVERS: .* host:port, several separated by"):
        load(KafkaSettings)


def _pem(folder: Path) -> dict[str, Path]:
    """The files of a client's TLS, right and wrong."""
    authority = Authority("brokers")
    certificate, key = authority.pair("gateway")
    other_key = load_pem_private_key(authority.pair("other")[1].encode(), None)
    sealed = other_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    other = other_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    texts = {
        "ca": authority.pem,
        "cert": certificate,
        "key": key,
        "both": certificate + key,
        "other": other.decode(),
        "sealed": sealed.decode(),
        "noise": "nothing",
        "empty": "",
    }
    files = {name: folder / f"{name}.pem" for name in [*texts, "nowhere"]}
    for name, text in texts.items():
        files[name].write_text(text, encoding="utf-8")
    return files


@pytest.mark.parametrize(
    ("protocol", "files", "problem"),
    [
        ("SSL", {"CAFILE": "ca"}, ""),
        ("SSL", {"CAFILE": "ca", "CERTFILE": "cert", "KEYFILE": "key"}, ""),
        ("SSL", {"CERTFILE": "both"}, ""),
        ("SSL", {"CAFILE": "nowhere"}, "KAFKA_SSL_CAFILE: .*nowhere.pem cannot be read: No such file"),
        ("SSL", {"CAFILE": "noise"}, "KAFKA_SSL_CAFILE: .*noise.pem has no certificate in PEM: give the PEM"),
        ("SSL", {"CAFILE": "empty"}, "KAFKA_SSL_CAFILE: .*empty.pem has no certificate"),
        ("SSL", {"KEYFILE": "key"}, "KAFKA_SSL_KEYFILE is set: set KAFKA_SSL_CERTFILE too"),
        ("SSL", {"CERTFILE": "cert"}, "KAFKA_SSL_CERTFILE: .* no certificate with a key .*KAFKA_SSL_KEYFILE"),
        ("SSL", {"CERTFILE": "nowhere", "KEYFILE": "key"}, "KAFKA_SSL_CERTFILE: .* cannot be read"),
        ("SSL", {"CERTFILE": "cert", "KEYFILE": "nowhere"}, "KAFKA_SSL_KEYFILE: .* cannot be read"),
        ("SSL", {"CERTFILE": "cert", "KEYFILE": "other"}, "does not belong to the private key"),
        (
            "SSL",
            {"CERTFILE": "cert", "KEYFILE": "sealed"},
            "KAFKA_SSL_KEYFILE: .* passphrase: store it without",
        ),
        ("PLAINTEXT", {"CAFILE": "ca"}, "KAFKA_SSL_CAFILE is set, but .*PLAINTEXT has no TLS: set it to SSL"),
        ("SASL_PLAINTEXT", {"CERTFILE": "both"}, "KAFKA_SSL_CERTFILE is set, but .* has no TLS"),
    ],
)
def test_the_error_names_what_is_wrong_with_the_brokers_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, protocol: str, files: dict[str, str], problem: str
) -> None:
    paths = _pem(tmp_path)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", protocol)
    for name, file in files.items():
        monkeypatch.setenv(f"KAFKA_SSL_{name}", str(paths[file]))
    if not problem:
        assert connection(load(KafkaSettings))["ssl_context"].check_hostname
        return
    for arguments in (connection, broker_connection):
        with pytest.raises(Misconfigured, match=problem):
            arguments(load(KafkaSettings))


def test_a_login_without_sasl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not be used, and nobody would notice that everybody may connect."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SSL")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "gateway")
    with pytest.raises(
        Misconfigured, match=r"KAFKA_SASL_USERNAME is set, but .*SSL has no login: set it to SASL"
    ):
        connection(load(KafkaSettings))


def test_the_databases_password_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, secret: Path) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://interlink@mongo:27017/interlink?authSource=admin")
    monkeypatch.setenv("MONGODB_PASSWORD_FILE", str(secret))
    client: Any = Mongo(load(MongoSettings), app="test").collection("x").database.client
    assert client.options._options["password"] == "from-a-file"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("w=majority&readPreference=primary&retryWrites=true&appName=x", ""),
        ("w=1", "w=1 is not possible, because the hub needs w=majority: remove it"),
        ("readPreference=secondaryPreferred", "needs readPreference=primary: remove it"),
        ("retrywrites=false", "retrywrites=false is not possible, .* needs retryWrites=true: remove it"),
        ("tls=true&tlsCAFile=nowhere.pem", "No such file or directory: 'nowhere.pem': give PEM files"),
        ("tls=true&tlsCAFile={noise}", "no certificate or crl found.* give PEM files .* tlsCAFile"),
        ("tls=true&tlsCAFile={ca}&tlsCertificateKeyFile={cert}", "Private key doesn't match certificate"),
        ("tls=true&tlsCAFile={ca}&tlsCertificateKeyFile={both}", ""),
    ],
)
async def test_the_databases_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: str, problem: str
) -> None:
    options = options.format(**_pem(tmp_path))
    monkeypatch.setenv("MONGODB_URI", f"mongodb://127.0.0.1:1/interlink?{options}")
    if problem:
        with pytest.raises(Misconfigured, match=f"^MONGODB_URI: .*{problem}"):
            Mongo(load(MongoSettings), app="test")
        return
    mongo = Mongo(load(MongoSettings), app="test")
    database = mongo.async_database()
    for collection in (mongo.collection("x"), database["x"]):
        assert collection.read_preference == ReadPreference.PRIMARY
        assert collection.write_concern.document == {"w": "majority"}
    await database.client.close()
    mongo.close()


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
