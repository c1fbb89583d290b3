"""Mail logins by the oauth service's own protocol code: at real servers over TLS, and at hostile ones."""

import asyncio
import ssl
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from services.oauth.credentials.mail_login import MailLoginChecker, MailProtocol
from shared.manifests.provider_response import GrantRevoked, ProviderRejected, ProviderUnavailable
from tests.support.certificates import Authority
from tests.support.mail import LoggedIn, Mailbox, MailServers, Talk, Tunnel, dribble, endless, says, silent
from tests.support.ports import free_port

USER = "ada@example.com"
SHORT_S = 0.6
"""For servers that never come to an end."""
HELLO = (b"220 mail.example.com ready\r\n", b"250-mail.example.com\r\n250 AUTH PLAIN LOGIN\r\n")
READY = (b"* OK ready\r\n", b"* CAPABILITY IMAP4rev1\r\na1 OK done\r\n")

AUTHORITY = Authority("authority of mail servers")


@pytest.fixture(scope="module")
def servers() -> Iterator[MailServers]:
    with MailServers(AUTHORITY) as running:
        yield running


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    made = Mailbox({USER: "a-good-password"})
    yield made
    assert not made.faults


def logins(**options: Any) -> MailLoginChecker:
    settings = {"allow": "loopback", "ports": None, "authorities": AUTHORITY.pem, **options}
    return MailLoginChecker(**settings)


def check(protocol: MailProtocol, port: int | str, *, options: Any = None, **fields: str) -> None:
    """Log in at a server of this machine, once."""
    given = {"host": "localhost", "port": str(port), "security": "tls", "username": USER, **fields}
    given.setdefault("password", "a-good-password")
    asyncio.run(logins(**(options or {})).check(protocol, given, "ws_1"))


def refusal(
    protocol: MailProtocol, port: int | str, *, options: Any = None, **fields: str
) -> ProviderRejected:
    """Why a login is refused."""
    with pytest.raises(ProviderRejected) as caught:
        check(protocol, port, options=options, **fields)
    return caught.value


def busy(protocol: MailProtocol, port: int | str, *, options: Any = None, **fields: str) -> str:
    """What a server was not ready for."""
    with pytest.raises(ProviderUnavailable) as caught:
        check(protocol, port, options=options, **fields)
    return str(caught.value)


# Servers as they should be


