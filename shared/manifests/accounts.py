"""Accounts of a provider: identity, resources, and the values of manual credentials."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.manifests.connect_models import ManualCredential
from shared.manifests.provider_response import ProviderRejected


@dataclass(frozen=True, slots=True)
class AccountIdentity:
    """The account that was connected."""

    id: str
    label: str
    url: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Values of the account for later requests: `{account:...}`."""
    person: str = ""
    """Id of the person that the token acts for. '' if `id` names the person, or if no person is behind the
    token."""


@dataclass(frozen=True, slots=True)
class AccountResource:
    """A site, page or number of an account that an integration can be limited to."""

    id: str
    label: str
    attributes: Mapping[str, str]
    """Values of the resource for later requests: `{account:...}`."""


def manual_credential_values(kind: ManualCredential, fields: Mapping[str, str]) -> dict[str, str]:
    """Return the values of manual credentials for request templates.

    The values are `field:<name>` for each field, `field:<group>` for each named group of its pattern, and
    `access_token` for the field of this name. Raises `ProviderRejected` for the first field that is missing
    or does not match its pattern.
    """
    values: dict[str, str] = {}
    for name, setting in kind.fields.items():
        text = fields.get(name) or setting.default
        if not text:
            if setting.required:
                raise ProviderRejected("missing", f"{setting.name} is missing")
            continue
        match = re.fullmatch(setting.pattern, text) if setting.pattern else None
        if setting.pattern and not match:
            raise ProviderRejected("malformed", f"{setting.name} does not have the expected format")
        values[f"field:{name}"] = text
        # A group that did not take part in the match has no value.
        groups = match.groupdict() if match else {}
        values |= {f"field:{group}": value for group, value in groups.items() if value}
        if name == "access_token":
            values[name] = text
    return values
