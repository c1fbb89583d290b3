"""Airtable: OAuth 2.0 with PKCE, and the webhooks of bases.

https://airtable.com/developers/web/api/webhooks-overview
https://support.airtable.com/docs/airtable-webhooks-api-overview (scopes, 7 days)
https://airtable.com/developers/web/api/oauth-reference (PKCE, Basic, lifetimes)
From memory: the words of errors of webhooks, and the empty 204 of a deletion.

- Each kind of data needs the scope that reads it, beside `webhook:manage`.
- An OAuth integration has two webhooks in a base at most.
- A webhook ends after `lifetime_s` (7 days at Airtable), and is not there any more then.
- The secret of a webhook is shown once. A notification is answered with 200 or 204, and an empty body.
"""

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import httpx

from tests.support.fakes.fake import Fake
from tests.support.fakes.tokens import Grant, Token, Why, bearer
from tests.support.provider_hosts import HostRequest, Reply
from tests.support.recorded_secrets import record_secret

_READS: Final = {
    "tableData": "data.records:read",
    "tableFields": "schema.bases:read",
    "tableMetadata": "schema.bases:read",
}
_MAX: Final = 2
_NOT_FOUND: Final = Reply.json({"error": "NOT_FOUND"}, 404)


@dataclass(eq=False)
class Webhook:
    """Of a base. `secret` is as Airtable told it, in Base64."""

    id: str
    base: str
    address: str
    data: tuple[str, ...]
    secret: str
    ends_at: float


