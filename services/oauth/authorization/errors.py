"""The error that ends an authorization without a connection."""

from services.oauth.authorization.state_record import PendingAuthorization
from shared.connections.integration_record import Integration


class AuthorizationFailed(Exception):
    """An authorization ended without a connection.

    `code` is stable and machine-readable, `detail` is a sentence for people, and `status` is the HTTP status
    of the page that shows both.
    """

    def __init__(self, code: str, detail: str, *, status: int = 400, log_detail: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status = status
        self.log_detail = log_detail or detail
        """The text for logs. It differs from `detail` where `detail` names accounts."""
        self.holder: Integration | None = None
        """The integration that already has the account. The tokens that it uses must not be revoked."""
        self.pending: PendingAuthorization | None = None
        """The authorization that failed, with the address to return the person to."""
