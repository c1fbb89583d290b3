"""Types that the request and response bodies of several resources use."""

from typing import Annotated, Final

import orjson
from pydantic import AfterValidator, BaseModel, Field

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
_MAX_METADATA_BYTES: Final = 4096


def _check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if len(orjson.dumps(metadata)) > _MAX_METADATA_BYTES:
        raise ValueError(f"must have at most {_MAX_METADATA_BYTES} bytes as JSON")
    return metadata


AppName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$",
        description="The name of one of several apps of the provider. If left out, the default app.",
    ),
]
Tags = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]],
    Field(max_length=20, description="Words to list integrations by. They are in the events too."),
    AfterValidator(lambda tags: list(dict.fromkeys(tags))),
]
Metadata = Annotated[
    dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")], Annotated[str, Field(max_length=500)]],
    Field(
        max_length=50,
        description="Values of your own by their names, up to 4 KiB as JSON. They are in the events too, and "
        "integrations can be listed by them.",
    ),
    AfterValidator(_check_metadata),
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
