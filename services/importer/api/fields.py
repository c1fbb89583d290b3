"""Types that several modules of the API share."""

from typing import Annotated

from fastapi import Depends
from pydantic import AfterValidator, AwareDatetime, Field

from shared.runtime.web.access import ApiKey, requires
from shared.runtime.web.problems import to_utc

Reader = Annotated[ApiKey, Depends(requires("imports:read"))]
Writer = Annotated[ApiKey, Depends(requires("imports:write"))]
Id = Annotated[str, Field(min_length=1, max_length=256)]
UtcTime = Annotated[AwareDatetime, AfterValidator(to_utc)]
