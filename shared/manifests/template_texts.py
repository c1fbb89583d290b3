"""Texts with values in a manifest's requests: where they stand, and what can be wrong with them.

The values have to be known, and what somebody enters may not make another address of an address.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.manifests.connect_models import TOKEN_NAMES, Api, ApiRequest, ConnectSpec, OAuth2, Setting
from shared.wire.request_template import RequestTemplate

CONNECT_RULES: Final[Mapping[str, str]] = {
    "secret-in-address": "no secret stands in the address of a request",
    "plain-http": "every address begins with https",
}
"""What a provider may be exempt from."""

LocatedText = tuple[str, str, bool]
"""Where a text with values stands, the text, and whether it is a part of an address."""

_SECRET_VALUES: Final = frozenset({"client_secret", "token", "endpoint:secret", "made:secret", *TOKEN_NAMES})
_LEADING_VALUE: Final = re.compile(r"\{(setting|param|field):([a-z][a-z0-9_]*)\}")
_HOST_PATTERN: Final = re.compile(r"https://([^/?#]*)")
_INVALID_HOSTS: Final = ("a/b", "a@b", "a:1", "a?b", "a#b", "a b", "a\\b", "a\n", "%61", ".", "..", "-")
_INVALID_HOST_CHARACTERS: Final = "/@:?#\\% \n"
_INVALID_BASES: Final = ("https://a@b.example", "https://a.example/#b")
_INVALID_BASE_CHARACTERS: Final = "@# \n"
_INVALID_PREFIXES: Final = ("https://a.example?b", "https://a.example/?b")
_PLAIN_HTTP_URLS: Final = ("http://a.example",)


@dataclass(frozen=True, slots=True)
class InputField:
    """What somebody enters; with `group`, what the group of this name in its pattern finds in it."""

    setting: Setting
    group: str = ""

    @property
    def secret(self) -> bool:
        """Whether it has to be hidden: a named part of a secret is there to be seen."""
        return self.setting.secret and not self.group

    def accepts(self, value: str) -> bool:
        """Whether the pattern lets it be this."""
        pattern = self.setting.pattern
        if not pattern:
            return True
        start, end = self._place()
        sample = self._sample()
        whole = sample[:start] + value + sample[end:] if self.group else value
        try:
            found = re.fullmatch(pattern, whole)
        except re.error:  # `setting_faults` tells it
            return False
        return found is not None and found[self.group or 0] == value

    def invalid_variants(self, characters: str) -> Iterator[str]:
        """The value of its example with one of the characters at any place."""
        start, end = self._place()
        value = self._sample()[start:end]
        for character in characters:
            for position in range(len(value) + 1):
                yield value[:position] + character + value[position:]

    def _sample(self) -> str:
        return self.setting.example or self.setting.default

    def _place(self) -> tuple[int, int]:
        found = re.fullmatch(self.setting.pattern, self._sample()) if self.group else None
        return found.span(self.group) if found else (0, len(self._sample()))


def input_fields(kind: str, settings: Mapping[str, Setting]) -> dict[str, InputField]:
    """What is entered, by the name that texts have for it; the named parts of its patterns too."""
    found = {f"{kind}:{name}": InputField(each) for name, each in settings.items()}
    for each in settings.values():
        found |= {f"{kind}:{group}": InputField(each, group) for group in named_groups(each)}
    return found


def named_groups(setting: Setting) -> Iterable[str]:
    """The names of the parts that its pattern has."""
    try:
        return re.compile(setting.pattern).groupindex
    except re.error:  # `setting_faults` tells it
        return ()


def setting_faults(place: str, settings: Mapping[str, Setting]) -> Iterator[str]:
    """What is wrong with what is asked for: each has an example that fits, and says where it is found."""
    for name, setting in settings.items():
        sample = setting.default or setting.example
        try:
            fits = bool(re.fullmatch(setting.pattern, sample)) if setting.pattern else bool(sample)
        except re.error as error:
            yield f"{place}.{name}.pattern: {error}"
            continue
        if not fits:
            yield f"{place}.{name}: give an example that fits the pattern"
        if setting.generated:
            yield f"{place}.{name}.generated: nobody but the platform, or the person, knows it"
        if not setting.about:
            yield f"{place}.{name}.about: empty: say what it is and where it is found"


def text_faults(
    text: LocatedText, known: Iterable[str], entered: Mapping[str, InputField], exemptions: Mapping[str, str]
) -> Iterator[str]:
    """What is wrong with a text: a value that is not there, a secret or an unsafe value in an address."""
    where, written, is_address = text
    names = RequestTemplate(written).names
    for name in sorted(set(names) - set(known)):
        yield f"{where}: there is no {name}"
    if not is_address:
        return
    secret = [name for name in names if name in _SECRET_VALUES or (name in entered and entered[name].secret)]
    if secret and "secret-in-address" not in exemptions:
        yield f"{where}: {secret[0]} is secret: an address is no place for it"
    if where.endswith((".url", "_url", ".base")):
        yield from _url_faults(where, written, entered, exemptions)


def _url_faults(
    where: str, text: str, entered: Mapping[str, InputField], exemptions: Mapping[str, str]
) -> Iterator[str]:
    begins = _LEADING_VALUE.match(text)
    host = _HOST_PATTERN.match(text)
    if begins:
        alone = begins[0] == text
        wrong = [*_INVALID_BASES, *(() if "plain-http" in exemptions else _PLAIN_HTTP_URLS)]
        wrong += () if alone else _INVALID_PREFIXES
        yield from _pattern_faults(
            where, begins[0][1:-1], entered, wrong, _INVALID_BASE_CHARACTERS + "?" * (not alone)
        )
    elif host:
        for name in RequestTemplate(host[1]).names:
            yield from _pattern_faults(where, name, entered, _INVALID_HOSTS, _INVALID_HOST_CHARACTERS)
    else:
        yield f"{where}: an address begins with https://, or with a setting that does"


def _pattern_faults(
    where: str, name: str, entered: Mapping[str, InputField], wrong: Iterable[str], characters: str
) -> Iterator[str]:
    """Whether a pattern keeps an address what it is: it has to refuse each of the wrong values."""
    entry = entered.get(name)
    if entry is None:
        return
    accepted = next(
        (value for value in (*wrong, *entry.invalid_variants(characters)) if entry.accepts(value)), None
    )
    if accepted is not None:
        yield f"{where}: the pattern of {name} takes {accepted!r}, which makes another address of it"


# Where texts stand


def connect_texts(connect: ConnectSpec) -> Iterator[LocatedText]:
    """The texts of a way to connect, but for those of credentials that are entered."""
    flow = connect.oauth2
    if flow:
        yield from _oauth2_texts(flow)
    if connect.oauth1:
        for name in ("request_token_url", "authorize_url", "token_url"):
            yield f"oauth1.{name}", getattr(connect.oauth1, name), True
        yield from _mapping_texts("oauth1.authorize", connect.oauth1.authorize, True)
        revoke = connect.oauth1.revoke
        yield from request_texts("oauth1.revoke.request", revoke.request if revoke else None)
    if flow or connect.oauth1 or connect.through:
        yield from api_texts("api", connect.api)
    yield from request_texts("account.call", connect.account.call if connect.account else None)
    yield from request_texts("choices.call", connect.choices.call if connect.choices else None)
    yield from request_texts("probe", connect.probe)


def _oauth2_texts(flow: OAuth2) -> Iterator[LocatedText]:
    yield "oauth2.authorize_url", flow.authorize_url, True
    yield "oauth2.token_url", flow.token_url, True
    if flow.refresh.url:
        yield "oauth2.refresh.url", flow.refresh.url, True
    yield from _mapping_texts("oauth2.authorize", flow.authorize, True)
    for name, texts in (
        ("exchange", flow.exchange),
        ("headers", flow.headers),
        ("refresh.parameters", flow.refresh.parameters),
        ("callback.same", flow.callback.same),
    ):
        yield from _mapping_texts(f"oauth2.{name}", texts, False)
    if flow.callback.issuer:
        yield "oauth2.callback.issuer", flow.callback.issuer, False
    yield from request_texts("oauth2.longer", flow.longer)
    yield from request_texts("oauth2.refresh.request", flow.refresh.request)
    yield from request_texts("oauth2.revoke.request", flow.revoke.request if flow.revoke else None)


def api_texts(where: str, api: Api) -> Iterator[LocatedText]:
    """The texts of how an API is called."""
    if api.base:
        yield f"{where}.base", api.base, True
    yield from _mapping_texts(f"{where}.headers", api.headers, False)
    yield from _mapping_texts(f"{where}.query", api.query, True)
    yield from ((f"{where}.basic", text, False) for text in api.basic or ())


def request_texts(where: str, request: ApiRequest | None) -> Iterator[LocatedText]:
    """The texts of a request."""
    if request is None:
        return
    yield f"{where}.url", request.url, True
    yield from _mapping_texts(f"{where}.query", request.query, True)
    yield from _mapping_texts(f"{where}.headers", request.headers, False)
    yield from _mapping_texts(f"{where}.form", request.form or {}, False)
    yield from ((f"{where}.basic", text, False) for text in request.basic or ())
    yield from ((f"{where}.json", text, False) for text in _nested_strings(request.json_))


def _mapping_texts(where: str, texts: Mapping[str, str], are_addresses: bool) -> Iterator[LocatedText]:
    return ((f"{where}.{name}", text, are_addresses) for name, text in texts.items())


def _nested_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _nested_strings(each)
