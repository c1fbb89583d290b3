"""The egress client over real sockets: TLS, client certificates, ports, names, egress proxy."""

import asyncio
import base64
import gc
import gzip
import os
import socket
import socketserver
import ssl
import struct
import tempfile
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

import pytest
import uvloop
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Malformed, Misconfigured
from shared.runtime.egress.certificates import ClientCertificate, parse_client_certificate
from shared.runtime.egress.client import (
    MAX_RESPONSE_BYTES,
    WEB_PORTS,
    EgressClient,
    EgressResponse,
)
from tests.support.egress import LOOPBACK_URLS, calling, resolving
from tests.support.misbehaving_server import MisbehavingServer
from tests.support.ports import free_port
from tests.support.subscriber import Subscriber

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
NOW = datetime.now(UTC)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Any]]:
    """Run a coroutine on each event loop: they report a failed handshake differently, and both are in use."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


# Certificates


@dataclass
class Authority:
    """Makes certificates."""

    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.certificate = self._signed(self.name, self.key.public_key(), (), NOW, 30, authority=True)
        self.pem = self.certificate.public_bytes(Encoding.PEM).decode()

    def pair(
        self, name: str, *hosts: str, start: datetime = NOW, days: int = 30, key: Any = None
    ) -> tuple[str, str]:
        """A certificate and its key, PEM."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(name, key.public_key(), hosts, start, days)
        return certificate.public_bytes(Encoding.PEM).decode(), key_pem(key)

    def _signed(
        self,
        name: str,
        public: Any,
        hosts: tuple[str, ...],
        start: datetime,
        days: int,
        *,
        authority: bool = False,
    ) -> x509.Certificate:
        names = [
            x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - timedelta(days=1))
            .not_valid_after(start + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def key_pem(key: Any, password: bytes | None = None) -> str:
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection).decode())


SERVERS = Authority("servers of the test")
CLIENTS = Authority("clients of the test")
STRANGERS = Authority("strangers")


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "authorities.pem"
    path.write_text("# \N{LATIN SMALL LETTER E WITH ACUTE}\n" + SERVERS.pem, "utf-8")
    return path


