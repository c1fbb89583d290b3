"""The importer service: exports become history of the chat."""

from collections.abc import Mapping, Sequence
from typing import Final

from services.importer.accounts.account_readers import AccountReaders
from services.importer.accounts.assembly import build_provider_access
from services.importer.api.account_imports import AccountImportsApi
from services.importer.api.files import ImportFilesApi
from services.importer.api.import_schemas import Estimate
from services.importer.api.imports import ImportsApi
from services.importer.api.reports import ReportsApi
from services.importer.api.upload_server import UploadServer, dispatch
from services.importer.api.uploads import UploadsApi
from services.importer.archive.zip_archive import ArchiveLimits
from services.importer.files import records as file_store
from services.importer.files.assembly import build_files
from services.importer.jobs import import_job
from services.importer.jobs.expiry import Expiry
from services.importer.jobs.files_step import FileLimits, FilesStep
from services.importer.jobs.imports import Imports
from services.importer.jobs.late_confirmations import LateConfirmations
from services.importer.jobs.ledger import Ledger
from services.importer.jobs.new_contents import NewContents
from services.importer.jobs.read_step import ReadStep
from services.importer.jobs.run_context import Stores
from services.importer.jobs.run_step import Outlets, RunStep
from services.importer.jobs.source_readers import SourceReaders
from services.importer.jobs.steps import ImportSteps
from services.importer.jobs.undo_step import UndoStep
from services.importer.jobs.verify_step import ReportRows, VerifyStep
from services.importer.publish import confirmations as confirmation_store
from services.importer.publish.broker_memory import BrokerMemory
from services.importer.publish.confirmations import Confirmations
from services.importer.publish.live_traffic import LIVE_TOPICS, LiveTraffic
from services.importer.reading.reader_process import ReaderLimits
from services.importer.retention import retentions
from services.importer.settings import ImporterSettings
from services.importer.store import chat_users as user_store
from services.importer.store import contents as content_store
from services.importer.store import issues as issue_store
from services.importer.store import marks as mark_store
from services.importer.store import reports as report_store
from services.importer.store import units as unit_store
from services.importer.store.chat_directory import ChatDirectory
from services.importer.store.chat_users import ChatUsers
from services.importer.store.contents import Contents
from services.importer.store.issues import Issues
from services.importer.store.marks import Marks
from services.importer.store.reports import Reports
from services.importer.store.units import Units
from services.importer.uploads import records as upload_store
from services.importer.uploads.folder import UploadFolder
from services.importer.uploads.records import Uploads
from services.importer.workspace_data import ImporterData
from shared.connections.files.server import FileServer
from shared.connections.files.server import dispatch as dispatch_files
from shared.contracts.topics import CHAT_EVENTS
from shared.runtime.jobs import JobWorker
from shared.runtime.kafka.batch import ConsumedEvent
from shared.runtime.kafka.reader import RecordCounter
from shared.runtime.mongo import Index
from shared.runtime.periodic_task import PeriodicTask
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import KafkaSettings, load
from shared.runtime.web.retention import RetentionApi

INDEXES: Final[Mapping[str, Sequence[Index]]] = {
    **import_job.INDEXES,
    **upload_store.INDEXES,
    **content_store.INDEXES,
    **unit_store.INDEXES,
    **issue_store.INDEXES,
    **confirmation_store.INDEXES,
    **report_store.INDEXES,
    **user_store.INDEXES,
    **file_store.INDEXES,
    **mark_store.INDEXES,
}
_SWEEP_INTERVAL_S: Final = 600.0


