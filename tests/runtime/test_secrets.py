"""Secrets at rest: bound to their record, unreadable if changed or moved, readable through a key rotation."""

import base64
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from timeit import repeat
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlink.private_files import embedded_key, write_private
from shared.contracts.errors import Conflict, Misconfigured
from shared.runtime.encryption_keys import open_vault
from shared.runtime.record_secrets import decrypt_all, rotate_secret, store_secret
from shared.runtime.secrets import LocalKeyProvider, Sealed, UnknownKey, Vault, is_sealed
from shared.runtime.settings import HubSettings

OLD, NEW = b"o" * 32, b"n" * 32
SECRET = "whsec_the-secret-itself"
PLACE = {"workspace": "ws_1", "record": "ep_1", "field": "secret"}
OF_0_3: Sealed = {  # made by version 0.3.0 with OLD, for record ep_1, field secret
    "k": "c9fdb400",
    "n": bytes.fromhex("72911e7b497c5649fc204769"),
    "c": bytes.fromhex("1224f69818a07f015879003e8eab57afe8aa3084713a036dd71b3ca8c7bc1ac25b9763e2a311ec"),
}
texts = st.text(st.characters(codec="utf-8"), max_size=20)


def vault_of(*keys: bytes) -> Vault:
    local = LocalKeyProvider(keys)
    return Vault(local, direct=local)


@pytest.fixture
def vault() -> Vault:
    return vault_of(OLD)


def _sealed(vault: Vault) -> Sealed:
    return vault.seal(SECRET, **PLACE)


def _with(sealed: Sealed, **changed: object) -> Sealed:
    return cast("Sealed", {**sealed, **changed})


@given(st.text(st.characters(codec="utf-8"), max_size=200), texts, texts, texts)
def test_a_sealed_value_opens(plain: str, workspace: str, record: str, field: str) -> None:
    vault = vault_of(OLD)
    sealed = vault.seal(plain, workspace=workspace, record=record, field=field)
    assert is_sealed(sealed)
    assert vault.open(sealed, workspace=workspace, record=record, field=field) == plain


def test_a_sealed_value_contains_no_part_of_the_secret(vault: Vault) -> None:
    sealed = _sealed(vault)
    stored = b"".join((sealed["k"].encode(), sealed["w"], sealed["n"], sealed["c"]))
    assert SECRET.encode() not in stored
    assert OLD.hex() not in sealed["k"]
    assert OLD not in stored


def test_every_value_has_a_data_key_of_its_own(vault: Vault) -> None:
    keys = LocalKeyProvider([OLD])
    first, second = _sealed(vault), _sealed(vault)
    assert not {first["w"], first["n"], first["c"]} & {second["w"], second["n"], second["c"]}
    assert keys.unwrap(first["k"], first["w"]) != keys.unwrap(second["k"], second["w"])
    with pytest.raises(Misconfigured):
        vault.open(_with(first, w=second["w"]), **PLACE)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"workspace": "ws_2"},
        {"record": "ep_2"},
        {"field": "token"},
        {"workspace": "ws_1ep_1", "record": ""},
        {"workspace": "", "record": "ws_1ep_1"},
        {"record": "ep_1secret", "field": ""},
        {"record": "ep_1/secret", "field": ""},
        {"record": "ep_", "field": "1secret"},
        {"workspace": "ep_1", "record": "ws_1"},
    ],
    ids=str,
)
def test_a_value_does_not_open_in_another_place(vault: Vault, elsewhere: dict[str, str]) -> None:
    with pytest.raises(Misconfigured, match="changed or moved") as caught:
        vault.open(_sealed(vault), **{**PLACE, **elsewhere})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("part", ["w", "n", "c"])
def test_a_changed_byte_is_detected(vault: Vault, part: str) -> None:
    sealed = _sealed(vault)
    whole: bytes = sealed[part]  # type: ignore[literal-required]
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        with pytest.raises(Misconfigured, match="changed or moved"):
            vault.open(_with(sealed, **{part: bytes(changed)}), **PLACE)


