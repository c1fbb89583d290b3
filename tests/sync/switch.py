"""Hosts that answer otherwise for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.provider_hosts import Handler, HostRequest, ProviderHosts, Reply


class Switch:
    """The handler of a host, which can be another one, also on connections that are open."""

    def __init__(self, usual: Handler) -> None:
        self._usual = usual
        self._other: Handler | None = None

    def __call__(self, request: HostRequest) -> Reply:
        return (self._other or self._usual)(request)

    @contextmanager
    def answering(self, handler: Handler) -> Iterator[None]:
        """Answer by this handler while the context lasts."""
        self._other = handler
        try:
            yield
        finally:
            self._other = None


def switched(hosts: ProviderHosts, name: str) -> Switch:
    """Put a switch before a host, which was not asked yet."""
    switch = Switch(hosts._hosts[name])
    hosts._hosts[name] = switch
    return switch
