"""Builds the delivery service: fan-out, first attempts, due work, recovery, and the management API."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from services.delivery import indexes, jobs
from services.delivery.attempt import Attempter
from services.delivery.backlog import Backlog
from services.delivery.consume import FirstAttempts
from services.delivery.deliveries_api import DeliveriesApi
from services.delivery.drain import Drain
from services.delivery.erasures import Erasures
from services.delivery.erasures_api import ErasuresApi
from services.delivery.fanout import Fanout
from services.delivery.health import Health
from services.delivery.jobs import Jobs
from services.delivery.lanes import Lanes
from services.delivery.recovery import Recovery
from services.delivery.recovery_api import RecoveryApi
from services.delivery.results import Results
from services.delivery.schedule import Schedule
from services.delivery.settings import DeliverySettings
from services.delivery.shares import Shares
from services.delivery.statistics import Statistics
from services.delivery.statistics_api import StatisticsApi
from services.delivery.store import Deliveries
from services.delivery.subscriptions import Subscriptions
from services.delivery.unmatched import Unmatched
from services.delivery.unmatched_api import UnmatchedApi
from services.delivery.waiting import WaitingReasons
from services.delivery.webhooks_api import WebhooksApi
from shared.contracts.topics import CHAT_EVENTS, DELIVERY_REQUESTED, INTEGRATION_EVENTS, WEBHOOKS_RECEIVED
from shared.runtime.guarded import guarded_client
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {**indexes.INDEXES, **jobs.INDEXES}


async def build(here: Runtime) -> Service:
    """The delivery service of this process."""
    settings = load(DeliverySettings)
    client = guarded_client(settings, most_connections=settings.most_in_flight)
    subscriptions = Subscriptions(here.mongo, here.configuration, here.vault, here.log)
    deliveries = Deliveries(here.mongo, settings, here.log, instance=here.instance)
    erasures = Erasures(here.mongo, here.configuration, settings, here.log)
    statistics = Statistics(here.mongo, here.log)
    unmatched = Unmatched(here.mongo, here.log)
    shares = Shares()
    backlog = Backlog(
        here.mongo,
        owned=lambda: (events.assignment[0], {(place.topic, place.partition) for place in events.assigned}),
    )
    lanes = Lanes(deliveries, settings)
    attempter = Attempter(client, statistics, here.log)
    health = Health(
        subscriptions,
        deliveries,
        here.producer,
        here.log,
        suspend_after=timedelta(seconds=settings.condition_suspend_s),
    )
    results = Results(deliveries)
    first = FirstAttempts(
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
        return await requested.handled(partition) if open_at is None else open_at

    drain = Drain(
        backlog,
        fanout,
        shares,
        here.producer,
        here.log,
        dead_letter=events.dead_letter,
        handled=attempted,
    )
    schedule = Schedule(
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
    work = Jobs(here.mongo, recovery, here.log)
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