@pytest.mark.parametrize("security", ["tls", "starttls", "none"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_login_at_an_smtp_server(
    servers: MailServers, mailbox: Mailbox, security: str, mechanism: str
) -> None:
    port = servers.smtp(mailbox, security, without={"PLAIN", "LOGIN"} - {mechanism})
    check("smtp", port, security=security)
    assert mailbox.logins == [LoggedIn(USER, mechanism, secure=security != "none")]


@pytest.mark.parametrize("security", ["tls", "starttls", "none"])
@pytest.mark.parametrize("plain", [True, False], ids=["PLAIN", "LOGIN"])
def test_a_login_at_an_imap_server(
    servers: MailServers, mailbox: Mailbox, security: str, plain: bool
) -> None:
    port = servers.imap(mailbox, security, plain=plain)
    check("imap", port, security=security)
    assert mailbox.logins == [LoggedIn(USER, "PLAIN" if plain else "LOGIN", secure=security != "none")]


@pytest.mark.parametrize("protocol", ["smtp", "imap"])
def test_a_wrong_password_is_refused_and_tried_once(
    servers: MailServers, mailbox: Mailbox, protocol: MailProtocol
) -> None:
    port = servers.smtp(mailbox, "tls") if protocol == "smtp" else servers.imap(mailbox, "tls")
    error = refusal(protocol, port, password="not-the-password")
    assert isinstance(error, GrantRevoked)
    assert error.code == "login_refused"
    assert "535 5.7.8" in error.detail or "AUTHENTICATIONFAILED" in error.detail
    assert (mailbox.refused, mailbox.logins) == (1, []), "locked accounts are made by trying again"


@pytest.mark.parametrize(
    "password",
    [
        'with "quotes" and \\',
        "späß mit ümläuten 密码",
        "",
        " blank ",
        "a\r\na9 LOGOUT",
        "x" * 400,
        "{5}",
        "*%(",
    ],
    ids=["quotes", "not ASCII", "empty", "blanks", "a command", "long", "like a literal", "special"],
)
@pytest.mark.parametrize("plain", [True, False], ids=["PLAIN", "LOGIN"])
def test_any_password_is_sent_unchanged(servers: MailServers, password: str, plain: bool) -> None:
    box = Mailbox({USER: password})
    check("imap", servers.imap(box, "tls", plain=plain), password=password)
    if password:  # aiosmtpd takes no empty one
        without = {"LOGIN"} if plain else {"PLAIN"}
        check("smtp", servers.smtp(box, "tls", without=without), password=password)
    assert not box.faults
    assert len(box.logins) == 1 + bool(password)


# TLS


@pytest.mark.parametrize("protocol", ["smtp", "imap"])
@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_a_certificate_of_an_unknown_authority_is_refused(
    servers: MailServers, mailbox: Mailbox, protocol: MailProtocol, security: str
) -> None:
    port = servers.smtp(mailbox, security) if protocol == "smtp" else servers.imap(mailbox, security)
    error = refusal(protocol, port, security=security, options={"authorities": None})
    assert (error.code, mailbox.logins) == ("tls", [])
    assert "authority is not known" in error.detail


def test_a_certificate_of_another_host_is_refused(servers: MailServers) -> None:
    port = servers.talking(silent, tls=True, host="127.0.0.2")
    error = refusal("imap", port, host="127.0.0.2")
    assert error.code == "tls"
    assert "for another host" in error.detail


def test_a_server_cannot_choose_an_expensive_key_exchange() -> None:
    offered = [cipher["name"] for cipher in logins()._tls.get_ciphers()]
    assert [name for name in offered if name.startswith("DHE")] == []


@pytest.mark.parametrize(
    ("protocol", "lines"),
    [
        ("smtp", (HELLO[0], b"250-mail.example.com\r\n250 AUTH PLAIN\r\n")),
        ("imap", (READY[0], b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\na1 OK done\r\n")),
    ],
)
def test_no_password_is_sent_if_starttls_is_stripped(
    servers: MailServers, protocol: MailProtocol, lines: tuple[bytes, ...]
) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())

    error = refusal(protocol, servers.talking(says(*lines, then=listen)), security="starttls")
    assert (error.code, heard) == ("tls", []), "nothing more is said"


@pytest.mark.parametrize(
    ("protocol", "greeting", "able", "injected"),
    [
        (
            "smtp",
            HELLO[0],
            b"250-x\r\n250 STARTTLS\r\n",
            b"220 go\r\n250-x\r\n250 AUTH PLAIN\r\n235 welcome\r\n",
        ),
        (
            "imap",
            READY[0],
            b"* CAPABILITY IMAP4rev1 STARTTLS\r\na1 OK done\r\n",
            b"a2 OK go\r\n* CAPABILITY IMAP4rev1\r\na3 OK done\r\na4 OK welcome\r\n",
        ),
    ],
)
def test_plaintext_before_tls_is_dropped(
    servers: MailServers, protocol: MailProtocol, greeting: bytes, able: bytes, injected: bytes
) -> None:
    async def secured(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(injected)
        await writer.drain()
        await writer.start_tls(servers.tls)

    port = servers.talking(says(greeting, able, then=secured))
    assert "closed the connection" in busy(protocol, port, security="starttls")


def test_no_password_is_sent_to_a_public_address_without_tls() -> None:
    error = refusal("smtp", 587, host="8.8.8.8", security="none")
    assert error.code == "insecure"
    assert refusal("smtp", 587, host="8.8.8.8", security="TLS").code == "insecure", "a word that is unknown"


def test_port_and_security_that_do_not_match_give_a_hint(servers: MailServers) -> None:
    def hint(usual: int, security: str) -> str:
        return busy("smtp", usual, host="127.0.0.2", security=security, options={"ports": frozenset({usual})})

    assert "security is usually tls" in hint(465, "starttls")
    assert "security is usually starttls" in hint(587, "tls")
    plain = servers.talking(says(HELLO[0], then=silent))
    assert refusal("smtp", plain, security="tls").code == "tls"


# Where it may connect


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "::1", "0.0.0.0"),  # noqa: S104
        *("10.0.0.8", "192.168.1.1", "169.254.169.254", "100.64.0.1", "fd00::1", "::ffff:10.0.0.8"),
    ],
)
def test_internal_addresses_are_refused(servers: MailServers, mailbox: Mailbox, host: str) -> None:
    port = servers.imap(mailbox, "none")
    error = refusal("imap", port, host=host, security="none", options={"allow": "none"})
    assert error.code in ("address_refused", "unknown_host")
    assert host not in ("127.0.0.1", "localhost", "10.0.0.8") or error.code == "address_refused"


@pytest.mark.parametrize("host", ["10.0.0.8", "169.254.169.254"])
def test_loopback_alone_may_be_allowed(host: str) -> None:
    assert refusal("imap", 993, host=host).code == "address_refused"


@pytest.mark.parametrize(
    "host",
    [
        *(
            "nowhere.invalid",
            "a..example",
            "x" * 64 + ".example",
            "two words",
            "a\r\nHost: b",
            "",
            "user@host",
        ),
        *("mail.example.com/x", "mail.example.com:25:25", "ä" * 300),
    ],
)
def test_an_invalid_host_name_is_refused(host: str) -> None:
    assert refusal("smtp", 587, host=host).code == "unknown_host"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "25x", "", "٢٥", "1" * 5000, "22", "80", "443", "993"])