class Airtable(Fake):
    """One OAuth integration, which sees the bases in `bases`. `week_s` is how long a webhook lives."""

    name = "Airtable"
    person = "usr{:014d}"
    lifetime_s: float | None = 3600
    refresh_lifetime_s: float | None = 5184000
    authorize_needs: ClassVar = frozenset({"response_type", "code_challenge", "code_challenge_method"})

    def __init__(self, client_id: str, client_secret: str, redirect_uri: str, *, week_s: float) -> None:
        super().__init__(client_id, client_secret, redirect_uri)
        self.week_s = week_s
        self.bases = {"appExampleExample1"}
        self.webhooks: dict[str, Webhook] = {}
        self.made = self.refreshed = self.deleted = 0
        webhooks = "/v0/bases/{}/webhooks"
        self.hosts = {
            "airtable.com": self.on(
                {
                    "GET /oauth2/v1/authorize": self.authorize,
                    "POST /oauth2/v1/token": self.token,
                    "POST /oauth2/v1/revoke": self.revoke,
                }
            ),
            "api.airtable.com": self.on(
                {
                    "GET /v0/meta/whoami": self.whoami,
                    f"POST {webhooks}": self.make,
                    f"POST {webhooks}/{{}}/refresh": self.refresh,
                    f"DELETE {webhooks}/{{}}": self.delete,
                }
            ),
        }

    # OAuth

    def authenticated(self, request: HostRequest) -> dict[str, str]:
        return self.client(request, request.form(), basic=True, body=False)

    def refusal(self, why: Why) -> Reply:
        if why in ("client", "secret", "style"):
            text = {"error": "invalid_client", "error_description": "Client authentication failed"}
            return Reply.json(text, 401)
        error = "invalid_request" if why in ("verifier", "redirect_uri") else "invalid_grant"
        return Reply.json({"error": error, "error_description": f"Wrong: {why}"}, 400)

    def granted(self, grant: Grant, old: Token | None) -> Reply:
        access = self.give("access", grant, self.lifetime_s, f"oaa{secrets.token_urlsafe(60)}")
        fresh = self.give("refresh", grant, self.refresh_lifetime_s, secrets.token_urlsafe(60), old=old)
        return Reply.json(
            {
                "access_token": access.value,
                "refresh_token": fresh.value,
                "token_type": "Bearer",
                "scope": " ".join(grant.scopes),
                "expires_in": self.seconds(),
                "refresh_expires_in": 5184000,
            }
        )

    def revoke(self, request: HostRequest) -> Reply:
        """A token, and the grant with it."""
        fields = self.authenticated(request)
        self.check(fields, {"token"}, (), "the revocation")
        token = self.known(fields["token"], "refresh") or self.known(fields["token"], "access")
        if token is not None:
            self.end(token.grant)
        return Reply(200)

    def whoami(self, request: HostRequest) -> Reply:
        """Whom the token stands for; the address with its scope only."""
        grant = self._grant(request)
        if grant is None:
            return _error(401, "AUTHENTICATION_REQUIRED", "Authentication required")
        shown: dict[str, Any] = {"id": grant.account.id, "scopes": list(grant.scopes)}
        if "user.email:read" in grant.scopes:
            shown["email"] = grant.account.email
        return Reply.json(shown)

    # Webhooks

    def make(self, request: HostRequest) -> Reply:
        """A webhook of a base, whose secret is in the answer and nowhere else."""
        base = request.path.split("/")[3]
        refused = self._refused(request, base)
        if refused is not None:
            return refused
        body = request.json()
        assert body.keys() <= {"specification", "notificationUrl"}, f"unknown: {body}"
        assert body["specification"].keys() == {"options"}, f"unknown: {body}"
        assert body["specification"]["options"].keys() <= {"filters", "includes"}, f"unknown: {body}"
        filters = body["specification"]["options"]["filters"]
        more = {"recordChangeScope", "changeTypes", "fromSources", "watchDataInFieldIds"}
        assert filters.keys() <= {"dataTypes", *more}, f"unknown: {filters}"
        data = filters["dataTypes"]
        assert data, "nothing is watched"
        assert set(data) <= _READS.keys(), f"dataTypes are {data}"
        if (refused := self._refused(request, base, *(_READS[kind] for kind in data))) is not None:
            return refused
        if len([each for each in self._live().values() if each.base == base]) >= _MAX:
            return _error(422, "TOO_MANY_WEBHOOKS_IN_BASE", "The integration has two in this base already.")
        made = Webhook(
            f"ach{secrets.token_hex(7)}",
            base,
            body["notificationUrl"],
            tuple(data),
            base64.b64encode(secrets.token_bytes(64)).decode(),
            self.now() + self.week_s,
        )
        record_secret("a MAC secret of Airtable", made.secret)
        self.webhooks[made.id] = made
        self.made += 1
        shown = {"id": made.id, "macSecretBase64": made.secret, "expirationTime": _time(made.ends_at)}
        return Reply.json(shown)

    def refresh(self, request: HostRequest) -> Reply:
        """Another seven days, of one that has not ended."""
        found = self._found(request)
        if isinstance(found, Reply):
            return found
        found.ends_at = self.now() + self.week_s
        self.refreshed += 1
        return Reply.json({"expirationTime": _time(found.ends_at)})

    def delete(self, request: HostRequest) -> Reply:
        """No more of it."""
        found = self._found(request)
        if isinstance(found, Reply):
            return found
        del self.webhooks[found.id]
        self.deleted += 1
        return Reply(204)

    def notify(self, webhook: Webhook, *, secret: str = "") -> int:
        """The status that a notification is answered with; signed with another `secret` where it is given."""
        detail = {"base": {"id": webhook.base}, "webhook": {"id": webhook.id}, "timestamp": _time(self.now())}
        body = json.dumps(detail).encode()
        key = base64.b64decode(secret or webhook.secret)
        headers = {
            "Content-Type": "application/json",
            "X-Airtable-Content-MAC": f"hmac-sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}",
        }
        answer = httpx.post(webhook.address, content=body, headers=headers, timeout=10)
        assert answer.status_code >= 300 or not answer.content, "the answer has a body"
        return answer.status_code

    def _live(self) -> dict[str, Webhook]:
        self.webhooks = {name: each for name, each in self.webhooks.items() if each.ends_at > self.now()}
        return self.webhooks

    def _grant(self, request: HostRequest) -> Grant | None:
        token = self.access(bearer(request))
        return token.grant if token else None

    def _refused(self, request: HostRequest, base: str, *scopes: str) -> Reply | None:
        assert not request.query, "there is a query"
        grant = self._grant(request)
        if grant is None:
            return _error(401, "AUTHENTICATION_REQUIRED", "Authentication required")
        if base not in self.bases or not {"webhook:manage", *scopes} <= set(grant.scopes):
            text = "Invalid permissions, or the requested model was not found."
            return _error(403, "INVALID_PERMISSIONS_OR_MODEL_NOT_FOUND", text)
        return None

    def _found(self, request: HostRequest) -> Webhook | Reply:
        _, _, _, base, _, name, *_ = request.path.split("/")
        assert not request.body, "there is a body"
        found = self._live().get(name)
        return self._refused(request, base) or (found if found and found.base == base else _NOT_FOUND)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _error(status: int, kind: str, message: str) -> Reply:
    return Reply.json({"error": {"type": kind, "message": message}}, status)
