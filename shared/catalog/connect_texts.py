"""Texts with values in a manifest's requests: where they stand, and what can be wrong with them.

The values have to be known, and what somebody enters may not make another address of an address.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.catalog.connect import Api, Connect, OAuth2, Request, Setting
from shared.catalog.samples import TOKENS
from shared.wire.fills import Fill

CONNECT_RULES: Final[Mapping[str, str]] = {
    "secret-in-address": "no secret stands in the address of a request",
    "plain-http": "every address begins with https",
}
"""What a provider may be exempt from."""

Text = tuple[str, str, bool]
"""Where a text with values stands, the text, and whether it is a part of an address."""

_SECRET: Final = frozenset({"client_secret", "token", "endpoint:secret", "made:secret", *TOKENS})
_BEGINS: Final = re.compile(r"\{(setting|param|field):([a-z][a-z0-9_]*)\}")
_HOST: Final = re.compile(r"https://([^/?#]*)")
_NO_HOSTS: Final = ("a/b", "a@b", "a:1", "a?b", "a#b", "a b", "a\\b", "a\n", "%61", ".", "..", "-")
_NOT_IN_HOSTS: Final = "/@:?#\\% \n"
_NO_BASES: Final = ("https://a@b.example", "https://a.example/#b")
_NOT_IN_BASES: Final = "@# \n"
_NO_BEGINNINGS: Final = ("https://a.example?b", "https://a.example/?b")
_PLAIN_HTTP: Final = ("http://a.example",)


@dataclass(frozen=True, slots=True)
class Entry:
    """What somebody enters; with `group`, what the group of this name in its pattern finds in it."""

    setting: Setting
    group: str = ""

    @property
    def secret(self) -> bool:
        """Whether it has to be hidden: a named part of a secret is there to be seen."""
        return self.setting.secret and not self.group

    def taken(self, value: str) -> bool:
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

    def broken(self, characters: str) -> Iterator[str]:
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


def entries(kind: str, settings: Mapping[str, Setting]) -> dict[str, Entry]:
    """What is entered, by the name that texts have for it; the named parts of its patterns too."""
    found = {f"{kind}:{name}": Entry(each) for name, each in settings.items()}
    for each in settings.values():
        found |= {f"{kind}:{group}": Entry(each, group) for group in parts_of(each)}
    return found


def parts_of(setting: Setting) -> Iterable[str]:
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
    text: Text, known: Iterable[str], entered: Mapping[str, Entry], exemptions: Mapping[str, str]
) -> Iterator[str]:
    """What is wrong with a text: a value that is not there, a secret or an unsafe value in an address."""
    where, written, is_address = text
    names = Fill(written).names
    for name in sorted(set(names) - set(known)):
        yield f"{where}: there is no {name}"
    if not is_address:
        return
    secret = [name for name in names if name in _SECRET or (name in entered and entered[name].secret)]
    if secret and "secret-in-address" not in exemptions:
        yield f"{where}: {secret[0]} is secret: an address is no place for it"
    if where.endswith((".url", "_url", ".base")):
        yield from _address(where, written, entered, exemptions)


def _address(
    where: str, text: str, entered: Mapping[str, Entry], exemptions: Mapping[str, str]
) -> Iterator[str]:
    begins = _BEGINS.match(text)
    host = _HOST.match(text)
    if begins:
        alone = begins[0] == text
        wrong = [*_NO_BASES, *(() if "plain-http" in exemptions else _PLAIN_HTTP)]
        wrong += () if alone else _NO_BEGINNINGS
        yield from _refusing(where, begins[0][1:-1], entered, wrong, _NOT_IN_BASES + "?" * (not alone))
    elif host:
        for name in Fill(host[1]).names:
            yield from _refusing(where, name, entered, _NO_HOSTS, _NOT_IN_HOSTS)
    else:
        yield f"{where}: an address begins with https://, or with a setting that does"


def _refusing(
    where: str, name: str, entered: Mapping[str, Entry], wrong: Iterable[str], characters: str
) -> Iterator[str]:
    """Whether a pattern keeps an address what it is: it has to refuse each of the wrong values."""
    entry = entered.get(name)
    if entry is None:
        return
    accepted = next((value for value in (*wrong, *entry.broken(characters)) if entry.taken(value)), None)
    if accepted is not None:
        yield f"{where}: the pattern of {name} takes {accepted!r}, which makes another address of it"


# Where texts stand


def texts_of(connect: Connect) -> Iterator[Text]:
    """The texts of a way to connect, but for those of credentials that are entered."""
    flow = connect.oauth2
    if flow:
        yield from _texts_of_flow(flow)
    if connect.oauth1:
        for name in ("request_token_url", "authorize_url", "token_url"):
            yield f"oauth1.{name}", getattr(connect.oauth1, name), True
        yield from _values("oauth1.authorize", connect.oauth1.authorize, True)
        revoke = connect.oauth1.revoke
        yield from texts_of_request("oauth1.revoke.request", revoke.request if revoke else None)
    if flow or connect.oauth1 or connect.through:
        yield from texts_of_api("api", connect.api)
    yield from texts_of_request("account.call", connect.account.call if connect.account else None)
    yield from texts_of_request("choices.call", connect.choices.call if connect.choices else None)
    yield from texts_of_request("probe", connect.probe)


def _texts_of_flow(flow: OAuth2) -> Iterator[Text]:
    yield "oauth2.authorize_url", flow.authorize_url, True
    yield "oauth2.token_url", flow.token_url, True
    if flow.refresh.url:
        yield "oauth2.refresh.url", flow.refresh.url, True
    yield from _values("oauth2.authorize", flow.authorize, True)
    for name, texts in (
        ("exchange", flow.exchange),
        ("headers", flow.headers),
        ("refresh.parameters", flow.refresh.parameters),
        ("callback.same", flow.callback.same),
    ):
        yield from _values(f"oauth2.{name}", texts, False)
    if flow.callback.issuer:
        yield "oauth2.callback.issuer", flow.callback.issuer, False
    yield from texts_of_request("oauth2.longer", flow.longer)
    yield from texts_of_request("oauth2.refresh.request", flow.refresh.request)
    yield from texts_of_request("oauth2.revoke.request", flow.revoke.request if flow.revoke else None)


def texts_of_api(where: str, api: Api) -> Iterator[Text]:
    """The texts of how an API is called."""
    if api.base:
        yield f"{where}.base", api.base, True
    yield from _values(f"{where}.headers", api.headers, False)
    yield from _values(f"{where}.query", api.query, True)
    yield from ((f"{where}.basic", text, False) for text in api.basic or ())


def texts_of_request(where: str, request: Request | None) -> Iterator[Text]:
    """The texts of a request."""
    if request is None:
        return
    yield f"{where}.url", request.url, True
    yield from _values(f"{where}.query", request.query, True)
    yield from _values(f"{where}.headers", request.headers, False)
    yield from _values(f"{where}.form", request.form or {}, False)
    yield from ((f"{where}.basic", text, False) for text in request.basic or ())
    yield from ((f"{where}.json", text, False) for text in _inside(request.json_))


def _values(where: str, texts: Mapping[str, str], are_addresses: bool) -> Iterator[Text]:
    return ((f"{where}.{name}", text, are_addresses) for name, text in texts.items())


def _inside(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _inside(each)