def test_other_ports_than_those_of_mail_are_refused(port: str) -> None:
    assert refusal("smtp", port, options={"ports": frozenset({80, 443})}).code == "port_refused"


def test_a_port_that_the_operator_allows_is_accepted(servers: MailServers, mailbox: Mailbox) -> None:
    port = servers.smtp(mailbox, "tls")
    check("smtp", port, options={"ports": frozenset({443, port})})
    assert len(mailbox.logins) == 1


def test_a_port_without_a_server() -> None:
    assert "cannot be reached" in busy("imap", free_port())


# Servers that are hostile, or broken


@pytest.mark.parametrize("protocol", ["smtp", "imap"])
@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_a_server_that_never_answers(servers: MailServers, protocol: MailProtocol, security: str) -> None:
    began = monotonic()
    why = busy(protocol, servers.talking(silent), security=security, options={"timeout_s": SHORT_S})
    assert "did not answer in time" in why
    assert monotonic() - began < SHORT_S + 10


@pytest.mark.parametrize(
    ("protocol", "text"),
    [("smtp", b"220-patience\r\n"), ("imap", b"* OK patience\r\n"), ("smtp", b"no line at all")],
)
def test_a_server_that_sends_slowly_for_ever(
    servers: MailServers, protocol: MailProtocol, text: bytes
) -> None:
    port = servers.talking(dribble(text, 0.02))
    began = monotonic()
    assert "in time" in busy(protocol, port, security="none", options={"timeout_s": SHORT_S})
    assert monotonic() - began < SHORT_S + 10


@pytest.mark.parametrize(
    ("protocol", "begins", "text"),
    [
        ("smtp", (), b"220-" + b"x" * 400 + b"\r\n"),
        ("smtp", (HELLO[0],), b"250-" + b"x" * 400 + b"\r\n"),
        ("smtp", (), b"x" * 1000),
        ("imap", (), b"x" * 1000),
        ("imap", (READY[0],), b"* 1 EXISTS\r\n"),
        ("imap", (READY[0],), b"* BAD {4000000000}\r\n"),
        ("smtp", HELLO, b"334 \r\n"),
        ("imap", READY, b"+ more\r\n"),
    ],
    ids=["banner", "abilities", "a line", "a line", "responses", "literals", "SMTP asks on", "IMAP asks on"],
)
def test_a_server_that_sends_endlessly_is_disconnected(
    servers: MailServers, protocol: MailProtocol, begins: tuple[bytes, ...], text: bytes
) -> None:
    sent: list[int] = []
    talk = says(*begins, then=endless(text, sent)) if begins else endless(text, sent)
    began = monotonic()
    error = refusal(protocol, servers.talking(talk), security="none")
    assert error.code == "protocol"
    assert monotonic() - began < 10
    assert sum(sent) < 16 * 1024 * 1024, "no more than what fits into sockets was taken"