def server_tls(pair: tuple[str, str], *, clients: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("".join(pair))
        file.flush()
        context.load_cert_chain(file.name)
    context.verify_mode = clients
    context.load_verify_locations(cadata=CLIENTS.pem)
    return context


def localhost_tls(*, clients: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
    return server_tls(SERVERS.pair("server", "localhost", "127.0.0.1"), clients=clients)


# Servers and clients


@dataclass
class Seen:
    """The requests that a server received."""

    port: int = 0
    hosts: list[str] = field(default_factory=list)
    common_names: list[str | None] = field(default_factory=list)
    """The common names of the client certificates."""
    connections: list[int] = field(default_factory=list)
    """The client's port, which identifies the connection."""
    headers: list[dict[str, str]] = field(default_factory=list)


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Seen]:
    """An HTTP server on this loop that answers 200."""
    seen = Seen()

    async def handle(request: web.Request) -> web.Response:
        assert request.transport
        shown = request.transport.get_extra_info("peercert") or {}
        subject = {key: value for ((key, value),) in shown.get("subject", ())}
        seen.hosts.append(request.headers["Host"])
        seen.common_names.append(subject.get("commonName"))
        seen.connections.append(request.transport.get_extra_info("peername")[1])
        seen.headers.append(dict(request.headers))
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    seen.port = runner.addresses[0][1]
    try:
        yield seen
    finally:
        await runner.cleanup()


async def post(
    client: EgressClient, url: str, *, certificate: ClientCertificate | None = None, timeout_s: float = 10
) -> EgressResponse:
    return await client.post(url, {"X-Test": "1"}, b"body", timeout_s=timeout_s, certificate=certificate)


def outcome(answer: EgressResponse) -> tuple[int | None, str | None]:
    return answer.status, answer.failure


# TLS


def test_a_private_authority_is_trusted_beside_the_systems(run: Run[None], ca_file: Path) -> None:
    async def test() -> None:
        async with serving(localhost_tls()) as seen:
            async with calling(ca_file=ca_file) as client:
                answer = await post(client, f"https://localhost:{seen.port}/hook")
                assert (outcome(answer), answer.body, answer.address) == ((200, None), b"body", "127.0.0.1")
            async with calling() as client:
                answer = await post(client, f"https://localhost:{seen.port}/hook")
                assert (answer.failure, answer.detail) == ("tls", "the certificate's authority is not known")
            assert seen.hosts == [f"localhost:{seen.port}"]

    run(test())


@pytest.mark.parametrize(
    ("pair", "detail"),
    [
        (SERVERS.pair("s", "localhost", start=NOW - timedelta(days=60)), "the certificate has expired"),
        (SERVERS.pair("s", "localhost", start=NOW + timedelta(days=9)), "the certificate is not valid yet"),
        (SERVERS.pair("s", "other.example"), "the certificate is for another host"),
        (STRANGERS.pair("s", "localhost"), "the certificate's authority is not known"),
    ],
    ids=["expired", "early", "other host", "unknown authority"],
)
def test_an_invalid_server_certificate(
    run: Run[None], ca_file: Path, pair: tuple[str, str], detail: str
) -> None:
    async def test() -> None:
        async with serving(server_tls(pair)) as seen, calling(ca_file=ca_file) as client:
            answer = await post(client, f"https://localhost:{seen.port}/hook")
            assert (outcome(answer), answer.detail) == ((None, "tls"), detail)
            assert seen.hosts == []

    run(test())


def test_a_server_cannot_choose_an_expensive_key_exchange(
    run: Run[None], ca_file: Path, tmp_path: Path
) -> None:
    """A group of 10,000 bits takes half a second; this one is cheap."""
    tls = server_tls(SERVERS.pair("server", "localhost", key=rsa.generate_private_key(65537, 2048)))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers("DHE-RSA-AES256-GCM-SHA384")
    group = tmp_path / "group.pem"
    numbers = b"\x02\x82\x01\x01" + ((1 << 2048) - 942289).to_bytes(257) + b"\x02\x01\x02"
    pem = base64.encodebytes(b"\x30\x82" + len(numbers).to_bytes(2) + numbers).decode()
    group.write_text(f"-----BEGIN DH PARAMETERS-----\n{pem}-----END DH PARAMETERS-----\n")
    tls.load_dh_params(str(group))

    async def test() -> None:
        async with serving(tls) as seen, calling(ca_file=ca_file) as client:
            assert outcome(await post(client, f"https://localhost:{seen.port}/")) == (None, "tls")

    run(test())


def test_a_port_without_tls(run: Run[None]) -> None:
    async def test() -> None:
        async with serving() as seen, calling() as client:
            answer = await post(client, f"https://localhost:{seen.port}/hook")
            assert answer.failure == "tls"
            assert answer.detail.startswith("the handshake failed: ")
            assert answer.detail != "the handshake failed: no reason was given"

    run(test())


def test_sni_has_the_name_of_the_url(run: Run[None], ca_file: Path) -> None:
    """SNI: the connection goes to a checked address, and the handshake still names the host."""
    asked: list[str | None] = []
    tls = localhost_tls()
    tls.sni_callback = lambda _socket, name, _context: asked.append(name)

    async def test() -> None:
        async with serving(tls) as seen, calling(ca_file=ca_file) as client:
            assert (await post(client, f"https://localhost:{seen.port}/")).status == 200

    run(test())
    assert asked == ["localhost"]


# Client certificates


class _CertificateServer(socketserver.ThreadingTCPServer):
    """Requires a certificate. OpenSSL on the socket itself: asyncio's own servers send no alerts."""

    daemon_threads = True

    def __init__(self, version: ssl.TLSVersion) -> None:
        self.tls = localhost_tls(clients=ssl.CERT_REQUIRED)
        self.tls.minimum_version = self.tls.maximum_version = version
        self.got: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _CertificateHandler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _CertificateHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _CertificateServer)
        connection = self.server.tls.wrap_socket(
            self.request, server_side=True, do_handshake_on_connect=False
        )
        with connection, suppress(OSError):
            try:
                connection.do_handshake()
            except ssl.SSLError:  # the alert is on its way; a close with something unread would overtake it
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
                return
            self.server.got.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_mutual_tls(run: Run[list[EgressResponse]], ca_file: Path, version: ssl.TLSVersion) -> None:
    """A server that asks for a certificate gets it. Without one, or with a wrong one, the detail says why."""
    good = parse_client_certificate(*CLIENTS.pair("the hub"))
    unknown = parse_client_certificate(*STRANGERS.pair("the hub"))
    expired = parse_client_certificate(*CLIENTS.pair("the hub", start=NOW - timedelta(days=60)))
    assert expired.not_after < NOW < good.not_after

    async def test(port: int) -> list[EgressResponse]:
        async with calling(ca_file=ca_file) as client:
            url = f"https://localhost:{port}/hook"
            return [
                await post(client, url, certificate=certificate)
                for certificate in (None, unknown, expired, good)
            ]

    with _CertificateServer(version) as server:
        answers = run(test(server.server_address[1]))
        server.shutdown()
    assert outcome(answers.pop()) == (204, None)
    late = version is ssl.TLSVersion.TLSv1_3  # the refusal comes after the handshake
    missing = "certificate required" if late else "handshake failure"
    for answer, alert in zip(answers, (missing, "unknown ca", "certificate expired"), strict=True):
        if late and answer.failure == "connection":  # on loopback, before the request could be written
            assert answer.detail == "the connection was closed before the request was sent"
        else:
            assert answer.failure == "tls"
            assert answer.detail.startswith("the handshake failed: ")
            assert answer.detail.endswith(alert)
    assert len(server.got) == 1


