"""Addresses of Discord's files: they are signed, and work for about a day after a client has got them."""

from typing import Final
from urllib.parse import urlsplit

from shared.manifests.channel_types import ExternalFile

_HOSTS: Final = frozenset({"cdn.discordapp.com", "media.discordapp.net"})


def signed_address(file: ExternalFile) -> str | None:
    """Return the address of a file if it is one of Discord's hosts for files; None for another."""
    try:
        parts = urlsplit(file.ref)
        is_own = parts.scheme == "https" and parts.hostname in _HOSTS and parts.port in (None, 443)
    except ValueError:
        return None
    return file.ref if is_own else None
