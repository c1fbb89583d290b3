"""What a provider can do in conversations: from the Protocols of its `channel.py` and its manifest."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from shared.manifests import channel_types as protocols
from shared.manifests.channel_models import Capability
from shared.manifests.registry import Provider

PROTOCOLS: Final[Mapping[Capability, type[Any]]] = {
    "read_messages": protocols.ReadsEvents,
    "read_edits": protocols.ReadsEvents,
    "read_deletions": protocols.ReadsEvents,
    "read_reactions": protocols.ReadsEvents,
    "send": protocols.Sends,
    "author_names": protocols.Sends,
    "threads": protocols.Sends,
    "upload_files": protocols.Sends,
    "edit": protocols.Edits,
    "delete": protocols.Deletes,
    "react": protocols.Reacts,
    "download_files": protocols.Downloads,
    "typing": protocols.Signals,
    "find_sent": protocols.FindsSent,
    "list_conversations": protocols.ListsConversations,
    "look_up_conversations": protocols.LooksUpConversations,
    "list_people": protocols.ListsPeople,
    "read_profiles": protocols.ReadsProfiles,
    "read_history": protocols.PagesHistory,
}
"""The Protocol of each capability. Where several share one, the manifest names those that are missing."""

NAMES: Final[Mapping[Capability, str]] = {
    "read_messages": "read messages",
    "read_edits": "read edits",
    "read_deletions": "read deletions",
    "read_reactions": "read reactions",
    "send": "send messages",
    "author_names": "show authors by name and picture",
    "threads": "threads",
    "upload_files": "send files",
    "edit": "edit messages",
    "delete": "delete messages",
    "react": "set reactions",
    "download_files": "read files",
    "typing": "show who types",
    "find_sent": "find a message after a lost response",
    "list_conversations": "list conversations",
    "look_up_conversations": "look a conversation up",
    "list_people": "list people",
    "read_profiles": "read profiles",
    "read_history": "read earlier messages",
}


@dataclass(frozen=True, slots=True)
class CapabilityStatus:
    """Whether a provider, or one account of it, has a capability.

    `reason` says why not. `missing_scopes` are those that the account was not granted. `note` is what a
    person has to do or know for it to work.
    """

    capability: Capability
    name: str
    available: bool
    reason: str = ""
    missing_scopes: tuple[str, ...] = ()
    note: str = ""


def capabilities(provider: Provider, granted: Collection[str] | None = None) -> list[CapabilityStatus]:
    """List every capability of a provider. None for `granted`: scopes are unknown and count as granted.

    Empty for a provider without conversations. Raises `Misconfigured` if its `channel.py` cannot be loaded.
    """
    spec, channel = provider.manifest.channel, provider.channel
    if spec is None or channel is None:
        return []
    statuses: list[CapabilityStatus] = []
    for capability in get_args(Capability):
        name, note = NAMES[capability], spec.notes.get(capability, "")
        if reason := spec.missing.get(capability, ""):
            statuses.append(CapabilityStatus(capability, name, available=False, reason=reason))
            continue
        needed = spec.scopes.get(capability, {})
        lacks = () if granted is None else tuple(scope for scope in needed if scope not in granted)
        reason = ""
        if lacks:
            scopes = ", ".join(lacks)
            reason = f"The account lacks {scopes}: connect it again with the purpose sync, and allow it."
        statuses.append(CapabilityStatus(capability, name, not lacks, reason, lacks, note))
    return statuses


def has_protocol(channel: object, capability: Capability) -> bool:
    """Return whether a `Channel` implements the Protocol of a capability."""
    return isinstance(channel, PROTOCOLS[capability])