def test_a_handshake_that_the_server_breaks_off(run: Run[None], ca_file: Path) -> None:
    """A server that closes the connection without an alert, as asyncio's does."""
    tls = localhost_tls(clients=ssl.CERT_REQUIRED)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2

    async def test() -> None:
        async with serving(tls) as seen, calling(ca_file=ca_file) as client:
            answer = await post(client, f"https://localhost:{seen.port}/")
            assert outcome(answer) == (None, "tls")
            assert answer.detail == "the connection was closed during the handshake"

    run(test())


def test_a_port_that_refuses_connections(run: Run[None]) -> None:
    async def test() -> None:
        async with calling() as client:
            answer = await post(client, f"https://127.0.0.1:{free_port()}/")
            assert (answer.failure, answer.detail) == ("connection", "connection refused")

    run(test())


def test_a_connection_is_never_shared_between_client_certificates(run: Run[None], ca_file: Path) -> None:
    """Three identities in one pool: each request shows its own certificate and reuses its connection."""
    identities: dict[str | None, ClientCertificate | None] = {
        "a": parse_client_certificate(*CLIENTS.pair("a")),
        "b": parse_client_certificate(*CLIENTS.pair("b")),
        None: None,
    }

    async def test() -> None:
        async with (
            serving(localhost_tls(clients=ssl.CERT_OPTIONAL)) as seen,
            calling(ca_file=ca_file) as client,
        ):
            url = f"https://localhost:{seen.port}/hook"
            for _ in range(5):
                for name, certificate in identities.items():
                    assert (await post(client, url, certificate=certificate)).status == 200
                    assert seen.common_names[-1] == name
            assert len(set(seen.connections)) == 3  # the positive control: they are kept and used again
            everybody = list(identities.items()) * 20
            await asyncio.gather(
                *(post(client, url, certificate=certificate) for _, certificate in everybody)
            )
            assert len(seen.common_names) == 15 + 60
            owners = {
                (connection, name)
                for connection, name in zip(seen.connections, seen.common_names, strict=True)
            }
            assert len(owners) == len(set(seen.connections))
            assert [seen.common_names[15:].count(name) for name in identities] == [20, 20, 20]

    run(test())


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["rsa", "ed25519", "p384"],
)
def test_all_common_key_types(run: Run[None], ca_file: Path, key: Any) -> None:
    certificate = parse_client_certificate(*CLIENTS.pair("the hub", key=key))

    async def test() -> None:
        async with serving(localhost_tls(clients=ssl.CERT_REQUIRED)) as seen:
            async with calling(ca_file=ca_file) as client:
                assert (
                    await post(client, f"https://localhost:{seen.port}/", certificate=certificate)
                ).status == 200
            assert seen.common_names == ["the hub"]

    run(test())


