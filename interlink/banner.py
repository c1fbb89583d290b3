"""What `interlink up` says once it is ready: where everything is, and what to try."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interlink.datadir import display_path

_EXAMPLE_SECRET: Final = "try-it-secret"  # noqa: S105 -- of an example, on this machine only


@dataclass(frozen=True, slots=True)
class HubAddresses:
    """Where things are, as a person types it; `chat` is None without the chat page."""

    hub: str
    chat: str | None
    admin_key: str
    logs: str
    broker_in_memory: bool


def render_banner(where: HubAddresses) -> str:
    """The ready block; it is complete when its last line is there."""
    lines = [f"\nInterlink is ready: {where.hub}\n"]
    if where.chat:
        lines.append(f"  chat page   {where.chat}")
    lines += [f"  admin key   {where.admin_key}", f"  logs        {where.logs}"]
    if where.broker_in_memory:
        lines.append("  broker      embedded, in memory: a crash of the broker loses events not handled yet")
    return "\n".join(lines) + _render_examples(where)


def _render_examples(where: HubAddresses) -> str:
    python = display_path(Path(sys.executable).absolute())
    return f"""

Try it, in another terminal:

  KEY=$(cat {where.admin_key}); JSON='Content-Type: application/json'

  # Events out: make a webhook, then receive on port 9000 with the secret that it shows.
  curl -sS {where.hub}/api/outgoing-webhooks -H "Authorization: Bearer $KEY" -H "$JSON" \\
    -d '{{"name":"try it","url":"http://127.0.0.1:9000/","events":["*"]}}'
  {python} -m examples.subscriber whsec_...

  # Webhooks in: make an endpoint, then call it as GitHub does. It shows up in the channel "general".
  URL=$(curl -sS {where.hub}/api/inbound-endpoints -H "Authorization: Bearer $KEY" -H "$JSON" \\
    -d '{{"provider":"github","name":"try it","secret":"{_EXAMPLE_SECRET}","channel_id":"general"}}' \\
    | sed 's/.*"url":"\\([^"]*\\)".*/\\1/')
  BODY='{{"action":"opened","issue":{{"number":1,"title":"It works","html_url":"https://example.com/1"}},\
"repository":{{"full_name":"acme/app"}},"sender":{{"login":"octocat"}}}}'
  SIGNED=$(printf %s "$BODY" | openssl dgst -sha256 -hmac {_EXAMPLE_SECRET} | sed 's/.* //')
  curl -sS "$URL" -H "$JSON" -H 'X-GitHub-Event: issues' -H "X-GitHub-Delivery: $(date +%s)" -d "$BODY" \\
    -H "X-Hub-Signature-256: sha256=$SIGNED"

Ctrl-C stops everything.
"""
