"""TLS of outgoing calls: trusted authorities, client certificates, and the reasons of failed handshakes."""

import os
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from shared.contracts.errors import Malformed, Misconfigured

_MAX_CERTIFICATES: Final = 10
_MAX_RSA_BITS: Final = 4096
"""Each connection signs with the key in the event loop: with 16,384 bits that takes a fifth of a second."""
_CERTIFICATE_EXPIRED: Final = 10
_CERTIFICATE_NOT_YET_VALID: Final = 9
_UNKNOWN_ISSUER: Final = frozenset({18, 19, 20, 21})  # self-signed, or an unknown issuer
_NAME_MISMATCH: Final = frozenset({62, 64})  # host, address
_CIPHERS: Final = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
"""Python's own for TLS 1.2, without the key exchange over a group of the server's choice (DHE).

A server that chooses a group of 10,000 bits would hold up the event loop for half a second at
each connection.
"""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ClientCertificate:
    """A client certificate with its key, for servers that ask for one (mutual TLS).

    Made by `parse_client_certificate`. The egress client caches a TLS context for each object, so use one
    object for all calls with the same certificate.
    """

    not_before: datetime
    not_after: datetime
    """After this time servers refuse it. It is not checked here."""
    _pem: bytes = field(repr=False)

    def present(self, context: ssl.SSLContext) -> None:
        """Add this certificate to `context`. Raises `ssl.SSLError` if TLS cannot use it."""
        with _as_file(self._pem) as path:
            context.load_cert_chain(path, password=_no_password)


def parse_client_certificate(certificate_pem: str, key_pem: str) -> ClientCertificate:
    """Parse a certificate chain, the client's own first, and its unencrypted private key; both are PEM.

    An expired certificate is accepted: the server decides whether it is valid. Raises `Malformed` with what
    is wrong; the error repeats nothing of the key.
    """
    chain, key = _parse_chain(certificate_pem), _parse_private_key(key_pem)
    try:
        matches = _public_bytes(chain[0]) == _public_bytes(key)
    except (ValueError, UnsupportedAlgorithm):
        raise Malformed("the certificate's kind of key is not supported") from None
    if not matches:
        raise Malformed("the private key does not belong to the first certificate")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = ClientCertificate(
        chain[0].not_valid_before_utc,
        chain[0].not_valid_after_utc,
        pem + b"".join(link.public_bytes(Encoding.PEM) for link in chain),
    )
    try:
        certificate.present(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except ssl.SSLError as error:
        raise Malformed(f"TLS cannot use this certificate: {_reason_text(error.reason)}") from None
    return certificate


def read_ca_file(path: Path | str) -> str:
    """Return the PEM text of a file of authorities. Raises `Misconfigured` if TLS cannot load it."""
    try:
        text = Path(path).read_text("ascii", "ignore")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (OSError, ValueError):
        raise Misconfigured(
            f"INTERLINK_EGRESS_CA_FILE: {path} is not a readable file of PEM certificates"
        ) from None
    return text


def tls_context(
    trusted: str | None, certificate: ClientCertificate | None = None, *, for_http: bool = True
) -> ssl.SSLContext:
    """Return a TLS context that trusts the system's authorities.

    `trusted` has further authorities, as PEM. `certificate` is shown to servers that ask for one. Only
    `for_http`, the protocol is offered: mail servers close a connection that offers HTTP.
    """
    context = ssl.create_default_context()
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    if for_http:
        context.set_alpn_protocols(("http/1.1",))
    if trusted is not None:
        context.load_verify_locations(cadata=trusted)
    if certificate is not None:
        certificate.present(context)
    return context


def describe_tls_error(error: ssl.SSLError | None) -> str:
    """Return why a handshake failed, as a text that the owner of the endpoint can act on."""
    # The codes are OpenSSL's X509_V_ERR_*.
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _CERTIFICATE_EXPIRED:
            return "the certificate has expired"
        if error.verify_code == _CERTIFICATE_NOT_YET_VALID:
            return "the certificate is not valid yet"
        if error.verify_code in _UNKNOWN_ISSUER:
            return "the certificate's authority is not known"
        if error.verify_code in _NAME_MISMATCH:
            return "the certificate is for another host"
        return f"the certificate is not accepted: {error.verify_message}"
    return f"the handshake failed: {_reason_text(error.reason if error else None)}"


def _reason_text(reason: str | None) -> str:
    """Return OpenSSL's name of an error, such as TLSV13_ALERT_CERTIFICATE_REQUIRED, as words."""
    return (reason or "no reason was given").replace("_", " ").lower()


def _parse_chain(pem: str) -> Sequence[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise Malformed("the certificate is not PEM: -----BEGIN CERTIFICATE----- and what follows") from None
    if len(chain) > _MAX_CERTIFICATES:
        raise Malformed(f"a certificate chain has at most {_MAX_CERTIFICATES} certificates")
    return chain


def _parse_private_key(pem: str) -> PrivateKeyTypes:
    try:
        # Not validated: that takes seconds for a large key, and an invalid one only fails its handshakes.
        key = load_pem_private_key(pem.encode(), password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise Malformed("the private key is encrypted: give it without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Malformed("the private key is not PEM: -----BEGIN PRIVATE KEY----- and what follows") from None
    if isinstance(key, RSAPrivateKey) and key.key_size > _MAX_RSA_BITS:
        raise Malformed(f"the private key has {key.key_size} bits: an RSA key may have {_MAX_RSA_BITS}")
    return key


def _public_bytes(owner: x509.Certificate | PrivateKeyTypes) -> bytes:
    return owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Provide `content` as a file while the context lasts, because OpenSSL loads keys from files only.

    The file is in memory on Linux. Elsewhere it is a private temporary file, removed at the end.
    """
    in_memory = getattr(os, "memfd_create", None)
    if in_memory is not None:
        descriptor = in_memory("certificate")
        path = f"/proc/self/fd/{descriptor}"
    else:
        descriptor, path = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            yield path
    finally:
        if in_memory is None:
            Path(path).unlink()


def _no_password() -> str:
    """Return no password, instead of OpenSSL's own callback, which asks at the terminal."""
    return ""
