"""Published signatures in `vectors.json`: from the provider's documents or its SDK's tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import Field, TypeAdapter, ValidationError

from interlink.provider.fixture_result import FIXTURE_TIME
from shared.contracts.errors import InterlinkError
from shared.manifests.base import ManifestModel
from shared.manifests.fixtures import default_settings
from shared.manifests.registry import Provider
from shared.verification.scheme import FetchedKey, VerificationResult

VECTORS: Final = "vectors.json"


class Vector(ManifestModel):
    """A published signature: it proves that the manifest's scheme is the provider's.

    `at` is when it was made, in Unix seconds, if the provider signs a time. `key` is the published content of
    the URL that the scheme fetches its key from.
    """

    source: str
    secret: str = ""
    method: str = "POST"
    url: str = ""
    headers: dict[str, str]
    body: str = ""
    settings: dict[str, str] = Field(default_factory=dict)
    at: float = FIXTURE_TIME
    key: str = ""

    def verdict(self, provider: Provider) -> VerificationResult:
        """Verify the signature with the provider's schemes."""
        assert provider.definition  # noqa: S101 -- only a provider with webhooks has vectors
        address, _, query = (self.url or "https://hub.example.com/").partition("?")
        headers = {name.lower().encode(): [value.encode()] for name, value in self.headers.items()}
        settings = {**default_settings(provider), **self.settings}
        request = provider.definition.request(
            self.method, address, query.encode(), headers, self.body.encode(), settings
        )
        scheme = provider.definition.select_scheme(request)
        if scheme is None:
            return VerificationResult.MISSING
        url = scheme.key_url(request)
        fetched = FetchedKey(url, self.key.encode()) if url else None
        return scheme.verify(request, [self.secret.encode()] if self.secret else [], self.at, fetched)


_VECTORS: Final = TypeAdapter(list[Vector])


def vector_faults(folder: Path, provider: Provider) -> Iterator[str]:
    """Yield the vectors that the provider's schemes do not verify."""
    file = folder / VECTORS
    if not file.is_file():
        if provider.manifest.tier == "verified" and "vector" not in provider.manifest.exemptions:
            yield f"{VECTORS}: missing: add a published signature, or change the tier to documented"
        return
    try:
        vectors = _VECTORS.validate_json(file.read_bytes())
    except ValidationError as error:
        detail = error.errors()[0]
        yield f"{VECTORS}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}"
        return
    for position, vector in enumerate(vectors):
        location = f"{VECTORS}: {position} ({vector.source})"
        try:
            verdict = vector.verdict(provider)
        except InterlinkError as error:
            yield f"{location}: cannot be read: {error}"
            continue
        if verdict is not VerificationResult.VERIFIED:
            yield f"{location}: rejected ({verdict}): correct webhook.verification"
