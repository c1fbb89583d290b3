"""Addresses of Discord's files: they are signed, and work for about a day after a client has got them."""

from shared.manifests.channel_types import ExternalFile
from shared.providers.discord.messages import is_file_address


def signed_address(file: ExternalFile) -> str | None:
    """Return the address of a file if it is one of Discord's hosts for files; None for another."""
    return file.ref if is_file_address(file.ref) else None
