"""Cost of signature schemes: one verification of 1.5 KB, and the gateway with cheapest and dearest."""

from collections.abc import Mapping
from statistics import median
from time import perf_counter
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter

from bench.stages import Bench, Target
from bench.system import System
from bench.webhook import body
from shared.manifests.schemes import SchemeSpec
from shared.verification.request import InboundRequest
from shared.verification.scheme import SchemeVerifier as Compiled
from shared.verification.scheme import VerificationResult

_NOW: Final = 1_800_000_000.0
_ROUNDS: Final = 7
_ROUND_S: Final = 0.05
"""Length of one round."""
_HEADER: Final = "x-signature"
_SIGNATURE: Final = {"header": _HEADER}
_TIMED: Final = {"signed": "{timestamp}.{body}", "timestamp": {"from": "{header:x-time}"}}

SCHEMES: Final[Mapping[str, Mapping[str, Any]]] = {
    "token in a header": {"scheme": "token", "from": f"{{header:{_HEADER}}}"},
    "basic": {"scheme": "basic"},
    "HMAC-SHA1": {"scheme": "hmac", "signature": _SIGNATURE, "algorithm": "sha1"},
    "HMAC-SHA256": {"scheme": "hmac", "signature": _SIGNATURE},
    "HMAC-SHA256 of time and body": {"scheme": "hmac", "signature": _SIGNATURE, **_TIMED},
    "HMAC-SHA512": {"scheme": "hmac", "signature": _SIGNATURE, "algorithm": "sha512"},
    "digest with the secret": {"scheme": "digest", "signature": _SIGNATURE, "signed": "{secret}{body}"},
    "Ed25519": {"scheme": "ed25519", "signature": _SIGNATURE, "key": {"form": "hex"}},
    "RSA-2048 SHA-256": {"scheme": "rsa", "signature": _SIGNATURE},
    "ECDSA P-256 SHA-256": {"scheme": "ecdsa", "signature": _SIGNATURE},
    "JWT HS256": {"scheme": "jwt", "algorithms": ["HS256"]},
}
_SCHEME: Final[TypeAdapter[Any]] = TypeAdapter(SchemeSpec)


def schemes(bench: Bench) -> dict[str, Any]:
    """Return microseconds of each verification (median of rounds), and rates of the gateway."""
    costs = {name: _cost(*_signed(declared)) for name, declared in SCHEMES.items()}
    for name, us in costs.items():
        bench.say(f"verification, {name}: {us:.1f} us")
    ranked = sorted(costs, key=lambda name: costs[name])
    return {"us": costs, "gateway": _through_the_gateway(bench, ranked[0], ranked[-1])}


def _signed(declared: Mapping[str, Any]) -> tuple[Compiled, InboundRequest, bytes]:
    """Return a compiled scheme, a request that is signed with it, and the endpoint's secret."""
    scheme: Compiled = _SCHEME.validate_python(declared).compile()
    secret, key = _keys(str(declared["scheme"]))
    headers = {b"content-type": [b"application/json"]}
    unsigned = InboundRequest("POST", "https://hub.example.com/x", b"", headers, body(), {}, lambda _: None)
    return scheme, scheme.sign(unsigned, key, _NOW), secret


def _keys(scheme: str) -> tuple[bytes, bytes]:
    """Return the endpoint's secret and the key that signs."""
    private: Any
    if scheme == "ed25519":
        private = Ed25519PrivateKey.generate()
    elif scheme == "ecdsa":
        private = ec.generate_private_key(ec.SECP256R1())
    elif scheme == "rsa":
        private = rsa.generate_private_key(65537, 2048)
    else:
        secret = b"user:a secret that is long enough, as they are"
        return secret, secret
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key()
    if scheme == "ed25519":
        return public.public_bytes_raw().hex().encode(), pem
    return (
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        pem,
    )


def _cost(scheme: Compiled, request: InboundRequest, secret: bytes) -> float:
    rounds: list[float] = []
    for _ in range(_ROUNDS):
        count = 0
        started = perf_counter()
        while perf_counter() - started < _ROUND_S:
            for _ in range(20):
                assert scheme.verify(request, [secret], _NOW) is VerificationResult.VERIFIED
            count += 20
        rounds.append((perf_counter() - started) / count * 1e6)
    return median(rounds)


def _through_the_gateway(bench: Bench, cheapest: str, dearest: str) -> dict[str, Any]:
    """Measure CPU microseconds per request and requests per second of both schemes, in turn."""
    measured: dict[str, Any] = {name: {"us": [], "per_s": []} for name in (cheapest, dearest)}
    with bench.hub("schemes", "gateway") as hub:
        targets = {name: _target(hub, SCHEMES[name]) for name in measured}
        for target in targets.values():
            bench.load(target, min(1.5, bench.plan.gateway_s))
        for _ in range(bench.plan.rounds):
            for name, target in targets.items():
                us, per_s = bench.load(target, bench.plan.gateway_s)
                measured[name]["us"].append(us)
                measured[name]["per_s"].append(per_s)
    medians = {
        name: {unit: median(values) for unit, values in rounds.items()} for name, rounds in measured.items()
    }
    for name, values in medians.items():
        bench.say(f"gateway, {name}: {values['us']:.0f} us, {values['per_s']:,.0f}/s")
    return {
        "cheapest": cheapest,
        "dearest": dearest,
        "per_s": {name: values["per_s"] for name, values in medians.items()},
        "times": medians[dearest]["us"] / medians[cheapest]["us"],
    }


def _target(hub: System, declared: Mapping[str, Any]) -> Target:
    _, signed, secret = _signed(declared)
    new = {
        "provider": "generic",
        "name": "bench",
        "secret": secret.decode(),
        "rate_limit": 100_000_000,
        "source": {"verification": [dict(declared)]},
    }
    endpoint = hub.call("POST", "/api/inbound-endpoints", new, expect=201)
    headers = {name: values[0] for name, values in signed.headers.items()}
    payload = body()
    lines = [
        f"POST /api/webhooks/generic/{endpoint['id']} HTTP/1.1",
        f"Host: 127.0.0.1:{hub.ports['gateway']}",
        f"Content-Length: {len(payload)}",
        *(f"{name.decode()}: {value.decode()}" for name, value in headers.items()),
        "webhook-id: ",
    ]
    return Target(hub.pid("gateway"), hub.ports["gateway"], ["\r\n".join(lines)])
