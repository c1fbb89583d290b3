"""The secret itself as the proof: a token in some part of the request, or HTTP Basic."""

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.errors import Malformed, TooLarge
from shared.wire.batches import MOST_EVENTS
from shared.wire.requests import Match, Request, Template, decoded, path_of, text_of
from shared.wire.verification import ALWAYS, AS_TEXT, Fetched, KeyForm, NothingFetched, Verdict, how_missing


@dataclass(frozen=True, slots=True)
class Token(NothingFetched):
    """The secret itself, in a part of the request, or in every element of a batch.

    `each` is the path of the batch (`value`) whose elements each carry it at `source`.
    """

    source: Template
    prefix: str = ""
    each: str = ""
    key: KeyForm = AS_TEXT
    when: Match = ALWAYS
    require: Match = ALWAYS

    @property
    def is_in_body(self) -> bool:
        """Whether the secret is a part of the body, which goes on to others."""
        return self.source.source.strip("{}").partition(":")[0] in ("json", "item", "form")

    @property
    def about(self) -> str:
        return f"the token ({self.source.source.strip('{}').replace(':', ' ')})"

    @property
    def passes(self) -> int:
        return 1

    def applies(self, request: Request) -> bool:
        return (bool(self.each) or self.source.text(request) is not None) and self.when.holds(request)

    def verify(
        self, request: Request, secrets: Sequence[bytes], now: float, fetched: Fetched | None = None
    ) -> Verdict:
        del now, fetched
        given = self._given(request)
        if given is None:
            return Verdict.MISSING
        if not self.require.holds(request):
            return Verdict.UNREADABLE
        keys = self.key.keys(secrets)
        if not keys:
            return Verdict.NO_SECRET
        verified = True
        for token in given:
            raw = token.removeprefix(self.prefix).encode("utf-8", "surrogatepass")
            same = False
            for key in keys:
                same |= hmac.compare_digest(raw, key)
            verified &= same and token.startswith(self.prefix)
        return Verdict.VERIFIED if verified else Verdict.MISMATCH

    def said(self, request: Request) -> list[str | None]:
        """What stands where the token should, right or not: of a batch, of every element.

        Raises `Malformed`, and `TooLarge` for more elements than a batch may have.
        """
        if not self.each:
            return [self.source.text(request)]
        elements = path_of(self.each)(request.payload)
        if not isinstance(elements, list):
            return []
        if len(elements) > MOST_EVENTS:
            raise TooLarge(f"{self.each} has more than {MOST_EVENTS} elements")
        read = path_of(self.source.source.strip("{}").partition(":")[2])
        return [text_of(read(element)) or None for element in elements]

    def _given(self, request: Request) -> list[str] | None:
        """Every token of the request; None when one is missing: an element without it would ride along."""
        given = self.said(request)
        return None if not given or None in given else [token for token in given if token is not None]

    def usable(self, secret: bytes) -> bool:
        return bool(self.key.key(secret))

    def sign(self, request: Request, secret: bytes, now: float) -> Request:
        del now
        if not self.each:
            return request.with_part(self.source.source, self.prefix + secret.decode())
        tokens = self._given(request)
        if not tokens:
            raise Malformed(f"an element of {self.each} has no token to exchange")
        body = request.body
        for token in set(tokens):
            body = body.replace(token.encode(), secret)
        return request.with_body(body)


@dataclass(frozen=True, slots=True)
class Basic(NothingFetched):
    """HTTP Basic: the secret is `user:password`."""

    when: Match = ALWAYS
    require: Match = ALWAYS

    @property
    def about(self) -> str:
        return "the header authorization (Basic)"

    @property
    def passes(self) -> int:
        return 1

    def applies(self, request: Request) -> bool:
        return _scheme(request) == "basic" and self.when.holds(request)

    def verify(
        self, request: Request, secrets: Sequence[bytes], now: float, fetched: Fetched | None = None
    ) -> Verdict:
        del now, fetched
        said = request.header(b"authorization")
        if said is None:
            return how_missing(request, b"authorization")
        given = decoded(said.partition(" ")[2].strip(), "base64")
        if _scheme(request) != "basic" or given is None or b":" not in given:
            return Verdict.UNREADABLE
        if not secrets:
            return Verdict.NO_SECRET
        verified = False
        for secret in secrets:
            verified |= hmac.compare_digest(given, secret)
        return Verdict.VERIFIED if verified else Verdict.MISMATCH

    def usable(self, secret: bytes) -> bool:
        return b":" in secret

    def sign(self, request: Request, secret: bytes, now: float) -> Request:
        del now
        return request.with_header(b"authorization", b"Basic " + base64.b64encode(secret))


def _scheme(request: Request) -> str:
    return (request.header(b"authorization") or "").partition(" ")[0].lower()
