"""The sync service: webhook events become messages of the chat, in the order of their conversation."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

from services.sync.api.conflicts import ConflictsApi
from services.sync.api.directory import DirectoryApi
from services.sync.api.files import FilesApi
from services.sync.api.mappings import MappingsApi
from services.sync.api.message_preview import MessagePreviewApi
from services.sync.api.people_links import PeopleLinksApi
from services.sync.api.sync_queue import SyncQueueApi
from services.sync.api.synced_messages import SyncedMessagesApi
from services.sync.carry.carrier import Carrier
from services.sync.carry.edits import MessageEditor
from services.sync.carry.failure_notice import FailureNotices
from services.sync.carry.handler import CarryHandler
from services.sync.carry.lanes import Lanes
from services.sync.carry.messages import MessageSender
from services.sync.carry.notes import Notes
from services.sync.carry.pace import Pace
from services.sync.carry.parts import PartSender
from services.sync.carry.reactions import ReactionSetter
from services.sync.carry.scene import SceneCalls
from services.sync.carry.status import StatusEvents
from services.sync.carry.stored_changes import StoredChanges
from services.sync.carry.traced import TracedCarry
from services.sync.carry.work import Work
from services.sync.conflict_resolution import ConflictResolution
from services.sync.endpoint_messages import EndpointMessages
from services.sync.files.assembly import build_files
from services.sync.lookups import Lookups
from services.sync.mapping_preview import LegResolver
from services.sync.mapping_rings import MappingRings
from services.sync.mapping_test import MappingTest
from services.sync.message_control import MessageControl
from services.sync.model.mapping import Mapping as SyncMapping
from services.sync.relay import Relay
from services.sync.retention import retentions
from services.sync.settings import SyncSettings
from services.sync.store import conflicts as conflict_store
from services.sync.store import lane_records as lane_store
from services.sync.store import mappings as mapping_store
from services.sync.store import messages as message_store
from services.sync.store import people_links as people_link_store
from services.sync.store import queue as queue_store
from services.sync.store.conflicts import Conflicts
from services.sync.store.lane_records import LaneRecords
from services.sync.store.mapping_index import MappingIndex
from services.sync.store.mappings import MappingRepository
from services.sync.store.messages import SyncedMessages
from services.sync.store.people_links import PersonLinkRepository
from services.sync.store.queue import SyncQueue
from services.sync.store.queue_counts import QueueCounts
from services.sync.translate.attachments import MessageFiles
from services.sync.translate.profiles import Profiles
from services.sync.translate.signals import SignalHandler
from services.sync.translate.translator import Translator
from services.sync.workspace_data import SyncData
from shared.connections.app_records import AppRepository
from shared.connections.apps import Apps
from shared.connections.channel_accounts import ChannelAccounts
from shared.connections.channel_calls import ChannelCalls
from shared.connections.configured_apps import configured_apps
from shared.connections.files.server import FileServer, dispatch
from shared.connections.integration_record import USABLE
from shared.connections.integrations import COLLECTION as INTEGRATIONS
from shared.connections.integrations import IntegrationRepository
from shared.connections.tokens import TokenSource
from shared.contracts.errors import NotFound
from shared.contracts.topics import CHAT_EVENTS, CHAT_SIGNALS, SYNC_REQUESTED, WEBHOOKS_RECEIVED
from shared.manifests.catalogue import CALLBACK_PATH
from shared.manifests.registry import registry
from shared.runtime import tracing
from shared.runtime.egress.client import create_egress_client
from shared.runtime.hourly_counts import HourlyCounts
from shared.runtime.mongo import Index
from shared.runtime.periodic_task import PeriodicTask
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load
from shared.runtime.web.retention import RetentionApi

INDEXES: Final[Mapping[str, Sequence[Index]]] = {
    **mapping_store.INDEXES,
    **people_link_store.INDEXES,
    **message_store.INDEXES,
    **queue_store.INDEXES,
    **lane_store.INDEXES,
    **conflict_store.INDEXES,
}
_MAX_CONNECTIONS: Final = 1_000
_MAX_PER_HOST: Final = 500
_MAX_PER_WORKSPACE: Final = 60
"""A provider or a workspace that is slow must not use the connections of the others up."""
_OUTBOX_INTERVAL_S: Final = 5.0


async def build(runtime: Runtime) -> Service:
    """Build the sync service of this process: its consumer, and its API. Raises `Misconfigured`."""
    settings = load(SyncSettings)
    known = registry()
    providers = known.providers
    client = create_egress_client(
        settings,
        max_connections=_MAX_CONNECTIONS,
        max_per_host=_MAX_PER_HOST,
        max_per_workspace=_MAX_PER_WORKSPACE,
    )

    # Accounts
    integrations = IntegrationRepository(runtime.mongo, runtime.vault, runtime.producer, runtime.log)
    app_repository = AppRepository(runtime.mongo, runtime.vault, known.connectors, runtime.log)
    registered_apps = Apps(app_repository, configured_apps(known), runtime.configuration)
    tokens = TokenSource(
        integrations,
        registered_apps,
        known.connectors,
        runtime.configuration,
        client,
        runtime.log,
        redirect_uri=runtime.hub.public_base + CALLBACK_PATH,
    )
    accounts = ChannelAccounts(integrations, runtime.configuration, providers)
    calls = ChannelCalls(tokens, client, providers)

    # Mappings
    mappings = MappingRepository(
        runtime.mongo,
        runtime.configuration,
        runtime.producer,
        runtime.log,
        per_workspace=settings.mappings_per_workspace,
    )
    people_links = PersonLinkRepository(runtime.mongo, per_workspace=settings.people_links_per_workspace)
    lookups = Lookups(accounts, integrations, calls, providers)
    mappings_api = MappingsApi(
        mappings,
        accounts,
        MappingRings(mappings),
        LegResolver(lookups, providers, known.connectors),
        MappingTest(accounts, lookups, runtime.producer),
    )

    files = build_files(runtime, settings, providers, accounts, tokens, calls)

    # Translate
    index = MappingIndex(runtime.mongo, runtime.configuration, runtime.log)
    messages, conflicts = SyncedMessages(runtime.mongo), Conflicts(runtime.mongo)
    profiles = Profiles(accounts, calls, runtime.log)
    translator = Translator(
        providers,
        accounts,
        index,
        mappings,
        messages,
        conflicts,
        people_links,
        profiles,
        MessageFiles(files.addresses).attachments,
        runtime.producer,
        runtime.log,
    )

    # Carry
    status = StatusEvents(runtime.producer)
    notes = Notes(messages, status)
    scene_calls = SceneCalls(calls, messages, Pace())
    parts = PartSender(scene_calls, messages)
    work = Work(
        providers,
        accounts,
        scene_calls,
        MessageSender(parts, files.fetcher, providers, messages, status),
        MessageEditor(scene_calls, parts, notes, status),
        ReactionSetter(scene_calls, messages),
    )
    notices = FailureNotices(providers, accounts, scene_calls, messages, runtime.producer, runtime.log)
    counts = HourlyCounts(runtime.mongo, runtime.log)
    carrier = Carrier(index, mappings, messages, work, scene_calls, notes, notices, runtime.log, counts)
    queue = SyncQueue(runtime.mongo)
    lane_records = LaneRecords(runtime.mongo)
    lanes = Lanes(
        queue,
        StoredChanges(queue, lane_records, carrier.retry_for_s),
        carrier.carry if tracing.tracer is None else TracedCarry(carrier.carry, tracing.tracer),
        carrier.give_up,
        runtime.log,
        account_pause_s=carrier.account_pause_s,
        assignment=lambda: requested.assignment,
    )
    _retry_on_changes(runtime, integrations, index, carrier, lanes)
    # `assignment` refers to this consumer: handler and consumer need each other.
    requested = runtime.consumer(
        group="carry",
        topics=[SYNC_REQUESTED],
        handler=CarryHandler(index, lanes).handle,
        drain=lanes.drain,
    )

    endpoints = EndpointMessages(runtime.mongo, runtime.configuration, providers, runtime.log)
    relay = Relay(providers, endpoints, runtime.producer, runtime.log)
    management = runtime.management_app(
        "Interlink sync",
        [
            MessagePreviewApi(providers),
            FilesApi(),
            RetentionApi(runtime.name, "sync:read", retentions(settings)),
            mappings_api,
            DirectoryApi(lookups),
            PeopleLinksApi(people_links, lookups),
            ConflictsApi(conflicts, ConflictResolution(conflicts, mappings, messages, translator)),
            SyncQueueApi(mappings, QueueCounts(runtime.mongo)),
            SyncedMessagesApi(mappings, messages, MessageControl(mappings, messages, queue)),
        ],
        unaudited=["/api/messages/preview", "/api/mappings/preview"],  # they change nothing
    )
    return Service(
        app=dispatch(FileServer(files.addresses, files.provider_files, runtime.log), management),
        parts=[
            client,
            registered_apps,
            tokens,
            *files.parts,
            endpoints,
            index,
            lanes,
            counts,
            PeriodicTask(mappings.publish_pending, _OUTBOX_INTERVAL_S, runtime.log),
            runtime.workspace_cleanup(
                SyncData(mappings, queue, lane_records, messages, conflicts, people_links).delete
            ),
        ],
        indexes=INDEXES,
        consumers=[
            runtime.consumer(group="relay", topics=[WEBHOOKS_RECEIVED], handler=relay.handle),
            runtime.consumer(
                group="translate", topics=[WEBHOOKS_RECEIVED, CHAT_EVENTS], handler=translator.handle
            ),
            runtime.consumer(
                group="signals",
                topics=[CHAT_SIGNALS],
                handler=SignalHandler(accounts, index, runtime.producer).handle,
            ),
            requested,
        ],
    )


def _retry_on_changes(
    runtime: Runtime,
    integrations: IntegrationRepository,
    index: MappingIndex,
    carrier: Carrier,
    lanes: Lanes,
) -> None:
    """Retry waiting changes when their mapping or account has changed: the reason to wait may be gone."""

    async def integrations_changed(ids: Collection[str] | None) -> None:
        if ids is None:
            carrier.end_account_pauses()
            lanes.retry_waiting()
        for integration_id in ids or ():
            with suppress(NotFound):  # it was deleted: its changes go on waiting
                integration = await integrations.find(integration_id)
                if integration.status in USABLE:
                    carrier.end_account_pauses(integration.workspace)
                    lanes.retry_waiting(integration.workspace)

    def mapping_changed(mapping: SyncMapping) -> None:
        if mapping.status == "active":
            lanes.retry_waiting(mapping.workspace)

    runtime.configuration.follow(INTEGRATIONS, integrations_changed)
    index.follow(mapping_changed)
