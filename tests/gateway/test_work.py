"""What verifying one request costs: counted for generated descriptions, and bounded for every one of them."""

import gzip
import hashlib
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from time import process_time
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.gateway.ingest.endpoint import EventSelection, InboundEndpoint
from services.gateway.ingest.rate_limit import TokenBucket
from services.gateway.ingest.verify import BadSignature, Verifier
from shared.contracts.errors import InterlinkError, Malformed, Rejected
from shared.contracts.ids import EndpointId, WorkspaceId
from shared.manifests.registry import registry
from shared.manifests.sender_description import apply_description
from shared.manifests.webhook import WebhookDefinition
from shared.verification.public_key import parse_public_key
from shared.verification.request import SECRET_SETTING, InboundRequest
from shared.verification.scheme import VerificationResult
from shared.verification.sources import compile_source
from shared.verification.template import SignedContent, SourceTemplate
from shared.verification.work_counter import MAX_HASHED_BYTES, MAX_PUBLIC_KEY_CHECKS, hash_limit
from shared.wire.bodies import MAX_FORM_FIELDS, parse_urlencoded
from shared.wire.template import MAX_SOURCES, TemplateError
from tests.verification.builders import EDWARDS, b64, check, make_scheme, public_pem, request

SIZE: Final = 300_000
MAX_TIMES: Final = 5
"""How often one SHA-256 and one JSON parse of the body may be done for its verification."""
FIXED: Final = 512 * 1024
"""Bytes that may be hashed or parsed for any request, however small its body is."""


def endpoint(source: Mapping[str, Any], secrets: Sequence[bytes]) -> InboundEndpoint:
    """An endpoint whose owner describes the sender."""
    generic = registry().providers["generic"]
    assert generic.manifest.webhook
    keys: Sequence[tuple[bytes, datetime | None]] = [(secret, None) for secret in secrets]
    return InboundEndpoint(
        id=EndpointId("ep_1"),
        workspace=WorkspaceId("w"),
        provider=generic,
        definition=WebhookDefinition(apply_description(generic.manifest.webhook, source)),
        address="https://hub.example.com/api/webhooks/generic/ep_1",
        channel_id="",
        enabled=True,
        keys=tuple(keys),
        settings={SECRET_SETTING: secrets[0].decode()},
        require_signature=True,
        networks=(),
        body_limit=None,
        dedupe_window_s=None,
        message_events=EventSelection(()),
        accepted=TokenBucket(1),
        recorded_rejections=TokenBucket(1),
    )


class _NoKeys:
    """No platform publishes keys here."""

    async def get(self, url: str, *, workspace: str = "", refresh: bool = False) -> None:
        raise AssertionError(url, workspace, refresh)


VERIFIER = Verifier(cast("Any", _NoKeys()))


def verify(own: InboundEndpoint, sent: InboundRequest, raw: bytes) -> VerificationResult:
    """The verdict, after what the gateway does before: looking for a handshake, and choosing the scheme."""
    assert own.definition
    own.definition.handshake(sent)
    try:
        VERIFIER.verify(own, own.definition, sent, raw).send(None)
        raise AssertionError("it waits for something")
    except StopIteration as ended:
        return VerificationResult(ended.value)
    except BadSignature as error:
        return error.verdict
    except Rejected:
        return VerificationResult.UNREADABLE


def asked(own: InboundEndpoint, body: bytes, kind: str, query: bytes = b"") -> InboundRequest:
    """A forged request that has a proof of every kind."""
    assert own.definition
    signature = ",".join(f"v1={'ab' * 32}" for _ in range(8))
    headers = {
        b"content-type": [kind.encode()],
        b"x-sign": [signature.encode()],
        b"x-time": [b"1800000000"],
        b"x-token": [b"not the token"],
        b"x-digest": [b"ab" * 32],
        b"authorization": [b"Bearer eyJhbGciOiJIUzI1NiJ9.e30.AAAA"],
    }
    return own.definition.request("POST", own.address, query, headers, body, own.settings)


