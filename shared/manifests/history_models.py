"""The `history` section of a manifest: what the `PageReader` in `history.py` needs."""

from typing import Annotated

from pydantic import Field

from shared.manifests.base import ManifestModel
from shared.manifests.channel_models import ErrorCode, FailureSpec, RateSpec, Sentence


class HistorySpec(ManifestModel):
    """The history of connected accounts, which the importer reads page by page."""

    base: str = Field(
        default="", description="Base address of the API, if `connect.api.base` is not the one."
    )
    rates: Annotated[tuple[RateSpec, ...], Field(min_length=1)] = Field(
        description="How often the API may be called; the importer uses at most half of it."
    )
    scopes: dict[str, Sentence] = Field(
        default={}, description="Scopes that reading needs, each with what it is for."
    )
    errors: dict[ErrorCode, FailureSpec] = Field(
        min_length=1, description="Errors of the provider by code, as the reader names them."
    )
