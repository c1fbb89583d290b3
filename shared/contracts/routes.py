"""Which service serves which API paths. The reverse proxy and the single entrance both use this table."""

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
"""Path prefixes by service. The gateway serves every other path below `/api`."""


def service_for_path(path: str) -> str:
    """Return the name of the service that serves a path."""
    for service, prefixes in SERVICE_PATHS.items():
        # A prefix ends at a slash: /api/queue-x is not below /api/queue.
        if any(path == prefix or path.startswith(prefix + "/") for prefix in prefixes):
            return service
    return "gateway"
