"""Keys with the scopes of a role, for hubs without a gateway, which creates members."""

import base64

from shared.runtime.secrets import LocalKeyProvider, Vault
from shared.runtime.web.members import ROLE_SCOPES, Role
from shared.runtime.web.service_keys import service_key
from tests.support.hub import Hub


def role_key(hub: Hub, role: Role) -> str:
    """Return a key that allows what a role allows. It is valid for a minute."""
    vault = Vault(LocalKeyProvider([base64.b64decode(hub.env["INTERLINK_ENCRYPTION_KEY"])]))
    return service_key(vault, "console", hub.workspace, ROLE_SCOPES[role], None)
