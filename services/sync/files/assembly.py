"""Build what the sync service has for files, from its settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.sync.files.disk import FileSpace
from services.sync.files.fetch import ChatFiles, FileFetcher
from services.sync.settings import SyncSettings
from shared.connections.channel_accounts import ChannelAccounts
from shared.connections.channel_calls import ChannelCalls
from shared.connections.files.addresses import FileAddresses
from shared.connections.files.source import ProviderFiles
from shared.connections.tokens import TokenSource
from shared.manifests.registry import Provider
from shared.runtime.egress.client import EgressClient, create_egress_client
from shared.runtime.egress.resolver import DnsResolver
from shared.runtime.service import Runtime, ServicePart

_MAX_CONNECTIONS: Final = 200
"""Connections of files. They are others than those of calls, which are short and must not wait for them."""
_MAX_PER_WORKSPACE: Final = 20
"""Files of the chat that are fetched for one workspace at a time."""


@dataclass(frozen=True, slots=True)
class Files:
    """What is built. `parts` are started and stopped with the service."""

    addresses: FileAddresses
    provider_files: ProviderFiles
    fetcher: FileFetcher
    parts: tuple[ServicePart, ...]


def build_files(
    runtime: Runtime,
    settings: SyncSettings,
    providers: Mapping[str, Provider],
    accounts: ChannelAccounts,
    tokens: TokenSource,
    calls: ChannelCalls,
) -> Files:
    """Build addresses, source and fetcher of files. Raises `Misconfigured`."""
    client = create_egress_client(
        settings, max_connections=_MAX_CONNECTIONS, max_per_workspace=_MAX_PER_WORKSPACE
    )
    parts: list[ServicePart] = [client]
    token = settings.read_chat_files_token()
    chat_files: ChatFiles | None = None
    if settings.chat_files_base:
        # The operator named the address. It may be internal, and then no egress proxy leads there.
        chat_client = EgressClient(
            "all",
            max_connections=_MAX_CONNECTIONS,
            max_per_workspace=_MAX_PER_WORKSPACE,
            ca_file=settings.egress_ca_file,
            resolver=DnsResolver(settings.name_servers),
        )
        chat_files = ChatFiles(settings.chat_files_base, token, chat_client)
        parts.append(chat_client)
    addresses = FileAddresses(
        runtime.vault, public_base=runtime.hub.public_base, days=settings.file_address_days
    )
    provider_files = ProviderFiles(
        accounts,
        tokens,
        calls,
        client,
        runtime.configuration,
        providers,
        max_bytes=settings.max_file_bytes,
    )
    space = FileSpace(settings.file_folder, max_bytes=settings.file_disk_bytes)
    fetcher = FileFetcher(
        addresses, provider_files, space, client, chat_files, max_bytes=settings.max_file_bytes
    )
    return Files(addresses, provider_files, fetcher, (*parts, space))