def test_a_changed_character_of_the_key_id_is_detected(vault: Vault) -> None:
    sealed = _sealed(vault)
    for at, was in enumerate(sealed["k"]):
        changed = sealed["k"][:at] + ("1" if was == "0" else "0") + sealed["k"][at + 1 :]
        with pytest.raises(Misconfigured, match=f"sealed with key {changed}"):
            vault.open(_with(sealed, k=changed), **PLACE)


@pytest.mark.parametrize(
    "changed",
    [
        *({"c": value} for value in (b"", b"short", None, "text")),
        *({"n": value} for value in (b"", b"x", b"x" * 200, None)),
        *({"w": value} for value in (b"", b"x" * 12, b"x" * 60, b"x" * 200, None, "text")),
        {"k": None},
        {"k": []},
    ],
    ids=str,
)
def test_any_damage_raises_the_same_error(vault: Vault, changed: dict[str, object]) -> None:
    """The snapshot skips a record that raises this, and no other."""
    with pytest.raises(Misconfigured):
        vault.open(_with(_sealed(vault), **changed), **PLACE)


@pytest.mark.parametrize("value", [None, 5, "text", [], {}, {"k": "c9fdb400"}], ids=str)
def test_a_value_that_is_not_sealed_raises_the_same_error(vault: Vault, value: Any) -> None:
    assert not is_sealed(value)
    with pytest.raises(Misconfigured):
        vault.open(value, **PLACE)


def test_json_never_has_the_form_of_a_sealed_value(vault: Vault) -> None:
    sealed = _sealed(vault)
    assert not is_sealed({**sealed, "w": "text"})
    assert not is_sealed(dict.fromkeys(sealed, "text"))
    assert not is_sealed({**sealed, "more": b""})


def test_values_of_0_3_open(vault: Vault) -> None:
    assert is_sealed(OF_0_3)
    assert vault.open(OF_0_3, **PLACE) == SECRET
    assert vault_of(NEW, OLD).open(OF_0_3, **PLACE) == SECRET
    with pytest.raises(Misconfigured, match="changed or moved"):
        vault.open(OF_0_3, **{**PLACE, "record": "ep_2"})
    with pytest.raises(Misconfigured, match="sealed with key c9fdb400"):
        vault_of(NEW).open(OF_0_3, **PLACE)
    with pytest.raises(Misconfigured, match="sealed with key c9fdb400"):
        Vault(LocalKeyProvider([OLD])).open(OF_0_3, **PLACE)


def test_the_two_forms_are_not_confused(vault: Vault) -> None:
    """A value without its wrapped key does not open as one of 0.3.0, nor one of 0.3.0 as a wrapped key."""
    sealed = _sealed(vault)
    alone = cast("Sealed", {name: value for name, value in sealed.items() if name != "w"})
    for value in (
        alone,
        _with(alone, n=sealed["w"][:12], c=sealed["w"][12:]),
        _with(OF_0_3, w=sealed["w"]),
        _with(sealed, w=OF_0_3["n"] + OF_0_3["c"]),
    ):
        with pytest.raises(Misconfigured, match="changed or moved"):
            vault.open(value, **PLACE)


def test_a_rotation_of_the_encryption_key() -> None:
    """With the new key before the old one, values of both open, and new values need only the new key."""
    before = _sealed(vault_of(OLD))
    both = vault_of(NEW, OLD)
    assert both.open(before, **PLACE) == SECRET
    after = _sealed(both)
    assert after["k"] == both.current != before["k"]
    assert vault_of(NEW).open(after, **PLACE) == SECRET
    with pytest.raises(Misconfigured, match=before["k"]) as caught:
        vault_of(NEW).open(before, **PLACE)
    assert "ep_1" in str(caught.value)
    assert "INTERLINK_ENCRYPTION_KEY" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_value_under_a_new_key_is_the_same_value() -> None:
    before = _sealed(vault_of(OLD))
    after = vault_of(NEW, OLD).rewrap(before, record="ep_1")
    assert (after["n"], after["c"]) == (before["n"], before["c"])
    assert vault_of(NEW).open(after, **PLACE) == SECRET
    with pytest.raises(Misconfigured):
        vault_of(NEW).open(after, **{**PLACE, "workspace": "ws_2"})
    with pytest.raises(Misconfigured, match="ep_1 was sealed with key"):
        vault_of(NEW).rewrap(before, record="ep_1")
    for damaged in (_with(before, w=before["w"][:-1]), _with(before, w=b""), OF_0_3):
        with pytest.raises(Misconfigured, match="ep_1 was changed"):
            vault_of(NEW, OLD).rewrap(damaged, record="ep_1")


