"""Addresses of Slack's files in exports: those of an admin's export have a token in their query."""

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from shared.manifests.channel_types import ExternalFile
from shared.providers.slack.events import is_slack_address

_EXPORT_TOKEN: Final = ("t", "xoxe-")
"""The parameter, and how its value begins."""


def signed_address(file: ExternalFile) -> str | None:
    """Return the address of a file if it has the token of an export, and is Slack's; None for another."""
    return file.ref if is_slack_address(file.ref) and without_token(file.ref) != file.ref else None


def without_token(address: str) -> str:
    """Return an address without the token of an export: a call has the account's."""
    parts = urlsplit(address)
    query = parse_qsl(parts.query)
    others = [(name, value) for name, value in query if (name, value[:5]) != _EXPORT_TOKEN]
    return address if others == query else parts._replace(query=urlencode(others)).geturl()
