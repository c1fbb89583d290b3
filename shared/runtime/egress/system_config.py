"""Read the system's configuration of name resolution: its DNS servers and its hosts file."""

import os
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Final

from shared.wire.dns import DNS_PORT, ServerAddress

_CHECK_INTERVAL_S: Final = 1.0


class SystemConfig:
    """The system's DNS servers and hosts file, read again when the files change."""

    def __init__(self) -> None:
        self._hosts_file = _ReloadedFile(Path("/etc/hosts"))
        self._resolv_conf = _ReloadedFile(Path("/etc/resolv.conf"))
        self._hosts: dict[str, tuple[str, ...]] = {}
        self._servers: tuple[ServerAddress, ...] = ()

    def hosts(self) -> dict[str, tuple[str, ...]]:
        """Return the addresses of each name in the hosts file."""
        if (text := self._hosts_file.changed()) is not None:
            self._hosts = parse_hosts(text)
        return self._hosts

    def servers(self) -> tuple[ServerAddress, ...]:
        """Return the DNS servers of `resolv.conf`, or this machine's if it names none."""
        if (text := self._resolv_conf.changed()) is not None:
            self._servers = tuple(_parse_resolv_conf(text))
        return self._servers or (("127.0.0.1", DNS_PORT),)


class _ReloadedFile:
    """A small file that is checked for changes at most once a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next_check_at = 0.0
        self._version: tuple[int, int] | None = None

    def changed(self) -> str | None:
        """Return the file's text if it has changed since the last call, otherwise None.

        A file that cannot be read counts as unchanged.
        """
        now = monotonic()
        if now < self._next_check_at:
            return None
        self._next_check_at = now + _CHECK_INTERVAL_S
        with suppress(OSError):
            status = os.stat(self._path)  # noqa: PTH116 -- on the event loop, and quick
            version = (status.st_mtime_ns, status.st_ino)
            if version == self._version:
                return None
            text = self._path.read_text("utf-8", errors="replace")
            self._version = version
            return text
        return None


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Return the addresses of each name in a hosts file, IPv4 first. Names are lower case."""
    hosts: dict[str, tuple[str, ...]] = {}
    for address_text, *names in _config_lines(text):
        with suppress(ValueError):  # a line without a valid address is skipped
            address = ip_address(address_text)
            for written_name in names:
                name = written_name.lower().removesuffix(".")
                others = hosts.get(name, ())
                addresses = (str(address), *others) if address.version == 4 else (*others, str(address))
                hosts[name] = tuple(dict.fromkeys(addresses))
    return hosts


def _parse_resolv_conf(text: str) -> Iterator[ServerAddress]:
    for keyword, *values in _config_lines(text):
        if keyword == "nameserver" and values:
            with suppress(ValueError):
                yield str(ip_address(values[0])), DNS_PORT


def _config_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of each line, without comments and empty lines."""
    for line in text.splitlines():
        if words := line.partition("#")[0].partition(";")[0].split():
            yield words
