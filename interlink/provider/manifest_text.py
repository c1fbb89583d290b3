"""A manifest's language in words, for the documents: sources, templates, matches, ways of signing."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from shared.manifests.connect_models import TokenRefresh
from shared.manifests.models import BodyFormat, EventNaming, ResponseSpec
from shared.manifests.schemes import (
    BasicScheme,
    BodyDigest,
    DigestScheme,
    HmacScheme,
    JwtScheme,
    KeyPairScheme,
    KeySpec,
    RemoteKey,
    SchemeSpec,
    SignatureLocation,
    TimestampSpec,
    TokenScheme,
)
from shared.manifests.subscriptions import SubscriptionSpec
from shared.verification.match import ABSENT, PRESENT

_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_PLAIN_SOURCES: Final[Mapping[str, str]] = {
    "body": "the body as it came",
    "secret": "the secret",
    "method": "the method",
    "url": "the address with its query",
    "url_without_query": "the address without its query",
    "url_with_port": "the address with its port written out",
    "url_without_port": "the address without its port",
    "path": "the path of the address",
    "timestamp": "the time",
    "sorted_form": "the names and values of the form, sorted",
    "crc32": "the CRC-32 of the body as a number",
    "sha256": "the SHA-256 of the body",
    "item_sha256": "the SHA-256 of the event",
}
_PARAMETERIZED_SOURCES: Final[Mapping[str, str]] = {
    "header": "the header `{}`",
    "query": "`{}` in the query",
    "form": "`{}` in the form",
    "json": "`{}` in the body",
    "item": "`{}` of the event",
    "setting": "the setting `{}`",
}
_DIGESTS: Final = {"sha1": "SHA-1", "sha256": "SHA-256", "sha512": "SHA-512"}
_TIME_FORMATS: Final = {"seconds": "Unix seconds", "milliseconds": "Unix milliseconds", "rfc3339": "RFC 3339"}
_KEY_PAIR_NAMES: Final = {"ed25519": "Ed25519", "ecdsa": "ECDSA", "rsa": "RSA (PKCS #1 v1.5)"}
SCHEMES: Final[Mapping[str, str]] = {
    "hmac": "HMAC",
    "digest": "digest with the secret in it",
    "token": "shared token",
    "basic": "HTTP Basic",
    "ed25519": "Ed25519",
    "ecdsa": "ECDSA",
    "rsa": "RSA",
    "jwt": "JSON Web Token",
}


def source_text(name: str) -> str:
    """A source: `header:x` is "the header `x`"."""
    kind, _, argument = name.partition(":")
    if kind == "key":
        return "which of " + ", ".join(f"`{each}`" for each in argument.split("|")) + " there is"
    if kind == "other_key":
        besides = ", ".join(f"`{each}`" for each in argument.split("|"))
        return f"the name of the only field besides {besides}"
    if kind in ("hmac_sha256_hex", "hmac_sha256_base64"):
        return f"the HMAC-SHA256 ({kind.rpartition('_')[2]}) of {source_text(argument)} with the secret"
    return _PARAMETERIZED_SOURCES[kind].format(argument) if argument else _PLAIN_SOURCES[kind]


def template_text(text: str) -> str:
    """A text with sources: the pieces in order, joined by a plus."""
    pieces = _BRACES.split(text)
    said = [
        source_text(piece) if position % 2 else code(piece) for position, piece in enumerate(pieces) if piece
    ]
    return " + ".join(said) or "nothing"


def code(text: str) -> str:
    """A text as it is written, in Markdown."""
    shown = text.replace("\n", "\\n").replace("\t", "\\t")
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


def any_of(texts: Sequence[str]) -> str:
    """Alternatives, in order."""
    return ", else ".join(map(template_text, texts))


def join_words(words: Sequence[str], last: str = "or") -> str:
    """`a, b or c`."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


def match_text(rules: Mapping[str, Any]) -> str:
    """What parts have to be: "`action` in the body is `opened`, and ..."."""
    return ", and ".join(_rule_text(name, value) for name, value in rules.items())


def _rule_text(name: str, value: Any) -> str:
    if value == PRESENT:
        return f"{source_text(name)} is there"
    if value == ABSENT:
        return f"{source_text(name)} is not there"
    if isinstance(value, str) and _BRACES.search(value):
        return f"{source_text(name)} is {template_text(value)}"
    values = value if isinstance(value, list | tuple) else [value]
    shown = [code(str(each).lower() if isinstance(each, bool) else str(each)) for each in values]
    return f"{source_text(name)} is {join_words(shown)}"


def scheme_text(declared: SchemeSpec) -> list[str]:
    """A way of signing, a sentence each."""
    said = [*_scheme_sentences(declared)]
    if declared.when:
        said.append(f"It is for requests where {match_text(declared.when)}.")
    if declared.require:
        said.append(f"Besides: {match_text(declared.require)}.")
    return said


