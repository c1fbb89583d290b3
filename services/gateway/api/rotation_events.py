"""The events of rotated secrets of inbound endpoints and tokens of incoming webhooks."""

from datetime import timedelta

from services.gateway.ingest.endpoint_records import EndpointRecord
from shared.runtime.kafka.producer import Producer
from shared.runtime.secret_rotations import PUBLISH_TIMEOUT_S, rotation_record


async def publish_rotation(producer: Producer, record: EndpointRecord, overlap: timedelta) -> None:
    """Publish that an endpoint gets a new secret, or an incoming webhook a new token.

    The old one is valid for `overlap` more. Raises `BrokerUnavailable`; then nothing must be changed.
    """
    fields = {"endpoint_id": record.id, "provider": record.provider, "name": record.name}
    event = rotation_record(
        "gateway", "endpoint.secret_rotated", record.workspace, record.id, fields, overlap
    )
    await producer.publish(event, timeout_s=PUBLISH_TIMEOUT_S)
