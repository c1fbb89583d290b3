"""Types that several modules of the API share."""

from typing import Annotated

from fastapi import Depends
from pydantic import Field

from shared.runtime.web.access import ApiKey, requires

Reader = Annotated[ApiKey, Depends(requires("imports:read"))]
Writer = Annotated[ApiKey, Depends(requires("imports:write"))]
Id = Annotated[str, Field(min_length=1, max_length=256)]
