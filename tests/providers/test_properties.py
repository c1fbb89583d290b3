"""Any request to a provider: a verdict, events or a declared error, in a short time."""

import json
import re
from collections.abc import Callable, Iterator
from time import perf_counter, process_time, time
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlink.provider.fixture_result import FIXTURE_TIME
from shared.contracts.errors import Rejected
from shared.manifests.fixtures import default_settings
from shared.manifests.response_template import MAX_ECHO_LENGTH, Response
from shared.manifests.scheme_signers import SchemeSigner
from shared.manifests.webhook import WebhookEvent
from shared.verification.hmac import HmacVerifier
from shared.verification.request import SECRET_SETTING, InboundRequest
from shared.verification.scheme import FetchedKey, VerificationResult
from shared.verification.sources import replace_source
from tests.providers.caller import Caller, gateway_with_platforms
from tests.providers.mutants import BODIES, mutants
from tests.providers.recorded import WITH_WEBHOOKS, having, keyed, provider, recorded, signed, webhook_of
from tests.support.backends import Bus, Store
from tests.support.hub import Hub

T = TypeVar("T")

MAX_S = 1.0
_EXAMPLES = 12
_MUTANTS = 60
"""Of one provider, in this process."""
_SENT = 16
"""Of one provider, over HTTP, to each of its two endpoints."""
DECLARED = {200, 202, 400, 401, 403, 405, 409, 413, 415, 429, 503}

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
_ID = re.compile(r"[\x21-\x7e]{0,200}")
_CONTROL = re.compile(rb"[\x00\r\n]")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z)?")

each_provider = pytest.mark.parametrize("name", WITH_WEBHOOKS)


class RequestRun:
    """The whole course of a request, without the network; `faults` says what went wrong in it."""

    def __init__(self, name: str, request: InboundRequest) -> None:
        self.faults: list[str] = []
        definition = provider(name).definition
        assert definition
        self._definition = definition
        self._request = request
        for find in (definition.handshake, definition.verified_handshake):
            handshake = self._try(find.__name__, find, request)
            if handshake:
                self._odd(self._try("the handshake's reply", handshake.response, request))
                self._try("the secret handed over", handshake.extract_secret, request)
        scheme = self._try("the scheme", definition.select_scheme, request)
        for case in keyed(name):
            if scheme is case.signer.scheme:
                self._verify(case.signer)
        for event in self._try("the events", definition.events, request) or ():
            self._look_at(event)
        self._odd(self._try("the response", definition.answer, request))

    def _try(self, what: str, step: Callable[..., T], *arguments: Any) -> T | None:
        started = process_time()
        try:
            return step(*arguments)
        except Rejected:
            return None
        except Exception as error:  # noqa: BLE001 -- this is what is looked for
            self.faults.append(f"{what}: {error!r}")
            return None
        finally:
            seconds = process_time() - started
            if seconds > MAX_S:
                self.faults.append(f"{what} took {seconds:.1f} s")

    def _verify(self, signer: SchemeSigner) -> None:
        url = self._try("the key's URL", signer.scheme.key_url, self._request)
        fetched = FetchedKey(url, signer.document) if url else None
        verdict = self._try(
            "verifying", signer.scheme.verify, self._request, signer.secrets, FIXTURE_TIME, fetched
        )
        if verdict is VerificationResult.VERIFIED:
            self.faults.append("it is verified, and nobody signed it")

    def _look_at(self, event: WebhookEvent) -> None:
        if not (_NAME.fullmatch(event.event) and _ID.fullmatch(event.delivery_id)):
            self.faults.append(f"an event called {event.event!r} with the id {event.delivery_id!r}")
        if not (_ID.fullmatch(event.account) and _TIME.fullmatch(event.occurred_at)):
            self.faults.append(f"an event of {event.account!r} at {event.occurred_at!r}")
        if self._try("the payload", self._definition.json, event.content_type, event.data) is None:
            self.faults.append("a payload that cannot be read again")

    def _odd(self, response: Response | None) -> None:
        for name, value in response.headers if response else ():
            if _CONTROL.search(value):
                self.faults.append(f"the header {name!r} of an answer is {value!r}")
        if response and len(response.body) > 12 * MAX_ECHO_LENGTH:
            self.faults.append(f"an answer of {len(response.body)} bytes")


