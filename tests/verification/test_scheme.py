"""What the signature schemes share: secrets, times, signatures in headers, signed content, body hashes."""

import base64
import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Malformed
from shared.verification.scheme import SecretFormat, TimestampCheck, VerificationResult
from tests.verification.builders import (
    ADDRESS,
    BODY,
    NOW,
    SECRET,
    STRIPE,
    check,
    hmac_hex,
    make_scheme,
    request,
)

# Secrets


@pytest.mark.parametrize(
    ("form", "secret", "key"),
    [
        (SecretFormat(), b"text", b"text"),
        (SecretFormat(), b"", b""),
        (SecretFormat("hex"), b"00ff", b"\x00\xff"),
        (SecretFormat("hex"), b"xyz", None),
        (SecretFormat("base64"), b"AP8=", b"\x00\xff"),
        (SecretFormat("base64"), b"!", None),
        (SecretFormat("base64", "whsec_"), b"whsec_AP8=", b"\x00\xff"),
        (SecretFormat("base64", "whsec_"), b"AP8=", None),
        (SecretFormat("base64", "whsec_"), b"WHSEC_AP8=", None),
        (SecretFormat("base64", "whsec_", "base64"), b"AP8=", b"\x00\xff"),
        (SecretFormat("base64", "whsec_", "text"), b"plain", b"plain"),
        (SecretFormat("text", except_prefix="whsec_"), b"whsec_AP8=", None),
        (SecretFormat("text", except_prefix="whsec_"), b"plain", b"plain"),
    ],
)
def test_a_secret_becomes_a_key(form: SecretFormat, secret: bytes, key: bytes | None) -> None:
    assert form.key(secret) == key


def test_only_secrets_of_this_scheme_are_keys() -> None:
    """An empty key would make every signature with an empty key right."""
    form = SecretFormat("base64", "whsec_")
    assert form.keys([b"whsec_AP8=", b"other", b"whsec_", b"whsec_!"]) == [b"\x00\xff"]


@given(
    st.binary(min_size=1, max_size=40), st.sampled_from(["hex", "base64"]), st.sampled_from(["", "whsec_"])
)
def test_a_key_is_written_as_it_is_read(key: bytes, form: Any, prefix: str) -> None:
    whole = SecretFormat(form, prefix)
    assert whole.key(whole.encode(key).encode()) == key


# Times


@pytest.mark.parametrize(
    ("moment", "text", "unix"),
    [
        ("seconds", "1700000000", 1_700_000_000.0),
        ("seconds", "0", 0.0),
        ("seconds", "01700000000", 1_700_000_000.0),
        ("seconds", "-1", None),
        ("seconds", "1700000000.5", None),
        ("seconds", " 1700000000", None),
        ("seconds", "1e9", None),
        ("seconds", "", None),
        ("seconds", "\u0661\u0667" + "\u0660" * 8, None),
        ("seconds", "1" * 17, None),
        ("seconds", "\u00b2", None),
        ("milliseconds", "1700000000123", 1_700_000_000.123),
        ("rfc3339", "2023-11-14T22:13:20Z", 1_700_000_000.0),
        ("rfc3339", "2023-11-14T22:13:20.5+00:00", 1_700_000_000.5),
        ("rfc3339", "2023-11-15T00:13:20+02:00", 1_700_000_000.0),
        ("rfc3339", "2023-11-14T22:13:20", None),
        ("rfc3339", "2023-11-14", None),
        ("rfc3339", "yesterday", None),
        ("rfc3339", "2023-13-14T22:13:20Z", None),
    ],
)
def test_a_time(moment: Any, text: str, unix: float | None) -> None:
    assert TimestampCheck(None, moment).parse_unix(text) == unix


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_at_the_end_of_the_calendar_is_stale_and_no_error(text: str) -> None:
    assert TimestampCheck(None, "rfc3339").check(text, NOW) is VerificationResult.STALE


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [
        (0, VerificationResult.VERIFIED),
        (300, VerificationResult.VERIFIED),
        (301, VerificationResult.STALE),
        (-60, VerificationResult.VERIFIED),
        (-61, VerificationResult.STALE),
        (-(10**9), VerificationResult.STALE),
        (10**9, VerificationResult.STALE),
    ],
)
def test_how_far_off_a_time_may_be(seconds: int, verdict: VerificationResult) -> None:
    stamp = TimestampCheck(None, "seconds", 300, 60)
    assert stamp.check(str(int(NOW) - seconds), NOW) is verdict


