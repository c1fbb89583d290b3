"""Recovery by hand: deliveries are sent again, cancelled, discarded, or repeated under a new id.

Each action is a conditional write on the state that was read, and raises the fence. If the engine works on
the same delivery at the same moment, one of the two writes first and the other changes nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from services.delivery.log.deliveries import DELIVERIES
from services.delivery.model.delivery import DeliveryRequest, due_event, replay_event
from services.delivery.settings import DeliverySettings
from services.delivery.webhooks.repository import WebhookRepository
from shared.contracts.errors import Conflict, NotFound
from shared.contracts.ids import DeliveryId, WebhookId, derive
from shared.contracts.topics import DELIVERY_REQUESTED
from shared.runtime.kafka.producer import Producer, Record, event_record
from shared.runtime.mongo import Collection, Document, Mongo, UpdateOne, translate_errors, utcnow

Action = Literal["recover", "cancel", "discard"]

NOT_FOUND: Final = "no such delivery"
WEBHOOK_DELETED: Final = "its outgoing webhook was deleted"
WEBHOOK_DISABLED: Final = "its outgoing webhook is disabled: enable it, then try again"
_ERASED: Final = "its payload was erased: there is nothing to send"
_STILL_OPEN: Final = "it is not finished: use retry to send it now, under the same id"
_CHANGED_CONCURRENTLY: Final = "it changed at the same moment: try again"

ENDED: Final = ("dead_letter", "cancelled", "discarded")
"""A delivery in one of these states starts another retry cycle when it is sent again."""
RESENT: Final = ("delivered", *ENDED)
"""A delivery in one of these states can be sent again under a new id."""
WAITING: Final = ("pending", "retrying")
"""Open states without an attempt in flight."""

_REFUSAL_REASONS: Final[Mapping[Action, Mapping[str, str]]] = {
    "recover": {
        "delivered": "it was delivered: a resend or a replay of its webhook sends it again, under a new id",
        "delivering": "an attempt is under way: try again when it has ended",
    },
    "cancel": {
        "delivering": "an attempt is under way: try again when it has ended",
        "delivered": "it was delivered: there is nothing to cancel",
        "dead_letter": "it is a dead letter and is not sent any more: discard it to remove it from the list",
        "discarded": "it was discarded and is not sent any more",
    },
    "discard": {"cancelled": "it was cancelled: only dead letters can be discarded"},
}

_READ_FIELDS: Final = ("status", "fence", "attempt_count", "webhook_id", "erased_at", "job")
_NOTIFY_TIMEOUT_S: Final = 2.0
"""A caller waits for the notification; if it fails, a job repeats it."""
_PUBLISH_TIMEOUT_S: Final = 10.0
_MAX_PUBLISH_BYTES: Final = 4 * 1024 * 1024
"""Bytes that are published in one call, to be acknowledged within `_PUBLISH_TIMEOUT_S`."""


def replay_id(original: str, replay_no: int) -> DeliveryId:
    """Return the id of a delivery's repetition: the same however often a replay is started."""
    return DeliveryId(f"dlv_{derive(original, 'replay', str(replay_no))}")