def test_another_key_under_the_same_name_does_not_open() -> None:
    """A key id that was changed in the database does not make another key fit."""
    moved = _with(_sealed(vault_of(OLD)), k=vault_of(NEW).current)
    with pytest.raises(Misconfigured, match="changed or moved"):
        vault_of(NEW, OLD).open(moved, **PLACE)


class Service:
    """A key management service: its keys never leave it, and a wrapped key is a ticket."""

    def __init__(self) -> None:
        self.current = "projects/p/keys/k/versions/1"
        self._tickets: dict[tuple[str, bytes], bytes] = {}

    def wrap(self, data_key: bytes) -> bytes:
        ticket = os.urandom(8)
        self._tickets[self.current, ticket] = data_key
        return ticket

    def unwrap(self, key: str, wrapped: bytes) -> bytes:
        if not key.startswith("projects/p/"):
            raise UnknownKey
        if (key, wrapped) not in self._tickets:
            raise ValueError("no such ticket")
        return self._tickets[key, wrapped]


def test_a_key_management_service_can_hold_the_keys() -> None:
    service = Service()
    vault = Vault(service, direct=LocalKeyProvider([OLD]))
    before = _sealed(vault)
    assert is_sealed(before)
    assert before["k"] == service.current
    service.current = "projects/p/keys/k/versions/2"
    after = vault.rewrap(before, record="ep_1")
    assert after["k"] == service.current
    for value in (before, after, OF_0_3):
        assert vault.open(value, **PLACE) == SECRET
    with pytest.raises(Misconfigured, match="changed or moved"):
        vault.open(_with(before, k=after["k"]), **PLACE)
    with pytest.raises(Misconfigured, match="sealed with key projects/q/1"):
        vault.open(_with(before, k="projects/q/1"), **PLACE)
    with pytest.raises(Misconfigured, match="sealed with key"):
        vault.open(_sealed(vault_of(OLD)), **PLACE)


def test_a_rotation_of_a_records_secret(vault: Vault) -> None:
    document: dict[str, Any] = {"_id": "ep_1", "workspace": "ws_1"}
    document["secrets"] = [
        store_secret(vault, "ws_1", "ep_1", "first"),
        {"sealed": OF_0_3, "expires_at": None},
    ]
    document["secrets"] = rotate_secret(vault, document, "second", timedelta(hours=1))
    assert [plain for plain, _ in decrypt_all(vault, document)] == ["second", "first", SECRET]
    ends = [ends for _, ends in decrypt_all(vault, document)]
    assert ends[0] is None
    assert all(end and timedelta(minutes=59) < end - datetime.now(UTC) for end in ends[1:])
    for changed in ({"_id": "ep_2"}, {"workspace": "ws_2"}):
        with pytest.raises(Misconfigured, match="changed or moved"):
            decrypt_all(vault, document | changed)


def test_a_rotation_does_not_shorten_an_earlier_overlap(vault: Vault) -> None:
    document: dict[str, Any] = {"_id": "ep_1", "workspace": "ws_1"}
    document["secrets"] = [store_secret(vault, "ws_1", "ep_1", "0")]
    for number in range(1, 5):
        document["secrets"] = rotate_secret(vault, document, str(number), timedelta(hours=1))
    assert [plain for plain, _ in decrypt_all(vault, document)] == ["4", "3", "2", "1", "0"]
    with pytest.raises(Conflict, match="overlap_hours 0"):
        rotate_secret(vault, document, "5", timedelta(hours=1))
    document["secrets"] = rotate_secret(vault, document, "5", timedelta(0))
    now = datetime.now(UTC)
    assert [plain for plain, ends in decrypt_all(vault, document) if ends is None or ends > now] == ["5"]


