"""A person link: who a provider's person is in the chat."""

from datetime import datetime
from typing import Literal

from shared.contracts.ids import derive
from shared.runtime.records import Record, stored_null

LinkMethod = Literal["manual", "email", "guest"]
"""How the link came about: somebody set it; by the e-mail address that the provider verified; or the person
is shown as a guest, who is no user of the chat."""


class PersonLink(Record):
    """A link, as `people_links` has it. `person_id` is the provider's id; `user_id` is None for a guest."""

    workspace: str
    provider: str
    account: str
    person_id: str
    user_id: str | None = stored_null()
    how: LinkMethod
    email: str | None = stored_null()
    """The address that was compared, in lower case."""
    created_at: datetime
    changed_at: datetime


def person_link_id(workspace: str, provider: str, account: str, person_id: str) -> str:
    """Derive the id of a person's link: a person has one link in a workspace."""
    return f"pl_{derive(workspace, provider, account, person_id)}"
