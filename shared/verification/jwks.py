"""Keys of signed tokens: published as a JWKS document (RFC 7517), or an endpoint's secret."""

import base64
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import Key, OctKey, import_key

from shared.contracts.errors import Malformed
from shared.verification.public_key import is_acceptable_key
from shared.wire.bodies import parse_json

_MAX_KEYS: Final = 100

_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",)}
"""The encoded members of a public key by its type.

There is no `oct`: a shared key in a public document is no secret, since whoever reads it could sign.
"""

_ALGORITHMS: Final[Mapping[str, frozenset[str]]] = {
    "RSA": frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    "EC": frozenset({"ES256", "ES384", "ES512", "ES256K", "ES521"}),
    "OKP": frozenset({"EdDSA"}),
}
"""The values of `alg` with which a published key may sign."""

_COORDINATE_BYTES: Final = {"P-256": 32, "P-384": 48}


def select_keys(key_id: str | None, document: bytes) -> list[Key]:
    """Return the key of a JWKS document that a token names by its `kid`; every key if it names none."""
    return [key for item_id, key in _parse_jwks(document) if key_id is None or item_id == key_id]


@lru_cache(maxsize=64)
def _parse_jwks(document: bytes) -> list[tuple[Any, Key]]:
    """Return the usable keys of a JWKS document with their ids; keys that cannot be read are left out."""
    try:
        items = parse_json(document).get("keys", [])
    except (Malformed, AttributeError):
        return []
    keys: list[tuple[Any, Key]] = []
    for item in items[:_MAX_KEYS] if isinstance(items, list) else []:
        try:
            key = _import_public_key(item)
        except (JoseError, ValueError, TypeError, AttributeError, KeyError):
            continue
        if is_acceptable_key(key.public_key):
            keys.append((item.get("kid"), key))
    return keys


def _import_public_key(item: Any) -> Key:
    """Return the public key of a JWKS item. Raises one of several errors if it has none for signatures.

    Only the members of the key itself are imported, since joserfc refuses a key for others that are unusual,
    such as an unknown `use`.
    """
    kind, curve, algorithm = item["kty"], item.get("crv"), item.get("alg")
    if algorithm and algorithm not in _ALGORITHMS[kind]:
        raise ValueError("the key is not for signatures")
    encoded = {name: _normalize_base64(item[name]) for name in _MEMBERS[kind]}
    # joserfc would verify with it, though whoever reads the document could sign.
    if "d" in item:
        raise ValueError("the key is private")
    # joserfc reads shorter coordinates as numbers, and has curves that make no signatures (X25519).
    if kind == "EC" and any(len(raw) != _COORDINATE_BYTES[curve] for raw in map(_decode, encoded.values())):
        raise ValueError("the coordinates have another length than those of the curve")
    if kind == "OKP" and curve != "Ed25519" and not (curve == "Ed448" and algorithm):
        raise ValueError("the curve is not for signatures")
    return import_key({**encoded, "kty": kind, **({} if kind == "RSA" else {"crv": curve})})


def _decode(text: str) -> bytes:
    raw = text.encode()
    return base64.urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))


def _normalize_base64(text: str) -> str:
    """Return base64 as joserfc requires it. Providers also publish it with padding, `+` and `/`."""
    return base64.urlsafe_b64encode(_decode(text)).rstrip(b"=").decode()


_PEM: Final = re.compile(
    rb"----[- ]BEGIN ((?:[A-Z0-9]+ )*(?:KEY|CERTIFICATE|CERTIFICATE REQUEST|CRL|DH PARAMETERS))[- ]----"
)
_KEY_TYPE_MEMBER: Final = re.compile(rb'"kty"\s*:')
_SSH_PREFIXES: Final = (b"ssh-ed25519", b"ssh-rsa", b"ssh-dss", b"ecdsa-sha2-nistp")


def hmac_key(secret: bytes) -> OctKey:
    """Return the HMAC key of an endpoint's secret.

    Raises `Malformed` if the secret is empty, a certificate, or a key of another kind (PEM, DER, SSH, JWK):
    somebody pasted the wrong value, and a public key is no secret. joserfc refuses only public keys.
    """
    is_pem = any(secret.find(b"END " + match[1], match.end()) > 0 for match in _PEM.finditer(secret))
    if is_pem or secret.startswith(_SSH_PREFIXES) or _is_jwk(secret):
        raise Malformed("the secret is a key of another kind")
    try:
        return OctKey.import_key(secret)
    except ValueError as error:
        raise Malformed(f"the secret is not an HMAC key: {error}") from None


def _is_jwk(secret: bytes) -> bool:
    if not _KEY_TYPE_MEMBER.search(secret):
        return False
    try:
        parse_json(secret)
    except Malformed:
        return False
    return True