def test_opening_is_quick(vault: Vault, note: Callable[[str], None]) -> None:
    """A gateway opens thousands when it starts."""
    sealed = _sealed(vault)
    taken = min(repeat(lambda: vault.open(sealed, **PLACE), number=200, repeat=20)) / 200
    note(f"opening a sealed value: {taken * 1e6:.1f} microseconds")
    assert taken < 20e-6


def _open(monkeypatch: pytest.MonkeyPatch, value: str | None, file: Path | str | None = None) -> Vault:
    for name, text in (("INTERLINK_ENCRYPTION_KEY", value), ("INTERLINK_ENCRYPTION_KEY_FILE", file)):
        monkeypatch.delenv(name, raising=False)
        if text is not None:
            monkeypatch.setenv(name, str(text))
    return open_vault(HubSettings())


NEW_TEXT, OLD_TEXT = (base64.b64encode(key).decode() for key in (NEW, OLD))


@pytest.mark.parametrize("between", [",", ", ", "\n", ",\n"], ids=repr)
def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch, between: str) -> None:
    vault = _open(monkeypatch, f"{NEW_TEXT}{between}{OLD_TEXT}\n", "")
    assert vault.open(_sealed(vault_of(OLD)), **PLACE) == SECRET
    assert vault.open(OF_0_3, **PLACE) == SECRET
    assert vault.current == vault_of(NEW).current


@pytest.mark.parametrize("between", [",", "\n", "\r\n", ", ", ",\n", "\n\n"], ids=repr)
@pytest.mark.parametrize("end", ["", "\n", ",\n"], ids=repr)
@pytest.mark.parametrize("value", [None, ""])
def test_keys_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, between: str, end: str, value: str | None
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(f"{NEW_TEXT}{between}{OLD_TEXT}{end}".encode())
    file.chmod(0o444)
    vault = _open(monkeypatch, value, file)
    assert vault.open(_sealed(vault_of(OLD)), **PLACE) == SECRET
    assert vault.current == vault_of(NEW).current


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read: No such file"),
        (..., "cannot be read: Is a directory"),
        (b"", "no key"),
        (b"\n,\n", "no key"),
        (b"\xff\xfe", "not a file of text"),
        (b"# a key\n", "32 bytes in base64"),
        (OLD, "32 bytes in base64"),
        (f"{OLD_TEXT}{NEW_TEXT}".encode(), "32 bytes in base64"),
    ],
    ids=str,
)
def test_files_without_valid_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: Any, text: str
) -> None:
    file = tmp_path if content is ... else tmp_path / "keys"
    if isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(Misconfigured, match=f"^INTERLINK_ENCRYPTION_KEY_FILE: .*{text}") as caught:
        _open(monkeypatch, None, file)
    assert "\n" not in str(caught.value)
    assert OLD_TEXT not in str(caught.value)


def test_only_one_of_both_variables_may_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(OLD_TEXT)
    with pytest.raises(Misconfigured, match="INTERLINK_ENCRYPTION_KEY_FILE are both set") as caught:
        _open(monkeypatch, OLD_TEXT, file)
    assert "\n" not in str(caught.value)
    assert OLD_TEXT not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        ",",
        "not base64!",
        base64.b64encode(b"x" * 31).decode(),
        base64.b64encode(b"x" * 33).decode(),
        base64.b64encode(NEW).decode() + ",",
        "é" * 44,
    ],
)
def test_malformed_keys(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    with pytest.raises(Misconfigured, match="INTERLINK_ENCRYPTION_KEY") as caught:
        _open(monkeypatch, value)
    assert "\n" not in str(caught.value)
    assert not value or len(value) < 4 or value not in str(caught.value)


def test_the_embedded_key_is_created_once_and_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        first = embedded_key(tmp_path)
    finally:
        os.umask(before)
    assert len(base64.b64decode(first, validate=True)) == 32
    assert embedded_key(tmp_path) == first
    assert stat.S_IMODE((tmp_path / "encryption.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["encryption.key"]


def test_a_private_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.write_text("old")
    path.chmod(0o644)
    (tmp_path / "admin.new").write_text("left over by a crash")
    write_private(path, "new")
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["admin.key"]
