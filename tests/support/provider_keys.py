"""The hosts on which platforms publish their keys, on this machine (`tests/support/provider_hosts.py`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

from tests.support.provider_hosts import HostRequest, ProviderHosts, Reply


class ProviderKeys:
    """A few hosts that have a few documents each, for everybody who asks without credentials.

    `documents` are by URL, with its query if it has one. `posted` are the bodies with which documents have to
    be requested, by URL. `confirmations` are URLs with a query that may be called. What else there is, is
    `ProviderHosts`' own.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self.documents: dict[str, bytes] = {}
        self.posted: dict[str, bytes] = {}
        self.confirmations: set[str] = set()
        self._platforms = ProviderHosts(dict.fromkeys(hosts, self._answer))
        self.connected = self._platforms.connected
        self.faults = self._platforms.faults

    def __enter__(self) -> Self:
        self._platforms.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._platforms.__exit__()

    @property
    def requested(self) -> list[str]:
        """The URLs that were asked for, in order."""
        return [f"https://{one.host}{one.path}" for one in self._platforms.asked]

    def env(self, folder: Path, names: Mapping[str, str]) -> dict[str, str]:
        """The environment of a service that is to find the hosts; `names` are further ones with addresses."""
        return self._platforms.env(folder, names)

    def _answer(self, request: HostRequest) -> Reply:
        url = f"https://{request.host}{request.path}"
        if request.method == "POST" and url not in self.posted:
            return Reply(404)
        expected = self.posted.get(url)
        assert (request.method, request.body) == ("GET" if expected is None else "POST", expected or b"")
        assert "authorization" not in request.headers, "keys are public"
        if request.query:
            url += "?" + urlencode(request.query, doseq=True, safe=":")
            assert url in self.confirmations, "keys are asked for without a query"
        document = self.documents.get(url)
        return Reply(404) if document is None else Reply(200, document)
