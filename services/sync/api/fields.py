"""Types that several modules of the API share."""

from typing import Annotated

from fastapi import Depends
from pydantic import Field

from shared.runtime.web.access import ApiKey, requires

Reader = Annotated[ApiKey, Depends(requires("sync:read"))]
Writer = Annotated[ApiKey, Depends(requires("sync:write"))]
ProviderName = Annotated[str, Field(min_length=1, max_length=100)]
ExternalId = Annotated[str, Field(min_length=1, max_length=256)]
"""An id of a provider: of an account, a conversation or a person."""
Name = Annotated[str, Field(max_length=200)]
