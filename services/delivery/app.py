"""Builds the delivery service: fan-out, first attempts, due work, recovery, and the management API."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from services.delivery import indexes
from services.delivery.api.deliveries import DeliveriesApi
from services.delivery.api.erasures import ErasuresApi
from services.delivery.api.recovery import RecoveryApi
from services.delivery.api.statistics import StatisticsApi
from services.delivery.api.unmatched import UnmatchedApi
from services.delivery.api.webhooks import WebhooksApi
from services.delivery.engine.attempt import Attempter
from services.delivery.engine.backlog import Backlog
from services.delivery.engine.backlog_worker import BacklogWorker
from services.delivery.engine.endpoint_state import EndpointStates
from services.delivery.engine.fair_share import FairShares
from services.delivery.engine.fanout import Fanout
from services.delivery.engine.first_attempts import FirstAttemptHandler
from services.delivery.engine.health import EndpointHealth
from services.delivery.engine.results import ResultWriter
from services.delivery.engine.scheduler import Scheduler
from services.delivery.engine.subscriptions import OutgoingWebhooks
from services.delivery.engine.waiting_reasons import WaitingReasons
from services.delivery.log import recovery_jobs
from services.delivery.log.deliveries import Deliveries
from services.delivery.log.erasures import Erasures
from services.delivery.log.recovery import Recovery
from services.delivery.log.recovery_jobs import RecoveryJobs
from services.delivery.log.statistics import Statistics
from services.delivery.log.unmatched import UnmatchedEventLog
from services.delivery.settings import DeliverySettings
from shared.contracts.topics import CHAT_EVENTS, DELIVERY_REQUESTED, INTEGRATION_EVENTS, WEBHOOKS_RECEIVED
from shared.runtime.egress.client import create_egress_client
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {**indexes.INDEXES, **recovery_jobs.INDEXES}


async def build(here: Runtime) -> Service:
    """The delivery service of this process."""
    settings = load(DeliverySettings)
    client = create_egress_client(settings, max_connections=settings.most_in_flight)
    subscriptions = OutgoingWebhooks(here.mongo, here.configuration, here.vault, here.log)
    deliveries = Deliveries(here.mongo, settings, here.log, instance=here.instance)
    erasures = Erasures(here.mongo, here.configuration, settings, here.log)
    statistics = Statistics(here.mongo, here.log)
    unmatched = UnmatchedEventLog(here.mongo, here.log)
    shares = FairShares()
    backlog = Backlog(
        here.mongo,
        owned=lambda: (events.assignment[0], {(place.topic, place.partition) for place in events.assigned}),
    )
    lanes = EndpointStates(deliveries, settings)
    attempter = Attempter(client, statistics, here.log)
    health = EndpointHealth(
        subscriptions,
        deliveries,
        here.producer,
        here.log,
        suspend_after=timedelta(seconds=settings.condition_suspend_s),
    )
    results = ResultWriter(deliveries)
    first = FirstAttemptHandler(
        subscriptions,
        deliveries,
        erasures,
        lanes,
        attempter,
        health,
        results,
        here.log,
        assignment=lambda: requested.assignment,
        dead_letter=lambda received, error: requested.dead_letter(received, error),  # noqa: PLW0108 -- below
        shares=shares,
    )
    requested = here.consumer(
        group="attempt", topics=[DELIVERY_REQUESTED], handler=first.handle, durable=first.saved
    )
    fanout = Fanout(subscriptions, here.producer, backlog, shares, unmatched)
    events = here.consumer(
        group="fanout",
        topics=[CHAT_EVENTS, INTEGRATION_EVENTS, WEBHOOKS_RECEIVED],
        handler=fanout.handle,
        durable=backlog.stored,
    )

    async def attempted(partition: int) -> int:
        open_at = first.first_open(partition)
        return await requested.handled_offset(partition) if open_at is None else open_at

    drain = BacklogWorker(
        backlog,
        fanout,
        shares,
        here.producer,
        here.log,
        dead_letter=events.dead_letter,
        handled=attempted,
    )
    schedule = Scheduler(
        subscriptions,
        deliveries,
        erasures,
        lanes,
        attempter,
        health,
        results,
        here.log,
        assignment=lambda: requested.assignment,
    )
    recovery = Recovery(here.mongo, here.producer, settings)
    work = RecoveryJobs(here.mongo, recovery, here.log)
    management = here.management_app("Interlink delivery")
    WebhooksApi(subscriptions, deliveries, here.producer, client, settings, here.mongo).mount(management)
    reasons = WaitingReasons(here.mongo, subscriptions, deliveries)
    DeliveriesApi(deliveries, reasons).mount(management)
    StatisticsApi(deliveries, statistics, subscriptions, settings).mount(management)
    ErasuresApi(erasures).mount(management)
    RecoveryApi(work, recovery, reasons).mount(management)
    UnmatchedApi(unmatched).mount(management)
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
            first,
            schedule,
            drain,
            backlog,
            work,
        ],
        consumers=[events, requested],
    )
