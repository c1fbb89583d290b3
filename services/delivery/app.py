"""Builds the delivery service: fan-out, first attempts, due work, and the management API."""

from collections.abc import Mapping
from typing import Final

from services.delivery import store
from services.delivery.attempt import Attempter
from services.delivery.consume import FirstAttempts
from services.delivery.deliveries_api import DeliveriesApi
from services.delivery.fanout import Fanout
from services.delivery.lanes import Lanes
from services.delivery.results import Results
from services.delivery.schedule import Schedule
from services.delivery.settings import DeliverySettings
from services.delivery.store import Deliveries
from services.delivery.subscriptions import Subscriptions
from services.delivery.webhooks_api import WebhooksApi
from shared.contracts.topics import CHAT_EVENTS, DELIVERY_REQUESTED, INTEGRATION_EVENTS, WEBHOOKS_RECEIVED
from shared.runtime.guarded import GuardedClient
from shared.runtime.mongo import Index
from shared.runtime.service import Runtime, Service
from shared.runtime.settings import load

INDEXES: Final[Mapping[str, tuple[Index, ...]]] = store.INDEXES


async def build(here: Runtime) -> Service:
    """The delivery service of this process."""
    settings = load(DeliverySettings)
    client = GuardedClient(settings.allow_private_networks, most_connections=settings.most_in_flight)
    subscriptions = Subscriptions(here.mongo, here.vault, here.log)
    deliveries = Deliveries(here.mongo, settings, here.log)
    lanes = Lanes(deliveries)
    attempter = Attempter(client, here.log)
    results = Results(deliveries)
    first = FirstAttempts(
        subscriptions,
        deliveries,
        lanes,
        attempter,
        results,
        here.log,
        partitions=lambda: requested.partitions,
        most_in_flight=settings.most_in_flight,
    )
    requested = here.consumer(group="attempt", topics=[DELIVERY_REQUESTED], handler=first.handle)
    events = here.consumer(
        group="fanout",
        topics=[CHAT_EVENTS, INTEGRATION_EVENTS, WEBHOOKS_RECEIVED],
        handler=Fanout(subscriptions, here.producer).handle,
    )
    schedule = Schedule(
        subscriptions,
        deliveries,
        lanes,
        attempter,
        results,
        here.log,
        partitions=lambda: requested.partitions,
    )
    management = here.management_app("Interlink delivery")
    WebhooksApi(subscriptions, deliveries, here.producer, client).mount(management)
    DeliveriesApi(deliveries).mount(management)
    return Service(
        app=management,
        parts=[client, subscriptions, results, first, schedule],
        consumers=[events, requested],
    )
