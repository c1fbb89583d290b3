"""Every provider at a running gateway: what the provider signs is accepted, and nothing else.

The gateway verifies with its own clock and its own endpoints; the keys that a provider publishes come over
TLS, through an egress proxy, from hosts of `tests/support/provider_keys.py`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from secrets import token_hex
from time import time
from typing import Any

import pytest

from interlink.provider.fixture_result import evaluate_fixture
from shared.manifests.fixtures import Fixture, default_settings
from shared.manifests.scheme_signers import SchemeSigner
from shared.manifests.schemes import JwtScheme, KeyPairScheme
from shared.verification.request import InboundRequest
from shared.verification.scheme import VerificationResult
from shared.verification.sources import replace_source
from shared.verification.template import SourceTemplate
from shared.wire.bodies import FORM_CONTENT_TYPE, media_type
from tests.providers.caller import INTERNAL, Answer, Caller, Endpoint, gateway_with_platforms
from tests.providers.recorded import (
    WITH_WEBHOOKS,
    Keyed,
    having,
    keyed,
    provider,
    recorded,
    signed,
    webhook_of,
    with_changed_body,
    with_headers,
)
from tests.providers.unknown import with_unknown_event
from tests.support.backends import Bus, Store
from tests.support.eventually import eventually
from tests.support.hub import Hub
from tests.support.provider_keys import ProviderKeys

each_provider = pytest.mark.parametrize("name", WITH_WEBHOOKS)


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, bus: Bus, store: Store
) -> Iterator[tuple[Hub, ProviderKeys]]:
    hosts = sorted({host for name in WITH_WEBHOOKS for case in keyed(name) for host in case.hosts})
    with gateway_with_platforms(tmp_path_factory.mktemp("hub"), bus, store, hosts) as running:
        yield running


@pytest.fixture(scope="module")
def platforms(gateway: tuple[Hub, ProviderKeys]) -> ProviderKeys:
    return gateway[1]


@pytest.fixture(scope="module")
def caller(gateway: tuple[Hub, ProviderKeys]) -> Iterator[Caller]:
    with Caller(gateway[0]) as connected:
        yield connected


@dataclass
class Sent:
    """What was sent to an endpoint: the events and triggers of what it has to accept, how much to refuse."""

    name: str
    accepted: list[tuple[str, int, list[str], list[str]]] = field(default_factory=list)
    refused: int = 0


class Conversation:
    """One provider and its endpoints. `faults` has a line for each difference."""

    def __init__(self, name: str, caller: Caller, platforms: ProviderKeys, log: dict[str, Sent]) -> None:
        self.name = name
        self.own = provider(name)
        self.webhook = webhook_of(name)
        self.faults: list[str] = []
        self.cases = [_published(case, platforms) for case in keyed(name)]
        self._caller = caller
        self._platforms = platforms
        self._log = log
        self._endpoints: dict[tuple[int, str], Endpoint] = {}

    def endpoint(self, case: Keyed, fixture: Fixture) -> Endpoint:
        """Return the endpoint of a scheme and a fixture's settings, created once."""
        settings = {**default_settings(self.own), **fixture.settings}
        key = (case.position, json.dumps(settings, sort_keys=True))
        if key not in self._endpoints:
            self._endpoints[key] = self.create_endpoint(case.signer.secret, settings)
        return self._endpoints[key]

    def create_endpoint(self, secret: str, settings: Mapping[str, str]) -> Endpoint:
        endpoint = self._caller.endpoint(self.name, secret=secret, settings=settings)
        self._log[endpoint.id] = Sent(self.name)
        return endpoint

    def signed(
        self, case: Keyed, fixture: Fixture, endpoint: Endpoint, at: float | None = None
    ) -> InboundRequest | None:
        """Return the recorded request as the provider would send it to this endpoint now."""
        request = signed(case, fixture, time() if at is None else at, address=endpoint.url)
        if request is not None:
            self.publish_key(case, request)
        return request

    def publish_key(self, case: Keyed, request: InboundRequest) -> None:
        """Have the provider's host answer with the key of this request, if its scheme fetches one."""
        if url := case.signer.scheme.key_url(request):
            self._platforms.documents[url] = case.signer.document
            body = case.signer.scheme.key_body(request)
            if body is not None:
                self._platforms.posted[url] = body

    def confirm(self, url: str, *, accepted: bool) -> None:
        """Have the provider's host accept this confirmation, or answer with 404."""
        self._platforms.confirmations.add(url)
        self._platforms.documents.pop(url, None)
        if accepted:
            self._platforms.documents[url] = b"<confirmed/>"

    def accepts(self, what: str, endpoint: Endpoint, fixture: Fixture, request: InboundRequest) -> Answer:
        """Send what has to be accepted, and look at the answer."""
        answer = self._caller.send(request)
        wanted = fixture.expected.get("answer")
        events = fixture.expected.get("events", [])
        types = sorted({each["event"] for each in events})
        triggers = sorted({trigger for each in events for trigger in each.get("triggers", [])})
        self._log[endpoint.id].accepted.append((fixture.name, len(events), types, triggers))
        if wanted is None:
            document = answer.json if answer.status == 202 else {}
            count = document.get("events", 1 if "event_id" in document else None)
            if count != len(events):
                self.faults.append(
                    f"{what}: {answer.status} {answer.body!r}, not 202 with {len(events)} events"
                )
        else:
            self.answers(what, answer, wanted)
        return answer

    def answers(self, what: str, answer: Answer, expected: Mapping[str, Any]) -> None:
        """An answer has to have this status, these headers and this body."""
        headers = {name: answer.headers.get(name) for name in expected.get("headers", {})}
        actual = {"status": answer.status, "headers": headers, "body": answer.body.decode("utf-8", "replace")}
        if actual != {"headers": {}, "body": "", **expected}:
            self.faults.append(f"{what}: {actual}, not {dict(expected)}")

    def refuses(self, what: str, endpoint: Endpoint, request: InboundRequest, *statuses: int) -> Answer:
        """Send what must not be accepted, and look at the answer."""
        answer = self._caller.send(request)
        own = self.webhook.refused.status if self.webhook.refused else 401
        if answer.status not in (statuses or (own,)):
            self.faults.append(f"{what}: {answer.status} {answer.body[:200]!r}, not {own}")
        if answer.status != 429:
            self._log[endpoint.id].refused += 1
        return answer

    def first(self, case: Keyed) -> tuple[Fixture, Endpoint, InboundRequest] | None:
        """Return the first recorded request that this scheme signs and that has an event."""
        for fixture in recorded(self.name):
            if not fixture.expected.get("events"):
                continue
            endpoint = self.endpoint(case, fixture)
            request = self.signed(case, fixture, endpoint)
            if request is not None:
                return fixture, endpoint, request
        return None

    def finish(self) -> None:
        assert not self.faults, "\n".join(self.faults)