def test_a_private_key_is_never_left_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is in memory on Linux, elsewhere in a private file that is removed."""
    pair = CLIENTS.pair("the hub")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    if hasattr(os, "memfd_create"):
        parse_client_certificate(*pair)
        monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(FileNotFoundError):
        parse_client_certificate(*pair)

    modes: list[int] = []
    load = ssl.SSLContext.load_cert_chain

    def record_mode(context: ssl.SSLContext, path: str, **arguments: Any) -> None:
        modes.append(Path(path).stat().st_mode & 0o777)
        load(context, path, **arguments)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", record_mode)
    parse_client_certificate(*pair)
    assert modes == [0o600]
    assert list(tmp_path.iterdir()) == []


_CERTIFICATE, _KEY = CLIENTS.pair("the hub")
_OTHER_CERTIFICATE, _OTHER_KEY = CLIENTS.pair("another")
_ENCRYPTED = key_pem(ec.generate_private_key(ec.SECP256R1()), b"password")
_SMALL_RSA = CLIENTS.pair("small", key=rsa.generate_private_key(65537, 1024))  # noqa: S505


def _large_rsa_key(p: int, q: int) -> rsa.RSAPrivateKey:
    """A key of numbers that are no primes: to find some, or to check them, takes seconds."""
    private = pow(65537, -1, (p - 1) * (q - 1))
    rest = rsa.rsa_crt_dmp1(private, p), rsa.rsa_crt_dmq1(private, q), rsa.rsa_crt_iqmp(p, q)
    numbers = rsa.RSAPrivateNumbers(p, q, private, *rest, rsa.RSAPublicNumbers(65537, p * q))
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


_LARGE_RSA = CLIENTS.pair("large", key=_large_rsa_key((1 << 4095) + 5, (1 << 4096) + 3))


@pytest.mark.parametrize(
    ("certificate", "key", "why"),
    [
        ("", _KEY, "certificate is not PEM"),
        ("not PEM", _KEY, "certificate is not PEM"),
        (_CERTIFICATE[:200], _KEY, "certificate is not PEM"),
        (_CERTIFICATE.replace("M", "N"), _KEY, "certificate is not PEM"),
        (_KEY, _KEY, "certificate is not PEM"),
        ("\ud800", _KEY, "certificate is not PEM"),
        (_CERTIFICATE * 11, _KEY, "at most 10"),
        (_CERTIFICATE, "", "private key is not PEM"),
        (_CERTIFICATE, _CERTIFICATE, "private key is not PEM"),
        (_CERTIFICATE, _KEY[:100], "private key is not PEM"),
        (_CERTIFICATE, "\ud800", "private key is not PEM"),
        (_CERTIFICATE, _ENCRYPTED, "encrypted"),
        (_CERTIFICATE, _OTHER_KEY, "does not belong"),
        (CLIENTS.pem + _CERTIFICATE, _KEY, "does not belong to the first"),
        (*_SMALL_RSA, "TLS cannot use this certificate: ee key too small"),
        (*_LARGE_RSA, "an RSA key may have 4096"),
    ],
    ids=[f"case {number}" for number in range(16)],
)
def test_invalid_client_certificates(certificate: str, key: str, why: str) -> None:
    with pytest.raises(Malformed, match=why) as caught:
        parse_client_certificate(certificate, key)
    assert not any(
        line in caught.value.detail for line in key.splitlines() if len(line) > 30 and "-" not in line
    )


@given(st.text(max_size=200), st.text(max_size=200), st.binary(min_size=1, max_size=80))
def test_any_invalid_pem_raises_malformed(certificate: str, key: str, noise: bytes) -> None:
    middle = base64.b64encode(noise).decode()
    broken = f"-----BEGIN CERTIFICATE-----\n{middle}\n-----END CERTIFICATE-----\n"
    broken_key = f"-----BEGIN PRIVATE KEY-----\n{middle}\n-----END PRIVATE KEY-----\n"
    for pair in ((certificate, key), (broken, _KEY), (_CERTIFICATE, broken_key), (_CERTIFICATE, key)):
        with pytest.raises(Malformed):
            parse_client_certificate(*pair)


def test_the_repr_of_a_certificate_has_no_key() -> None:
    whole = parse_client_certificate(_CERTIFICATE + CLIENTS.pem, _KEY)
    assert "PRIVATE" not in repr(whole)
    assert _KEY.splitlines()[1] not in f"{whole} {whole!r}"


# URLs, ports and names


def test_ports(run: Run[None]) -> None:
    async def test() -> None:
        async with serving() as seen:
            url = f"http://127.0.0.1:{seen.port}/hook"
            async with calling(ports=WEB_PORTS) as client:
                answer = await post(client, url)
                assert (answer.failure, seen.hosts) == ("address_refused", [])
                assert str(seen.port) in answer.detail
                assert [client.port_allowed(port) for port in (80, 443, 8080, 22, None)] == [
                    True,
                    True,
                    False,
                    False,
                    False,
                ]
            for ports in (None, WEB_PORTS | {seen.port}):
                async with calling(ports=ports) as client:
                    assert (await post(client, url)).status == 200

    run(test())


@pytest.mark.parametrize("url", LOOPBACK_URLS)
def test_every_notation_of_a_loopback_address_is_refused(run: Run[None], url: str) -> None:
    async def test() -> None:
        async with serving() as seen:
            async with calling("none") as client:
                answer = await post(client, url.format(port=seen.port), timeout_s=3)
            assert answer.failure in ("address_refused", "dns", "bad_url"), answer
            assert seen.connections == []
            async with calling("loopback") as client:  # the control: the server is there and answers
                assert (await post(client, f"http://127.0.0.1:{seen.port}/")).status == 200

    run(test())


@pytest.mark.parametrize("second", ["127.0.0.2", "0.0.0.0", "10.0.0.1"])  # noqa: S104
async def test_a_dns_answer_that_changes_between_check_and_connection(second: str) -> None:
    """The checked addresses are connected to; a later DNS answer counts for the next lookup."""
    async with serving() as seen:
        url = f"http://hooks.example:{seen.port}/"
        with resolving(["127.0.0.1"], [second]) as (server, names):
            async with calling(resolver=names) as client:
                answer = await post(client, url)
                assert (outcome(answer), answer.address) == ((200, None), "127.0.0.1")
                assert server.count("hooks.example") == 1
                assert seen.hosts == [f"hooks.example:{seen.port}"]
            async with calling(resolver=names) as client:  # the control: the next question, another answer
                answer = await post(client, url)
                assert server.count("hooks.example") == 2
                assert answer.failure == ("connection" if second == "127.0.0.2" else "address_refused")
        assert len(seen.hosts) == 1


@pytest.mark.parametrize("bad", ["10.0.0.1", "169.254.169.254", "64:ff9b::a00:1", "::"])
@pytest.mark.parametrize("bad_first", [True, False])
async def test_a_name_with_an_allowed_and_a_refused_address(bad: str, bad_first: bool) -> None:
    async with serving() as seen:
        url = f"http://hooks.example:{seen.port}/"
        both = [bad, "127.0.0.1"] if bad_first else ["127.0.0.1", bad]
        with resolving(both) as (server, names):
            async with calling(resolver=names) as client:
                answer = await post(client, url)
            assert (answer.failure, seen.hosts) == ("address_refused", [])
            assert server.count("hooks.example") == 1
            assert answer.detail == "hooks.example resolves to an internal address", "not to which one"
        with resolving(["127.0.0.1"]) as (_, names):  # the control
            async with calling(resolver=names) as client:
                assert (await post(client, url)).status == 200


# What a receiver may answer


def test_a_slow_body_ends_at_the_timeout(run: Run[None]) -> None:
    """Each byte arrives soon, but the body never ends."""

    def trickle(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(200):
            connection.sendall(b"x")
            sleep(0.05)

    async def test() -> None:
        async with calling() as client:
            with MisbehavingServer(trickle) as slow:
                answer = await post(client, slow.url, timeout_s=1)
                assert (outcome(answer), slow.requests) == ((None, "timeout"), 1)
                assert 0.9 < answer.seconds < 2

    run(test())


def test_a_flood_of_responses_ends_the_call(run: Run[None]) -> None:
    """Interim responses cost more to read than to send: the event loop would do nothing else."""

    def flood(connection: Any) -> None:
        while True:
            connection.sendall(b"HTTP/1.1 100 \r\n\r\n" * 1_000)

    def announce(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + b"HTTP/1.1 204 No Content\r\n\r\n")

    async def test() -> None:
        async with calling() as client:
            with MisbehavingServer(flood) as server:
                assert outcome(await post(client, server.url, timeout_s=5)) == (None, "protocol")
            with MisbehavingServer(announce) as server:
                assert outcome(await post(client, server.url)) == (204, None)

    run(test())


def test_a_call_leaves_no_connection_behind(run: Run[None], ca_file: Path) -> None:
    """Neither to a server that sends on over TLS, nor to one that has not read the request."""
    sent: list[bytes] = []
    ended = threading.Event()
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n"
    upgraded = b"HTTP/1.1 101 Upgrade\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    head = endless

    def send_on(connection: Any) -> None:
        with localhost_tls().wrap_socket(connection, server_side=True) as secure:
            secure.recv(65536)
            secure.sendall(head)
            while len(sent) < 2_000:
                secure.sendall(b"x" * 65536)
                sent.append(b"")

    def read_late(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        ended.wait(60)
        while chunk := connection.recv(65536):
            sent.append(chunk)

    def serve(listener: socket.socket, talk: Callable[[Any], None]) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            talk(connection)

    async def call(talk: Callable[[Any], None], scheme: str, body: bytes, timeout_s: float) -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            server = threading.Thread(target=serve, args=(listener, talk), daemon=True)
            server.start()
            async with calling(ca_file=ca_file) as client:
                url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/"
                answer = await client.post(url, {}, body, timeout_s=timeout_s, status_decides=True)
                assert outcome(answer) == (101 if head == upgraded else 200, None)
                ended.set()
                await asyncio.to_thread(server.join, 60)
        return sum(map(len, sent)) if body else len(sent)

    async def test() -> None:
        nonlocal head
        for response in (endless, upgraded):
            head = response
            assert await call(send_on, "https", b"", 10) < 1_000  # of 2,000
            ended.clear()
            sent.clear()
        head = endless
        size = 20_000_000
        assert await call(read_late, "http", b"x" * size, 1) < size

    run(test())


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_answer_is_not_inflated(run: Run[None], encoding: str) -> None:
    """50 MB that are sent as 50 KB are stored as sent, whatever the header says."""
    plain = b"\0" * 50_000_000
    bomb = gzip.compress(plain, 9) if encoding == "gzip" else zlib.compress(plain, 9)
    assert len(bomb) < MAX_RESPONSE_BYTES

    def talk(connection: Any) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(bomb)}\r\n\r\n"
        connection.sendall(head.encode() + bomb)

    async def test() -> None:
        async with calling() as client:
            with MisbehavingServer(talk) as server:
                answer = await post(client, server.url)
            assert (outcome(answer), answer.body == bomb) == ((200, None), True)

    run(test())


def test_a_connection_that_is_reset_after_the_response_is_no_error(run: Run[None]) -> None:
    """Nobody awaits the end of a connection in the pool: its error is not logged as "never retrieved"."""

    def reset(connection: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
        sleep(0.1)  # the client waits for the body
        connection.sendall(b"abc")
        assert over.wait(60)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    async def test() -> None:
        unexpected: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unexpected.append(context))
        async with calling() as client:
            with MisbehavingServer(reset) as server:
                answer = await post(client, server.url)
                assert (outcome(answer), answer.body) == ((200, None), b"abc")
                over.set()
                await asyncio.sleep(0.2)
                await post(client, server.url)  # the pool drops the broken connection
                gc.collect()
                await asyncio.sleep(0)
        assert unexpected == []

    over = threading.Event()
    run(test())


# The egress proxy


@dataclass
class Proxy:
    """The requests that a proxy received: the first line of each, and the login."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)