async def build(runtime: Runtime) -> Service:
    """Build the importer service of this process: its API, and its worker. Raises `Misconfigured`."""
    settings = load(ImporterSettings)
    folder = UploadFolder(settings.upload_folder)
    uploads = Uploads(
        runtime.mongo,
        folder,
        max_bytes=settings.max_upload_bytes,
        bytes_per_workspace=settings.upload_bytes_per_workspace,
        days=settings.upload_days,
    )
    access = build_provider_access(runtime, settings)
    limits = ReaderLimits(
        archive=ArchiveLimits(entries=settings.import_max_entries, total_bytes=settings.import_max_bytes)
    )
    accounts = AccountReaders(access, limits)
    memory = BrokerMemory(settings.embedded_broker_import_bytes if load(KafkaSettings).is_embedded else None)
    imports = Imports(
        runtime.mongo,
        uploads,
        folder,
        memory,
        running_per_workspace=settings.imports_running_per_workspace,
        per_workspace=settings.imports_per_workspace,
    )
    files = build_files(runtime, settings, folder, access)
    stores = Stores(
        Units(runtime.mongo),
        Issues(runtime.mongo),
        Contents(runtime.mongo),
        Confirmations(runtime.mongo),
        files.records,
        Marks(runtime.mongo),
    )
    reports, users = Reports(runtime.mongo), ChatUsers(runtime.mongo)
    rows = ReportRows(stores, reports)
    directory = ChatDirectory(runtime.mongo)
    ledger = Ledger(stores.units, stores.confirmations)
    new_contents = NewContents(imports, stores.contents, directory)
    file_limits = FileLimits(
        settings.import_max_file_bytes, settings.import_file_bytes_per_workspace, settings.import_file_days
    )
    readers = SourceReaders(folder, limits, accounts, stores.contents, stores.marks)
    read = ReadStep(readers, stores.contents, directory, users)
    late = LateConfirmations(imports, stores.units, stores.confirmations)
    live = RecordCounter(load(KafkaSettings), LIVE_TOPICS)
    rate = settings.history_messages_per_second
    traffic = LiveTraffic(live.count, messages_per_second=rate)
    outlets = Outlets(stores, runtime.producer, memory, late, traffic, messages_per_second=rate)
    steps = ImportSteps(
        imports,
        read,
        RunStep(imports, readers, read, stores, directory, outlets, files.addresses, file_limits),
        FilesStep(imports, readers, files, file_limits),
        VerifyStep(imports, rows),
        UndoStep(imports, outlets, stores, ledger, new_contents, files.cleanup),
    )
    estimate = Estimate(rate, memory)
    management = runtime.management_app(
        "Interlink importer",
        [
            UploadsApi(uploads, folder, runtime.hub.public_base),
            ImportsApi(
                imports, stores.contents, stores.issues, ledger, new_contents, estimate, runtime.draining
            ),
            ReportsApi(imports, stores.contents, reports, rows, files.records, estimate),
            ImportFilesApi(imports, files.records),
            RetentionApi(runtime.name, "imports:read", retentions(settings)),
            AccountImportsApi(imports, accounts, estimate),
        ],
    )
    data = ImporterData(
        imports,
        uploads,
        stores.units,
        stores.issues,
        stores.contents,
        stores.confirmations,
        stores.marks,
        reports,
        users,
        files.cleanup,
    )
    expiry = Expiry(imports, stores.units, stores.issues, stores.contents, reports)

    async def consume(batch: Sequence[ConsumedEvent]) -> None:
        await late.handle(batch)
        await users.handle(batch)

    server = FileServer(files.addresses.imported, files.served, runtime.log)
    return Service(
        app=dispatch_files(
            server, dispatch(UploadServer(uploads, folder, runtime.keyring, runtime.log), management)
        ),
        parts=[
            *access.parts,
            live,
            JobWorker(
                imports.jobs, steps.run, runtime.log, max_concurrent=settings.imports_per_process
            ).worker,
            PeriodicTask(uploads.sweep, _SWEEP_INTERVAL_S, runtime.log),
            PeriodicTask(expiry.sweep, _SWEEP_INTERVAL_S, runtime.log),
            PeriodicTask(files.cleanup.sweep, _SWEEP_INTERVAL_S, runtime.log),
            runtime.workspace_cleanup(data.delete),
        ],
        indexes=INDEXES,
        consumers=[runtime.consumer(group="confirmations", topics=[CHAT_EVENTS], handler=consume)],
    )
