"""Public-key signatures: formats of keys, certificates, and the URLs that keys are fetched from."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.verification.public_key import KeySource
from shared.verification.scheme import VerificationResult
from shared.verification.template import SourceTemplate
from tests.verification.builders import (
    BODY,
    CURVE,
    EDWARDS,
    NOW,
    RSA,
    b64,
    check,
    make_scheme,
    pem_of,
    public_pem,
    request,
)

SHORT = rsa.generate_private_key(65537, 1024)  # noqa: S505 -- it has to be refused
OTHERS = {
    "ed25519": Ed25519PrivateKey.generate(),
    "ecdsa": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
}
SIGNATURE = {"header": "x-sig", "encoding": "base64"}
AT = {"url": "https://keys.example.com/", "hosts": ["keys.example.com"]}


@pytest.mark.parametrize(
    ("scheme", "private", "signature"),
    [
        ("ed25519", EDWARDS, EDWARDS.sign(BODY)),
        ("ecdsa", CURVE, CURVE.sign(BODY, ec.ECDSA(hashes.SHA256()))),
        ("rsa", RSA, RSA.sign(BODY, padding.PKCS1v15(), hashes.SHA256())),
    ],
    ids=["ed25519", "ecdsa", "rsa"],
)
def test_a_key_pair(scheme: str, private: Any, signature: bytes) -> None:
    verifier = make_scheme(scheme=scheme, signature=SIGNATURE)
    own, other = public_pem(private), public_pem(OTHERS[scheme])
    inbound = request({"x-sig": b64(signature)})
    assert check(verifier, inbound, own) is VerificationResult.VERIFIED
    assert check(verifier, inbound, other, own) is VerificationResult.VERIFIED
    assert check(verifier, inbound, other) is VerificationResult.MISMATCH
    assert (
        check(verifier, request({"x-sig": b64(signature)}, BODY + b" "), own) is VerificationResult.MISMATCH
    )
    for broken in (
        signature[:-1],
        signature + b"\0",
        bytes(len(signature)),
        b"",
        b"\x30\x06\x02\x01\x00\x02\x01\x00",
    ):
        assert check(verifier, request({"x-sig": b64(broken)}), own) in {
            VerificationResult.MISMATCH,
            VerificationResult.UNREADABLE,
        }
    again = verifier.sign(request(), pem_of(private), NOW)
    assert check(verifier, again, own) is VerificationResult.VERIFIED


def test_a_public_key_in_the_formats_of_providers() -> None:
    raw = EDWARDS.public_key().public_bytes_raw()
    inbound = request({"x-sig": EDWARDS.sign(BODY).hex()})
    discord = make_scheme(scheme="ed25519", signature={"header": "x-sig"}, key={"form": "hex"})
    assert check(discord, inbound, raw.hex().encode()) is VerificationResult.VERIFIED
    der = CURVE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    sendgrid = make_scheme(scheme="ecdsa", signature=SIGNATURE, key={"form": "base64"})
    inbound = request({"x-sig": b64(CURVE.sign(BODY, ec.ECDSA(hashes.SHA256())))})
    assert check(sendgrid, inbound, b64(der).encode()) is VerificationResult.VERIFIED


@pytest.mark.parametrize(
    "secret",
    [
        b"",
        b"00",
        bytes(31).hex().encode(),
        bytes(33).hex().encode(),
        b"zz" * 32,
        b"not a key",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        public_pem(CURVE).hex().encode(),
        pem_of(EDWARDS).hex().encode(),
    ],
)
def test_a_malformed_public_key_is_as_none(secret: bytes) -> None:
    discord = make_scheme(scheme="ed25519", signature={"header": "x-sig"}, key={"form": "hex"})
    assert (
        check(discord, request({"x-sig": EDWARDS.sign(BODY).hex()}), secret) is VerificationResult.NO_SECRET
    )


def test_a_public_key_of_no_order_signs_nothing() -> None:
    """Keys of small order verify a signature of zeros over anything: the neutral element is one."""
    discord = make_scheme(scheme="ed25519", signature={"header": "x-sig"}, key={"form": "hex"})
    neutral = b"01" + b"00" * 31
    for point in (neutral.decode(), "00" * 32):
        forged = request({"x-sig": point + "00" * 32})
        assert (
            check(discord, forged, EDWARDS.public_key().public_bytes_raw().hex().encode())
            is VerificationResult.MISMATCH
        )


def test_a_key_of_another_kind_or_too_short_is_none() -> None:
    verifier = make_scheme(scheme="rsa", signature=SIGNATURE)
    short = request({"x-sig": b64(SHORT.sign(BODY, padding.PKCS1v15(), hashes.SHA256()))})
    assert check(verifier, short, public_pem(SHORT)) is VerificationResult.NO_SECRET
    assert check(verifier, short, public_pem(CURVE)) is VerificationResult.NO_SECRET
    assert check(verifier, short, pem_of(RSA)) is VerificationResult.NO_SECRET
    fetched = make_scheme(
        scheme="rsa",
        signature=SIGNATURE,
        keys={"url": "https://keys.example.com/", "hosts": ["keys.example.com"]},
    )
    assert check(fetched, short, document=public_pem(SHORT)) is VerificationResult.UNREADABLE


def test_a_secret_is_no_replacement_for_a_key_that_is_fetched() -> None:
    verifier = make_scheme(
        scheme="rsa",
        signature=SIGNATURE,
        keys={"url": "https://keys.example.com/", "hosts": ["keys.example.com"]},
    )
    inbound = request({"x-sig": b64(RSA.sign(BODY, padding.PKCS1v15(), hashes.SHA256()))})
    assert check(verifier, inbound, document=public_pem(RSA)) is VerificationResult.VERIFIED
    assert check(verifier, inbound, public_pem(RSA)) is VerificationResult.UNREADABLE
    for document in (b"", b"<html>", b"{}", pem_of(RSA)):
        assert check(verifier, inbound, public_pem(RSA), document=document) is VerificationResult.UNREADABLE


@pytest.mark.parametrize(
    ("document", "verdict"),
    [
        ({"data": {"publicKey": "PEM"}}, VerificationResult.VERIFIED),
        ({"data": {"publicKey": ""}}, VerificationResult.UNREADABLE),
        ({"data": {"publicKey": ["PEM"]}}, VerificationResult.UNREADABLE),
        ({"data": None}, VerificationResult.UNREADABLE),
        ({"publicKey": "PEM"}, VerificationResult.UNREADABLE),
        ([], VerificationResult.UNREADABLE),
        (None, VerificationResult.UNREADABLE),
    ],
)
def test_a_key_in_a_document(document: Any, verdict: VerificationResult) -> None:
    keys = {"url": "https://keys.example.com/", "hosts": ["keys.example.com"], "json": "data.publicKey"}
    verifier = make_scheme(scheme="rsa", signature=SIGNATURE, keys=keys)
    inbound = request({"x-sig": b64(RSA.sign(BODY, padding.PKCS1v15(), hashes.SHA256()))})
    text = orjson.dumps(document).replace(b'"PEM"', orjson.dumps(public_pem(RSA).decode()))
    assert check(verifier, inbound, document=text) is verdict
    assert check(verifier, inbound, document=b"no JSON") is VerificationResult.UNREADABLE


def certificate(
    private: Any, name: str, *, starts: int = -1, ends: int = 1, other: str | None = None
) -> bytes:
    now = datetime.fromtimestamp(NOW, UTC)
    attributes = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]
    if other is not None:
        attributes.append(x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, other))
    subject = x509.Name(attributes)
    signed_certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now + timedelta(days=starts))
        .not_valid_after(now + timedelta(days=ends))
        .sign(RSA, hashes.SHA256())
    )
    return signed_certificate.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("document", "verdict"),
    [
        (certificate(RSA, "webhooks.example.com"), VerificationResult.VERIFIED),
        (certificate(RSA, "webhooks.example.com") + certificate(SHORT, "other"), VerificationResult.VERIFIED),
        (
            certificate(SHORT, "webhooks.example.com") + certificate(RSA, "x.example.com"),
            VerificationResult.UNREADABLE,
        ),
        (certificate(RSA, "webhooks.example.com", starts=-9, ends=-1), VerificationResult.UNREADABLE),
        (certificate(RSA, "webhooks.example.com", starts=1, ends=9), VerificationResult.UNREADABLE),
        (certificate(RSA, "webhooks.example.org"), VerificationResult.UNREADABLE),
        (certificate(RSA, "example.com.evil.example"), VerificationResult.UNREADABLE),
        (certificate(RSA, "evil.example", other="webhooks.example.com"), VerificationResult.UNREADABLE),
        (certificate(SHORT, "webhooks.example.com"), VerificationResult.UNREADABLE),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", VerificationResult.UNREADABLE),
        (b"-----BEGIN CERTIFICATE-----", VerificationResult.UNREADABLE),
    ],
    ids=[
        "good",
        "chain",
        "short first",
        "expired",
        "early",
        "another",
        "end",
        "field",
        "short",
        "bad",
        "cut",
    ],
)
def test_a_certificate(document: bytes, verdict: VerificationResult) -> None:
    keys = {"url": "https://keys.example.com/", "hosts": ["keys.example.com"], "subject": ".example.com"}
    paypal = make_scheme(scheme="rsa", signature=SIGNATURE, keys=keys)
    inbound = request({"x-sig": b64(RSA.sign(BODY, padding.PKCS1v15(), hashes.SHA256()))})
    assert check(paypal, inbound, document=document) is verdict


HOST, PATH = "api.example.com", "/v1/certs/"


@pytest.mark.parametrize(
    "url",
    [f"https://{HOST}{PATH}CERT-1", f"https://{HOST}{PATH}a/b_c~d.pem", f"https://{HOST}{PATH}"],
)
def test_the_url_of_a_key(url: str) -> None:
    source = KeySource(SourceTemplate("{header:x-url}"), (HOST,), PATH)
    assert source.fetch_url(request({"x-url": url})) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "CERT-1",
        PATH + "CERT-1",
        f"//{HOST}{PATH}CERT-1",
        f"http://{HOST}{PATH}CERT-1",
        f"ftp://{HOST}{PATH}CERT-1",
        f"https:{HOST}{PATH}CERT-1",
        f"https:///{HOST}{PATH}CERT-1",
        f"https://evil.example{PATH}CERT-1",
        f"https://evil.{HOST}{PATH}CERT-1",
        f"https://{HOST}.evil.example{PATH}CERT-1",
        f"https://{HOST}evil{PATH}CERT-1",
        f"https://{HOST}.{PATH}CERT-1",
        f"https://user@{HOST}{PATH}CERT-1",
        f"https://user:pass@{HOST}{PATH}CERT-1",
        f"https://{HOST}@evil.example{PATH}CERT-1",
        f"https://{HOST}\\@evil.example{PATH}CERT-1",
        f"https://evil.example\\{HOST}{PATH}CERT-1",
        f"https://evil.example#{HOST}{PATH}CERT-1",
        f"https://evil.example?{HOST}{PATH}CERT-1",
        f"https://{HOST}:443{PATH}CERT-1",
        f"https://{HOST}:8443{PATH}CERT-1",
        f"https://{HOST}:{PATH}CERT-1",
        f"https://{HOST}{PATH}../secrets",
        f"https://{HOST}{PATH}%2e%2e/secrets",
        f"https://{HOST}{PATH}..%2fsecrets",
        f"https://{HOST}{PATH}CERT-1?x=1",
        f"https://{HOST}{PATH}CERT-1?",
        f"https://{HOST}{PATH}CERT-1#1",
        f"https://{HOST}{PATH}CERT-1;x",
        f"https://{HOST}{PATH}CERT\\1",
        f"https://{HOST}{PATH}CERT 1",
        f"https://{HOST}{PATH}CERT\t1",
        f"https://api.exa\tmple.com{PATH}CERT-1",
        f"https://{HOST}/other/CERT-1",
        f"https://{HOST}",
        f"https://{HOST}/v1/certs",
        f"https://{HOST}//v1/certs/CERT-1",
        f"https://127.0.0.1{PATH}CERT-1",
        f"https://[::1]{PATH}CERT-1",
        f"https://2130706433{PATH}CERT-1",
        f"https://аpi.example.com{PATH}CERT-1",  # noqa: RUF001 -- a Cyrillic letter
        f"https://api。example.com{PATH}CERT-1",
        f"https://ａpi.example.com{PATH}CERT-1",  # noqa: RUF001 -- a full-width letter
        f"https://{HOST}{PATH}" + "x" * 500,
        f"https://[{HOST}{PATH}CERT-1",
        f"https://{HOST}:99999999{PATH}CERT-1",
        f"https://{HOST}{PATH}CERT-1, https://{HOST}{PATH}CERT-2",
        "javascript:alert(1)",
        "file:///etc/passwd",
    ],
)
def test_a_url_that_is_not_the_providers(url: str) -> None:
    source = KeySource(SourceTemplate("{setting:url}"), (HOST,), PATH)
    assert source.fetch_url(request(settings={"url": url})) is None


def test_without_a_url_nothing_is_verified() -> None:
    keys = {"url": "{header:x-url}", "hosts": [HOST], "path": PATH}
    verifier = make_scheme(scheme="rsa", signature=SIGNATURE, keys=keys)
    inbound = request(
        {"x-sig": b64(RSA.sign(BODY, padding.PKCS1v15(), hashes.SHA256())), "x-url": "http://x"}
    )
    assert verifier.key_url(inbound) is None
    assert check(verifier, inbound) is VerificationResult.UNREADABLE