@asynccontextmanager
async def proxying(*, answer: bytes | None = None) -> AsyncIterator[Proxy]:
    """A forward proxy for CONNECT and for absolute URLs; with `answer`, one that always sends that."""
    proxy = Proxy()
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        proxy.requests.append(first)
        proxy.authorizations.append(fields.get("proxy-authorization"))
        if answer is not None:
            writer.write(answer)
            writer.close()
            return
        method, target, _ = first.split(" ")
        place = target if method == "CONNECT" else target.removeprefix("http://").partition("/")[0]
        host, _, port = place.rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            back.write(head.replace(f"http://{place}", "", 1).encode())
        with suppress(OSError):
            await asyncio.gather(_pipe(reader, back), _pipe(there, writer))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_every_request_goes_through_the_proxy(run: Run[None], ca_file: Path, secure: bool) -> None:
    certificate = parse_client_certificate(*CLIENTS.pair("the hub"))

    async def test() -> None:
        tls = localhost_tls(clients=ssl.CERT_REQUIRED) if secure else None
        async with serving(tls) as seen, proxying() as proxy:
            with_password = proxy.url.replace("http://", "http://hub:p%40ss@")
            async with calling(ca_file=ca_file, proxy=with_password) as client:
                url = f"{'https' if secure else 'http'}://localhost:{seen.port}/hook"
                for _ in range(2):
                    answer = await post(client, url, certificate=certificate)
                    assert (outcome(answer), answer.body, answer.address) == ((200, None), b"body", None)
            assert seen.hosts == [f"localhost:{seen.port}"] * 2
            basic = "Basic " + base64.b64encode(b"hub:p@ss").decode()
            assert set(proxy.authorizations) == {basic}
            if secure:
                assert proxy.requests == [f"CONNECT localhost:{seen.port} HTTP/1.1"]
                assert seen.common_names == ["the hub"] * 2
                assert not any("Proxy-Authorization" in headers for headers in seen.headers)
            else:
                assert proxy.requests[0] == f"POST {url} HTTP/1.1"

    run(test())


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "127.1",
        "127.0.0.1.",
        "[::1]",
        "10.0.0.1",
        "[64:ff9b::a00:1]",
        "localhost",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_is_not_asked_for_an_internal_address(run: Run[None], scheme: str, host: str) -> None:
    """The proxy's own address is internal, and may be called."""

    async def test() -> None:
        async with serving() as seen, proxying() as proxy:
            async with calling("none", proxy=proxy.url) as client:
                answer = await post(client, f"{scheme}://{host}:{seen.port}/hook")
                assert (outcome(answer), proxy.requests) == ((None, "address_refused"), [])
            async with calling("loopback", proxy=proxy.url) as client:  # the control
                assert (await post(client, f"http://127.0.0.1:{seen.port}/hook")).status == 200
                assert len(proxy.requests) == 1

    run(test())