class Recovery:
    """The actions, on the log and on Kafka. `recovery_worker.py` applies them to many deliveries."""

    def __init__(
        self, mongo: Mongo, webhooks: WebhookRepository, producer: Producer, settings: DeliverySettings
    ) -> None:
        self.deliveries: Collection = mongo.collection(DELIVERIES)
        self.webhooks = webhooks
        self._producer = producer
        self._retention = timedelta(days=settings.dead_letter_days)

    async def apply(
        self, action: Action, ids: Sequence[str], *, workspace: str, statuses: Sequence[str], job: str
    ) -> dict[str, str | None]:
        """Apply an action to the deliveries that are in one of these statuses.

        Return by id why it was not applied, or None. The deliveries store the job's id: a job that is
        repeated recognises what it did. Raises `DatabaseUnavailable`.
        """
        query = {"_id": {"$in": list(ids)}, "workspace": workspace}
        with translate_errors():
            documents = await self.deliveries.find(query, dict.fromkeys(_READ_FIELDS, 1)).to_list(len(ids))
            enabled_by_webhook = await self._enabled_by_webhook(documents) if action == "recover" else {}
        outcomes: dict[str, str | None] = dict.fromkeys(ids, NOT_FOUND)
        now = utcnow()
        writes: list[UpdateOne] = []
        for document in documents:
            if document.get("job") == job:  # a repeated step: this delivery is done
                outcomes[document["_id"]] = None
                continue
            refusal = _refusal_reason(action, document, statuses, enabled_by_webhook)
            outcomes[document["_id"]] = refusal or _CHANGED_CONCURRENTLY
            if refusal is None:
                writes.append(self._conditional_update(action, document, job, now))
        if writes:
            with translate_errors():
                await self.deliveries.bulk_write(writes, ordered=False)
                # The fence decides: only deliveries with this job's id were changed by it.
                changed = await self.deliveries.find(query | {"job": job}, {"_id": 1}).to_list(len(ids))
            outcomes |= dict.fromkeys((document["_id"] for document in changed), None)
        return outcomes

    async def notify_owners(self, ids: Sequence[str], *, workspace: str, manual: bool = False) -> None:
        """Make the owners of these deliveries' webhooks search the log. Raises `RetryLater`.

        With `manual`, they send these deliveries past hold and open circuit.
        """
        with translate_errors():
            documents = await self.deliveries.find(
                {"_id": {"$in": list(ids)}, "workspace": workspace}, {"webhook_id": 1}
            ).to_list(len(ids))
        targets = sorted(
            {(document["webhook_id"], document["_id"] if manual else "") for document in documents}
        )
        records = [
            event_record(
                DELIVERY_REQUESTED, webhook_id, due_event(WebhookId(webhook_id), workspace, delivery_id)
            )
            for webhook_id, delivery_id in targets
        ]
        if records:
            await self._producer.publish_all(records, timeout_s=_NOTIFY_TIMEOUT_S)

    async def replay(self, ids: Sequence[str], *, workspace: str, replay_no: int) -> int:
        """Request these deliveries again, in this order, each under its derived id; return how many.

        Deliveries without a payload are left out. Repeating the call requests the same ids, and a delivery
        that is in the log already is not sent again. Raises `RetryLater`, `TooLarge`.
        """
        with translate_errors():
            documents = await self.deliveries.find(
                {"_id": {"$in": list(ids)}, "workspace": workspace}, {"attempts": 0}
            ).to_list(len(ids))
        position = {delivery_id: index for index, delivery_id in enumerate(ids)}
        documents.sort(key=lambda document: position[document["_id"]])
        records = []
        for document in documents:
            # Erased: there is nothing to send.
            if document.get("body") is None:
                continue
            earlier = DeliveryRequest.from_document(document)
            new_id = replay_id(earlier.replay_of or earlier.delivery_id, replay_no)
            records.append(
                event_record(DELIVERY_REQUESTED, earlier.webhook_id, replay_event(earlier, new_id, replay_no))
            )
        # In order, one batch after the other: the order of a replay is that of the originals.
        for batch in _split_by_size(records):
            await self._producer.publish_all(batch, timeout_s=_PUBLISH_TIMEOUT_S)
        return len(records)

    async def resend(self, delivery_id: str, *, workspace: str) -> DeliveryRequest:
        """Request a finished delivery again: its body under a new id, to the webhook's present settings.

        Return the request of the new delivery, which goes past its endpoint's hold and open circuit. Raises
        `NotFound`; `Conflict` if it is not finished, its payload was erased, or its webhook is deleted or
        disabled; `RetryLater`, `TooLarge`.
        """
        with translate_errors():
            document = await self.deliveries.find_one(
                {"_id": delivery_id, "workspace": workspace}, {"attempts": 0}
            )
            if document is None:
                raise NotFound(NOT_FOUND)
            if document["status"] not in RESENT:
                raise Conflict(_STILL_OPEN)
            if document.get("erased_at") or document.get("body") is None:
                raise Conflict(_ERASED)
            # Counted with the webhook's replays, so that every repetition of a delivery has its own number.
            replay_no = await self.webhooks.next_replay_number(
                document["webhook_id"], workspace=workspace, only_enabled=True
            )
            if replay_no is None:
                raise Conflict(
                    _webhook_refusal_reason(await self._enabled_by_webhook([document]), document)
                    or _CHANGED_CONCURRENTLY
                )
        earlier = DeliveryRequest.from_document(document)
        original = earlier.replay_of or earlier.delivery_id
        request = replace(
            earlier,
            delivery_id=replay_id(original, replay_no),
            replay_of=original,
            replay_no=replay_no,
            manual=True,
        )
        event = replay_event(earlier, request.delivery_id, replay_no, manual=True)
        await self._producer.publish(
            event_record(DELIVERY_REQUESTED, request.webhook_id, event), timeout_s=_NOTIFY_TIMEOUT_S
        )
        return request

    async def _enabled_by_webhook(self, deliveries: Iterable[Document]) -> dict[str, bool]:
        """Return for each of these deliveries' webhooks that exists whether it is enabled."""
        return await self.webhooks.enabled_by_id({document["webhook_id"] for document in deliveries})

    def _conditional_update(self, action: Action, document: Document, job: str, now: datetime) -> UpdateOne:
        query: dict[str, Any] = {name: document[name] for name in ("_id", "status", "fence")}
        # An erasure may come between reading and writing.
        if action == "recover":
            query["body"] = {"$exists": True}
        change = {
            "recover": _recover_update,
            "cancel": self._cancel_update,
            "discard": _discard_update,
        }[action](document, now)
        change["$set"] = change.get("$set", {}) | {"job": job}
        return UpdateOne(query, change | {"$inc": {"fence": 1}})

    def _cancel_update(self, _document: Document, now: datetime) -> dict[str, Any]:
        return {
            "$set": {"status": "cancelled", "finished_at": now, "expires_at": now + self._retention},
            "$unset": {"due_at": "", "open": ""},
        }


