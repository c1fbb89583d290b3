"""The login of the embedded database: only processes that can read the data folder have access.

The database listens on 127.0.0.1, where every user of the machine can connect. It can create users only over
its protocol, while it does not require a login. To keep others out at that moment, it is started once with
TLS and a client certificate that exists only for this purpose. Every later start requires the login.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pymongo import MongoClient

USER: Final = "interlink"
_PASSWORD: Final = "store.password"  # noqa: S105 -- the name of a file
_PENDING_PASSWORD: Final = "store.password.new"  # noqa: S105 -- the name of a file
_CONNECT_TIMEOUT_MS: Final = 30_000


def store_password(folder: Path) -> str:
    """Return the password of the folder's database. Create one if there is none."""
    for name in (_PASSWORD, _PENDING_PASSWORD):
        if (folder / name).exists():
            return (folder / name).read_text("utf-8").strip()
    password = token_urlsafe(32)
    descriptor = os.open(folder / _PENDING_PASSWORD, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(password + "\n")
    return password


def create_login(
    folder: Path, host: str, port: int, run: Callable[[Sequence[str], Callable[[], None]], None]
) -> None:
    """Create the database's only user, unless an earlier call finished that.

    `run` starts the database with more options, calls back, and stops it. All other users are removed: an
    earlier version required no login, so that anybody could create users.
    """
    if (folder / _PASSWORD).exists():
        return
    password = store_password(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="store-tls-") as temporary:
        certificate = Path(temporary) / "certificate.pem"
        certificate.write_bytes(_certificate(host))
        options = (
            *("--tls-cert-file", str(certificate), "--tls-key-file", str(certificate)),
            *("--tls-ca-file", str(certificate), "--tls-require-client-cert"),
        )
        run(options, lambda: _replace_users(host, port, certificate, password))
    (folder / _PENDING_PASSWORD).replace(folder / _PASSWORD)


def _replace_users(host: str, port: int, certificate: Path, password: str) -> None:
    with MongoClient[dict[str, Any]](
        host,
        port,
        directConnection=True,
        tls=True,
        tlsCAFile=str(certificate),
        tlsCertificateKeyFile=str(certificate),
        serverSelectionTimeoutMS=_CONNECT_TIMEOUT_MS,
    ) as client:
        for user in client.admin["system.users"].find():
            client[user["db"]].command("dropUser", user["user"])
        client.admin.command("createUser", USER, pwd=password, roles=["root"])


def _certificate(host: str) -> bytes:
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