async def test_a_proxy_is_asked_only_for_names_with_allowed_addresses() -> None:
    async with proxying(answer=b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n") as proxy:
        for addresses, asked in ((["127.0.0.1", "10.0.0.1"], 0), (["127.0.0.1"], 1)):
            with resolving(addresses, ttl=60) as (server, names):
                async with calling(proxy=proxy.url, resolver=names) as client:
                    answers = [await post(client, "http://hooks.example/") for _ in range(2)]
                    assert len(proxy.requests) == 2 * asked
                    assert [answer.failure for answer in answers] == [
                        None if asked else "address_refused"
                    ] * 2
                    assert server.count("hooks.example") == 1


def test_failures_of_the_proxy(run: Run[None]) -> None:
    async def test() -> None:
        closed_proxy = f"http://hub:hidden@127.0.0.1:{free_port()}"
        async with serving() as seen:
            async with calling(proxy=closed_proxy) as client:
                for scheme in ("http", "https"):
                    answer = await post(client, f"{scheme}://127.0.0.1:{seen.port}/")
                    assert (outcome(answer), answer.detail) == (
                        (None, "proxy"),
                        "the egress proxy cannot be reached",
                    )
                answer = await post(client, "http://does-not-exist.invalid/")
                assert answer.failure == "dns"
            refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
            async with proxying(answer=refusal) as proxy, calling(proxy=proxy.url) as client:
                answer = await post(client, f"https://127.0.0.1:{seen.port}/")
                assert (outcome(answer), answer.detail) == ((None, "proxy"), "the egress proxy answered 407")
            assert seen.hosts == []

    run(test())


@pytest.mark.parametrize(
    "proxy",
    [
        "",
        "proxy:3128",
        "https://hidden@proxy:3128",
        "socks5://hidden@proxy",
        "http://",
        "http://hidden:x@p:99999",
    ],
)
def test_an_invalid_proxy_setting(proxy: str) -> None:
    with pytest.raises(Misconfigured, match="INTERLINK_EGRESS_PROXY") as caught:
        EgressClient("none", max_connections=1, proxy=proxy)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [None, "", "no certificates here", _CERTIFICATE[:100]],
    ids=["no file", "empty", "text", "cut"],
)
def test_an_invalid_ca_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Misconfigured, match="INTERLINK_EGRESS_CA_FILE"):
        EgressClient("none", max_connections=1, ca_file=path)


def test_proxies_of_the_environment_are_ignored(run: Run[None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")

    async def test() -> None:
        with Subscriber() as subscriber:
            async with calling() as client:
                assert (await post(client, subscriber.url)).status == 204

    run(test())
