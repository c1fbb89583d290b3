"""A manifest in words, for the documents: sources, templates, match rules, signature schemes."""

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
from shared.wire.template import has_sources, split_template

_PLAIN_SOURCES: Final[Mapping[str, str]] = {
    "body": "the raw body",
    "secret": "the secret",
    "method": "the method",
    "url": "the URL with its query",
    "url_without_query": "the URL without its query",
    "url_with_port": "the URL with an explicit port",
    "url_without_port": "the URL without its port",
    "path": "the path of the URL",
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
    """Return a source in words: `header:x` is "the header `x`"."""
    kind, _, argument = name.partition(":")
    if kind == "key":
        return "which of " + ", ".join(f"`{key}`" for key in argument.split("|")) + " there is"
    if kind == "other_key":
        others = ", ".join(f"`{key}`" for key in argument.split("|"))
        return f"the name of the only field besides {others}"
    if kind in ("hmac_sha256_hex", "hmac_sha256_base64"):
        return f"the HMAC-SHA256 ({kind.rpartition('_')[2]}) of {source_text(argument)} with the secret"
    if kind == "optional":
        return f"{source_text(argument)} (empty if it is missing)"
    return _PARAMETERIZED_SOURCES[kind].format(argument) if argument else _PLAIN_SOURCES[kind]


def template_text(text: str) -> str:
    """Return a text with sources in words: its pieces in order, joined by a plus."""
    pieces = split_template(text)
    words = [
        source_text(piece) if position % 2 else code(piece) for position, piece in enumerate(pieces) if piece
    ]
    return " + ".join(words) or "nothing"


def code(text: str) -> str:
    """Return a text as Markdown code."""
    escaped = text.replace("\n", "\\n").replace("\t", "\\t")
    return f"`` {escaped} ``" if "`" in escaped else f"`{escaped}`"


def any_of(texts: Sequence[str]) -> str:
    """Return alternatives in order, in words."""
    return ", else ".join(map(template_text, texts))


def join_words(words: Sequence[str], last: str = "or") -> str:
    """Return `a, b or c`."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


def match_text(rules: Mapping[str, Any]) -> str:
    """Return match rules in words: "`action` in the body is `opened`, and ..."."""
    return ", and ".join(_rule_text(name, value) for name, value in rules.items())


def _rule_text(name: str, value: Any) -> str:
    if value == PRESENT:
        return f"{source_text(name)} is there"
    if value == ABSENT:
        return f"{source_text(name)} is not there"
    if isinstance(value, str) and has_sources(value):
        return f"{source_text(name)} is {template_text(value)}"
    values = value if isinstance(value, list | tuple) else [value]
    codes = [code(str(item).lower() if isinstance(item, bool) else str(item)) for item in values]
    return f"{source_text(name)} is {join_words(codes)}"


def scheme_text(spec: SchemeSpec) -> list[str]:
    """Return a signature scheme in words, a sentence each."""
    sentences = [*_scheme_sentences(spec)]
    if spec.when:
        sentences.append(f"It is for requests where {match_text(spec.when)}.")
    if spec.require:
        sentences.append(f"Besides: {match_text(spec.require)}.")
    return sentences


def _scheme_sentences(spec: SchemeSpec) -> Iterator[str]:
    if isinstance(spec, HmacScheme | DigestScheme):
        name = _DIGESTS[spec.algorithm]
        kind = f"HMAC-{name.replace('-', '')}" if isinstance(spec, HmacScheme) else name
        texts = [template_text(text) for text in spec.signed]
        where = _signature_location(spec.signature)
        if len(texts) == 1:
            yield f"{kind} of {texts[0]}, {where}."
        else:
            yield f"{kind}, {where}, of one of these: {'; '.join(texts)}."
        yield from _key_sentences(spec.key)
        yield from _timestamp_sentences(spec.timestamp, spec.signature)
        yield from _body_hash_sentences(spec.body_hash)
        if isinstance(spec, HmacScheme) and spec.each:
            yield f"Every element of `{spec.each}` is signed by itself; each signature has to be valid."
        if isinstance(spec, HmacScheme) and not spec.covers_body:
            yield "The signature does not cover the whole body: what it leaves out is not proved."
    elif isinstance(spec, TokenScheme):
        after = f" after {code(spec.prefix)}" if spec.prefix.strip() else ""
        in_each = f", in every element of `{spec.each}`" if spec.each else ""
        yield f"The secret itself is {template_text(spec.source)}{after}{in_each}."
        yield from _key_sentences(spec.key)
    elif isinstance(spec, BasicScheme):
        yield "HTTP Basic in the header `authorization`; the secret is `user:password`."
    elif isinstance(spec, KeyPairScheme):
        with_digest = "" if spec.scheme == "ed25519" else f" with {_DIGESTS[spec.algorithm]}"
        kind = _KEY_PAIR_NAMES[spec.scheme] + with_digest
        yield f"{kind} over {template_text(spec.signed)}, {_signature_location(spec.signature)}."
        yield (
            _fetched_key_sentence(spec.keys, "The public key")
            if spec.keys
            else _public_key_sentence(spec.key)
        )
        yield from _timestamp_sentences(spec.timestamp, spec.signature)
    else:
        yield from _jwt_sentences(spec)


def _signature_location(signature: SignatureLocation) -> str:
    header = (
        f"in {template_text(signature.source)}"
        if signature.source
        else "in the header " + join_words([f"`{name}`" for name in signature.header])
    )
    prefixes = [code(prefix) for prefix in signature.prefix if prefix]
    after = f" after {join_words(prefixes)}" if prefixes else ""
    location = f"in {signature.encoding} {header}{after}"
    if signature.field:
        return f"{location}, as {code(signature.field)} in pairs that {code(signature.separator)} separates"
    if signature.separator:
        return f"{location}; several may be there, separated by {code(signature.separator)}"
    return location


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


def _fetched_key_sentence(keys: RemoteKey, subject: str) -> str:
    location = code(keys.url) if "{" not in keys.url else template_text(keys.url)
    sentence = f"{subject} is fetched from {location}"
    if keys.json_:
        sentence += f", at `{keys.json_}` in the JSON"
    if keys.post:
        fields = [f"`{name}` ({template_text(text)})" for name, text in keys.post.items()]
        sentence += f", with POST and {join_words([*fields, f'`{keys.key_id}`'], 'and')}"
    sentence += f"; only from {join_words([f'`{host}`' for host in keys.hosts])}"
    return f"{sentence}, and made out to `{keys.subject}`." if keys.subject else f"{sentence}."


def _timestamp_sentences(timestamp: TimestampSpec | None, signature: SignatureLocation) -> Iterator[str]:
    if timestamp is None:
        return
    location = (
        template_text(timestamp.source)
        if timestamp.source
        else f"{code(signature.time_field)} in the same header"
    )
    ahead = (
        ""
        if timestamp.future_s == timestamp.tolerance_s
        else f" (or {timestamp.future_s:g} s ahead of the hub's clock)"
    )
    yield (
        f"The time is {location}, in {_TIME_FORMATS[timestamp.format]}; a request that is more than "
        f"{timestamp.tolerance_s:g} s off{ahead} is rejected as stale."
    )


def _body_hash_sentences(digest: BodyDigest | None) -> Iterator[str]:
    if digest:
        kind = f"{_DIGESTS[digest.algorithm]} of the body in {digest.encoding}"
        yield f"The {kind} has to be {template_text(digest.source)}."


def _jwt_sentences(spec: JwtScheme) -> Iterator[str]:
    after = f" after {code(spec.prefix.strip())}" if spec.prefix.strip() else ""
    yield (
        f"A JSON Web Token in the header `{spec.header}`{after}, signed with "
        f"{join_words([f'`{name}`' for name in spec.algorithms])}."
    )
    if spec.keys:
        yield _fetched_key_sentence(spec.keys, "The set of public keys")
    else:
        yield from _key_sentences(spec.key)
    if spec.issuer:
        yield f"Its issuer is {join_words([code(name) for name in spec.issuer])}."
    if spec.audience:
        yield f"Its audience is {', else '.join(map(template_text, spec.audience))}."
    for claim, text in spec.claims.items():
        yield f"Its claim `{claim}` is {template_text(text)}."
    if spec.body_hash:
        digest = spec.body_hash
        algorithm = _DIGESTS[digest.algorithm]
        yield f"Its claim `{digest.claim}` is the {algorithm} of the body in {digest.encoding}."
    if spec.query_hash:
        yield f"Its claim `{spec.query_hash}` is the hash of method, path and query."
    if spec.expires:
        yield f"It expired at most {spec.leeway_s:g} s ago."
    elif spec.max_age_s:
        yield f"It was issued at most {spec.max_age_s + spec.leeway_s:g} s ago."
    else:
        yield "It has no expiry."


_SPANS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def duration_text(seconds: int) -> str:
    """Return a duration in the largest unit that divides it: `90 days`, `5 minutes`."""
    size, unit = next(span for span in _SPANS if seconds % span[0] == 0)
    count = seconds // size
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


_ROTATIONS: Final = {
    "none": "The refresh token stays the same.",
    "replaced": "Each refresh returns a new refresh token, and the old one stays valid.",
    "single-use": "Each refresh returns a new refresh token; each works once.",
}


def refresh_text(refresh: TokenRefresh) -> str:
    """Return how a token is refreshed, and how long that is possible."""
    if refresh.by == "none":
        return "never: the token is used until it expires"
    ahead = f"{duration_text(refresh.ahead_s)} before its end" if refresh.ahead_s else "at its end"
    if refresh.by == "request":
        return f"{ahead}, with the access token itself while it is valid"
    sentences = [f"{ahead}. {_ROTATIONS[refresh.rotation]}"]
    if refresh.lifetime_s:
        since = "from the consent on" if refresh.fixed else "without use"
        sentences.append(f"It lives {duration_text(refresh.lifetime_s)} {since}.")
    return " ".join(sentences)


def subscription_creation(subscription: SubscriptionSpec) -> str:
    """Return when a provider subscription is created, and what it depends on."""
    text = "when an account is connected" if subscription.automatic else "on request"
    needs = [f"`{name.partition(':')[2]}`" for name in subscription.needs]
    if needs:
        text += f", if the app has {join_words(needs, 'and')}"
    if subscription.scopes:
        text += f"; with the scope {join_words([f'`{scope}`' for scope in subscription.scopes], 'and')}"
    return text


def subscription_lifetime(subscription: SubscriptionSpec) -> str:
    """Return how long a provider subscription lives, and what is done before it expires."""
    if subscription.lifetime_s is None:
        return "until it is cancelled"
    how = "it is renewed" if subscription.renew else "another one is created, and this one is cancelled"
    early = subscription.ahead_s > subscription.lifetime_s / 2
    when = f"after {duration_text(subscription.lifetime_s - subscription.ahead_s)}"
    when = when if early else f"{duration_text(subscription.ahead_s)} before its end"
    return f"{duration_text(subscription.lifetime_s)}; {when} {how}"


def body_text(body_format: BodyFormat) -> str:
    """Return which bodies are read."""
    kinds = ["JSON"]
    if body_format.form_field:
        kinds.append(f"a form with JSON in the field `{body_format.form_field}`")
    if body_format.form == "brackets":
        kinds.append("a form, where `a[b]` is nested")
    elif body_format.form:
        kinds.append("a form")
    if body_format.text:
        kinds.append("other text")
    if body_format.empty:
        kinds.append("no body")
    embedded = "".join(
        f"; `{spec.path}` holds {'JSON' if spec.encoding == 'json' else 'JSON in base64'}, read as `{name}`"
        for name, spec in body_format.decoded.items()
    )
    headers = "".join(
        f"; the header `{name}` is read as `{new}`" for new, name in body_format.headers.items()
    )
    return join_words(kinds) + embedded + headers


def event_naming_text(event: EventNaming) -> str:
    """Return how events get their names."""
    text = any_of(event.source)
    if event.strip:
        text += f", without {code(event.strip)}"
    renamed = [f"{code(old)} becomes `{new}`" for old, new in event.names.items()]
    return f"{text}; {', '.join(renamed)}" if renamed else text


def response_text(spec: ResponseSpec) -> str:
    """Return a response in words."""
    words = f"status {spec.status}, "
    if spec.text is not None:
        words += f"and {template_text(spec.text)} as text"
    elif spec.json_ is not None:
        fields = [f"`{name}` is {value}" for name, value in _response_fields(spec.json_)]
        words += f"and JSON where {join_words(fields, 'and')}" if fields else "and an empty JSON object"
    else:
        words += "without a body"
    for name, text in spec.headers.items():
        words += f", and in the header `{name}` {template_text(text)}"
    return words


def _response_fields(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _response_fields(value, f"{path}.")
        elif isinstance(value, str):
            yield path, template_text(value)
        else:
            yield path, code(str(value).lower() if isinstance(value, bool) else str(value))