@pytest.mark.parametrize("moment", ["seconds", "milliseconds", "rfc3339"])
def test_a_time_is_written_as_it_is_read(moment: Any) -> None:
    stamp = TimestampCheck(None, moment)
    assert stamp.parse_unix(stamp.encode(NOW)) == NOW


# Signatures in a header


def pairs(*signatures: str, at: float = NOW, field: str = "v1") -> str:
    return ",".join([f"t={int(at)}", *(f"{field}={item}" for item in signatures)])


GOOD = hmac_hex(SECRET, f"{int(NOW)}.".encode() + BODY)


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (pairs(GOOD), VerificationResult.VERIFIED),
        (pairs("00" * 32, GOOD), VerificationResult.VERIFIED),
        (pairs(GOOD, "00" * 32), VerificationResult.VERIFIED),
        (pairs("zz", GOOD), VerificationResult.VERIFIED),
        (f"v1={GOOD},t={int(NOW)}", VerificationResult.VERIFIED),
        (f"t={int(NOW)}, v1={GOOD}", VerificationResult.VERIFIED),
        (pairs("00" * 32), VerificationResult.MISMATCH),
        (pairs(GOOD, field="v0"), VerificationResult.UNREADABLE),
        (pairs(GOOD, field="V1"), VerificationResult.UNREADABLE),
        (pairs(GOOD, at=NOW - 1), VerificationResult.MISMATCH),
        (f"v1={GOOD}", VerificationResult.UNREADABLE),
        (f"t=,v1={GOOD}", VerificationResult.UNREADABLE),
        (f"t={int(NOW)}", VerificationResult.UNREADABLE),
        (GOOD, VerificationResult.UNREADABLE),
        ("", VerificationResult.UNREADABLE),
        (",,,", VerificationResult.UNREADABLE),
        (f"t={int(NOW)};v1={GOOD}", VerificationResult.UNREADABLE),
        (f"t={int(NOW)},t={int(NOW) + 1},v1={GOOD}", VerificationResult.MISMATCH),
        (f"t={int(NOW) + 1},v1={GOOD},t={int(NOW)}", VerificationResult.VERIFIED),
    ],
)
def test_a_header_of_pairs(value: str, verdict: VerificationResult) -> None:
    assert check(STRIPE, request({"x-sig": value}), SECRET) is verdict


def test_a_time_that_is_signed_and_old_is_stale_and_not_a_mismatch() -> None:
    """People look for the wrong secret for hours when their clock is wrong."""
    old = request({"x-sig": pairs(hmac_hex(SECRET, f"{int(NOW) - 400}.".encode() + BODY), at=NOW - 400)})
    assert check(STRIPE, old, SECRET) is VerificationResult.STALE
    assert check(STRIPE, old, b"another secret") is VerificationResult.MISMATCH


def test_several_headers_of_which_any_may_match() -> None:
    box = make_scheme(scheme="hmac", signature={"header": ["x-primary", "x-secondary"], "encoding": "base64"})
    good = base64.b64encode(hmac.digest(SECRET, BODY, "sha256")).decode()
    wrong = base64.b64encode(bytes(32)).decode()
    for headers in (
        {"x-primary": good},
        {"x-secondary": good},
        {"x-primary": wrong, "x-secondary": good},
        {"x-primary": good, "x-secondary": wrong},
        {"x-primary": "", "x-secondary": good},
    ):
        assert check(box, request(headers), SECRET) is VerificationResult.VERIFIED, headers
    assert (
        check(box, request({"x-primary": wrong, "x-secondary": wrong}), SECRET) is VerificationResult.MISMATCH
    )
    assert check(box, request({"x-primary": [good, good]}), SECRET) is VerificationResult.DOUBLED
    assert (
        check(box, request({"x-primary": good, "x-secondary": [wrong, good]}), SECRET)
        is VerificationResult.DOUBLED
    )


def test_prefixes_that_are_alternatives() -> None:
    scheme = make_scheme(scheme="hmac", signature={"header": "x-sig", "prefix": ["sha256=", ""]})
    good = hmac_hex(SECRET, BODY)
    for value in (f"sha256={good}", good, good.upper()):
        assert check(scheme, request({"x-sig": value}), SECRET) is VerificationResult.VERIFIED, value
    for value in (f"sha512={good}", f"sha256={good} x", f"sha256=sha256={good}"):
        assert check(scheme, request({"x-sig": value}), SECRET) is VerificationResult.UNREADABLE, value