_SHARED: dict[str, SchemeSigner] = {}
"""Keys by the address where they are published: several schemes, of several providers, share one."""


def _published(case: Keyed, platforms: ProviderKeys) -> Keyed:
    """Return the case with the keys that are published at its URL."""
    spec = case.spec
    if not isinstance(spec, KeyPairScheme | JwtScheme) or spec.keys is None:
        return case
    source = spec.keys.compile()
    url = source.url.source
    known = _SHARED.setdefault(url, case.signer)
    if source.url.constant:
        platforms.documents[url] = known.document
    return replace(case, signer=replace(case.signer, key=known.key, document=known.document))


@pytest.fixture(scope="module")
def log() -> dict[str, Sent]:
    """What was sent to each endpoint, for the last test."""
    return {}


@pytest.fixture(scope="module")
def conversations() -> dict[str, Conversation]:
    return {}


@pytest.fixture
def conversation(
    name: str,
    caller: Caller,
    platforms: ProviderKeys,
    log: dict[str, Sent],
    conversations: dict[str, Conversation],
) -> Conversation:
    if name not in conversations:
        conversations[name] = Conversation(name, caller, platforms, log)
    talk = conversations[name]
    talk.faults.clear()
    return talk


@each_provider
def test_every_recorded_webhook_is_accepted(name: str, conversation: Conversation) -> None:
    """By each scheme that can sign it, with the response that the provider expects."""
    used: set[int] = set()
    for case in conversation.cases:
        for fixture in recorded(name):
            if "handshake" in fixture.expected:
                continue
            endpoint = conversation.endpoint(case, fixture)
            request = conversation.signed(case, fixture, endpoint)
            if request is not None:
                conversation.accepts(f"{case.name}: {fixture.name}", endpoint, fixture, request)
                used.add(case.position)
    assert used
    conversation.finish()


