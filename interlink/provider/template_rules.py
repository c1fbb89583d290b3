"""The checker's rules for request templates and the settings in them.

Every value has to be known, and a value that a user enters must not change the host of a URL.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from shared.manifests.connect_models import TOKEN_NAMES, Setting
from shared.manifests.template_texts import LocatedText
from shared.wire.request_template import RequestTemplate

CONNECT_RULES: Final[Mapping[str, str]] = {
    "secret-in-address": "the URL of a request contains no secret",
    "plain-http": "every URL begins with https",
}
"""Rules that a provider may be exempt from."""
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
    """A value that a user enters; with `group`, the part of it that this group of its pattern matches."""

    setting: Setting
    group: str = ""

    @property
    def secret(self) -> bool:
        """True if it has to be redacted. A named part of a secret may be shown."""
        return self.setting.secret and not self.group

    def accepts(self, value: str) -> bool:
        """Return whether the pattern accepts this value."""
        pattern = self.setting.pattern
        if not pattern:
            return True
        start, end = self._span()
        sample = self._sample()
        text = sample[:start] + value + sample[end:] if self.group else value
        try:
            match = re.fullmatch(pattern, text)
        except re.error:  # `setting_faults` reports it
            return False
        return match is not None and match[self.group or 0] == value

    def invalid_variants(self, characters: str) -> Iterator[str]:
        """Yield the example with one of the characters inserted, at each position."""
        start, end = self._span()
        value = self._sample()[start:end]
        for character in characters:
            for position in range(len(value) + 1):
                yield value[:position] + character + value[position:]

    def _sample(self) -> str:
        return self.setting.example or self.setting.default

    def _span(self) -> tuple[int, int]:
        match = re.fullmatch(self.setting.pattern, self._sample()) if self.group else None
        return match.span(self.group) if match else (0, len(self._sample()))


def input_fields(kind: str, settings: Mapping[str, Setting]) -> dict[str, InputField]:
    """Return the inputs by their names in templates, including the named groups of their patterns."""
    fields = {f"{kind}:{name}": InputField(setting) for name, setting in settings.items()}
    for setting in settings.values():
        fields |= {f"{kind}:{group}": InputField(setting, group) for group in named_groups(setting)}
    return fields


def named_groups(setting: Setting) -> Iterable[str]:
    """Return the names of the groups in a setting's pattern."""
    try:
        return re.compile(setting.pattern).groupindex
    except re.error:  # `setting_faults` reports it
        return ()


def setting_faults(location: str, settings: Mapping[str, Setting]) -> Iterator[str]:
    """Yield the faults of settings: each needs a matching example, and a description."""
    for name, setting in settings.items():
        sample = setting.default or setting.example
        try:
            is_valid = bool(re.fullmatch(setting.pattern, sample)) if setting.pattern else bool(sample)
        except re.error as error:
            yield f"{location}.{name}.pattern: {error}"
            continue
        if not is_valid:
            yield f"{location}.{name}: add an example that matches the pattern"
        if setting.generated:
            yield f"{location}.{name}.generated: the hub cannot generate it: remove generated"
        if not setting.about:
            yield f"{location}.{name}.about: empty: say what it is and where to find it"


def text_faults(
    text: LocatedText, known: Iterable[str], inputs: Mapping[str, InputField], exemptions: Mapping[str, str]
) -> Iterator[str]:
    """Yield the faults of a template: an unknown value, or a secret or unsafe value in a URL."""
    location, template, is_url = text
    names = RequestTemplate(template).names
    for name in sorted(set(names) - set(known)):
        yield f"{location}: unknown value {name}"
    if not is_url:
        return
    secrets = [name for name in names if name in _SECRET_VALUES or (name in inputs and inputs[name].secret)]
    if secrets and "secret-in-address" not in exemptions:
        yield f"{location}: {secrets[0]} is secret: remove it from the URL"
    if location.endswith((".url", "_url", ".base")):
        yield from _url_faults(location, template, inputs, exemptions)


def _url_faults(
    location: str, text: str, inputs: Mapping[str, InputField], exemptions: Mapping[str, str]
) -> Iterator[str]:
    leading = _LEADING_VALUE.match(text)
    host = _HOST_PATTERN.match(text)
    # The URL begins with a setting: its pattern must allow only https base URLs.
    if leading:
        is_whole = leading[0] == text
        invalid = [*_INVALID_BASES, *(() if "plain-http" in exemptions else _PLAIN_HTTP_URLS)]
        invalid += () if is_whole else _INVALID_PREFIXES
        yield from _pattern_faults(
            location, leading[0][1:-1], inputs, invalid, _INVALID_BASE_CHARACTERS + "?" * (not is_whole)
        )
    # The patterns of values in the host must not allow another host.
    elif host:
        for name in RequestTemplate(host[1]).names:
            yield from _pattern_faults(location, name, inputs, _INVALID_HOSTS, _INVALID_HOST_CHARACTERS)
    else:
        yield f"{location}: a URL has to begin with https://, or with a setting that does"


def _pattern_faults(
    location: str, name: str, inputs: Mapping[str, InputField], invalid: Iterable[str], characters: str
) -> Iterator[str]:
    """Yield a fault if the pattern accepts one of the `invalid` values, which would change the URL."""
    field = inputs.get(name)
    if field is None:
        return
    accepted = next(
        (value for value in (*invalid, *field.invalid_variants(characters)) if field.accepts(value)), None
    )
    if accepted is not None:
        yield f"{location}: the pattern of {name} accepts {accepted!r}, which changes the URL: restrict it"
