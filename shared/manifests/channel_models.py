"""The `channel` section of a manifest: what a provider's conversations allow, as data beside `channel.py`.

The code says what the provider can do (the Protocols of `channel_types.py` that it implements). This section
says how much, how often, with which scopes, and what a person does about each failure.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from shared.manifests.base import ManifestModel

Capability = Literal[
    "read_messages",
    "read_edits",
    "read_deletions",
    "read_reactions",
    "send",
    "author_names",
    "threads",
    "upload_files",
    "edit",
    "delete",
    "react",
    "download_files",
    "typing",
    "find_sent",
    "list_conversations",
    "look_up_conversations",
    "list_people",
    "read_profiles",
    "read_history",
]
"""What a mapping can use of a provider; `capabilities.py` has their names for people."""

ErrorCode = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.-]{1,100}$")]
MethodName = Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z][A-Za-z.]{1,60})$")]
Sentence = Annotated[str, StringConstraints(min_length=5, max_length=300)]
Positive = Annotated[int, Field(ge=1)]
RateScope = Literal["conversation", "method", "account"]


class ChannelLimits(ManifestModel):
    """How large a message may be. Lengths are in `unit`, sizes in bytes."""

    unit: Literal["characters", "utf16"] = Field(
        default="characters", description="What lengths count: Unicode characters, or UTF-16 code units."
    )
    text: Positive = Field(description="Length of a message's text.")
    caption: Positive | None = Field(
        default=None, description="Length of the text beside files, if it differs from `text`."
    )
    parts: Positive = Field(
        default=10, description="Messages that one long text may become; what is left is cut off."
    )
    files: Positive = Field(default=10, description="Files of one message.")
    upload_bytes: Positive = Field(description="Bytes of a file that is sent.")
    download_bytes: Positive | None = Field(
        default=None, description="Bytes of a file that is fetched, if they differ from `upload_bytes`."
    )
    reactions: Positive | None = Field(
        default=None, description="Different reactions that the account can set on one message; none: any."
    )


class ChannelWindows(ManifestModel):
    """How long a message can be changed, in seconds since it was sent; none means always."""

    edit_s: Positive | None = Field(default=None, description="Seconds in which a message can be edited.")
    delete_s: Positive | None = Field(default=None, description="Seconds in which it can be deleted.")


class RateSpec(ManifestModel):
    """How many calls the provider allows: `amount` in `per_s` seconds, counted for each `scope`."""

    methods: Annotated[tuple[MethodName, ...], Field(min_length=1)] = Field(
        description="Methods of the API that are counted together; `*` is every method."
    )
    scope: RateScope = Field(
        description="What is counted apart: a conversation, a method, or the whole account."
    )
    amount: Positive = Field(description="Calls in that time.")
    per_s: Annotated[float, Field(gt=0)] = Field(description="Seconds.")


class FailureSpec(ManifestModel):
    """What an error of the provider means: its class, and a text that names the problem and the fix."""

    kind: Literal["later", "account", "conversation", "message", "unsupported", "gone"] = Field(
        description=(
            "`later`: try again; `account`: refresh or connect it again; `conversation`: somebody mends it "
            "there; `message`: give this message up; `unsupported`: the provider has no such thing; "
            "`gone`: what was to be changed is not there."
        )
    )
    text: Sentence = Field(description="The problem and its fix, for people.")
    scope: RateScope = Field(default="account", description="What pauses, if the class is `later`.")
    uncertain: bool = Field(
        default=False, description="If the class is `later`: a message may have been sent in spite of it."
    )


class ChannelSpec(ManifestModel):
    """Conversations of a provider whose messages can be mapped to others, beside the code in `channel.py`."""

    base: str = Field(
        default="", description="Base address of the API, if `connect.api.base` is not the one."
    )
    limits: ChannelLimits = Field(description="How large a message may be.")
    windows: ChannelWindows = Field(default=ChannelWindows(), description="How long it can be changed.")
    rates: Annotated[tuple[RateSpec, ...], Field(min_length=1)] = Field(
        description="How often the API may be called; a call counts for every entry that names its method."
    )
    scopes: dict[Capability, dict[str, Sentence]] = Field(
        default={}, description="Scopes that a capability needs, each with what it is for."
    )
    missing: dict[Capability, Sentence] = Field(
        default={}, description="Capabilities that the provider does not have, each with the reason."
    )
    notes: dict[Capability, Sentence] = Field(
        default={}, description="What a person has to do or know, for a capability to work."
    )
    errors: dict[ErrorCode, FailureSpec] = Field(
        min_length=1, description="Errors of the provider by code, as `channel.py` names them."
    )

    @model_validator(mode="after")
    def _missing_needs_nothing(self) -> "ChannelSpec":
        for name in sorted(self.missing.keys() & (self.scopes.keys() | self.notes.keys())):
            raise ValueError(f"{name}: it is missing, and has scopes or notes: remove one of them")
        return self