UNNAMED: Mapping[str, str] = {
    "aws-sns": "The type is one of three: a longer one could hide a message of somebody else's topic.",
    "airtable": "Its notifications have no name: every one says that a base has changed.",
    "dropbox": "Its notifications have no name: every one says that files have changed.",
    "gmail": "Its notifications have no name: every one says that a mailbox has changed.",
    "youtube": "The feed has no names: an entry is of a video, a deleted entry of a video that is gone.",
}
"""Providers in whose webhooks no event has a name that could be another one."""


@each_provider
def test_an_unknown_event_is_accepted(name: str, conversation: Conversation) -> None:
    """A provider that is rejected retries, holds back later events, and disables the webhook."""
    tried = 0
    for fixture in recorded(name):
        other = with_unknown_event(conversation.webhook, fixture) if fixture.expected.get("events") else None
        if other is None:
            continue
        other = replace(other, expected=evaluate_fixture(conversation.own, other))
        assert other.expected.get("events"), fixture.name
        case = next(each for each in conversation.cases if signed(each, other) is not None)
        endpoint = conversation.endpoint(case, other)
        request = conversation.signed(case, other, endpoint)
        assert request is not None
        answer = conversation.accepts(f"{fixture.name}: of an unknown kind", endpoint, other, request)
        if not 200 <= answer.status < 300:
            conversation.faults.append(f"{fixture.name}: of an unknown kind: {answer.status}")
        tried += 1
    assert bool(tried) is (name not in UNNAMED)
    conversation.finish()


@each_provider
def test_a_request_that_the_provider_did_not_sign_is_rejected(name: str, conversation: Conversation) -> None:
    for case in conversation.cases:
        found = conversation.first(case)
        if found is None:
            continue
        fixture, endpoint, request = found
        definition = case.provider.definition
        assert definition
        plain = fixture.request(case.provider, address=endpoint.url)
        tries = {
            "not signed": plain,
            "with another key": _signed_with(case.other, plain),
            **_spoiled(case, request),
        }
        for what, tried in tries.items():
            conversation.refuses(f"{case.name}: {what}", endpoint, tried)
        if case.window:
            past, future = case.window
            for what, at in (("stale", time() - past - 30), ("from the future", time() + future + 30)):
                late = conversation.signed(case, fixture, endpoint, at)
                assert late is not None
                conversation.refuses(f"{case.name}: {what}", endpoint, late)
        other = next(
            method
            for method in ("PATCH", "PUT", "DELETE", "POST", "GET", "OPTIONS")
            if method not in definition.methods
        )
        moved = InboundRequest(
            other, request.address, request.query_string, request.headers, request.body, {}, lambda _: None
        )
        conversation.refuses(f"{case.name}: with {other}", endpoint, moved, 405)
        conversation.accepts(f"{case.name}: after all that", endpoint, fixture, request)
    conversation.finish()


def _signed_with(signer: SchemeSigner, unsigned: InboundRequest) -> InboundRequest:
    return signer.sign(unsigned, time())


def _spoiled(case: Keyed, request: InboundRequest) -> dict[str, InboundRequest]:
    found: dict[str, InboundRequest] = {}
    if case.covers_body:
        found["with a changed body"] = with_changed_body(request)
        again = _as_another_writer_would(request)
        if again is not None:
            found["with a body that was serialized again"] = request.with_body(again)
    names = [name for name in case.headers if name in request.headers]
    if names:
        found["without its header"] = with_headers(request, {name: [] for name in names})
    for name in names:
        value = request.headers[name][0]
        found[f"with {name.decode()} twice"] = with_headers(request, {name: [value, value]})
        found[f"with {name.decode()} of garbage"] = with_headers(request, {name: [b"\xff garbage"]})
        found[f"with {name.decode()} empty"] = with_headers(request, {name: [b""]})
    return found