def test_several_signatures_with_a_version_before_each() -> None:
    standard = make_scheme(
        scheme="hmac",
        signature={"header": "x-sig", "encoding": "base64", "prefix": "v1,", "separator": " "},
        key={"form": "base64", "prefix": "whsec_"},
    )
    key = base64.b64encode(SECRET)
    good = "v1," + base64.b64encode(hmac.digest(SECRET, BODY, "sha256")).decode()
    secret = b"whsec_" + key
    for value, verdict in (
        (good, VerificationResult.VERIFIED),
        (f"v1,AAAA {good}", VerificationResult.VERIFIED),
        (f"v2,AAAA {good} v1a,AAAA", VerificationResult.VERIFIED),
        (good.replace("v1,", "v2,"), VerificationResult.UNREADABLE),
        (good.replace("v1,", "v1a,"), VerificationResult.UNREADABLE),
        (good.replace("v1,", "v1"), VerificationResult.UNREADABLE),
    ):
        assert check(standard, request({"x-sig": value}), secret) is verdict, value
    assert check(standard, request({"x-sig": good}), key) is VerificationResult.NO_SECRET


def test_texts_that_are_signed_alternatively() -> None:
    scheme = make_scheme(
        scheme="hmac",
        signature={"header": "x-sig"},
        signed=["{url_with_port}{body}", "{url_without_port}{body}"],
    )
    for url in (b"https://hub.example.com:443/api/webhooks/x/ep_1", ADDRESS.encode()):
        assert (
            check(scheme, request({"x-sig": hmac_hex(SECRET, url + BODY)}), SECRET)
            is VerificationResult.VERIFIED
        )
    assert check(scheme, request({"x-sig": hmac_hex(SECRET, BODY)}), SECRET) is VerificationResult.MISMATCH


def test_an_alternative_whose_part_is_missing_does_not_count() -> None:
    """A text that lacks a part is no shorter text: a stranger could leave out what he cannot forge."""
    scheme = make_scheme(
        scheme="hmac", signature={"header": "x-sig"}, signed=["{header:x-id}{body}", "v2:{header:x-id}{body}"]
    )
    assert check(scheme, request({"x-sig": hmac_hex(SECRET, BODY)}), SECRET) is VerificationResult.MISMATCH
    assert check(scheme, request({"x-sig": hmac_hex(SECRET, b"v2:")}), SECRET) is VerificationResult.MISMATCH
    named = request({"x-sig": hmac_hex(SECRET, b"7" + BODY), "x-id": "7"})
    assert check(scheme, named, SECRET) is VerificationResult.VERIFIED
    assert check(scheme, request({"x-sig": hmac_hex(SECRET, b"7" + BODY), "x-id": ["7", "7"]}), SECRET) is (
        VerificationResult.MISMATCH
    )


def test_a_digest_of_a_text_with_the_secret_in_it() -> None:
    zalo = make_scheme(
        scheme="digest",
        signature={"header": "x-sig", "prefix": "mac="},
        signed="{json:app}{body}{secret}",
    )
    body = b'{"app":"7"}'
    digest = hashlib.sha256(b"7" + body + SECRET).hexdigest()
    assert check(zalo, request({"x-sig": f"mac={digest}"}, body), SECRET) is VerificationResult.VERIFIED
    assert check(zalo, request({"x-sig": f"mac={digest}"}, body), b"another") is VerificationResult.MISMATCH
    assert (
        check(zalo, request({"x-sig": f"mac={digest}"}, body), b"another", SECRET)
        is VerificationResult.VERIFIED
    )
    with pytest.raises(Malformed):
        check(zalo, request({"x-sig": f"mac={digest}"}, b"not JSON"), SECRET)


def test_the_hash_of_the_body_in_another_part() -> None:
    twilio = make_scheme(
        scheme="hmac",
        signature={"header": "x-sig"},
        signed="{url}",
        body_hash={"from": "{query:bodySHA256}"},
    )
    query = b"bodySHA256=" + hashlib.sha256(BODY).hexdigest().encode()
    signature = hmac_hex(SECRET, ADDRESS.encode() + b"?" + query)
    assert check(twilio, request({"x-sig": signature}, query=query), SECRET) is VerificationResult.VERIFIED
    assert (
        check(twilio, request({"x-sig": signature}, BODY + b" ", query=query), SECRET)
        is VerificationResult.BODY_CHANGED
    )
    assert (
        check(twilio, request({"x-sig": signature}, query=query), b"another") is VerificationResult.MISMATCH
    )
    for other in (b"", b"bodySHA256=", b"bodySHA256=zz", query + b"&" + query):
        forged = hmac_hex(SECRET, request(query=other).url.encode())
        assert (
            check(twilio, request({"x-sig": forged}, query=other), SECRET) is VerificationResult.BODY_CHANGED
        )
