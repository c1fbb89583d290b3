"""Gmail's watches of mailboxes, and Cloud Pub/Sub, which pushes what they publish.

https://developers.google.com/workspace/gmail/api/reference/rest/v1/users/watch (fields, scopes, project, end)
https://developers.google.com/workspace/gmail/api/guides/push (permission, 7 days, the message at once)
https://docs.cloud.google.com/pubsub/docs/authenticate-push-subscriptions (the token and its claims)
elie222/inbox-zero pull request 2487 (a second topic is refused until the first watch is stopped)
From memory: the status of that refusal, and the exact words of errors.

- The topic is one of the app's own project, exists, and lets Gmail publish.
- A mailbox has one watch of an app at a time. Watching with the same topic renews it.
- Pub/Sub signs for a service account; the audience is the address of the subscription.
"""

import base64
import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.fakes.google import Google
from tests.support.fakes.tokens import Account, bearer
from tests.support.provider_hosts import HostRequest, Reply
from tests.support.recorded_secrets import record_secret

_SCOPES: Final = {
    "https://mail.google.com/",
    *(f"https://www.googleapis.com/auth/gmail.{name}" for name in ("modify", "readonly", "metadata")),
}
_TOPIC: Final = re.compile(r"projects/([a-z][a-z0-9:.-]+)/topics/[A-Za-z][A-Za-z0-9._~%+-]{2,254}")


@dataclass
class PubSub:
    """A project with topics. `topics` has where each is pushed to, if anywhere; Gmail may publish to all."""

    project: str
    service_account: str
    topics: dict[str, str] = field(default_factory=dict)
    answered: list[int] = field(default_factory=list)
    """The statuses that pushes were answered with."""

    def __post_init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._kid = secrets.token_hex(20)

    def keys(self, request: HostRequest) -> Reply:
        """`GET /oauth2/v3/certs`: the public keys, for everybody."""
        assert request.method == "GET", "keys are read with GET"
        assert not request.query, "keys have no query"
        assert "authorization" not in request.headers, "keys are public"
        shown = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return Reply.json({"keys": [{**shown, "kid": self._kid, "alg": "RS256", "use": "sig"}]})

    def push(self, topic: str, data: dict[str, Any], **other: Any) -> int | None:
        """The status that a push is answered with; None where nothing is pushed. `other` are claims."""
        address = self.topics[topic]
        if not address:
            return None
        number, at = str(secrets.randbelow(10**16)), "2026-01-01T12:00:00.000Z"
        message = {"data": base64.b64encode(json.dumps(data).encode()).decode(), "attributes": {}}
        message |= {"messageId": number, "message_id": number, "publishTime": at, "publish_time": at}
        body = {"message": message, "subscription": f"projects/{self.project}/subscriptions/push"}
        token = self.token(address, **other)
        headers = {"Authorization": f"Bearer {token}", "From": "noreply@google.com"}
        answer = httpx.post(address, json=body, headers=headers, timeout=10)
        self.answered.append(answer.status_code)
        return answer.status_code

    def token(self, address: str, *, now: float | None = None, key: Any = None, **other: Any) -> str:
        """As the documentation shows it; `key` is somebody else's."""
        at = int(time.time() if now is None else now)
        claims = {
            "aud": address,
            "azp": "113774264463038321964",
            "email": self.service_account,
            "email_verified": True,
            "exp": at + 3600,
            "iat": at,
            "iss": "https://accounts.google.com",
            "sub": "113774264463038321964",
        }
        made = jwt.encode({**claims, **other}, key or self._key, "RS256", headers={"kid": self._kid})
        record_secret("a token of Pub/Sub", made)
        return made


@dataclass(eq=False)
class Mailbox:
    """One that is watched."""

    account: Account
    topic: str
    ends_at: float
    history: int


class Gmail:
    """Mailboxes of Google's accounts; a watch lives for `week_s`."""

    def __init__(self, google: Google, pubsub: PubSub, week_s: float) -> None:
        self.google = google
        self.pubsub = pubsub
        self.week_s = week_s
        self.live: dict[str, Mailbox] = {}
        self.made = self.renewed = self.stopped = 0

    def handler(self) -> Callable[[HostRequest], Reply]:
        me = "/gmail/v1/users/me"
        return self.google.on({f"POST {me}/watch": self.watch, f"POST {me}/stop": self.stop})

    def watch(self, request: HostRequest) -> Reply:
        account = self._account(request)
        if isinstance(account, Reply):
            return account
        body = request.json()
        self.google.check(body, {"topicName"}, {"labelIds", "labelFilterBehavior"}, "the watch")
        topic = body["topicName"]
        named = _TOPIC.fullmatch(topic)
        if named is None or named[1] != self.pubsub.project:
            text = f"Invalid topicName does not match projects/{self.pubsub.project}/topics/*"
            return _error(400, "INVALID_ARGUMENT", text)
        if topic not in self.pubsub.topics:
            text = f"Error sending test message to Cloud PubSub {topic} : User not authorized"
            return _error(403, "PERMISSION_DENIED", text)
        now = self.google.now()
        before = self.live.get(account.id)
        if before is not None and before.ends_at > now:
            if before.topic != topic:
                text = (
                    "Only one user push notification client allowed per developer (call /stop then try again)"
                )
                return _error(400, "FAILED_PRECONDITION", text)
            self.renewed += 1
        else:
            self.made += 1
        history = before.history + 1 if before else 1000
        mailbox = self.live[account.id] = Mailbox(account, topic, now + self.week_s, history)
        threading.Thread(target=self.changed, args=(mailbox,), daemon=True).start()
        return Reply.json({"historyId": str(history), "expiration": str(int(mailbox.ends_at * 1000))})

    def stop(self, request: HostRequest) -> Reply:
        account = self._account(request)
        if isinstance(account, Reply):
            return account
        assert not request.body, "there is a body"
        if self.live.pop(account.id, None) is not None:
            self.stopped += 1
        return Reply(204)

    def changed(self, mailbox: Mailbox, **other: Any) -> int | None:
        """Something happened in a mailbox: what the push is answered with. `other` are of its token."""
        data = {"emailAddress": mailbox.account.email, "historyId": mailbox.history}
        return self.pubsub.push(mailbox.topic, data, **other)

    def _account(self, request: HostRequest) -> Account | Reply:
        assert not request.query, "there is a query"
        token = self.google.access(bearer(request))
        if token is None:
            return _error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if not _SCOPES & set(token.grant.scopes):
            return _error(403, "PERMISSION_DENIED", "Request had insufficient authentication scopes.")
        return token.grant.account


def _error(status: int, name: str, message: str) -> Reply:
    return Reply.json({"error": {"code": status, "message": message, "status": name}}, status)
