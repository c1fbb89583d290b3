"""Certificates for tests: an authority, and servers and clients that it signed."""

import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Authority:
    """Signs certificates; `pem` is its own. All end after `days`."""

    def __init__(self, name: str, *, days: int = 30) -> None:
        self._name = name
        self._days = days
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = self._signed(name, self._key.public_key(), (), authority=True)
        self.pem = own.public_bytes(Encoding.PEM).decode()

    def pair(self, name: str, *hosts: str) -> tuple[str, str]:
        """A certificate and its key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return self._signed(name, key.public_key(), hosts).public_bytes(Encoding.PEM).decode(), private

    def _signed(
        self, name: str, public: ec.EllipticCurvePublicKey, hosts: tuple[str, ...], *, authority: bool = False
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        names = [
            x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=self._days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def server_tls(servers: Authority, clients: Authority | None = None) -> ssl.SSLContext:
    """TLS of a server on this machine; with `clients`, one that demands a certificate of theirs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("".join(servers.pair("server", "localhost", "127.0.0.1")))
        file.flush()
        context.load_cert_chain(file.name)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients.pem)
    return context