def _as_another_writer_would(request: InboundRequest) -> bytes | None:
    """The same JSON from a proxy or framework that parsed it: other blanks, other escapes."""
    try:
        value = json.loads(request.body)
    except ValueError:
        return None
    for blanks in ((", ", ": "), (",", ":")):
        text = json.dumps(value, separators=blanks).encode()
        if text != request.body:
            return text
    return None


@each_provider
def test_unicode_and_escapes_are_signed_as_they_were_sent(name: str, conversation: Conversation) -> None:
    for case in conversation.cases:
        found = conversation.first(case)
        if found is None:
            continue
        fixture, endpoint, request = found
        body = _with_odd_text(request)
        if body is None:
            continue
        odd = replace(fixture, body=body)
        again = conversation.signed(case, odd, endpoint)
        assert again is not None, case.name
        answer = conversation.accepts(f"{case.name}: with {body[:90]!r}", endpoint, fixture, again)
        if case.covers_body and b"\\u00e4" in again.body:
            changed = again.with_body(again.body.replace(b"\\u00e4", "ä".encode()))
            conversation.refuses(f"{case.name}: without its escapes", endpoint, changed)
        assert answer.status < 300
    conversation.finish()


def _with_odd_text(request: InboundRequest) -> bytes | None:
    r"""The body with one more field, in which the same letter is written in several spellings, and `\/`."""
    kind = media_type(request.header(b"content-type") or "application/json")
    if kind == FORM_CONTENT_TYPE:
        return request.body + b"&odd=%C3%A4+%F0%9F%98%80%2F%5C"
    start, brace, rest = request.body.partition(b"{")
    if not brace or start.strip() not in (b"", b"["):
        return None
    text = r'"odd_text":"\u00e4 \/ \ud83d\ude00 ä 😀 \\ \" \u0000",'.encode()
    return start + brace + (text if rest.strip() != b"}" else text.rstrip(b",")) + rest


@each_provider
def test_a_rotated_secret_is_accepted_beside_the_new_one(
    name: str, conversation: Conversation, caller: Caller
) -> None:
    for case in conversation.cases:
        found = conversation.first(case)
        if found is None or not case.signer.secret:
            continue
        fixture, _, _ = found
        settings = {**default_settings(case.provider), **fixture.settings}
        endpoint = conversation.create_endpoint(case.signer.secret, settings)
        plain = fixture.request(case.provider, address=endpoint.url)
        new = case.other
        path = f"/inbound-endpoints/{endpoint.id}/rotate-secret"
        conversation.refuses(f"{case.name}: with the new one, before", endpoint, _signed_with(new, plain))
        caller.call("POST", path, {"secret": new.secret})
        for what, signer in (("the new", new), ("the old", case.signer)):
            conversation.accepts(
                f"{case.name}: with {what} one", endpoint, fixture, _signed_with(signer, plain)
            )
        caller.call("POST", path, {"secret": new.secret, "overlap_hours": 0})
        conversation.refuses(f"{case.name}: with the old, after", endpoint, _signed_with(case.signer, plain))
    conversation.finish()


@pytest.mark.parametrize("name", having("source: ours"))
def test_a_generated_secret_verifies(name: str, conversation: Conversation) -> None:
    verified = 0
    for case in conversation.cases:
        found = conversation.first(case)
        if found is None or not case.signer.secret:
            continue
        fixture, _, _ = found
        endpoint = conversation.create_endpoint("", {**default_settings(case.provider), **fixture.settings})
        assert endpoint.secret
        own = SchemeSigner(case.signer.scheme, endpoint.secret, endpoint.secret.encode())
        theirs = _signed_with(case.signer, fixture.request(case.provider))
        if case.verdict(theirs, [endpoint.secret], time()) is VerificationResult.NO_SECRET:
            continue  # this scheme has a secret of another format
        plain = fixture.request(case.provider, address=endpoint.url)
        conversation.accepts(f"{case.name}: ours", endpoint, fixture, _signed_with(own, plain))
        verified += 1
    assert verified
    conversation.finish()


