"""A strict Slack with one workspace, one app in one channel, and clients: what its tests share."""

import json
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry import RetryHandler

from tests.support import capture
from tests.support.fakes.slack_api import SlackApi
from tests.support.fakes.slack_changes import Workspace
from tests.support.fakes.slack_state import App, Channel, Json
from tests.support.provider_hosts import Handler, HostRequest, ProviderHosts

SCOPES = (
    "chat:write chat:write.customize channels:read channels:history channels:join groups:read groups:history"
    " im:read im:write im:history mpim:read mpim:write mpim:history reactions:read reactions:write files:read"
    " files:write users:read users:read.email users.profile:read usergroups:read emoji:read team:read"
)


@dataclass
class Setting:
    """One workspace with an app in one channel, and clients."""

    slack: SlackApi
    team: Workspace
    app: App
    channel: Channel
    hosts: ProviderHosts
    tls: ssl.SSLContext

    def client(self, token: str | None = "") -> WebClient:
        return WebClient(
            self.app.token if token == "" else token,
            proxy=self.hosts.proxy,
            ssl=self.tls,
            retry_handlers=[],
        )

    @contextmanager
    def direct(self, *handlers: RetryHandler) -> Iterator[WebClient]:
        """A client without the proxy: with one, a retry of the SDK goes to another address."""
        with served(self.slack.hosts["slack.com"]) as url:
            yield WebClient(self.app.token, base_url=f"{url}/api/", retry_handlers=list(handlers))

    def get(self, url: str, token: str = "") -> tuple[str, bytes]:
        """The media type and the body of an address."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({"https": self.hosts.proxy}),
            urllib.request.HTTPSHandler(context=self.tls),
        )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with opener.open(urllib.request.Request(url, headers=headers)) as answer:  # noqa: S310 -- https only
            return answer.headers.get_content_type(), answer.read()

    def post(self, url: str, body: bytes, media_type: str, token: str = "") -> Any:
        """The JSON that is answered to a body."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({"https": self.hosts.proxy}),
            urllib.request.HTTPSHandler(context=self.tls),
        )
        headers = {"Content-Type": media_type, "Authorization": f"Bearer {token or self.app.token}"}
        with opener.open(urllib.request.Request(url, body, headers)) as answer:  # noqa: S310 -- https only
            return json.loads(answer.read())

    def say(self, text: str = "hello", **more: Any) -> str:
        """Post as the app; the ts."""
        ts: str = self.client().chat_postMessage(channel=self.channel.id, text=text, **more)["ts"]
        return ts


@contextmanager
def setting(folder: Path) -> Iterator[Setting]:
    """Run it; afterwards no request may have been a fault."""
    slack = SlackApi()
    team = slack.workspace()
    app = team.add_app("Interlink", SCOPES)
    channel = team.add_channel("general", "channel", app, team.person("Ada Example"))
    with ProviderHosts(slack.hosts) as hosts:
        tls = ssl.create_default_context(cafile=str(hosts.authority(folder)))
        yield Setting(slack, team, app, channel, hosts, tls)
        assert hosts.faults == []
    slack.close()


def refused(call: Callable[[], object]) -> Json:
    """What Slack answers to a call that it refuses."""
    with pytest.raises(SlackApiError) as caught:
        call()
    answer = caught.value.response.data
    assert isinstance(answer, dict)
    assert answer["ok"] is False
    return answer


def rich(*elements: Json, block_id: str = "") -> Json:
    section = {"type": "rich_text_section", "elements": list(elements)}
    return {"type": "rich_text", "elements": [section]} | ({"block_id": block_id} if block_id else {})


@contextmanager
def served(handler: Handler) -> Iterator[str]:
    """Serve a handler as plain HTTP on this machine; the address."""

    class Each(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            url = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = handler(HostRequest("POST", "slack.com", url.path, parse_qs(url.query), headers, body))
            if reply.status == 0:
                return
            self.send_response(reply.status)
            for name, value in reply.fields:
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Each)
    capture.exclude_ports(server.server_port)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        capture.include_ports(server.server_port)
