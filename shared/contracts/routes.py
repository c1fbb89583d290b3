"""Which service answers which paths: the reverse proxy and the embedded entrance agree on this table."""

from typing import Final

SERVICE_PATHS: Final[dict[str, tuple[str, ...]]] = {
    "delivery": (
        "/api/outgoing-webhooks",
        "/api/deliveries",
        "/api/delivery-jobs",
        "/api/queue",
        "/api/dead-letters",
        "/api/events/unmatched",
    ),
    "oauth": ("/api/auth/oauth", "/api/integrations", "/api/platform-credentials"),
}
"""Path prefixes by service; everything else below `/api` is the gateway's."""


def service_for_path(path: str) -> str:
    """The service that answers a path."""
    for service, prefixes in SERVICE_PATHS.items():
        if any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes):
            return service
    return "gateway"
