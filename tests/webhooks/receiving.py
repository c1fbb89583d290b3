"""Reading incoming messages with the dialects that the providers offer."""

from shared.manifests.registry import dialects
from shared.webhooks import incoming


def parse_incoming_message(
    content_type: str, body: bytes, *, mass_mentions: bool = False
) -> incoming.ReceivedMessage:
    """Return the message in a request's body."""
    return incoming.parse_incoming_message(content_type, body, dialects(), mass_mentions=mass_mentions)
