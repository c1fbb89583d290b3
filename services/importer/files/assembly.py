"""Build the stores and sources of imported files from the settings."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.importer.accounts.assembly import ProviderAccess
from services.importer.accounts.rate_limiter import limited_steps
from services.importer.files.attachments import Addresses
from services.importer.files.cleanup import FileCleanup
from services.importer.files.folder import FileFolder
from services.importer.files.records import ImportFiles
from services.importer.files.served import ImportedFiles
from services.importer.settings import ImporterSettings
from services.importer.uploads.folder import UploadFolder
from shared.connections.channel_accounts import ChannelAccounts
from shared.connections.channel_calls import BeforeStep
from shared.connections.files.addresses import FileAddresses
from shared.connections.files.source import ProviderFiles
from shared.contracts.routes import IMPORTED_FILES_PATH
from shared.manifests.registry import Provider
from shared.runtime.service import Runtime


@dataclass(frozen=True, slots=True)
class Files:
    """The stores and sources of files."""

    records: ImportFiles
    folder: FileFolder
    addresses: Addresses
    provider: ProviderFiles
    served: ImportedFiles
    cleanup: FileCleanup
    providers: Mapping[str, Provider]

    def limit_lookups(self, provider: str) -> BeforeStep | None:
        """Return the limiter of one import's calls that look addresses of files up, if there are any."""
        known = self.providers.get(provider)
        spec = known.manifest.channel if known else None
        return limited_steps(spec.rates) if spec else None


def build_files(
    runtime: Runtime, settings: ImporterSettings, uploads: UploadFolder, access: ProviderAccess
) -> Files:
    """Build records, folder, addresses and source of files."""
    provider = ProviderFiles(
        ChannelAccounts(access.integrations, runtime.configuration, access.providers),
        access.tokens,
        access.calls,
        access.client,
        runtime.configuration,
        access.providers,
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
        access.providers,
    )
