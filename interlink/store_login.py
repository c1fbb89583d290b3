"""The login of the embedded database: only processes that can read the data folder have access.

The database listens on 127.0.0.1, where every user of the machine can connect. It can create users only over
its protocol, while it does not require a login. To keep others out at that moment, it is started once with
TLS and a client certificate that exists only for this purpose. Every later start requires the login.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_urlsafe
from typing import Final

from shared.contracts.errors import InterlinkError

USER: Final = "interlink"
_PASSWORD: Final = "store.password"  # noqa: S105 -- the name of a file
_PENDING_PASSWORD: Final = "store.password.new"  # noqa: S105 -- the name of a file


class LoginError(InterlinkError):
    """The database refused to create the user."""


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
    earlier version required no login, so that anybody could create users. Raises `LoginError`.
    """
    if (folder / _PASSWORD).exists():
        return
    from interlink.store_users import create_certificate, replace_users  # noqa: PLC0415 -- only here

    password = store_password(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="store-tls-") as temporary:
        certificate = Path(temporary) / "certificate.pem"
        certificate.write_bytes(create_certificate(host))
        options = (
            *("--tls-cert-file", str(certificate), "--tls-key-file", str(certificate)),
            *("--tls-ca-file", str(certificate), "--tls-require-client-cert"),
        )
        run(options, lambda: replace_users(host, port, certificate, USER, password))
    (folder / _PENDING_PASSWORD).replace(folder / _PASSWORD)