def _scheme_sentences(declared: SchemeSpec) -> Iterator[str]:
    if isinstance(declared, HmacScheme | DigestScheme):
        name = _DIGESTS[declared.algorithm]
        kind = f"HMAC-{name.replace('-', '')}" if isinstance(declared, HmacScheme) else name
        texts = [template_text(text) for text in declared.signed]
        where = _signature_location(declared.signature)
        if len(texts) == 1:
            yield f"{kind} of {texts[0]}, {where}."
        else:
            yield f"{kind}, {where}, of one of these: {'; '.join(texts)}."
        yield from _key_sentences(declared.key)
        yield from _timestamp_sentences(declared.timestamp, declared.signature)
        yield from _body_hash_sentences(declared.body_hash)
    elif isinstance(declared, TokenScheme):
        after = f" after {code(declared.prefix)}" if declared.prefix.strip() else ""
        each = f", in every element of `{declared.each}`" if declared.each else ""
        yield f"The secret itself is {template_text(declared.source)}{after}{each}."
        yield from _key_sentences(declared.key)
    elif isinstance(declared, BasicScheme):
        yield "HTTP Basic in the header `authorization`; the secret is `user:password`."
    elif isinstance(declared, KeyPairScheme):
        with_digest = "" if declared.scheme == "ed25519" else f" with {_DIGESTS[declared.algorithm]}"
        kind = _KEY_PAIR_NAMES[declared.scheme] + with_digest
        yield f"{kind} over {template_text(declared.signed)}, {_signature_location(declared.signature)}."
        yield (
            _fetched_key_sentence(declared.keys, "The public key")
            if declared.keys
            else _public_key_sentence(declared.key)
        )
        yield from _timestamp_sentences(declared.timestamp, declared.signature)
    else:
        yield from _jwt_sentences(declared)


def _signature_location(signature: SignatureLocation) -> str:
    header = "in the header " + join_words([f"`{name}`" for name in signature.header])
    prefixes = [code(prefix) for prefix in signature.prefix if prefix]
    after = f" after {join_words(prefixes)}" if prefixes else ""
    said = f"in {signature.encoding} {header}{after}"
    if signature.field:
        return f"{said}, as {code(signature.field)} in pairs that {code(signature.separator)} separates"
    if signature.separator:
        return f"{said}; several may be there, separated by {code(signature.separator)}"
    return said


def _key_sentences(key: KeySpec) -> Iterator[str]:
    form = {"text": "the text", "base64": "the base64", "hex": "the hex"}[key.form]
    if key.prefix:
        yield f"The key is {form} after `{key.prefix}` in the secret."
        if key.otherwise:
            read = {"text": "as it is", "base64": "as base64", "hex": "as hex"}[key.otherwise]
            yield f"A secret without `{key.prefix}` is read {read}."
        else:
            yield f"It is for secrets that start with `{key.prefix}` only."
    elif key.form != "text":
        yield f"The key is the secret, read as {key.form}."
    if key.except_prefix:
        yield f"It is not for secrets that start with `{key.except_prefix}`."


def _public_key_sentence(key: KeySpec) -> str:
    form = {"text": "PEM", "base64": "base64 of its DER or its bytes", "hex": "hex"}[key.form]
    return f"The endpoint's secret is the public key: {form}."


def _fetched_key_sentence(keys: RemoteKey, what: str) -> str:
    where = code(keys.url) if "{" not in keys.url else template_text(keys.url)
    said = f"{what} is fetched from {where}"
    if keys.json_:
        said += f", at `{keys.json_}` in the JSON"
    said += f"; only from {join_words([f'`{host}`' for host in keys.hosts])}"
    return f"{said}, and made out to `{keys.subject}`." if keys.subject else f"{said}."


def _timestamp_sentences(stamp: TimestampSpec | None, signature: SignatureLocation) -> Iterator[str]:
    if stamp is None:
        return
    where = (
        template_text(stamp.source) if stamp.source else f"{code(signature.time_field)} in the same header"
    )
    ahead = "" if stamp.future_s == stamp.tolerance_s else f" (or {stamp.future_s:g} s ahead of our clock)"
    yield (
        f"The time is {where}, in {_TIME_FORMATS[stamp.format]}; a request that is more than "
        f"{stamp.tolerance_s:g} s off{ahead} is refused as stale."
    )


def _body_hash_sentences(digest: BodyDigest | None) -> Iterator[str]:
    if digest:
        kind = f"{_DIGESTS[digest.algorithm]} of the body in {digest.encoding}"
        yield f"The {kind} has to be {template_text(digest.source)}."


