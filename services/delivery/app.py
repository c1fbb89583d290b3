"""The delivery service: fan-out, first attempts, due work, recovery, and the management API."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from services.delivery.api.deliveries import DeliveriesApi
from services.delivery.api.erasures import ErasuresApi
from services.delivery.api.queue import QueueApi
from services.delivery.api.recovery import RecoveryApi
from services.delivery.api.statistics import StatisticsApi
from services.delivery.api.unmatched import UnmatchedApi
from services.delivery.api.webhook_preview import PreviewApi
from services.delivery.api.webhooks import WebhooksApi
from services.delivery.engine.attempt import Attempter
from services.delivery.engine.backlog import INDEXES as BACKLOG_INDEXES
from services.delivery.engine.backlog import Backlog
from services.delivery.engine.backlog_worker import BacklogWorker
from services.delivery.engine.endpoint_states import EndpointStates
from services.delivery.engine.fair_share import FairShares
from services.delivery.engine.fanout import Fanout
from services.delivery.engine.first_attempts import FirstAttemptHandler
from services.delivery.engine.health import EndpointHealth
from services.delivery.engine.results import ResultWriter
from services.delivery.engine.scheduler import Scheduler
from services.delivery.engine.subscriptions import OutgoingWebhooks
from services.delivery.engine.waiting_reasons import WaitingReasons
from services.delivery.log.deliveries import INDEXES as DELIVERY_INDEXES
from services.delivery.log.deliveries import Deliveries
from services.delivery.log.endpoint_health import INDEXES as HEALTH_INDEXES
from services.delivery.log.endpoint_health import EndpointHealthRecords
from services.delivery.log.erasures import INDEXES as ERASURE_INDEXES
from services.delivery.log.erasures import Erasures
from services.delivery.log.recovery import Recovery
from services.delivery.log.recovery_jobs import INDEXES as JOB_INDEXES
from services.delivery.log.recovery_jobs import RecoveryJobs
from services.delivery.log.recovery_worker import RecoveryWorker
from services.delivery.log.statistics import INDEXES as STATISTICS_INDEXES
from services.delivery.log.statistics import Statistics
from services.delivery.log.unmatched import INDEXES as UNMATCHED_INDEXES
from services.delivery.log.unmatched import UnmatchedEventLog
from services.delivery.log.webhooks import INDEXES as WEBHOOK_INDEXES
from services.delivery.settings import DeliverySettings
from shared.contracts.topics import CHAT_EVENTS, DELIVERY_REQUESTED, INTEGRATION_EVENTS, WEBHOOKS_RECEIVED
from shared.runtime.egress.client import create_egress_client
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    **WEBHOOK_INDEXES,
    **DELIVERY_INDEXES,
    **HEALTH_INDEXES,
    **STATISTICS_INDEXES,
    **BACKLOG_INDEXES,
    **UNMATCHED_INDEXES,
    **ERASURE_INDEXES,
    **JOB_INDEXES,
}


async def build(runtime: Runtime) -> Service:
    """Build the delivery service of this process. `runtime` has its connections and identity."""
    settings = load(DeliverySettings)
    client = create_egress_client(settings, max_connections=settings.most_in_flight)
    subscriptions = OutgoingWebhooks(runtime.mongo, runtime.configuration, runtime.vault, runtime.log)
    deliveries = Deliveries(runtime.mongo, settings, runtime.log, instance=runtime.instance)
    endpoint_health = EndpointHealthRecords(runtime.mongo)
    erasures = Erasures(runtime.mongo, runtime.configuration, settings, runtime.log)
    statistics = Statistics(runtime.mongo, runtime.log)
    unmatched = UnmatchedEventLog(runtime.mongo, runtime.log)
    shares = FairShares()
    backlog = Backlog(
        runtime.mongo,
        # `events` is built below: it needs the fan-out, which needs the backlog.
        owned=lambda: (events.assignment[0], {(item.topic, item.partition) for item in events.assigned}),
    )
    endpoint_states = EndpointStates(deliveries, endpoint_health, settings)
    attempter = Attempter(client, statistics, runtime.log)
    health = EndpointHealth(
        subscriptions,
        endpoint_health,
        runtime.producer,
        runtime.log,
        suspend_after=timedelta(seconds=settings.condition_suspend_s),
    )
    results = ResultWriter(deliveries, runtime.log)
    first_attempts = FirstAttemptHandler(
        subscriptions,
        deliveries,
        erasures,
        endpoint_states,
        attempter,
        health,
        results,
        runtime.log,
        assignment=lambda: requested.assignment,
        dead_letter=lambda received, error: requested.dead_letter(received, error),  # noqa: PLW0108 -- built below
        shares=shares,
    )
    # Names above refer to consumers below through lambdas: handler and consumer need each other.
    requested = runtime.consumer(
        group="attempt",
        topics=[DELIVERY_REQUESTED],
        handler=first_attempts.handle,
        durable=first_attempts.wait_saved,
    )
    fanout = Fanout(subscriptions, runtime.producer, backlog, shares, unmatched)
    events = runtime.consumer(
        group="fanout",
        topics=[CHAT_EVENTS, INTEGRATION_EVENTS, WEBHOOKS_RECEIVED],
        handler=fanout.handle,
        durable=backlog.wait_stored,
    )

    async def handled_offset(partition: int) -> int:
        """Return the offset of `delivery.requested` before which every request is in the log."""
        unsaved = first_attempts.first_unsaved_offset(partition)
        return await requested.handled_offset(partition) if unsaved is None else unsaved

    backlog_worker = BacklogWorker(
        backlog,
        fanout,
        shares,
        runtime.producer,
        runtime.log,
        dead_letter=events.dead_letter,
        handled_offset=handled_offset,
    )
    scheduler = Scheduler(
        subscriptions,
        deliveries,
        endpoint_health,
        erasures,
        endpoint_states,
        attempter,
        health,
        results,
        runtime.log,
        assignment=lambda: requested.assignment,
    )
    recovery = Recovery(runtime.mongo, runtime.producer, settings)
    jobs = RecoveryJobs(runtime.mongo, recovery, runtime.log)
    reasons = WaitingReasons(runtime.mongo, subscriptions, endpoint_health)
    management = runtime.management_app(
        "Interlink delivery",
        [
            PreviewApi(),
            WebhooksApi(subscriptions, deliveries, endpoint_health, runtime.producer, client, settings),
            QueueApi(subscriptions, runtime.mongo),
            DeliveriesApi(deliveries, reasons),
            StatisticsApi(deliveries, statistics, subscriptions, settings),
            ErasuresApi(erasures),
            RecoveryApi(jobs, recovery, reasons),
            UnmatchedApi(unmatched),
        ],
        unaudited=["/api/outgoing-webhooks/preview"],  # it changes nothing
    )
    return Service(
        app=management,
        parts=[
            client,
            subscriptions,
            erasures,
            statistics,
            unmatched,
            health,
            results,
            first_attempts,
            scheduler,
            backlog_worker,
            backlog,
            RecoveryWorker(jobs, recovery, runtime.log),
        ],
        consumers=[events, requested],
    )
