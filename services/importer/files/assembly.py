"""Build what the importer has for files, from its settings."""

from dataclasses import dataclass
from typing import Final

from services.importer.files.attachments import Addresses
from services.importer.files.cleanup import FileCleanup
from services.importer.files.folder import FileFolder
from services.importer.files.records import ImportFiles
from services.importer.files.served import ImportedFiles
from services.importer.settings import ImporterSettings
from services.importer.uploads.folder import UploadFolder
from shared.connections.app_records import AppRepository
from shared.connections.apps import Apps
from shared.connections.channel_accounts import ChannelAccounts
from shared.connections.channel_calls import ChannelCalls
from shared.connections.configured_apps import configured_apps
from shared.connections.files.addresses import FileAddresses
from shared.connections.files.source import ProviderFiles
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.routes import IMPORTED_FILES_PATH
from shared.manifests.catalogue import CALLBACK_PATH
from shared.manifests.registry import registry
from shared.runtime.egress.client import create_egress_client
from shared.runtime.service import Runtime, ServicePart

_MAX_CONNECTIONS: Final = 100
_MAX_PER_WORKSPACE: Final = 10


@dataclass(frozen=True, slots=True)
class Files:
    """What is built. `parts` are started and stopped with the service."""

    records: ImportFiles
    folder: FileFolder
    addresses: Addresses
    provider: ProviderFiles
    served: ImportedFiles
    cleanup: FileCleanup
    parts: tuple[ServicePart, ...]


def build_files(runtime: Runtime, settings: ImporterSettings, uploads: UploadFolder) -> Files:
    """Build records, folder, addresses and source of files. Raises `Misconfigured`."""
    known = registry()
    client = create_egress_client(
        settings, max_connections=_MAX_CONNECTIONS, max_per_workspace=_MAX_PER_WORKSPACE
    )
    integrations = IntegrationRepository(runtime.mongo, runtime.vault, runtime.producer, runtime.log)
    apps = Apps(
        AppRepository(runtime.mongo, runtime.vault, known.connectors, runtime.log),
        configured_apps(known),
        runtime.configuration,
    )
    tokens = TokenSource(
        integrations,
        apps,
        known.connectors,
        runtime.configuration,
        client,
        runtime.log,
        redirect_uri=runtime.hub.public_base + CALLBACK_PATH,
    )
    provider = ProviderFiles(
        ChannelAccounts(integrations, runtime.configuration, known.providers),
        tokens,
        ChannelCalls(tokens, client, known.providers),
        client,
        runtime.configuration,
        known.providers,
        max_bytes=settings.import_max_file_bytes,
    )
    days, public_base = settings.import_file_days, runtime.hub.public_base
    addresses = Addresses(
        FileAddresses(runtime.vault, public_base=public_base, days=days, path=IMPORTED_FILES_PATH),
        FileAddresses(runtime.vault, public_base=public_base, days=days),
    )
    records, folder = ImportFiles(runtime.mongo), FileFolder(uploads)
    return Files(
        records,
        folder,
        addresses,
        provider,
        ImportedFiles(records, folder),
        FileCleanup(records, folder),
        (apps, client, tokens),
    )
