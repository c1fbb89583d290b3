"""Types that the request and response bodies of several resources use."""

from typing import Annotated

from pydantic import BaseModel, Field

ShortText = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
FieldValue = Annotated[str, Field(max_length=4000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$")]
FieldValues = Annotated[dict[Annotated[str, Field(max_length=40)], FieldValue], Field(max_length=30)]
User = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="The user whose account it is, by the chat's own id. If left out, it stays unchanged.",
    ),
]
Takeover = Annotated[
    bool,
    Field(description="Take over the integration of another `user` who has connected the same account."),
]


class LastError(BaseModel):
    """The last error, with a machine-readable code and a text for people."""

    at: str
    code: str
    detail: str