SIGNATURE = {"header": "x-sign", "separator": ",", "field": "v1"}
_PIECES = st.sampled_from(
    ["{sha256}", "{crc32}", "{sorted_form}", "{url}", "{json:big}", "{item:big}", "{item_sha256}", "text"]
) | st.sampled_from(["{form:a}", "{query:a}", "{timestamp}", "{header:x-time}", "{key:big|a}", "{method}"])
_TEXTS = st.lists(_PIECES, max_size=7, unique=True).map(lambda pieces: "{body}" + "".join(pieces))
_ALGORITHMS = st.sampled_from(["sha1", "sha256", "sha512"])
_STAMP = st.none() | st.just({"from": "{header:x-time}", "tolerance_s": 604800})
_VALUES = st.sampled_from(["present", "absent", "{json:big}", "{sha256}", "x", ["a", "b"]])
_NAMES = st.sampled_from(
    ["json:big", "item:big", "json:a.0.b", "sha256", "crc32", "item_sha256", "sorted_form", "form:a"]
)
_RULES: st.SearchStrategy[dict[str, Any]] = (
    st.just({})
    | st.just({"sha256": "present", "json:nothing": "absent"})
    | st.dictionaries(_NAMES, _VALUES, max_size=6)
)
_SIGNED_WITH = {
    "signature": st.just(SIGNATURE),
    "signed": st.lists(_TEXTS, min_size=1, max_size=3),
    "algorithm": _ALGORITHMS,
    "timestamp": _STAMP,
    "body_hash": st.none() | st.just({"from": "{header:x-digest}"}),
    "require": _RULES,
    "when": _RULES,
}
_SCHEMES = st.one_of(
    st.fixed_dictionaries({"scheme": st.just("hmac"), **_SIGNED_WITH}),
    st.fixed_dictionaries(
        {
            "scheme": st.just("digest"),
            **_SIGNED_WITH,
            "signed": st.lists(_TEXTS.map(lambda text: text + "{secret}"), min_size=1, max_size=3),
        }
    ),
    st.fixed_dictionaries(
        {
            "scheme": st.just("token"),
            "from": st.sampled_from(["{header:x-token}", "{json:big}", "{form:a}"]),
            "when": _RULES,
            "require": _RULES,
        }
    ),
    st.just({"scheme": "token", "from": "{item:token}", "each": "list"}),
    st.fixed_dictionaries(
        {
            "scheme": st.just("jwt"),
            "algorithms": st.just(["HS256"]),
            "body_hash": st.none() | st.just({"claim": "h"}),
            "require": _RULES,
        }
    ),
)
_BODIES = st.fixed_dictionaries(
    {},
    optional={
        "form": st.sampled_from(["flat", "brackets"]),
        "form_field": st.just("payload"),
        "text": st.booleans(),
        "decoded": st.just({"inner": {"path": "big"}}),
    },
)
_HANDSHAKE = st.fixed_dictionaries(
    {
        "about": st.just("x"),
        "when": st.dictionaries(_NAMES, _VALUES, min_size=1, max_size=6),
        "answer": st.just({"text": "{json:big}"}),
    }
)
SOURCES = st.fixed_dictionaries(
    {
        "verification": st.lists(_SCHEMES, min_size=1, max_size=5),
        "handshakes": st.lists(_HANDSHAKE, max_size=5),
        "body": _BODIES,
    }
)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


