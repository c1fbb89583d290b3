"""The text that `interlink up` prints once it is ready: addresses, and examples to try."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interlink.datadir import display_path
from shared.contracts.routes import CONSOLE, CONSOLE_PATH

_EXAMPLE_SECRET: Final = "try-it-secret"  # noqa: S105 -- of an example, on this machine only


@dataclass(frozen=True, slots=True)
class HubAddresses:
    """Addresses and paths to print. `chat` is None without the chat page.

    `services` are those behind the hub's address, each with its own, for its metrics.
    """

    hub: str
    chat: str | None
    services: Mapping[str, str]
    admin_key: str
    logs: str
    broker_in_memory: bool


def render_banner(addresses: HubAddresses) -> str:
    """Return the whole text. Its last line is always the same, so that a reader knows that it is complete."""
    lines = [f"\nInterlink is ready: {addresses.hub}\n"]
    if CONSOLE in addresses.services:
        lines.append(f"  console     {addresses.hub}{CONSOLE_PATH} (sign in with the admin key)")
    if addresses.chat:
        lines.append(f"  chat page   {addresses.chat}")
    behind = ", ".join(f"{name} {address}" for name, address in addresses.services.items())
    lines += [
        f"  behind it   {behind}",
        f"  admin key   {addresses.admin_key}",
        f"  logs        {addresses.logs}",
    ]
    if addresses.broker_in_memory:
        lines.append(
            "  broker      embedded, in memory: a crash of the broker loses events that are not processed yet"
        )
    return "\n".join(lines) + _render_examples(addresses)


def _render_examples(addresses: HubAddresses) -> str:
    python = display_path(Path(sys.executable).absolute())
    return f"""

Try it, in another terminal:

  KEY=$(cat {addresses.admin_key}); JSON='Content-Type: application/json'

  # Events out: create a webhook, then receive on port 9000 with the secret that is shown.
  curl -sS {addresses.hub}/api/outgoing-webhooks -H "Authorization: Bearer $KEY" -H "$JSON" \\
    -d '{{"name":"try it","url":"http://127.0.0.1:9000/","events":["*"]}}'
  {python} -m interlink.examples.subscriber whsec_...

  # Webhooks in: create an endpoint, then call it as GitHub does. The message is in the channel "general".
  URL=$(curl -sS {addresses.hub}/api/inbound-endpoints -H "Authorization: Bearer $KEY" -H "$JSON" \\
    -d '{{"provider":"github","name":"try it","secret":"{_EXAMPLE_SECRET}","channel_id":"general"}}' \\
    | sed 's/.*"url":"\\([^"]*\\)".*/\\1/')
  BODY='{{"action":"opened","issue":{{"number":1,"title":"It works","html_url":"https://example.com/1"}},\
"repository":{{"full_name":"acme/app"}},"sender":{{"login":"octocat"}}}}'
  SIGNED=$(printf %s "$BODY" | openssl dgst -sha256 -hmac {_EXAMPLE_SECRET} | sed 's/.* //')
  curl -sS "$URL" -H "$JSON" -H 'X-GitHub-Event: issues' -H "X-GitHub-Delivery: $(date +%s)" -d "$BODY" \\
    -H "X-Hub-Signature-256: sha256=$SIGNED"

Ctrl-C stops everything.
"""
