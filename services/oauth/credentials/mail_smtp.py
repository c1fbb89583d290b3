"""Log in to a mail server by SMTP (RFC 5321, 4954, 3207), with aiosmtplib.

The server is not trusted: what is not understood is an error. Of the answer to a rejected login only the
status codes are shown, never its text, which could repeat the password.
"""

import re
from typing import Final

from aiosmtplib import (
    SMTP,
    SMTPException,
    SMTPResponse,
    SMTPResponseException,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)

from services.oauth.credentials.mail_server import (
    MailLogin,
    login_refused,
    no_login_mechanism,
    no_starttls,
    protocol_error,
)
from shared.manifests.provider_response import ProviderRejected, ProviderUnavailable
from shared.runtime.egress.smtp_connection import SmtpConnection

_MAX_INITIAL_RESPONSE: Final = 512 - len("AUTH PLAIN \r\n")
"""The longest initial response, because AUTH with it is one command line of 512 octets (RFC 4954, 4)."""
_ENHANCED_CODE: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b", re.ASCII)
_LOGIN_REJECTED: Final = (534, 535)


async def log_in_smtp(connection: SmtpConnection, login: MailLogin) -> None:
    """Log in by SMTP over an open connection. With `starttls`, encrypt it first.

    Raises `GrantRevoked` if the server rejects user name and password; `ProviderRejected` if it offers no
    usable login or does not speak SMTP; `ProviderUnavailable`, `ssl.SSLError`, `OSError`, `EOFError`.
    """
    try:
        _expect(await connection.read_greeting(), 220)
        await _log_in(connection.client, login)
        connection.quit()
    except SMTPResponseException as error:
        raise _response_error(error.code, error.message) from None
    except (SMTPServerDisconnected, SMTPTimeoutError) as error:  # the latter: aborted while TLS began
        if connection.line_limit_exceeded:
            raise protocol_error("it sends too many lines") from None
        raise (error.__cause__ or EOFError()) from None
    except SMTPException:
        raise protocol_error("it does not speak SMTP") from None


async def _log_in(client: SMTP, login: MailLogin) -> None:
    """Log in after the greeting. Raises `ProviderRejected`, `SMTPException`, `ssl.SSLError`, `OSError`."""
    await client.ehlo()
    if login.security == "starttls":
        if not client.supports_extension("starttls"):
            raise no_starttls(login)
        await client.starttls()
        await client.ehlo()
    # Not `client.login`: it tries the next mechanism after a rejection, and servers lock accounts for that.
    if "plain" in client.server_auth_methods:
        if len(login.sasl_plain) <= _MAX_INITIAL_RESPONSE:
            await client.auth_plain(login.username, login.password)
        else:
            _expect(await client.execute_command(b"AUTH", b"PLAIN"), 334)
            _expect(await client.execute_command(login.sasl_plain), 235)
    elif "login" in client.server_auth_methods:
        await client.auth_login(login.username, login.password)
    else:
        raise no_login_mechanism(login)


def _expect(response: SMTPResponse, code: int) -> None:
    """Raise `SMTPResponseException` if the response has another code."""
    if response.code != code:
        raise SMTPResponseException(response.code, response.message)


def _response_error(code: int, text: str) -> Exception:
    """Return the error that an unexpected response means."""
    if not 200 <= code <= 599:  # -1 stands for a response that is none
        return protocol_error("it does not speak SMTP")
    if code // 100 == 4:
        return ProviderUnavailable(f"the mail server is not available: it answered {code}")
    if code in _LOGIN_REJECTED:
        enhanced = _ENHANCED_CODE.match(text.rpartition("\n")[2])
        return login_refused([str(code), *([enhanced[0]] if enhanced else [])])
    return ProviderRejected("protocol", f"the mail server rejected a command: it answered {code}")