@pytest.mark.parametrize("begins", [(), HELLO[:1], HELLO], ids=["banner", "abilities", "login"])
def test_a_server_that_sends_short_lines_one_by_one_is_disconnected(
    servers: MailServers, begins: tuple[bytes, ...]
) -> None:
    """Each costs a look at all that came before it: it is the number of lines that is bounded."""
    sent = [0]

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"250-\r\n")
            await writer.drain()
            sent[0] += 1
            await asyncio.sleep(0.0005)

    port = servers.talking(says(*begins, then=talk) if begins else talk)
    assert refusal("smtp", port, security="none").code == "protocol"
    assert sent[0] < 1000


@pytest.mark.parametrize(
    ("protocol", "talk", "code"),
    [
        ("smtp", says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "protocol"),
        ("imap", says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "protocol"),
        ("smtp", says(b"\x16\x03\x01\x00\xff\x00\n"), "protocol"),
        ("imap", says(b"\xff\xfe\x00\n"), "protocol"),
        ("smtp", says(b"SSH-2.0-OpenSSH_9\r\n"), "protocol"),
        ("imap", says(HELLO[0]), "protocol"),
        ("smtp", says(READY[0]), "protocol"),
        ("smtp", says(b"554 go away\r\n"), "protocol"),
        ("smtp", says(HELLO[0], b"502 what\r\n"), "protocol"),
        ("smtp", says(HELLO[0], b"250 mail.example.com\r\n"), "no_login"),
        ("smtp", says(HELLO[0], b"250-x\r\n250 AUTH CRAM-MD5 GSSAPI\r\n"), "no_login"),
        ("smtp", says(*HELLO, b"500 what\r\n"), "protocol"),
        ("smtp", says(*HELLO, b"250 fine\r\n"), "protocol"),
        ("smtp", says(*HELLO, b"534 5.7.9 use another password\r\n"), "login_refused"),
        ("imap", says(b"* PREAUTH welcome\r\n"), "protocol"),
        ("imap", says(READY[0], b"a1 BAD what\r\n"), "protocol"),
        ("imap", says(READY[0], b"* CAPABILITY IMAP4rev1 LOGINDISABLED\r\na1 OK done\r\n"), "no_login"),
        ("imap", says(*READY, b"a2 BAD what\r\n"), "protocol"),
        ("imap", says(*READY, b"a2 NO [ALERT] no\r\n"), "login_refused"),
        ("imap", says(*READY, b"a9 OK\r\n"), "protocol"),
    ],
)
def test_an_unexpected_answer_is_an_error(
    servers: MailServers, protocol: MailProtocol, talk: Talk, code: str
) -> None:
    assert refusal(protocol, servers.talking(talk), security="none").code == code


@pytest.mark.parametrize(
    ("protocol", "talk"),
    [
        ("smtp", says()),
        ("imap", says()),
        ("smtp", says(HELLO[0])),
        ("imap", says(*READY)),
        ("smtp", says(b"220 no end of line")),
        ("smtp", says(b"421 too many\r\n")),
        ("smtp", says(*HELLO, b"454 4.7.0 later\r\n")),
        ("imap", says(b"* BYE too many\r\n")),
        ("imap", says(READY[0], b"* BYE going down\r\n")),
        ("imap", says(*READY, b"a2 NO [UNAVAILABLE] the users' database is away\r\n")),
    ],
)
def test_a_temporary_error_is_not_a_rejected_login(
    servers: MailServers, protocol: MailProtocol, talk: Talk
) -> None:
    """A server that is in trouble says nothing about the password."""
    busy(protocol, servers.talking(talk), security="none")


