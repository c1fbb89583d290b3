"""Opaque ids with a type prefix, random or derived from other ids.

A derived id is the same however often its inputs are processed. That makes at-least-once delivery harmless:
the second write, produce or POST carries the id of the first. So the inputs of a derived id never change.
"""

import hashlib
import secrets
from typing import Final, NewType

WorkspaceId = NewType("WorkspaceId", str)
EndpointId = NewType("EndpointId", str)
WebhookId = NewType("WebhookId", str)
EventId = NewType("EventId", str)
DeliveryId = NewType("DeliveryId", str)
MessageId = NewType("MessageId", str)
ChannelId = NewType("ChannelId", str)
ExecutionId = NewType("ExecutionId", str)
ApiKeyId = NewType("ApiKeyId", str)
MemberId = NewType("MemberId", str)
AuditEntryId = NewType("AuditEntryId", str)
IntegrationId = NewType("IntegrationId", str)
ProviderSubscriptionId = NewType("ProviderSubscriptionId", str)
PollingTriggerId = NewType("PollingTriggerId", str)
MappingId = NewType("MappingId", str)

EXECUTION_ID_PREFIX: Final = "exe_"


def new_endpoint_id() -> EndpointId:
    return EndpointId(f"ep_{secrets.token_hex(16)}")


def new_webhook_id() -> WebhookId:
    return WebhookId(f"wh_{secrets.token_hex(16)}")


def new_event_id() -> EventId:
    return EventId(f"evt_{secrets.token_hex(16)}")


def new_integration_id() -> IntegrationId:
    return IntegrationId(f"int_{secrets.token_hex(16)}")


def provider_subscription_id_for(integration: str, kind: str, *resource: str) -> ProviderSubscriptionId:
    """Derive the id of the provider subscription of a kind for a resource of an integration."""
    return ProviderSubscriptionId(f"wch_{derive(integration, kind, *resource)}")


def new_polling_trigger_id() -> PollingTriggerId:
    return PollingTriggerId(f"pol_{secrets.token_hex(16)}")


def new_mapping_id() -> MappingId:
    return MappingId(f"map_{secrets.token_hex(16)}")


def new_leg_id() -> str:
    """Return a new id of a mapping's leg, which is unique in its mapping."""
    return f"leg_{secrets.token_hex(6)}"


def new_execution_id() -> ExecutionId:
    return ExecutionId(f"{EXECUTION_ID_PREFIX}{secrets.token_hex(16)}")


def new_api_key_id() -> ApiKeyId:
    return ApiKeyId(f"key_{secrets.token_hex(8)}")


def new_member_id() -> MemberId:
    return MemberId(f"mem_{secrets.token_hex(16)}")


def member_id_for(workspace: str, issuer: str, subject: str) -> MemberId:
    """Derive the id of the member of a workspace whom an identity provider knows as `subject`."""
    return MemberId(f"mem_{derive(workspace, issuer, subject)}")


def new_audit_entry_id() -> AuditEntryId:
    return AuditEntryId(f"aud_{secrets.token_hex(16)}")


def derive(*parts: str) -> str:
    """Derive 32 hex digits from the parts. They depend on every part and on where each part ends."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(_with_length(part))
    return digest.hexdigest()


def _with_length(part: str) -> bytes:
    raw = part.encode()
    # The length separates the parts: ("ab", "c") and ("a", "bc") give different ids.
    return len(raw).to_bytes(4) + raw


def event_id_for(endpoint: EndpointId, delivery: str) -> EventId:
    """Derive the id of a provider's event: a redelivery under the same delivery id is the same event."""
    return EventId(f"evt_{derive(endpoint, delivery)}")


def delivery_id_for(workspace: str, source: str, event: str, webhook: WebhookId) -> DeliveryId:
    """Derive the id of the delivery of an event, identified by source and id, to an outgoing webhook."""
    return DeliveryId(f"dlv_{derive(workspace, source, event, webhook)}")


def message_id_for(event: str) -> MessageId:
    """Derive the id of the chat message that an event becomes, before the message is rendered."""
    return MessageId(f"msg_{derive(event)}")


def provider_message_id_for(provider: str, account: str, conversation: str, external_id: str) -> MessageId:
    """Derive the hub's id of a provider's message: the same for sync, and for an import of the message."""
    return MessageId(f"msg_{derive(provider, account, conversation, external_id)}")


class ProviderMessageIds:
    """Derives the ids of many messages of a conversation, as `provider_message_id_for` does, but sooner."""

    def __init__(self, provider: str, account: str, conversation: str) -> None:
        self._common = hashlib.blake2b(digest_size=16)
        for part in (provider, account, conversation):
            self._common.update(_with_length(part))

    def packed(self, external_id: str) -> bytes:
        """Return what follows the prefix of a message's id, in 16 bytes."""
        digest = self._common.copy()
        digest.update(_with_length(external_id))
        return digest.digest()


def attachment_id_for(message: str, position: int) -> str:
    """Derive the id of a message's file that has none: from the message and the file's position in it."""
    return f"att_{derive(message, str(position))}"