def _jwt_sentences(declared: JwtScheme) -> Iterator[str]:
    after = f" after {code(declared.prefix.strip())}" if declared.prefix.strip() else ""
    yield (
        f"A JSON Web Token in the header `{declared.header}`{after}, signed with "
        f"{join_words([f'`{name}`' for name in declared.algorithms])}."
    )
    if declared.keys:
        yield _fetched_key_sentence(declared.keys, "The set of public keys")
    else:
        yield from _key_sentences(declared.key)
    if declared.issuer:
        yield f"Its issuer is {join_words([code(name) for name in declared.issuer])}."
    if declared.audience:
        yield f"Its audience is {template_text(declared.audience)}."
    for claim, text in declared.claims.items():
        yield f"Its claim `{claim}` is {template_text(text)}."
    if declared.body_hash:
        digest = declared.body_hash
        algorithm = _DIGESTS[digest.algorithm]
        yield f"Its claim `{digest.claim}` is the {algorithm} of the body in {digest.encoding}."
    if declared.query_hash:
        yield f"Its claim `{declared.query_hash}` is the hash of method, path and query."
    yield f"It has an end, and that is at most {declared.leeway_s:g} s past."


_SPANS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def duration_text(seconds: int) -> str:
    """A time in the largest unit that it is a whole number of: `90 days`, `5 minutes`."""
    size, unit = next(each for each in _SPANS if seconds % each[0] == 0)
    count = seconds // size
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


_ROTATIONS: Final = {
    "none": "The refresh token stays the same.",
    "replaced": "A new refresh token comes each time, and the old one stays good.",
    "single-use": "A new refresh token comes each time; each works once.",
}


def refresh_text(declared: TokenRefresh) -> str:
    """How a token is made anew, and how long that is possible."""
    if declared.by == "none":
        return "never: the token is used as long as it lives"
    ahead = f"{duration_text(declared.ahead_s)} before its end" if declared.ahead_s else "at its end"
    if declared.by == "request":
        return f"{ahead}, by the access token itself while it lives"
    said = [f"{ahead}. {_ROTATIONS[declared.rotation]}"]
    if declared.lifetime_s:
        since = "from the consent on" if declared.fixed else "without use"
        said.append(f"It lives {duration_text(declared.lifetime_s)} {since}.")
    return " ".join(said)


def subscription_creation(declared: SubscriptionSpec) -> str:
    """When a watch is made, and what it depends on."""
    said = "when an account is connected" if declared.automatic else "when somebody asks for it"
    needs = [f"`{name.partition(':')[2]}`" for name in declared.needs]
    if needs:
        said += f", where the app has {join_words(needs, 'and')}"
    if declared.scopes:
        said += f"; with the scope {join_words([f'`{scope}`' for scope in declared.scopes], 'and')}"
    return said


def subscription_lifetime(declared: SubscriptionSpec) -> str:
    """How long a watch lives, and what is done before it ends."""
    if declared.lifetime_s is None:
        return "until it is ended"
    how = "it is renewed" if declared.renew else "another one is made, and this one is ended"
    early = declared.ahead_s > declared.lifetime_s / 2
    when = f"after {duration_text(declared.lifetime_s - declared.ahead_s)}"
    when = when if early else f"{duration_text(declared.ahead_s)} before its end"
    return f"{duration_text(declared.lifetime_s)}; {when} {how}"


def body_text(bodies: BodyFormat) -> str:
    """What bodies are read."""
    said = ["JSON"]
    if bodies.form_field:
        said.append(f"a form with JSON in the field `{bodies.form_field}`")
    if bodies.form == "brackets":
        said.append("a form, where `a[b]` is nested")
    elif bodies.form:
        said.append("a form")
    if bodies.text:
        said.append("other text")
    if bodies.empty:
        said.append("no body")
    inner = "".join(
        f"; `{each.path}` holds {'JSON' if each.encoding == 'json' else 'JSON in base64'}, read as `{name}`"
        for name, each in bodies.decoded.items()
    )
    headers = "".join(f"; the header `{name}` is read as `{new}`" for new, name in bodies.headers.items())
    return join_words(said) + inner + headers


def event_naming_text(event: EventNaming) -> str:
    """How events are called."""
    said = any_of(event.source)
    if event.strip:
        said += f", without {code(event.strip)}"
    renamed = [f"{code(old)} is called `{new}`" for old, new in event.names.items()]
    return f"{said}; {', '.join(renamed)}" if renamed else said


def response_text(said: ResponseSpec) -> str:
    """What the platform is told."""
    found = f"status {said.status}, "
    if said.text is not None:
        found += f"and {template_text(said.text)} as text"
    elif said.json_ is not None:
        fields = [f"`{name}` is {value}" for name, value in _response_fields(said.json_)]
        found += f"and JSON where {join_words(fields, 'and')}" if fields else "and an empty JSON object"
    else:
        found += "without a body"
    for name, text in said.headers.items():
        found += f", and in the header `{name}` {template_text(text)}"
    return found


def _response_fields(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _response_fields(value, f"{path}.")
        elif isinstance(value, str):
            yield path, template_text(value)
        else:
            yield path, code(str(value).lower() if isinstance(value, bool) else str(value))
