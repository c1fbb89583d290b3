"""The importer service: exports become history of the chat."""

from collections.abc import Mapping, Sequence
from typing import Final

from services.importer.accounts.account_readers import AccountReaders
from services.importer.accounts.assembly import build_provider_access
from services.importer.api.account_imports import AccountImportsApi
from services.importer.api.files import ImportFilesApi
from services.importer.api.imports import ImportsApi
from services.importer.api.upload_server import UploadServer, dispatch
from services.importer.api.uploads import UploadsApi
from services.importer.archive.zip_archive import ArchiveLimits
from services.importer.files import records as file_store
from services.importer.files.assembly import build_files
from services.importer.jobs import import_job
from services.importer.jobs.end_steps import UndoStep, VerifyStep
from services.importer.jobs.files_step import FileLimits, FilesStep
from services.importer.jobs.imports import Imports
from services.importer.jobs.read_step import ReadStep
from services.importer.jobs.run_step import RunStep, Stores
from services.importer.jobs.source_readers import SourceReaders
from services.importer.jobs.steps import ImportSteps
from services.importer.publish import confirmations as confirmation_store
from services.importer.publish.confirmations import Confirmations
from services.importer.reading.reader_process import ReaderLimits
from services.importer.settings import ImporterSettings
from services.importer.store import contents as content_store
from services.importer.store import issues as issue_store
from services.importer.store import marks as mark_store
from services.importer.store import units as unit_store
from services.importer.store.contents import Contents
from services.importer.store.issues import Issues
from services.importer.store.marks import Marks
from services.importer.store.units import Units
from services.importer.uploads import records as upload_store
from services.importer.uploads.folder import UploadFolder
from services.importer.uploads.records import Uploads
from services.importer.workspace_data import ImporterData
from shared.connections.files.server import FileServer
from shared.connections.files.server import dispatch as dispatch_files
from shared.contracts.topics import CHAT_EVENTS
from shared.runtime.jobs import JobWorker
from shared.runtime.mongo import Index
from shared.runtime.periodic_task import PeriodicTask
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load

INDEXES: Final[Mapping[str, Sequence[Index]]] = {
    **import_job.INDEXES,
    **upload_store.INDEXES,
    **content_store.INDEXES,
    **unit_store.INDEXES,
    **issue_store.INDEXES,
    **confirmation_store.INDEXES,
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
    imports = Imports(
        runtime.mongo, uploads, folder, running_per_workspace=settings.imports_running_per_workspace
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
    file_limits = FileLimits(
        settings.import_max_file_bytes, settings.import_file_bytes_per_workspace, settings.import_file_days
    )
    readers = SourceReaders(folder, limits, accounts, stores.contents, stores.marks)
    read = ReadStep(readers, stores.contents)
    run = RunStep(
        imports.jobs,
        readers,
        stores,
        runtime.producer,
        files.addresses,
        file_limits,
        messages_per_second=settings.history_messages_per_second,
    )
    store_files = FilesStep(imports.jobs, readers, files, file_limits)
    undo = UndoStep(imports.jobs, run, stores, files.cleanup)
    steps = ImportSteps(imports, read, run, store_files, VerifyStep(stores), undo)
    management = runtime.management_app(
        "Interlink importer",
        [
            UploadsApi(uploads, folder, runtime.hub.public_base),
            ImportsApi(imports, stores.contents, stores.issues),
            ImportFilesApi(imports, files.records),
            AccountImportsApi(imports, accounts),
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
        files.cleanup,
    )
    server = FileServer(files.addresses.imported, files.served, runtime.log)
    return Service(
        app=dispatch_files(
            server, dispatch(UploadServer(uploads, folder, runtime.keyring, runtime.log), management)
        ),
        parts=[
            *access.parts,
            JobWorker(
                imports.jobs, steps.run, runtime.log, max_concurrent=settings.imports_per_process
            ).worker,
            PeriodicTask(uploads.sweep, _SWEEP_INTERVAL_S, runtime.log),
            PeriodicTask(files.cleanup.sweep, _SWEEP_INTERVAL_S, runtime.log),
            runtime.workspace_cleanup(data.delete),
        ],
        indexes=INDEXES,
        consumers=[
            runtime.consumer(group="confirmations", topics=[CHAT_EVENTS], handler=stores.confirmations.handle)
        ],
    )
