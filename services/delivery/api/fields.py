"""Types that several API modules share: access, parameters and times."""

from datetime import datetime
from typing import Annotated, Final

from fastapi import Depends, Query
from pydantic import Field

from services.delivery.model.delivery_status import DeliveryStatus
from shared.contracts.envelope import rfc3339
from shared.runtime.web.access import ApiKey, requires

CustomerReader = Annotated[ApiKey, Depends(requires("webhooks:read", customers=True))]
CustomerOperator = Annotated[ApiKey, Depends(requires("webhooks:operate", customers=True))]
CustomerWriter = Annotated[ApiKey, Depends(requires("webhooks:write", customers=True))]
"""Also accept keys of customers. The route limits these to the customer's objects: see `customer_of`."""
Reader = Annotated[ApiKey, Depends(requires("webhooks:read"))]
Operator = Annotated[ApiKey, Depends(requires("webhooks:operate"))]
Writer = Annotated[ApiKey, Depends(requires("webhooks:write"))]
CustomerId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="Your own id of the customer that the webhook belongs to.",
    ),
]
FilterQuery = Annotated[str | None, Query(max_length=200)]
StatusQuery = Annotated[
    list[DeliveryStatus] | None,
    Query(max_length=20, description="One of these states; repeat the parameter for several."),
]
ErrorQuery = Annotated[str | None, Query(max_length=100, description="The error class of the last attempt.")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
TRACE_ID: Final = "^[0-9a-f]{32}$"
EventIdQuery = Annotated[str | None, Query(max_length=1000)]
TraceIdQuery = Annotated[
    str | None,
    Query(
        pattern=TRACE_ID,
        description="The id of a trace: it is the same from the provider's request to each attempt.",
    ),
]


def customer_of(key: ApiKey) -> str | None:
    """Return the id of the customer to whose objects a key is limited; None if it is not."""
    return key.customer.id if key.customer else None


def sees_payloads(key: ApiKey) -> bool:
    """Return whether a caller may see payloads. Customers may: they get only their own deliveries."""
    return key.customer is not None or key.allows("payloads:read")


def optional_rfc3339(at: datetime | None) -> str | None:
    """Return a time as RFC 3339 text; None stays None."""
    return rfc3339(at) if at else None
