"""The user of the embedded database, created over TLS at its first start: see `store_login`.

It runs as a process of its own, `python -m interlink.store_users HOST PORT CERTIFICATE USER`.
"""

import sys
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

_CONNECT_TIMEOUT_MS: Final = 30_000


def main(host: str, port: int, certificate: Path, user: str) -> None:
    """Write the certificate, print a line, and create the user once its password comes on standard input.

    Prints the error and exits with status 1 if the database refuses it.
    """
    certificate.write_bytes(create_certificate(host))
    print(flush=True)  # noqa: T201 -- for the process that waits for it
    password = sys.stdin.readline().strip()
    if password:  # else the database was not started
        try:
            replace_users(host, port, certificate, user, password)
        except PyMongoError as error:
            sys.exit(str(error))


def replace_users(host: str, port: int, certificate: Path, user: str, password: str) -> None:
    """Make this the only user of the database, and its root. Raises `PyMongoError`."""
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
    """Return a key, its certificate for server and client, and that of the authority that signed it, as PEM.

    The authority's key is thrown away.
    """
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("the embedded database's first start", authority_key.public_key())
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    leaf = _certificate("the embedded database", key.public_key())
    leaf = leaf.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for certificate in (leaf, authority):
        pem += certificate.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return pem


def _certificate(name: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the embedded database's first start")])
        )
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