_TEXTS = st.text(max_size=20) | st.sampled_from(["present", "1", "x@example.com", "{secret}", "\n"])
_VALUES = st.binary(max_size=40) | st.sampled_from(
    [b"application/json", b"1800000000", b"sha256=00", b"v1,AA=="]
)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode())


@each_provider
@settings(max_examples=_EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_anything_at_all(name: str, data: st.DataObject) -> None:
    """Methods, queries, headers, bodies and settings that have little in common with the provider's."""
    own = provider(name)
    assert own.definition
    names = sorted({header for each in recorded(name) for header in each.headers})
    names += [header.decode() for case in keyed(name) for header in case.headers]
    headers = data.draw(
        st.dictionaries(
            st.sampled_from([*names, "content-type", "authorization"]).map(str.encode),
            st.lists(_VALUES, min_size=1, max_size=2),
            max_size=5,
        )
    )
    declared = webhook_of(name).settings
    given_settings = data.draw(
        st.dictionaries(st.sampled_from([*declared, SECRET_SETTING]), _TEXTS, max_size=4)
    )
    request = own.definition.request(
        data.draw(st.sampled_from(["GET", "POST", "PUT", "HEAD", "x"])),
        "https://hub.example.com/api/webhooks/x/ep_1",
        data.draw(
            st.binary(max_size=40) | st.sampled_from([b"a=1&a=2", b"hub.mode=subscribe&hub.challenge=1"])
        ),
        headers,
        data.draw(st.binary(max_size=80) | _JSON | st.sampled_from(BODIES)),
        given_settings,
    )
    faults = RequestRun(name, request).faults
    assert not faults, "\n".join(faults)


@each_provider
def test_what_was_recorded_with_something_wrong(name: str) -> None:
    own = provider(name)
    fixtures = recorded(name)
    each = max(1, _MUTANTS // len(fixtures))
    faults: list[str] = []
    for fixture in fixtures[:_MUTANTS]:
        plain = fixture.request(own, {SECRET_SETTING: "a secret of the test"})
        for what, mutant in mutants(plain, fixture.name, each):
            faults += [f"{fixture.name} {what}: {fault}" for fault in RequestRun(name, mutant).faults]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", WITH_WEBHOOKS)
def test_a_megabyte_takes_no_time(name: str) -> None:
    """Of what is dear to read: for the payload's own shape, and for each kind of body."""
    own = provider(name)
    first = next(each for each in recorded(name) if each.expected.get("events"))
    plain = first.request(own)
    faults: list[str] = []
    for body in _megabytes(plain.body):
        faults += [f"{body[:30]!r}: {fault}" for fault in RequestRun(name, plain.with_body(body)).faults]
    assert not faults, "\n".join(faults)


def _megabytes(body: bytes) -> Iterator[bytes]:
    size = 1_000_000
    start, brace, rest = body.partition(b"{")
    if brace:
        yield start + b'{"zz":"' + b"x" * size + b'",' + rest
        yield start + b'{"zz":[' + b"{}," * (size // 3) + b"{}]," + rest
    yield body + b"&" + b"&".join([b"zzzzzzzzzz=1"] * (size // 14))
    yield b"[" + b",".join([body or b"{}"] * (size // max(len(body), 3))) + b"]"
    yield b"<a>" * (size // 3)
    yield b"[" * size


# What a stranger may have signed


@pytest.mark.parametrize("name", having("{hmac_sha256_"))
def test_a_handshake_signs_no_webhook(name: str) -> None:
    """It answers whoever asks with an HMAC by the webhooks' own key, over a text that he chose."""
    own = provider(name)
    definition = own.definition
    assert definition
    [case] = keyed(name)
    settings = {**default_settings(own), SECRET_SETTING: case.signer.secret}
    source = re.findall(r"\{hmac_sha256_\w+:([^}]+)\}", webhook_of(name).model_dump_json(by_alias=True))[0]
    [handshake_fixture, *_] = [each for each in recorded(name) if "handshake" in each.expected]
    challenge = handshake_fixture.request(own, settings)
    handshake = definition.handshake(challenge) or definition.verified_handshake(challenge)
    assert handshake
    assert handshake.response(challenge).body  # the control
    scheme = case.signer.scheme
    assert isinstance(scheme, HmacVerifier)
    for fixture in recorded(name):
        request = signed(case, fixture)
        for text in (scheme.signed[0].content(request) if request else None, fixture.body):
            if not text:
                continue
            forged = _challenge_for(challenge, source, text.decode())
            assert handshake.matches(forged)
            with pytest.raises(Rejected):
                handshake.response(forged)


def _challenge_for(challenge: InboundRequest, source: str, text: str) -> InboundRequest:
    """The handshake with another text to sign."""
    kind, _, path = source.partition(":")
    if kind == "query":
        return replace_source(challenge, source, text)
    value = challenge.payload_or_none()
    *outer, last = path.split(".")
    holder = value
    for step in outer:
        holder = holder[step]
    holder[last] = text
    return challenge.with_body(json.dumps(value).encode())


# At a running gateway


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store) -> Iterator[Hub]:
    with gateway_with_platforms(tmp_path_factory.mktemp("hub"), bus, store, _hosts()) as (started, _):
        yield started


def _hosts() -> list[str]:
    return sorted({host for name in WITH_WEBHOOKS for case in keyed(name) for host in case.hosts})


@pytest.fixture(scope="module")
def caller(hub: Hub) -> Iterator[Caller]:
    with Caller(hub) as connected:
        yield connected


@each_provider
def test_a_gateway_has_an_answer_to_everything(name: str, hub: Hub, caller: Caller) -> None:
    """Signed and unsigned, at an endpoint that wants signatures and at one that does without."""
    webhook = webhook_of(name)
    statuses = DECLARED | {each.status for each in webhook.answers}
    statuses |= {each.answer.status for each in webhook.handshakes}
    statuses |= {webhook.refused.status} if webhook.refused else set()
    case = keyed(name)[0]
    values = default_settings(case.provider)
    endpoints = [
        caller.endpoint(name, secret=case.signer.secret, settings=values),
        caller.endpoint(name, settings=values, require_signature=False),
    ]
    before = len(hub.log_text("gateway"))
    faults: list[str] = []
    fixtures = sorted(recorded(name), key=lambda each: "handshake" not in each.expected)
    chosen = [*fixtures[:2], *fixtures[2 :: max(1, len(fixtures) // 4)]]
    for endpoint in endpoints:
        for fixture in chosen:
            plain = fixture.request(case.provider, address=endpoint.url)
            for number, (what, mutant) in enumerate(
                mutants(plain, name + fixture.name, _SENT // len(chosen) + 1)
            ):
                request = mutant
                if number % 2:
                    try:
                        request = case.signer.sign(mutant, time())
                    except (Rejected, ValueError):
                        continue
                started = perf_counter()
                answer = caller.send(request)
                if answer.status not in statuses or perf_counter() - started > 3 * MAX_S:
                    faults.append(
                        f"{fixture.name} {what}: {answer.status} {answer.body[:100]!r} {request.body[:80]!r}"
                    )
    assert not faults, "\n".join(faults)
    for line in hub.log_text("gateway")[before:].splitlines():
        assert line.startswith("{"), line
        assert json.loads(line)["level"] in ("info", "warning"), line


def test_the_gateway_goes_on(hub: Hub, caller: Caller) -> None:
    assert caller.call("GET", "/inbound-endpoints?limit=1")["items"]
    log = hub.log_text("gateway")
    assert "Traceback" not in log
