"""Receive outgoing webhooks, verify each with the `standardwebhooks` package, and print it.

    python -m interlink.examples.subscriber whsec_... [port, 9000 by default]

The extra `embedded` installs that package. Delivery ids are remembered: the hub delivers at least once, and a
retry has the same id.
"""

import contextlib
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY_BYTES = 5 * 1024 * 1024


def main(secret: str, port: int) -> None:
    """Serve until Ctrl-C."""
    webhook, seen = Webhook(secret), set[str]()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers.get("content-length", 0)), MAX_BODY_BYTES))
            try:
                webhook.verify(body, {name.lower(): value for name, value in self.headers.items()})
            except (WebhookVerificationError, ValueError) as error:  # ValueError: invalid base64
                print(f"rejected: {error}", flush=True)  # noqa: T201
                self.send_error(401)
                return
            delivery = self.headers["webhook-id"]
            again = " (again)" if delivery in seen else ""
            seen.add(delivery)
            print(f"{delivery}{again} {json.dumps(json.loads(body))}", flush=True)  # noqa: T201
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Do nothing: `do_POST` prints one line."""

    print(f"listening on http://127.0.0.1:{port}/", flush=True)  # noqa: T201
    HTTPServer(("127.0.0.1", port), Receiver).serve_forever()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 9000)
