"""A browser without script that is given the cookies of embedded pages."""

import httpx

from tests.console.person import Person


class Guest(Person):
    """A browser with the cookies that the hub sets; it is on localhost, where https is not needed."""

    def __init__(self, base: str, client: httpx.Client | None = None) -> None:
        super().__init__(base, client=client)
        self.client.event_hooks["response"] = [self._store]
        self.client.event_hooks["request"] = [self._add]
        self.jar: dict[str, tuple[str, str]] = {}
        """Path and value of cookies that are for https, which `httpx` would not send."""

    def _store(self, response: httpx.Response) -> None:
        for cookie in response.headers.get_list("set-cookie"):
            if "partitioned" in cookie.lower():
                name, _, rest = cookie.partition("=")
                path = rest.partition("Path=")[2].partition(";")[0]
                self.jar[f"{name} {path}"] = (path, f"{name}={rest.partition(';')[0]}")

    def _add(self, request: httpx.Request) -> None:
        found = [value for path, value in self.jar.values() if request.url.path.startswith(path)]
        if found:
            request.headers["cookie"] = "; ".join([*found, request.headers.get("cookie", "")]).rstrip("; ")