@pytest.mark.parametrize("name", having("\n  handshakes:"))
def test_handshakes(name: str, conversation: Conversation, caller: Caller) -> None:
    own = provider(name)
    definition = own.definition
    assert definition
    shaken = [fixture for fixture in recorded(name) if "handshake" in fixture.expected]
    assert shaken
    for fixture in shaken:
        declared = next(
            each for each in webhook_of(name).handshakes if each.about == fixture.expected["handshake"]
        )
        settings = {**default_settings(own), **fixture.settings}
        if declared.keeps:
            _hands_over(conversation, caller, fixture, SourceTemplate(declared.keeps), settings)
            continue
        case = _of_the_handshake(conversation, fixture) if declared.verified else conversation.cases[0]
        endpoint = conversation.create_endpoint(case.signer.secret, settings)
        request = fixture.request(own, address=endpoint.url)
        expected = evaluate_fixture(own, fixture, endpoint.secret)["answer"]
        if declared.verified:
            conversation.publish_key(case, request)
            conversation.refuses(f"{fixture.name}: not signed", endpoint, request)
            request = _signed_with(case.signer, request)
        if confirmed := fixture.expected.get("confirms"):
            conversation.confirm(confirmed, accepted=False)
            conversation.refuses(f"{fixture.name}: not confirmed", endpoint, request, 503)
            conversation.confirm(confirmed, accepted=True)
        answer = caller.send(request)
        conversation.answers(f"{fixture.name}", answer, expected)
        if declared.require:
            _requires(conversation, caller, fixture, endpoint, request)
    conversation.finish()


def _of_the_handshake(conversation: Conversation, fixture: Fixture) -> Keyed:
    """Return the scheme that signs a verified handshake."""
    return next(case for case in conversation.cases if signed(case, fixture) is not None)


def _requires(
    conversation: Conversation, caller: Caller, fixture: Fixture, endpoint: Endpoint, request: InboundRequest
) -> None:
    """An endpoint that expects another value refuses the handshake."""
    others = {name: f"another-{token_hex(8)}" for name in default_settings(conversation.own)}
    caller.call("PATCH", f"/inbound-endpoints/{endpoint.id}", {"settings": others})
    conversation.refuses(f"{fixture.name}: with another value", endpoint, request, 403)


