"""Signed tokens in compact form (JWS, RFC 7515): how they are parsed, and whether a key signed them.

The algorithms are joserfc's. Its parser is not used, because it refuses tokens that issuers send (padding
behind a segment, a header above 512 bytes, an `x5u` that is no URL), takes the payload of a token with
`b64: false` unencoded, and raises `RecursionError` for a header that is nested too deep.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwa import JWS_ALGORITHMS, JWSAlgModel
from joserfc.jwk import Key
from joserfc.util import urlsafe_b64decode

from shared.contracts.errors import Malformed

_ALGORITHMS: Final[Mapping[str, JWSAlgModel]] = {model.name: model for model in JWS_ALGORITHMS}


@dataclass(frozen=True, slots=True)
class SignedToken:
    """A token whose signature has not been checked."""

    header: Mapping[str, Any]
    payload: bytes
    signed: bytes
    """Header and payload as they were sent: what the signature covers."""
    signature: bytes

    def is_signed_by(self, key: Key, algorithms: Sequence[str]) -> bool:
        """Return whether the key made the signature, with the algorithm that the header names.

        Raises `Malformed` if that is not one of `algorithms`, or is not for this type of key.
        """
        algorithm = self.header.get("alg")
        # The header is the sender's, so what it names counts only if the manifest allows it.
        if not isinstance(algorithm, str) or algorithm not in algorithms:
            raise Malformed("the token's algorithm is not allowed")
        model = _ALGORITHMS[algorithm]
        try:
            model.check_key(key)
            return model.verify(self.signed, self.signature, key)
        except (JoseError, ValueError, TypeError) as error:
            raise Malformed(f"the key is not for the token's algorithm: {error}") from None

    def claims(self) -> dict[str, Any]:
        """Return the payload as an object. Raises `Malformed` if it is none."""
        return _parse_object(self.payload)


def parse_token(text: str) -> SignedToken:
    """Parse a token. Raises `Malformed` if it is none, or needs an extension that is not supported."""
    try:
        signed, signature = text.encode().rsplit(b".", 1)
        header, payload = signed.split(b".", 1)
    except ValueError:
        raise Malformed("a token has three parts") from None
    token = SignedToken(_parse_object(_decode(header)), _decode(payload), signed, _decode(signature))
    if "kid" in token.header and not isinstance(token.header["kid"], str):
        raise Malformed("the id of the token's key is not a text")
    if not _is_understood(token.header):
        raise Malformed("the token needs an extension that is not supported")
    return token


def _is_understood(header: Mapping[str, Any]) -> bool:
    """Return whether the token needs no extension (`crit`), except `b64` (RFC 7797) with its default.

    With `b64: false` the payload is sent beside the token, which no provider does.
    """
    if header.get("b64", True) is False:
        return False
    if "crit" not in header:
        return True
    names = header["crit"]
    return isinstance(names, list) and bool(names) and all(name == "b64" and name in header for name in names)


def _decode(segment: bytes) -> bytes:
    """Decode one part of a token. Padding is allowed: some issuers write it."""
    text = segment.rstrip(b"=")
    padding = len(segment) - len(text)
    if padding > 2 or (padding and len(segment) % 4):
        raise Malformed("a part of the token has wrong padding")
    try:
        return urlsafe_b64decode(text)
    except ValueError:
        raise Malformed("a part of the token is not base64") from None


def _parse_object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("a part of the token is not JSON") from None
    if not isinstance(value, dict):
        raise Malformed("a part of the token is JSON, but not an object")
    return value
