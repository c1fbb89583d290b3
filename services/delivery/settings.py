"""The settings of the delivery service."""

from pydantic import Field

from services.delivery.model.circuit_breaker import BreakerPolicy
from shared.runtime.settings import EgressSettings


class DeliverySettings(EgressSettings):
    """`INTERLINK_*` settings that only delivery reads."""

    allow_http: bool = Field(
        default=False,
        description="Whether outgoing webhooks may have a URL without TLS; true in the embedded default.",
    )
    webhooks_per_workspace: int = Field(
        default=500, ge=1, le=100_000, description="Outgoing webhooks that a workspace may have."
    )
    webhooks_per_customer: int = Field(
        default=20, ge=1, le=1_000, description="Outgoing webhooks that a customer of a workspace may have."
    )
    most_in_flight: int = Field(
        default=1_000,
        ge=1,
        le=10_000,
        description=(
            "Attempts in flight at a time, over all outgoing webhooks and all workers of this replica; each "
            "worker has an equal part."
        ),
    )
    breaker_failures: int = Field(
        default=10,
        ge=1,
        le=10_000,
        description=(
            "Failures in a row after which the circuit of an endpoint opens. A webhook can override these "
            "five."
        ),
    )
    breaker_failing_s: float = Field(
        default=30, ge=0, le=86_400, description="Seconds that these failures must last at least."
    )
    breaker_open_s: float = Field(
        default=30,
        ge=0.1,
        le=3600,
        description="Seconds before the first probe; each later pause is twice as long.",
    )
    breaker_max_open_s: float = Field(
        default=60, ge=0.1, le=3600, description="The longest pause between two probes, in seconds."
    )
    breaker_max_wait_s: float = Field(
        default=600,
        ge=1,
        le=604_800,
        description=(
            "Seconds beyond its schedule that a delivery waits behind an open circuit before it is dead."
        ),
    )
    condition_suspend_s: float = Field(
        default=600,
        ge=1,
        le=86_400,
        description=(
            "Seconds over which a condition must exceed its budget, ten times or more, to disable its "
            "webhook."
        ),
    )
    delivered_days: int = Field(
        default=7, ge=1, le=365, description="Days for which the log keeps a successful delivery."
    )
    dead_letter_days: int = Field(
        default=30,
        ge=1,
        le=365,
        description=(
            "Days for which the log keeps any other finished delivery, and for which a due one waits for a "
            "webhook that is paused or disabled before it is dead."
        ),
    )

    @property
    def breaker(self) -> BreakerPolicy:
        """The circuit breaker of a webhook without settings of its own."""
        return BreakerPolicy(
            enabled=True,
            failures=self.breaker_failures,
            failing_s=self.breaker_failing_s,
            pause_s=self.breaker_open_s,
            max_pause_s=self.breaker_max_open_s,
            max_wait_s=self.breaker_max_wait_s,
        )
