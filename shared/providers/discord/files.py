"""Addresses of Discord's files: they are signed, and work for about a day after a client has got them.

`ex` is the hexadecimal Unix time at which an address expires
(https://discord.com/developers/docs/reference#signed-attachment-cdn-urls). Discord's own clients get a new
one by `POST /attachments/refresh-urls`, which is not documented. Bots may call it too, for 50 addresses at a
time.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qs, urlsplit

from shared.manifests.channel_types import Call, ExternalFile, Operation, Step
from shared.manifests.history_models import HistorySpec
from shared.providers.discord.api_calls import call, json_object
from shared.providers.discord.messages import is_file_address, objects

_MAX_ADDRESSES: Final = 50
_MAX_ADDRESS: Final = 1_000


def signed_address(file: ExternalFile) -> str | None:
    """Return the address of a file if it is one of Discord's hosts for files; None for another."""
    return file.ref if is_file_address(file.ref) else None


def refreshed_addresses(
    spec: HistorySpec, files: Sequence[ExternalFile], expired_at: float
) -> Operation[Mapping[str, str]]:
    """Return new addresses of those files whose addresses have expired at a Unix time, by the old ones.

    Raises `ChannelFailure`.
    """
    addresses = dict.fromkeys(
        file.ref for file in files if is_file_address(file.ref) and _expires_at(file.ref) <= expired_at
    )
    expired = list(addresses)
    found: dict[str, str] = {}
    for start in range(0, len(expired), _MAX_ADDRESSES):
        group = expired[start : start + _MAX_ADDRESSES]
        body = {"attachment_urls": group}
        step = Step(Call("POST", "attachments/refresh-urls", json=body), method="attachments.refresh")
        content = json_object(spec, (yield from call(spec, step)))
        for item in objects(content.get("refreshed_urls"), _MAX_ADDRESSES):
            old, new = item.get("original"), item.get("refreshed")
            if isinstance(old, str) and isinstance(new, str) and old in group and _is_same_file(old, new):
                found[old] = new
    return found


def _expires_at(address: str) -> float:
    """Return the Unix time at which an address expires; 0 for one without, which Discord refuses."""
    try:
        return float(int(parse_qs(urlsplit(address).query)["ex"][0], 16))
    except (KeyError, ValueError):
        return 0.0


def _is_same_file(old: str, new: str) -> bool:
    return len(new) <= _MAX_ADDRESS and is_file_address(new) and urlsplit(new).path == urlsplit(old).path
