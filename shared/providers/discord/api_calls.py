"""Calls of Discord's API that read, and what their responses mean. Pure.

https://discord.com/developers/docs/reference
"""

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, Final

from shared.manifests.channel_failures import history_failure, status_failure
from shared.manifests.channel_types import Call, CallResponse, ChannelFailure, Step
from shared.manifests.history_types import ObservedRate

if TYPE_CHECKING:  # a reader process of an import starts without pydantic
    from shared.manifests.history_models import HistorySpec

_NAMES: Final[Mapping[int, str]] = {
    10003: "unknown_channel",
    10004: "unknown_guild",
    10007: "unknown_member",
    10008: "unknown_message",
    10014: "unknown_emoji",
    40001: "unauthorized",
    50001: "missing_access",
    50013: "missing_permissions",
    50024: "wrong_channel_type",
}
"""Names of the error codes that the manifest explains."""
_BY_STATUS: Final[Mapping[int, str]] = {401: "unauthorized", 403: "missing_access", 404: "not_found"}
_MAX_WINDOW_S: Final = 3600.0


def read_step(method: str, path: str, **query: str) -> Step:
    """Return a step that reads. Empty parameters are left out."""
    given = {name: value for name, value in query.items() if value}
    return Step(Call("GET", path, query=given), method=method)


def call(spec: "HistorySpec", step: Step) -> Generator[Step, CallResponse, CallResponse]:
    """Have a step done, and return its response. Raises `ChannelFailure`."""
    response = yield step
    # A shared limit is the channel's, another one the account's: the rest of the account may go on.
    is_global = header(response, "x-ratelimit-scope") == "global"
    if failure := status_failure(response, scope="account" if is_global else "method"):
        raise failure
    if response.status >= 400:
        raise history_failure(spec, _code(response))
    return response


def json_list(spec: "HistorySpec", response: CallResponse) -> list[Any]:
    """Return the list of a response. Raises `ChannelFailure`."""
    if not isinstance(response.json, list):
        raise unreadable(spec)
    return response.json


def json_object(spec: "HistorySpec", response: CallResponse) -> Mapping[str, Any]:
    """Return the object of a response. Raises `ChannelFailure`."""
    if not isinstance(response.json, dict):
        raise unreadable(spec)
    return response.json


def unreadable(spec: "HistorySpec") -> ChannelFailure:
    """Return the failure for a response that is none of Discord."""
    return history_failure(spec, "unreadable_response")


def header(response: CallResponse, name: str) -> str:
    """Return a header by its name in lower case; '' if it is missing."""
    return next((value for key, value in response.headers.items() if key.lower() == name), "")


def observed_rate(response: CallResponse, method: str) -> ObservedRate | None:
    """Return the rate of a method's bucket; None where the headers do not tell its window.

    They tell how long the window still is. Only at its first call that is its whole length.
    """
    try:
        limit = int(header(response, "x-ratelimit-limit"))
        remaining = int(header(response, "x-ratelimit-remaining"))
        window = float(header(response, "x-ratelimit-reset-after"))
    except ValueError:
        return None
    is_first = limit > 0 and remaining == limit - 1
    return ObservedRate(method, limit, window) if is_first and 0 < window <= _MAX_WINDOW_S else None


def _code(response: CallResponse) -> str:
    code = response.json.get("code") if isinstance(response.json, dict) else None
    if isinstance(code, int) and code in _NAMES:
        return _NAMES[code]
    return _BY_STATUS.get(response.status, f"http_{response.status}")
