"""The identity provider of the installation, from the settings, and the roles that it grants."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from services.console.settings import ConsoleSettings, RoleGrant
from shared.contracts.errors import Misconfigured
from shared.runtime.settings import read_secret_file

CALLBACK_PATH: Final = "/console/sign-in/callback"
MAX_GRANTS: Final = 5
"""The workspaces that one sign-in leads to."""
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class OpenIdConfiguration:
    """An identity provider and the hub's client at it. `secret` is empty for a public client."""

    issuer: str
    client_id: str
    secret: str
    name: str
    scopes: str
    roles_claim: str
    grants: Mapping[str, RoleGrant]
    redirect_uri: str

    def grants_of(self, claims: Mapping[str, Any]) -> list[RoleGrant]:
        """Return a role for each workspace that the claims of an ID token give one in; at most `MAX_GRANTS`.

        For a workspace, the first matching entry of the settings is used, whatever the order of the claim's
        values.
        """
        values, found = _values(claims, self.roles_claim), dict[str, RoleGrant]()
        for value, grant in self.grants.items():
            if value in values:
                found.setdefault(grant.workspace, grant)
        return list(found.values())[:MAX_GRANTS]


def openid_configuration(settings: ConsoleSettings, public_base: str) -> OpenIdConfiguration | None:
    """Return the identity provider; None if the settings name none.

    Raises `Misconfigured` if a setting is missing or invalid.
    """
    issuer = settings.oidc_issuer
    if not issuer:
        return None
    if not is_allowed_url(issuer) or urlsplit(issuer).query:
        raise Misconfigured("INTERLINK_OIDC_ISSUER: must be an https URL without query or fragment")
    for value, variable in (
        (settings.oidc_client_id, "INTERLINK_OIDC_CLIENT_ID"),
        (settings.oidc_roles, "INTERLINK_OIDC_ROLES"),
    ):
        if not value:
            raise Misconfigured(f"{variable}: is missing, and INTERLINK_OIDC_ISSUER needs it")
    if "openid" not in settings.oidc_scopes.split():
        raise Misconfigured("INTERLINK_OIDC_SCOPES: must include the scope openid")
    secret = settings.oidc_client_secret.get_secret_value() if settings.oidc_client_secret else ""
    if settings.oidc_client_secret_file:
        secret = read_secret_file(settings.oidc_client_secret_file, "INTERLINK_OIDC_CLIENT_SECRET_FILE")
    return OpenIdConfiguration(
        issuer=issuer,
        client_id=settings.oidc_client_id,
        secret=secret,
        name=settings.oidc_name,
        scopes=settings.oidc_scopes,
        roles_claim=settings.oidc_roles_claim,
        grants=settings.oidc_roles,
        redirect_uri=public_base + CALLBACK_PATH,
    )


def is_allowed_url(url: str) -> bool:
    """Return whether a URL is https, or http on a loopback address."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    is_own = parts.scheme == "http" and parts.hostname in _LOOPBACK
    return bool(parts.hostname) and not parts.fragment and (parts.scheme == "https" or is_own)


def _values(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    """Return the strings of a claim. Dots in `name` select nested claims: `realm_access.roles`."""
    value: Any = claims
    if name in claims:
        value = claims[name]
    else:
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    texts = value if isinstance(value, list) else [value]
    return frozenset(text for text in texts if isinstance(text, str))
