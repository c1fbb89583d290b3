"""The user of the embedded database, created over TLS at its first start: see `store_login`.

Only a first start imports this.
"""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from interlink.store_login import LoginError

_CONNECT_TIMEOUT_MS: Final = 30_000


def replace_users(host: str, port: int, certificate: Path, user: str, password: str) -> None:
    """Make this the only user of the database, and its root. Raises `LoginError`."""
    try:
        _replace_users(host, port, certificate, user, password)
    except PyMongoError as error:
        raise LoginError(str(error)) from None


def _replace_users(host: str, port: int, certificate: Path, user: str, password: str) -> None:
    with MongoClient[dict[str, Any]](
        host,
        port,
        directConnection=True,
        tls=True,
        tlsCAFile=str(certificate),
        tlsCertificateKeyFile=str(certificate),
        serverSelectionTimeoutMS=_CONNECT_TIMEOUT_MS,
    ) as client:
        for found in client.admin["system.users"].find():
            client[found["db"]].command("dropUser", found["user"])
        client.admin.command("createUser", user, pwd=password, roles=["root"])


def create_certificate(host: str) -> bytes:
    """Return a private key and a self-signed certificate, for server and client, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the embedded database's first start")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem + certificate.public_bytes(Encoding.PEM)