def test_no_text_of_a_server_is_repeated(servers: MailServers) -> None:
    password = "a-good-password"
    for talk in (
        says(*HELLO, f"535 5.7.8 {password} is wrong\r\n".encode()),
        says(HELLO[0], b"250-x\r\n250 AUTH LOGIN\r\n", b"334 a\r\n", f"500 {password}\r\n".encode()),
    ):
        assert password not in str(refusal("smtp", servers.talking(talk), security="none"))
    talk = says(*READY, f"a2 NO [{password.upper()}] {password}\r\n".encode())
    assert password not in str(refusal("imap", servers.talking(talk), security="none")).lower()


def test_hanging_servers_do_not_block_other_workspaces(servers: MailServers, mailbox: Mailbox) -> None:
    stuck, good = servers.talking(silent), servers.imap(mailbox, "tls")
    fields = {"host": "localhost", "security": "tls", "username": USER, "password": "a-good-password"}

    async def main() -> float:
        mail = logins(timeout_s=3.0)
        unanswered = {**fields, "port": str(stuck)}
        hanging = [asyncio.create_task(mail.check("imap", unanswered, f"ws_{n}")) for n in range(15)]
        # However many one workspace has, they take no more room than a few.
        hanging += [asyncio.create_task(mail.check("imap", unanswered, "ws_0")) for _ in range(15)]
        await asyncio.sleep(0)
        began = monotonic()
        await mail.check("imap", {**fields, "port": str(good)}, "ws_other")
        took = monotonic() - began
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        return took

    assert asyncio.run(main()) < 2
    assert len(mailbox.logins) == 1


# Through a proxy


@pytest.mark.parametrize(("protocol", "security"), [("smtp", "tls"), ("smtp", "starttls"), ("imap", "tls")])
def test_with_a_proxy_everything_goes_through_it(
    servers: MailServers, mailbox: Mailbox, protocol: MailProtocol, security: str
) -> None:
    port = servers.smtp(mailbox, security) if protocol == "smtp" else servers.imap(mailbox, security)
    tunnel = Tunnel(servers)
    proxy = f"http://hub:p%40ss@127.0.0.1:{tunnel.port}"
    check(protocol, port, security=security, options={"proxy": proxy})
    assert mailbox.logins[0].secure
    assert tunnel.asked[0].startswith(f"CONNECT localhost:{port} HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic aHViOnBAc3M=\r\n" in tunnel.asked[0]


def test_a_proxy_that_refuses_the_tunnel(servers: MailServers, mailbox: Mailbox) -> None:
    port = servers.imap(mailbox, "tls")
    refusing = Tunnel(servers, answer=b"403 Forbidden")
    assert "answered 403" in busy("imap", port, options={"proxy": f"http://127.0.0.1:{refusing.port}"})
    why = busy("imap", port, options={"proxy": f"http://user:secret-of-proxy@127.0.0.1:{free_port()}"})
    assert "the egress proxy cannot be reached" in why
    assert "secret-of-proxy" not in why
    internal = {"proxy": f"http://127.0.0.1:{refusing.port}", "allow": "none"}
    assert refusal("imap", port, options=internal).code == "address_refused", "judged before it is asked"
    assert len(refusing.asked) == 1


def test_the_servers_of_these_tests_are_strict(servers: MailServers) -> None:
    """A client that offers HTTP in TLS is noted: what the tests above would find, they find."""
    box = Mailbox({USER: "a-good-password"})
    port = servers.imap(box, "tls")
    tls = ssl.create_default_context(cadata=AUTHORITY.pem)
    tls.set_alpn_protocols(["http/1.1"])

    async def talk() -> None:
        reader, writer = await asyncio.open_connection("localhost", port, ssl=tls)
        await reader.readline()
        writer.write(b'a1 LOGIN "ada@example.com" a-good-password\r\n')
        assert (await reader.readline()).startswith(b"a1 OK")
        writer.write(b"a2 SELECT inbox\r\n")
        assert not await reader.read()
        writer.close()

    asyncio.run(talk())
    assert box.faults == ["HTTP was offered to a mail server", "a command b'SELECT'"]
