"""Responses of Slack's Web API: errors have status 200, and `ok: false` with a code."""

from typing import Any, Final

from shared.manifests.channel_types import CallResponse

UNREADABLE: Final = "unreadable_response"


def error_code(response: CallResponse) -> str:
    """Return the error code of a response; '' for a success."""
    document: Any = response.json
    if not isinstance(document, dict):
        return UNREADABLE
    if document.get("ok") is True:
        return ""
    return str(document.get("error") or "unknown_error")[:100]