def _hands_over(
    conversation: Conversation,
    caller: Caller,
    fixture: Fixture,
    keeps: SourceTemplate,
    settings: Mapping[str, str],
) -> None:
    """The secret in the handshake is stored once, verifies from then on, and is shown once."""
    own = conversation.own
    endpoint = conversation.create_endpoint("", settings)
    path = f"/inbound-endpoints/{endpoint.id}"
    assert caller.call("GET", path)["awaits"] == "handshake"
    [case] = conversation.cases
    found = conversation.first(case)
    assert found
    event = found[0]
    early = case.signer.sign(event.request(own, address=endpoint.url), time())
    conversation.refuses("before the handshake", endpoint, early, 503)
    request = fixture.request(own, address=endpoint.url)
    conversation.answers(fixture.name, caller.send(request), fixture.expected["answer"])
    secret = keeps.text(request)
    assert secret
    assert secret == fixture.expected["keeps"]
    assert caller.call("GET", path)["awaits"] is None
    signer = SchemeSigner(case.signer.scheme, secret, secret.encode())
    webhook = _signed_with(signer, event.request(own, address=endpoint.url))
    conversation.accepts("with the secret of the handshake", endpoint, event, webhook)
    conversation.refuses("with another", endpoint, early)
    another = replace_source(request, keeps.source, token_hex(len(secret) // 2))
    conversation.refuses("a second handshake", endpoint, another, 409)
    conversation.accepts("after a second handshake", endpoint, event, webhook)
    assert caller.call("POST", path + "/handed-over-secret") == {"secret": secret}
    caller.call("POST", path + "/handed-over-secret", expect=409)
    with_secret = conversation.create_endpoint(case.signer.secret, settings)
    late = fixture.request(own, address=with_secret.url)
    conversation.refuses("a handshake at an endpoint with a secret", with_secret, late, 409)


def test_a_key_at_an_internal_address_is_not_fetched(caller: Caller, platforms: ProviderKeys) -> None:
    """A user entered the name; the address that it resolves to is checked all the same."""
    keys = {"url": f"https://{INTERNAL}/key.pem", "hosts": [INTERNAL]}
    scheme = {"scheme": "rsa", "signature": {"header": "x-signature"}, "keys": keys}
    body = {"provider": "generic", "name": "test", "source": {"verification": [scheme]}}
    endpoint = caller.call("POST", "/inbound-endpoints", body, expect=201)
    request = InboundRequest(
        "POST", endpoint["url"], b"", {b"x-signature": [b"00" * 256]}, b"{}", {}, lambda _: None
    )
    answer = caller.send(request)
    assert (answer.status, answer.headers.get("retry-after")) == (503, "30")
    assert INTERNAL not in platforms.connected
    assert not platforms.faults


def test_unavailable_keys_are_a_503_and_fetched_sparingly(caller: Caller, platforms: ProviderKeys) -> None:
    """Forgeries with new URLs are limited before they flood the provider."""
    [case] = keyed("paypal")
    fixture = next(each for each in recorded("paypal") if each.expected.get("events"))
    endpoint = caller.endpoint("paypal", settings=default_settings(case.provider))
    request = fixture.request(case.provider, address=endpoint.url)
    before = len(platforms.requested)
    for number in range(200):
        gone = f"https://api.paypal.com/v1/notifications/certs/GONE-{number % 100}"
        forged = _signed_with(case.signer, request.with_header(b"paypal-cert-url", gone.encode()))
        assert caller.send(forged).status == 503
    asked = platforms.requested[before:]
    assert len(asked) == len(set(asked)) < 100, "each key once, and not all of them for one caller"


def test_the_executions_record_each_outcome(caller: Caller, log: dict[str, Sent]) -> None:
    """For every endpoint of the tests above: nothing was lost, and nothing was added."""
    faults: list[str] = []
    shown = eventually(lambda: _all_counted(caller, log))
    assert shown
    for endpoint, sent in log.items():
        events = sum(count for _, count, _, _ in sent.accepted)
        counts = (shown[endpoint]["trigger_count"], shown[endpoint]["error_count"])
        if counts != (events, sent.refused):
            faults.append(f"{sent.name}: {counts} triggered and refused, not {(events, sent.refused)}")
        if sent.accepted:
            faults += _differences(caller, endpoint, sent)
    assert not faults, "\n".join(faults)


def _all_counted(caller: Caller, log: dict[str, Sent]) -> dict[str, Any] | None:
    """The endpoints as the API shows them, when the last half second of counters is written."""
    found: dict[str, Any] = {}
    cursor = ""
    while True:
        page = caller.call("GET", f"/inbound-endpoints?limit=500{cursor}")
        found |= {each["id"]: each for each in page["items"]}
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    sums = (
        sum(each["trigger_count"] for each in found.values()),
        sum(each["error_count"] for each in found.values()),
    )
    wanted = (
        sum(count for sent in log.values() for _, count, _, _ in sent.accepted),
        sum(sent.refused for sent in log.values()),
    )
    return found if all(one >= other for one, other in zip(sums, wanted, strict=True)) else None


def _differences(caller: Caller, endpoint: str, sent: Sent) -> Iterator[str]:
    """What the executions say otherwise; those of one millisecond have no order."""
    page = caller.call("GET", f"/inbound-endpoints/{endpoint}/events?limit=500")
    actual = Counter(
        (each["events"], tuple(each["types"]), tuple(each["triggers"]), each["verdict"])
        for each in page["items"]
        if each["outcome"] in ("accepted", "duplicate")
    )
    expected = Counter(
        (count, tuple(types), tuple(triggers), "verified") for _, count, types, triggers in sent.accepted
    )
    for execution, times in (actual - expected).items():
        yield f"{sent.name}: {times} times too often: {execution}"
    for execution, times in (expected - actual).items():
        yield f"{sent.name}: {times} times missing: {execution}"
