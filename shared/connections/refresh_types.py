"""Define durations of refreshing for its callers, and the error of a provider that does not answer."""

from dataclasses import dataclass
from typing import Final

from shared.connections.refresh_outcome import MAX_DETAIL_LENGTH
from shared.manifests.provider_response import ProviderUnavailable
from shared.runtime.egress.errors import EgressFailure
from shared.runtime.leases import HEARTBEAT_INTERVAL_S

_CALL_TIMEOUT_S: Final = 10.0
_SILENT_LEASE_TIMEOUT_S: Final = 5.0
_LEASE_MARGIN_S: Final = 2.0
_WAIT_TIMEOUT_S: Final = 60.0
_AMBIGUOUS_FAILURES: Final = frozenset({"timeout", "closed_mid_response"})


class NoAnswer(ProviderUnavailable):
    """The provider did not answer."""

    def __init__(self, failure: EgressFailure, detail: str) -> None:
        super().__init__(f"the provider cannot be reached: {failure}: {detail}"[:MAX_DETAIL_LENGTH])
        self.is_ambiguous = failure in _AMBIGUOUS_FAILURES
        self.failure = failure
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in seconds. Tests use shorter ones."""

    call_s: float = _CALL_TIMEOUT_S
    """Time limit of one request to a provider."""
    silent_s: float = _SILENT_LEASE_TIMEOUT_S
    """A lease without a heartbeat for this time is taken over if its holder did not ask the provider yet."""
    settle_s: float = _LEASE_MARGIN_S
    """If the holder did, a lease is taken over this time after `call_s`."""
    heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S
    """Interval of a holder's heartbeats."""
    wait_s: float = _WAIT_TIMEOUT_S
    """A caller waits at most this time for another process's refresh."""


DEFAULT_TIMING: Final = Timing()
