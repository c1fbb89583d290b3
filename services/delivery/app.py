"""The delivery service: fan-out, first attempts, due work, recovery, and the management API."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from services.delivery.api.customers import CustomerDeliveries
from services.delivery.api.deliveries import DeliveriesApi
from services.delivery.api.erasures import ErasuresApi
from services.delivery.api.queue import QueueApi
from services.delivery.api.recovery import RecoveryApi
from services.delivery.api.statistics import StatisticsApi
from services.delivery.api.unmatched import UnmatchedApi
from services.delivery.api.webhook_preview import PreviewApi
from services.delivery.api.webhooks import WebhooksApi
from services.delivery.engine.attempt import Attempter
from services.delivery.engine.backlog import Backlog
from services.delivery.engine.backlog_worker import BacklogWorker
from services.delivery.engine.deferred_events import INDEXES as DEFERRED_EVENT_INDEXES
from services.delivery.engine.deferred_events import DeferredEvents
from services.delivery.engine.direct_requests import DirectRequests
from services.delivery.engine.endpoint_states import EndpointStates
from services.delivery.engine.failure_monitor import FailureMonitor
from services.delivery.engine.fair_share import FairShares
from services.delivery.engine.fanout import Fanout
from services.delivery.engine.first_attempts import FirstAttemptHandler
from services.delivery.engine.results import ResultWriter
from services.delivery.engine.scheduler import Scheduler
from services.delivery.engine.waiting_reasons import WaitingReasons
from services.delivery.log.deliveries import INDEXES as DELIVERY_INDEXES
from services.delivery.log.deliveries import Deliveries
from services.delivery.log.delivery_changes import DeliveryChanges
from services.delivery.log.delivery_ids import DeliveryIds
from services.delivery.log.due_deliveries import DueDeliveries
from services.delivery.log.endpoint_health import INDEXES as HEALTH_INDEXES
from services.delivery.log.endpoint_health import EndpointHealthRecords
from services.delivery.log.erasures import INDEXES as ERASURE_INDEXES
from services.delivery.log.erasures import Erasures
from services.delivery.log.recovery import Recovery
from services.delivery.log.recovery_jobs import INDEXES as JOB_INDEXES
from services.delivery.log.recovery_jobs import RecoveryJobs
from services.delivery.log.recovery_steps import RecoverySteps
from services.delivery.log.search import DeliverySearch
from services.delivery.log.statistics import INDEXES as STATISTICS_INDEXES
from services.delivery.log.statistics import Statistics
from services.delivery.log.unmatched import INDEXES as UNMATCHED_INDEXES
from services.delivery.log.unmatched import UnmatchedEventLog
from services.delivery.retention import retentions
from services.delivery.settings import DeliverySettings
from services.delivery.webhooks.encryption import WebhookEncryption
from services.delivery.webhooks.outgoing_webhooks import OutgoingWebhooks
from services.delivery.webhooks.queues import INDEXES as QUEUE_INDEXES
from services.delivery.webhooks.queues import DeliveryQueues
from services.delivery.webhooks.repository import INDEXES as WEBHOOK_INDEXES
from services.delivery.webhooks.repository import WebhookRepository
from services.delivery.workspace_data import DeliveryData
from shared.contracts.topics import (
    CHAT_EVENTS,
    CHAT_INBOUND,
    DELIVERY_REQUESTED,
    INTEGRATION_EVENTS,
    WEBHOOKS_RECEIVED,
)
from shared.manifests.event_names import EventNames
from shared.manifests.registry import registry
from shared.runtime.daily_usage import DailyUsage
from shared.runtime.egress.client import create_egress_client
from shared.runtime.hourly_counts import HourlyCounts
from shared.runtime.jobs import JobWorker
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load
from shared.runtime.web.retention import RetentionApi

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    **WEBHOOK_INDEXES,
    **QUEUE_INDEXES,
    **DELIVERY_INDEXES,
    **HEALTH_INDEXES,
    **STATISTICS_INDEXES,
    **DEFERRED_EVENT_INDEXES,
    **UNMATCHED_INDEXES,
    **ERASURE_INDEXES,
    **JOB_INDEXES,
}


async def build(runtime: Runtime) -> Service:
    """Build the delivery service of this process. `runtime` has its connections and identity."""
    settings = load(DeliverySettings)
    # The limit is that of all workers.
    max_in_flight = max(1, settings.most_in_flight // runtime.workers)
    settings = settings.model_copy(update={"most_in_flight": max_in_flight})
    providers = registry().providers
    client = create_egress_client(settings, max_connections=settings.most_in_flight)
    repository = WebhookRepository(
        runtime.mongo,
        per_workspace=settings.webhooks_per_workspace,
        per_customer=settings.webhooks_per_customer,
    )
    encryption = WebhookEncryption(runtime.vault)
    queues = DeliveryQueues(runtime.mongo, runtime.configuration, runtime.log)
    webhooks = OutgoingWebhooks(repository, queues, encryption, runtime.configuration, runtime.log)
    statistics = Statistics(runtime.mongo, runtime.log)
    usage = DailyUsage(runtime.mongo, runtime.log)
    deliveries = Deliveries(
        runtime.mongo, settings, statistics, usage, runtime.log, instance=runtime.instance
    )
    due_deliveries = DueDeliveries(runtime.mongo, holder=deliveries.holder)
    delivery_search = DeliverySearch(runtime.mongo, statistics, deliveries.retention)
    customers = CustomerDeliveries(delivery_search, repository)
    changes = DeliveryChanges(runtime.mongo, settings)
    endpoint_health = EndpointHealthRecords(runtime.mongo)
    erasures = Erasures(runtime.mongo, runtime.configuration, changes, runtime.log)
    unmatched = UnmatchedEventLog(runtime.mongo, runtime.log)
    shares = FairShares()
    backlog = Backlog(
        DeferredEvents(runtime.mongo),
        # `events` is built below: it needs the fan-out, which needs the backlog.
        owned=lambda: (events.assignment[0], {(item.topic, item.partition) for item in events.assigned}),
    )
    endpoint_states = EndpointStates(due_deliveries, endpoint_health, settings)
    attempter = Attempter(client, statistics, usage, runtime.log)
    failure_monitor = FailureMonitor(
        webhooks,
        endpoint_health,
        runtime.producer,
        runtime.log,
        suspend_after=timedelta(seconds=settings.condition_suspend_s),
    )
    results = ResultWriter(deliveries, runtime.log)
    first_attempts = FirstAttemptHandler(
        webhooks,
        deliveries,
        DeliveryIds(runtime.mongo),
        erasures,
        endpoint_states,
        attempter,
        failure_monitor,
        results,
        runtime.log,
        assignment=lambda: requested.assignment,
        shares=shares,
    )
    direct = DirectRequests(
        webhooks,
        runtime.producer,
        first_attempts,
        backlog,
        runtime.log,
        assignment=lambda: requested.assignment,
    )
    # Names above refer to consumers below through lambdas: handler and consumer need each other.
    requested = runtime.consumer(
        group="attempt",
        topics=[DELIVERY_REQUESTED],
        handler=first_attempts.handle,
        drain=direct.drain,
    )
    counts = HourlyCounts(runtime.mongo, runtime.log)
    fanout = Fanout(webhooks, runtime.producer, direct, backlog, shares, unmatched, providers, counts)
    events = runtime.consumer(
        group="fanout",
        topics=[CHAT_EVENTS, INTEGRATION_EVENTS, WEBHOOKS_RECEIVED, CHAT_INBOUND],
        handler=fanout.handle,
    )

    backlog_worker = BacklogWorker(
        backlog,
        fanout,
        shares,
        runtime.producer,
        direct,
        runtime.log,
        dead_letter=events.dead_letter,
        handled_offset=requested.handled_offset,
    )
    scheduler = Scheduler(
        webhooks,
        deliveries,
        due_deliveries,
        endpoint_health,
        erasures,
        endpoint_states,
        attempter,
        failure_monitor,
        results,
        runtime.log,
        assignment=lambda: requested.assignment,
    )
    recovery = Recovery(changes, delivery_search, repository, runtime.producer)
    jobs = RecoveryJobs(runtime.mongo, recovery, repository, runtime.log)
    steps = RecoverySteps(recovery, delivery_search, repository)
    reasons = WaitingReasons(repository, queues, webhooks, endpoint_health)
    data = DeliveryData(
        webhooks,
        queues,
        deliveries,
        delivery_search,
        endpoint_health,
        jobs,
        statistics,
        unmatched,
    )
    management = runtime.management_app(
        "Interlink delivery",
        [
            PreviewApi(),
            WebhooksApi(
                webhooks,
                repository,
                encryption,
                deliveries,
                endpoint_health,
                runtime.producer,
                client,
                EventNames(providers),
                settings,
            ),
            QueueApi(queues),
            DeliveriesApi(delivery_search, customers, reasons),
            StatisticsApi(delivery_search, statistics, webhooks, customers, settings),
            ErasuresApi(erasures),
            RecoveryApi(jobs, recovery, delivery_search, customers, reasons),
            UnmatchedApi(unmatched),
            RetentionApi(runtime.name, "webhooks:read", retentions(settings)),
        ],
        unaudited=["/api/outgoing-webhooks/preview"],  # it changes nothing
    )
    return Service(
        app=management,
        indexes=INDEXES,
        parts=[
            client,
            webhooks,
            erasures,
            statistics,
            counts,
            usage,
            unmatched,
            failure_monitor,
            results,
            direct,
            first_attempts,
            scheduler,
            backlog_worker,
            JobWorker(jobs.jobs, steps.run, runtime.log).worker,
            runtime.workspace_cleanup(data.delete),
        ],
        consumers=[events, requested],
    )