JSON_BODIES: Final[Mapping[str, bytes]] = {
    "a long text": b'{"a":[{"b":1}],"big":"' + b"x" * SIZE + b'"}',
    "JSON in JSON": orjson.dumps({"big": '{"z":"' + "y" * (SIZE - 30) + '"}'}),
    "many objects": b'{"big":1,"list":[' + b"{}," * (SIZE // 3) + b"{}]}",
    "many keys": b"{" + b",".join(b'"k%d":%d' % (n, n) for n in range(SIZE // 13)) + b"}",
    "broken at its end": b'{"big":[' + b"1," * (SIZE // 2) + b"]",
}
FORM_BODIES: Final[Mapping[str, bytes]] = {
    "a form of escapes": b"a=1&payload=" + b"%41" * (SIZE // 3),
    "a form of fields": b"&".join(b"f%d=%s" % (n, b"v" * (SIZE // 1000)) for n in range(900)),
}
BODIES_AND_TYPES = [(body, "application/json") for body in JSON_BODIES.values()]
BODIES_AND_TYPES += [(body, "application/x-www-form-urlencoded") for body in FORM_BODIES.values()]


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    source=SOURCES.map(_without_none),
    number=st.integers(1, 10),
    sent=st.sampled_from(BODIES_AND_TYPES),
    zipped=st.booleans(),
    small=st.booleans(),
)
def test_verifying_costs_at_most_five_times_a_digest_and_a_parse(
    source: dict[str, Any], number: int, sent: tuple[bytes, str], zipped: bool, small: bool
) -> None:
    body, kind = sent
    if small:
        body = body[:300]
    own = endpoint(source, [b"secret %d of ten" % n for n in range(number)])
    request_ = asked(own, body, kind, b"a=1")
    verdict = verify(own, request_, gzip.compress(body) if zipped else body)
    assert verdict is not VerificationResult.VERIFIED
    work = request_.work
    assert work.hashed_bytes <= min(MAX_HASHED_BYTES, hash_limit(len(body)))
    assert work.hashed_bytes <= MAX_TIMES * len(body) + FIXED
    assert work.parsed_bytes <= MAX_TIMES * len(body) + FIXED
    assert work.hashed_bytes + work.parsed_bytes <= MAX_TIMES * 2 * len(body) + FIXED
    assert work.public_key_checks <= MAX_PUBLIC_KEY_CHECKS


def _seconds(step: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        started = process_time()
        step()
        best = min(best, process_time() - started)
    return best


WORST: Final[Mapping[str, Any]] = {
    "verification": [
        {
            "scheme": "hmac",
            "signature": SIGNATURE,
            "signed": ["{body}{method}", "{body}.{timestamp}", "{body}{url}"],
            "timestamp": {"from": "{header:x-time}"},
            "require": {"json:y": "absent", "item:z": "absent", "sha256": "present"},
        }
    ],
    "handshakes": [
        {"about": "x", "when": {"json:zzz": "present", "item:y": f"{n}"}, "answer": {"text": "x"}}
        for n in range(5)
    ],
}


def test_the_time_that_it_takes_is_of_that_order() -> None:
    """Over bodies of all kinds together, with twice the room: time is not counted, bytes are."""
    own = endpoint(WORST, [b"secret %d of ten" % n for n in range(10)])
    verifying = once = 0.0
    for body in JSON_BODIES.values():
        large = body.replace(b"xxxx", b"x" * 16)
        verifying += _seconds(partial(_verify_again, own, large))
        once += _seconds(partial(_digest_and_parse, large))
    assert verifying < 2 * MAX_TIMES * once + 0.05


def _verify_again(own: InboundEndpoint, body: bytes) -> None:
    verify(own, asked(own, body, "application/json"), body)


def _digest_and_parse(body: bytes) -> None:
    hashlib.sha256(body).digest()
    with suppress(orjson.JSONDecodeError):
        orjson.loads(body)


def test_no_copies_of_a_body_are_made() -> None:
    own = endpoint(WORST, [b"secret %d of ten" % n for n in range(10)])
    body = JSON_BODIES["a long text"]
    assert verify(own, asked(own, body, "application/json"), body) is VerificationResult.TOO_COSTLY
    sent = asked(own, body, "application/json")
    _ = sent.payload
    tracemalloc.start()
    try:
        assert verify(own, sent, body) is VerificationResult.TOO_COSTLY
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(body) / 4


# What may be said at all


def _many(count: int) -> str:
    return "".join(f"{{json:a{number}}}" for number in range(count))


@pytest.mark.parametrize(
    "signed", ["{body}" * 5000, "{body}" * 2, "{body}{json:a}{json:a}", "{body}" + _many(10)]
)
def test_a_text_that_is_signed_has_few_sources_and_each_once(signed: str) -> None:
    with pytest.raises(TemplateError):
        SignedContent(signed)
    assert SignedContent(_many(MAX_SOURCES)).content(request()) is None


def test_a_template_makes_no_long_text() -> None:
    long = request(body=orjson.dumps({"a": "x" * 16_385, "b": "x" * 9000, "c": "x" * 16_384}))
    assert SourceTemplate("{json:a}").text(long) is None
    assert SourceTemplate("{json:b}{json:b}").text(long) is None
    assert SourceTemplate("{json:c}").text(long) == "x" * 16_384


def test_what_could_not_be_compiled_is_refused() -> None:
    with pytest.raises(TemplateError):
        compile_source("hmac_sha256_hex:" * 2000 + "json:a")
    assert compile_source("json:" + "9" * 5000)(request(body=b"[1]")) is None


def test_a_body_that_is_no_json_is_read_once() -> None:
    asked_ = request(body=b"[" * 100_000)
    for _ in range(50):
        with pytest.raises(Malformed):
            _ = asked_.payload
    assert asked_.work.parsed_bytes == len(asked_.body)
    batch = request(query=b"a=1&b=2", body=b'[{"x":1}]')
    for element in [{"x": n} for n in range(100)]:
        assert compile_source("query:b")(batch.for_event(batch.payload, element)) == "2"
    assert batch.work.parsed_bytes == len(batch.body) + len(b"a=1&b=2")


# Limits of single schemes


def test_the_newest_secret_that_verifies_ends_the_search() -> None:
    body = b'{"a":"' + b"x" * 2_000_000 + b'"}'
    mac = make_scheme(scheme="hmac", signature={"header": "x-sign"}, signed=["{body}", "{body}{method}"])
    plain = request(body=body)
    first = mac.sign(plain, b"the new one", 0)
    first.work.limit()
    assert mac.verify(first, [b"the new one", b"an old one", b"an older"], 0) is VerificationResult.VERIFIED
    assert first.work.hashed_bytes == len(body)
    other = mac.sign(plain, b"nobody's", 0)
    other.work.limit()
    with pytest.raises(InterlinkError):
        mac.verify(other, [b"the new one", b"an old one", b"an older"], 0)
    assert len(body) * 2 < other.work.hashed_bytes <= MAX_HASHED_BYTES


@pytest.mark.parametrize("count", [MAX_PUBLIC_KEY_CHECKS, MAX_PUBLIC_KEY_CHECKS + 1])
def test_few_signatures_of_public_keys_are_checked(count: int) -> None:
    pairs = make_scheme(
        scheme="ed25519", signature={"header": "x-sign", "encoding": "base64", "separator": " "}
    )
    sent = request({"x-sign": " ".join([b64(bytes(64))] * count)}, b"{}")
    sent.work.limit()
    expected = (
        VerificationResult.MISMATCH if count == MAX_PUBLIC_KEY_CHECKS else VerificationResult.UNREADABLE
    )
    assert check(pairs, sent, public_pem(EDWARDS)) is expected
    repeat = request({"x-sign": " ".join([b64(bytes(64))] * 6)}, b"{}")
    repeat.work.limit()
    with pytest.raises(InterlinkError):
        check(pairs, repeat, public_pem(EDWARDS), public_pem(EDWARDS))


def test_a_key_that_takes_long_to_check_is_none() -> None:
    """A large exponent or modulus makes one check of a stranger's signature take milliseconds."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    def pem(key: Any) -> bytes:
        return bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    modulus = (1 << 2047) + 1
    assert parse_public_key("rsa", pem(rsa.RSAPublicNumbers(65537, modulus).public_key())) is not None
    assert parse_public_key("rsa", pem(rsa.RSAPublicNumbers((1 << 2000) + 1, modulus).public_key())) is None
    assert parse_public_key("rsa", pem(rsa.RSAPublicNumbers(65537, (1 << 8191) + 1).public_key())) is None
    assert parse_public_key("ecdsa", pem(ec.generate_private_key(ec.SECP521R1()).public_key())) is None
    assert parse_public_key("ecdsa", pem(ec.generate_private_key(ec.SECP256R1()).public_key())) is not None


def test_a_batch_of_tokens_has_as_many_elements_as_a_batch() -> None:
    graph = make_scheme(scheme="token", **{"from": "{item:s}"}, each="value")
    few = orjson.dumps({"value": [{"s": "k"}] * 2000})
    assert check(graph, request(body=few), b"k") is VerificationResult.VERIFIED
    with pytest.raises(Rejected):
        check(graph, request(body=b'{"value":[' + b"{}," * 300_000 + b"{}]}"), b"k")


# Forms


@given(
    st.lists(
        st.sampled_from(["a", "=", "&", "+", "%", "%41", "%2b", "%c3%a4", "%ff", "%0a", "%3D"])
        | st.sampled_from(["=\r\n", "\n", " ", "\r", "_", "%4", "\t"]),
        max_size=12,
    ).map("".join)
)
@settings(max_examples=500)
def test_a_form_is_read_as_the_standard_library_reads_it(text: str) -> None:
    try:
        expected = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS)
    except ValueError:
        with pytest.raises(Malformed):
            parse_urlencoded(text.encode(), "body")
        return
    assert parse_urlencoded(text.encode(), "body") == expected


def test_a_form_has_few_broken_escapes() -> None:
    assert parse_urlencoded(b"a=" + b"%" * 999, "body") == [("a", "%" * 999)]
    with pytest.raises(Malformed):
        parse_urlencoded(b"a=" + b"%" * 900_000, "body")


def test_every_providers_largest_body_can_be_verified() -> None:
    """With the newest secret, whatever its scheme hashes."""
    for provider in registry().providers.values():
        if provider.definition:
            for scheme in provider.definition.schemes:
                assert scheme.hash_passes * provider.definition.max_body < MAX_HASHED_BYTES
                assert scheme.hash_passes <= 4, provider.id
