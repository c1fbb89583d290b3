"""The source of an import: an uploaded export, or a connected account."""

from typing import Annotated, Final, Literal

from pydantic import Field

from shared.runtime.records import StoredPart

ANY_FOLDER: Final = ""
"""The folder of imports that need none: every process can work on them."""


class UploadSource(StoredPart):
    """An upload. `folder` is the id of the upload folder: only processes that see it work on the import.

    `size` is the announced one, in bytes.
    """

    kind: Literal["upload"] = "upload"
    folder: str
    upload_id: str
    name: str
    size: int = 0


class AccountSource(StoredPart):
    """A connected account. `account` is the provider's id of it, and `name` its name for people."""

    kind: Literal["account"] = "account"
    folder: str = ANY_FOLDER
    integration_id: str
    provider: str
    account: str
    name: str


Source = Annotated[UploadSource | AccountSource, Field(discriminator="kind")]