def _split_by_size(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        if batch and size + len(record.value) > _MAX_PUBLISH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record.value)
    if batch:
        yield batch


def _recover_update(document: Document, now: datetime) -> dict[str, Any]:
    # In the present retry cycle: due now, never later than before.
    if document["status"] in WAITING:
        return {"$min": {"due_at": now}}
    return {
        "$set": {
            "status": "pending",
            "open": True,
            "due_at": now,
            "round_start": document["attempt_count"],
        },
        "$unset": {"finished_at": "", "expires_at": ""},
    }


def _discard_update(_document: Document, _now: datetime) -> dict[str, Any]:
    return {"$set": {"status": "discarded"}}


def _refusal_reason(
    action: Action, document: Document, statuses: Sequence[str], enabled_by_webhook: Mapping[str, bool]
) -> str | None:
    """Return why an action cannot be applied to a delivery; None if it can."""
    status = document["status"]
    if status not in statuses:
        return _REFUSAL_REASONS[action].get(status, f"its status is {status}, not {' or '.join(statuses)}")
    if action != "recover":
        return None
    if document.get("erased_at"):
        return _ERASED
    return _webhook_refusal_reason(enabled_by_webhook, document)


def _webhook_refusal_reason(enabled_by_webhook: Mapping[str, bool], document: Document) -> str | None:
    """Return why nothing can be sent to a delivery's webhook; None if it can."""
    enabled = enabled_by_webhook.get(document["webhook_id"])
    if enabled is None:
        return WEBHOOK_DELETED
    return None if enabled else WEBHOOK_DISABLED
