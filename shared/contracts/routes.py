"""Map API paths to services: the one table of proxy, Caddyfile, `interlink up` and documents."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

DEFAULT_SERVICE: Final = "gateway"

Paths = Mapping[str, Sequence[str]]
"""Path patterns by service.

A pattern covers its path and every path below it. A part in braces, such as `{id}`, stands for any one part.
"""

WEBHOOKS_PREFIX: Final = "/api/webhooks/"
"""Webhooks of providers; the gateway's."""
CONSOLE: Final = "console"
CONSOLE_PATH: Final = "/console"
"""Pages for people: the address of the hub leads there."""
CONSOLE_UPLOAD_PATH: Final = f"{CONSOLE_PATH}/imports/upload"
"""The form with the file of an import, of browsers without script."""
PORTAL_SESSIONS_PATH: Final = "/api/portal-sessions"
CONNECT_SESSIONS_PATH: Final = "/api/connect-sessions"
PORTAL_PATH: Final = f"{CONSOLE_PATH}/portal"
"""Pages of a customer's webhooks, within pages of a chat."""
CONNECT_PATH: Final = f"{CONSOLE_PATH}/connect"
"""Pages of the window in which a person connects an account for a chat."""
SERVICE_PATHS: Final[Paths] = {
    "delivery": (
        "/api/outgoing-webhooks",
        "/api/deliveries",
        "/api/delivery-jobs",
        "/api/queue",
        "/api/dead-letters",
        "/api/events/unmatched",
        "/api/retention/delivery",
    ),
    "sync": (
        "/api/messages",
        "/api/mappings",
        "/api/sync",
        "/api/people-links",
        "/api/synced-messages",
        "/api/conflicts",
        "/api/files",
        "/api/retention/sync",
    ),
    "importer": (
        "/api/integrations/{id}/import",
        "/api/imports",
        "/api/uploads",
        "/api/files/imported",
        "/api/retention/importer",
    ),
    CONSOLE: (CONSOLE_PATH, PORTAL_SESSIONS_PATH, CONNECT_SESSIONS_PATH),
    "oauth": ("/api/auth/oauth", "/api/integrations", "/api/platform-credentials", "/api/polling-triggers"),
}
"""The patterns of all services but the gateway, which serves every other path."""


FILES_PATH: Final = "/api/files"
"""Files of providers, streamed from there."""
IMPORTED_FILES_PATH: Final = "/api/files/imported"
"""Files of imports, which the hub has stored."""
UPLOADS_PATH: Final = "/api/uploads"
_ACCOUNT_CALL: Final = re.compile(r"/api/integrations/[^/]+/proxy/.*")
_FILE: Final = re.compile(rf"({FILES_PATH}|{IMPORTED_FILES_PATH})/[^/]+")
_CONNECT_RESULT: Final = re.compile(rf"{CONNECT_PATH}/con_[0-9a-zA-Z]+/done")
_UPLOAD: Final = re.compile(rf"{UPLOADS_PATH}/[^/]+|{CONSOLE_PATH}(/in/[^/]+)?/imports/upload")
_IMPORT_RESULT: Final = re.compile(r"/api/imports/[^/]+/(events|report|files)")
"""Server-sent events, and documents with rows for each day or file."""
MAX_STREAMED_BYTES: Final = 10 * 1024 * 1024
"""Of a request and of a response of an account call; their bodies are passed on as streams."""
MAX_FILE_BYTES: Final = 1024 * 1024 * 1024
"""Of a served file, or of a document about an import, whatever the settings say."""
MAX_UPLOAD_BYTES: Final = 1024**4
"""Of a request with bytes of an upload, whatever the settings say."""


def is_account_call(path: str) -> bool:
    """Return whether a path is that of a call with a connected account."""
    return _ACCOUNT_CALL.fullmatch(path) is not None


def is_file(path: str) -> bool:
    """Return whether a path is that of a file: of a provider, or of an import."""
    return _FILE.fullmatch(path) is not None


def is_upload(path: str) -> bool:
    """Return whether a path is that of the bytes of an upload, or of the console's form with them."""
    return _UPLOAD.fullmatch(path) is not None


def is_streamed(path: str) -> bool:
    """Return whether the bodies of a path's requests and responses are passed on as streams."""
    return is_account_call(path) or is_upload(path) or is_large(path) or is_console(path)


def is_console(path: str) -> bool:
    """Return whether a path is that of the console's pages."""
    return path == CONSOLE_PATH or path.startswith(f"{CONSOLE_PATH}/")


def is_connect_result(path: str) -> bool:
    """Return whether a path is that of the page that reports a connected account to a chat."""
    return _CONNECT_RESULT.fullmatch(path) is not None


def is_large(path: str) -> bool:
    """Return whether the response of a path may have up to `MAX_FILE_BYTES`."""
    return is_file(path) or _IMPORT_RESULT.fullmatch(path) is not None


class RouteTable:
    """Finds the service of a path: the most specific pattern decides.

    More specific is the pattern with more parts; among those with as many, the one that has a fixed part
    where the other has one in braces, from the left.
    """

    def __init__(self, paths: Paths) -> None:
        """Raise `ValueError` if two services have the same pattern."""
        services: dict[tuple[str | None, ...], str] = {}
        for service, patterns in paths.items():
            for pattern in patterns:
                parts = tuple(None if part.startswith("{") else part for part in pattern.split("/"))
                if parts in services:
                    raise ValueError(f"{pattern}: {services[parts]} and {service} have the same pattern")
                services[parts] = service
        self._services: Final = dict(sorted(services.items(), key=lambda item: _rank(item[0])))

    def service_for(self, path: str) -> str:
        """Return the name of the service that serves a path; the gateway if no pattern covers it."""
        parts = path.split("/")
        for pattern, service in self._services.items():
            if len(pattern) <= len(parts) and all(
                own == part or (part is None and own) for part, own in zip(pattern, parts, strict=False)
            ):
                return service
        return DEFAULT_SERVICE


def _rank(pattern: tuple[str | None, ...]) -> tuple[int, list[bool]]:
    """Return a key by which more specific patterns come first."""
    return -len(pattern), [part is None for part in pattern]


_TABLE: Final = RouteTable(SERVICE_PATHS)


def service_for_path(path: str) -> str:
    """Return the name of the service that serves a path."""
    return _TABLE.service_for(path)
