"""Poll what is due, in the background, and publish what is new.

The cursor of a trigger is stored after the gateway has said that Kafka has acknowledged the events before it.
A process that dies in between leaves the earlier cursor: the next poll publishes the same events again, under
the same ids.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import orjson

from services.oauth.polling.budget import MAX_CONCURRENT_POLLS, PollBudget
from services.oauth.polling.errors import PollRefused, RateLimited
from services.oauth.polling.outcomes import PollOutcomes, new_error
from services.oauth.polling.polling_types import PollingType, PollingTypes
from services.oauth.polling.records import LEASE, PollingTrigger, PollingTriggerRepository, stored_state
from services.oauth.polling.requests import NOT_MODIFIED, PollRequests
from services.oauth.subscriptions.gateway_endpoints import EndpointClosed, GatewayEndpoints
from shared.connections.integration_record import USABLE, Integration, LastError
from shared.connections.integrations import IntegrationRepository
from shared.connections.refresh_outcome import NotConnected
from shared.contracts.errors import InterlinkError, Malformed, NotFound, RetryLater
from shared.manifests.connector import Connector
from shared.manifests.poll_pages import (
    PollEvent,
    PollItem,
    PollPage,
    PollState,
    begin,
    completed,
    conditions,
    expire,
    page_request,
    poll_event,
    read_page,
    with_validators,
)
from shared.manifests.provider_response import as_text, select_value
from shared.manifests.scopes import missing_scopes
from shared.runtime.clock import utcnow
from shared.runtime.due_work import DueWorker, LeaseLost
from shared.runtime.failpoints import failpoint
from shared.runtime.hourly_counts import HourlyCounts
from shared.runtime.logs import Log
from shared.runtime.metrics import POLLS
from shared.runtime.retry import Backoff

_MAX_CONCURRENT: Final = 5 * MAX_CONCURRENT_POLLS
_POLL_TIMEOUT_S: Final = 60.0
"""Of one poll with all its pages. Half of a lease, so that nobody takes the trigger over meanwhile."""
_UNSTORED_FAILURE_PAUSES: Final = Backoff(first_s=LEASE.total_seconds(), max_s=LEASE.total_seconds())
_SPREAD: Final = 0.1
"""By which the interval is shortened or lengthened at random, so that not all triggers are due at once."""
_LOCKED_RECHECK_S: Final = (2.0, 6.0)
_MAX_PUBLISHED_BYTES: Final = 2 * 1024 * 1024
"""Of the events that are handed to the gateway at a time."""
_GONE: Final = frozenset({404, 410})


class Poller:
    """Polls the triggers of all workspaces, up to 20 at a time."""

    def __init__(
        self,
        triggers: PollingTriggerRepository,
        types: PollingTypes,
        integrations: IntegrationRepository,
        connectors: Mapping[str, Connector],
        requests: PollRequests,
        endpoints: GatewayEndpoints,
        budget: PollBudget,
        counts: HourlyCounts,
        log: Log,
        *,
        search_interval_s: float,
    ) -> None:
        """Set the work. Due triggers are searched every `search_interval_s` seconds."""
        self._triggers = triggers
        self._types = types
        self._integrations = integrations
        self._connectors = connectors
        self._requests = requests
        self._endpoints = endpoints
        self._budget = budget
        self._counts = counts
        self._log = log
        self._outcomes = PollOutcomes(triggers, log)
        self.worker = DueWorker(
            triggers.due_work,
            self._process,
            log,
            name="polling",
            poll_interval_s=search_interval_s,
            backoff=_UNSTORED_FAILURE_PAUSES,
            max_concurrent=_MAX_CONCURRENT,
        )
        """The part of the service that polls."""

    async def _process(self, claimed: PollingTrigger) -> None:
        """Poll a claimed trigger and store the outcome; remove it if it was deleted."""
        if claimed.is_removed:
            await self._remove(claimed)
            return
        kind = self._types.find(claimed.provider, claimed.trigger)
        if kind is None:
            await self._outcomes.stop(
                claimed, "unknown_trigger", "this release of the hub does not know the trigger"
            )
            return
        wait_s = self._budget.wait_s(claimed.workspace)
        if wait_s:
            await self._triggers.finish(claimed, due_at=utcnow() + timedelta(seconds=_spread(wait_s, 0.5)))
            return
        account: Integration | None = None
        if claimed.integration_id is not None:
            try:
                account = await self._integrations.find(claimed.integration_id, claimed.workspace)
            except NotFound:
                await self._remove(claimed)
                return
            if account.status not in USABLE:
                status = account.status.replace("_", " ")
                await self._outcomes.stop(claimed, "not_connected", f"the account is {status}: connect it")
                return
        async with self._locked(account, claimed) as is_locked:
            if is_locked:
                with self._budget.poll(claimed.workspace):
                    await self._poll_and_store(claimed, kind, account)
                return
        due_at = utcnow() + timedelta(seconds=random.uniform(*_LOCKED_RECHECK_S))  # noqa: S311 -- to spread
        await self._triggers.finish(claimed, due_at=due_at)

    @asynccontextmanager
    async def _locked(self, account: Integration | None, claimed: PollingTrigger) -> AsyncIterator[bool]:
        """Hold the lock of the account, if there is one: all its triggers are polled one after another."""
        if account is None:
            yield True
        elif not await self._triggers.lock(account.id, claimed):
            yield False
        else:
            try:
                yield True
            finally:
                await self._triggers.unlock(account.id, claimed)

    async def _poll_and_store(
        self, claimed: PollingTrigger, kind: PollingType, account: Integration | None
    ) -> None:
        app = app_key(account)
        try:
            async with asyncio.timeout(_POLL_TIMEOUT_S):
                changes = await self._poll(claimed, kind, account)
        except TimeoutError:
            await self._outcomes.fail(
                claimed, "slow", f"the poll took more than {_POLL_TIMEOUT_S:.0f} s", 0.0
            )
        except RateLimited as error:
            self._counts.add(claimed.workspace, "rate_limited", kind.provider)
            await self._outcomes.fail(claimed, "rate_limited", str(error), error.retry_after)
            if account is not None:
                # The limit may be that of the app: the workspace's other accounts of it wait as well.
                until = utcnow() + timedelta(seconds=error.retry_after)
                await self._triggers.hold(claimed, app, account.id, until)
        except NotConnected as error:
            await self._outcomes.stop(claimed, "not_connected", error.detail)
        except PollRefused as error:
            await self._outcomes.refuse(claimed, error)
        except EndpointClosed as error:
            help_text = (
                "its endpoint was deleted: delete the trigger and create another one"
                if error.is_deleted
                else "its endpoint is disabled: enable it, then resume"
            )
            await self._outcomes.pause(claimed, "endpoint_closed", help_text)
        except RetryLater as error:
            await self._outcomes.fail(claimed, "unavailable", str(error), error.retry_after)
        except InterlinkError as error:
            await self._outcomes.fail(claimed, "unusable", str(error), 0.0)
        else:
            POLLS.labels(claimed.provider, "succeeded").inc()
            pause_s = _spread(claimed.interval_s, _SPREAD)
            await self._triggers.finish(
                claimed,
                status="active",
                app=app,
                failures=0,
                last_polled_at=utcnow(),
                due_at=utcnow() + timedelta(seconds=pause_s),
                **changes,
            )

    async def _poll(
        self, claimed: PollingTrigger, kind: PollingType, account: Integration | None
    ) -> dict[str, Any]:
        """Read pages until there is nothing more, or the bound is reached, and publish what they bring.

        The state is stored after each page. Return the remaining fields to store. Raises the errors of
        `PollRequests` and `GatewayEndpoints`, and `LeaseLost`.
        """
        spec, state = kind.spec, claimed.poll_state
        self._check_scopes(kind, account)
        notice: LastError | None = None
        for _ in range(spec.max_pages):
            state = begin(state, utcnow())
            request, values = page_request(spec, state)
            values |= _param_values(claimed)
            response = await self._requests.send(claimed, account, request, values, conditions(spec, state))
            if response.status == NOT_MODIFIED:
                state = completed(state)
                break
            if response.status in spec.expired and not state.starting:
                if spec.recover is None and not state.page:
                    notice = new_error("cursor_expired", _missed(state))
                self._log.info("polling.cursor_expired", polling_trigger_id=claimed.id)
                state = expire(spec, state)
                continue
            document = await self._requests.document(kind, account, response)
            page = with_validators(read_page(spec, state, document), response.headers)
            events = await self._events(claimed, kind, account, state, page, document)
            changes: dict[str, Any] = {}
            if events:
                claimed = await self._ensure_endpoint(claimed)
                await self._publish(claimed, account, events)
                changes["last_event_at"] = utcnow()
                failpoint("poll.published")
            state = page.state
            # The state of a last page without events is stored with the outcome of the poll.
            if (events or not page.is_last) and not await self._triggers.store(
                claimed, state=stored_state(state), **changes
            ):
                raise LeaseLost
            if page.is_last:
                break
        return {"state": stored_state(state), "last_error": notice}

    async def _events(
        self,
        claimed: PollingTrigger,
        kind: PollingType,
        account: Integration | None,
        state: PollState,
        page: PollPage,
        document: Any,
    ) -> list[PollEvent]:
        """Return the events of a page, with the details of its items. An item that is gone has none."""
        events: list[PollEvent] = []
        for item in page.items:
            detailed = await self._with_details(claimed, kind, account, item)
            if detailed is None:
                continue
            if kind.spec.format == "feed":
                detailed = replace(detailed, value={**detailed.value, "feed": document["feed"]})
            try:
                event = poll_event(kind.spec, state, detailed)
            except Malformed as error:
                self._log.warning("polling.item_skipped", polling_trigger_id=claimed.id, error=str(error))
                continue
            if event is not None:
                events.append(event)
        return events

    async def _with_details(
        self, claimed: PollingTrigger, kind: PollingType, account: Integration | None, item: PollItem
    ) -> PollItem | None:
        """Return an item with its details; None if the provider does not have it any more."""
        details = kind.spec.details
        if details is None:
            return item
        item_id = as_text(select_value(details.item, item.value))
        if not item_id or not isinstance(item.value, dict):
            return None
        values = {**_param_values(claimed), "poll:item": item_id}
        response = await self._requests.send(claimed, account, details.request, values, {})
        if response.status in _GONE:
            return None
        document = await self._requests.document(kind, account, response)
        return replace(item, value={**item.value, "detail": document})

    async def _publish(
        self, claimed: PollingTrigger, account: Integration | None, events: list[PollEvent]
    ) -> None:
        """Publish events in their order, in parts that the gateway accepts."""
        part: list[dict[str, Any]] = []
        size = 0
        endpoint = claimed.endpoint_id or ""
        for event in events:
            if part and size + len(event.data) > _MAX_PUBLISHED_BYTES:
                await self._endpoints.publish_polled(claimed.workspace, endpoint, part)
                part, size = [], 0
            size += len(event.data)
            part.append(
                {
                    "event": event.event,
                    "delivery_id": event.delivery_id,
                    "account": account.account.id if account and account.account else "",
                    "occurred_at": event.occurred_at,
                    "triggers": [claimed.trigger],
                    "data": orjson.Fragment(event.data),
                }
            )
        await self._endpoints.publish_polled(claimed.workspace, endpoint, part)
        self._log.info(
            "polling.published",
            polling_trigger_id=claimed.id,
            endpoint_id=endpoint,
            type=f"{claimed.provider}.{events[0].event}",
            events=len(events),
        )

    async def _ensure_endpoint(self, claimed: PollingTrigger) -> PollingTrigger:
        """Return the trigger with its endpoint, which is created before the first event."""
        if claimed.endpoint_id:
            return claimed
        endpoint = await self._endpoints.create_polled(
            claimed.workspace,
            # The idempotency key: a repeat after a crash finds the endpoint that was created before it.
            claimed.id,
            claimed.provider,
            claimed.name,
            claimed.channel_id,
        )
        if not await self._triggers.store(claimed, endpoint_id=endpoint):
            raise LeaseLost
        return claimed.model_copy(update={"endpoint_id": endpoint})

    async def _remove(self, claimed: PollingTrigger) -> None:
        """Remove the endpoint of a trigger, and then the trigger. Raises `RetryLater` to be repeated."""
        if claimed.endpoint_id:
            await self._endpoints.remove(claimed.workspace, claimed.endpoint_id)
        await self._triggers.delete(claimed)

    def _check_scopes(self, kind: PollingType, account: Integration | None) -> None:
        connector = self._connectors.get(kind.provider)
        if account is None or connector is None:
            return
        missing = missing_scopes(connector.oauth2, kind.spec.scopes, account.scopes)
        if missing:
            raise PollRefused(403, "missing_scope", f"the person did not grant {', '.join(missing)}")


def app_key(account: Integration | None) -> str:
    """Return the app that an account is connected with, as `PollingTrigger.app` has it; '' for none."""
    return " ".join(account.app) if account and account.app else ""


def _param_values(trigger: PollingTrigger) -> dict[str, str]:
    return {f"poll:{name}": value for name, value in trigger.params.items()}


def _missed(state: PollState) -> str:
    """Say between which times changes may be missing."""
    since = state.since or "the last poll"
    return f"the provider does not know the cursor any more: what changed after {since} may be missing"


def _spread(seconds: float, spread: float) -> float:
    return seconds * random.uniform(1 - spread, 1 + spread)  # noqa: S311 -- only to spread
