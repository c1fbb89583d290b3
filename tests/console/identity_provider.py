"""An identity provider in the hands of an attacker: it signs and publishes what a test wants."""

import json
import time
from typing import Any, Self
from urllib.parse import parse_qs

from aiohttp import web
from joserfc import jws
from joserfc.jwk import RSAKey

from tests.support.recorded_secrets import record_secret
from tests.support.subscriber import Subscriber, WebhookRequest

CLIENT_ID = "hub"


class HostileProvider:
    """Answers each code with an ID token of the claims in `claims`, changed by what a test sets.

    `algorithm` and `key` sign; `metadata` and `token` replace parts of its answers.
    """

    def __init__(self) -> None:
        self._server = Subscriber(self._answer)
        self._key = RSAKey.generate_key(2048, parameters={"kid": "1"})
        self.reset("")

    def reset(self, nonce: str) -> None:
        """Be honest for a sign-in with this nonce."""
        self.key: Any = self._key
        self.algorithm = "RS256"
        self.metadata: dict[str, Any] = {}
        self.claims: dict[str, Any] = {
            "iss": self.url,
            "sub": "mallory",
            "aud": CLIENT_ID,
            "nonce": nonce,
            "iat": int(time.time()),
            "exp": int(time.time()) + 300,
            "roles": ["staff"],
        }
        self.token: dict[str, Any] | bytes = {}

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.__exit__(*error)

    @property
    def url(self) -> str:
        return self._server.url.removesuffix("/hook")

    @property
    def token_requests(self) -> list[dict[str, list[str]]]:
        return [parse_qs(got.body.decode()) for got in self._server.got if got.path == "/token"]

    def id_token(self) -> str:
        header = {"alg": self.algorithm, "kid": "1"}
        text = jws.serialize_compact(header, json.dumps(self.claims), self.key, [self.algorithm])
        record_secret("an ID token", text)
        return text

    def _answer(self, request: WebhookRequest) -> web.Response:
        match request.path:
            case "/.well-known/openid-configuration":
                return web.json_response(
                    {
                        "issuer": self.url,
                        "authorization_endpoint": f"{self.url}/auth",
                        "token_endpoint": f"{self.url}/token",
                        "jwks_uri": f"{self.url}/jwks",
                        **self.metadata,
                    }
                )
            case "/jwks":
                return web.json_response({"keys": [self._key.as_dict(private=False) | {"kid": "1"}]})
            case "/token":
                if isinstance(self.token, bytes):
                    return web.Response(body=self.token, content_type="application/json")
                return web.json_response({"id_token": self.id_token(), "access_token": "x", **self.token})
        return web.Response(status=404)
