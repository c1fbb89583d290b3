"""Secrets at rest: bound to their record, not to be changed or moved, readable through a rotation of keys."""

import base64
import os
import stat
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Misconfigured
from shared.runtime.secrets import Sealed, Vault, local_key, open_vault, write_private
from shared.runtime.settings import HubSettings

OLD, NEW = b"o" * 32, b"n" * 32
SECRET = "whsec_the-secret-itself"


@pytest.fixture
def vault() -> Vault:
    return Vault([OLD])


def _sealed(vault: Vault) -> Sealed:
    return vault.seal(SECRET, record="ep_1", field="secret")


def _with(sealed: Sealed, **changed: object) -> Sealed:
    return cast("Sealed", {**sealed, **changed})


@given(
    st.text(max_size=200).filter(lambda text: text.isprintable()), st.text(max_size=20), st.text(max_size=20)
)
def test_what_is_sealed_opens(plain: str, record: str, field: str) -> None:
    record, field = record.encode("utf-8", "ignore").decode(), field.encode("utf-8", "ignore").decode()
    vault = Vault([OLD])
    assert vault.open(vault.seal(plain, record=record, field=field), record=record, field=field) == plain


def test_nothing_of_it_is_in_clear(vault: Vault) -> None:
    sealed = _sealed(vault)
    stored = b"".join((sealed["k"].encode(), sealed["n"], sealed["c"]))
    assert SECRET.encode() not in stored
    assert OLD.hex() not in sealed["k"]
    assert OLD not in stored
    again = _sealed(vault)
    assert (again["n"], again["c"]) != (sealed["n"], sealed["c"])


@pytest.mark.parametrize(("record", "field"), [("ep_2", "secret"), ("ep_1", "token"), ("ep_1/secret", "")])
def test_it_does_not_open_elsewhere(vault: Vault, record: str, field: str) -> None:
    with pytest.raises(Misconfigured, match="changed or moved") as caught:
        vault.open(_sealed(vault), record=record, field=field)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("part", ["n", "c"])
def test_every_changed_byte_is_seen(vault: Vault, part: str) -> None:
    sealed = _sealed(vault)
    whole = sealed["n"] if part == "n" else sealed["c"]
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        with pytest.raises(Misconfigured):
            vault.open(_with(sealed, **{part: bytes(changed)}), record="ep_1", field="secret")


@pytest.mark.parametrize("changed", [{"c": b""}, {"c": b"short"}, {"n": b""}, {"n": b"x"}, {"n": b"x" * 200}])
def test_damage_of_any_form_is_one_kind_of_error(vault: Vault, changed: dict[str, bytes]) -> None:
    """The snapshot skips a record that raises this, and no other."""
    with pytest.raises(Misconfigured):
        vault.open(_with(_sealed(vault), **changed), record="ep_1", field="secret")


def test_a_rotation_of_the_encryption_key() -> None:
    """With the new key in front of the old one both open, and what is sealed now needs the new one only."""
    before = _sealed(Vault([OLD]))
    both = Vault([NEW, OLD])
    assert both.open(before, record="ep_1", field="secret") == SECRET
    after = _sealed(both)
    assert after["k"] != before["k"]
    assert Vault([NEW]).open(after, record="ep_1", field="secret") == SECRET
    with pytest.raises(Misconfigured, match=before["k"]) as caught:
        Vault([NEW]).open(before, record="ep_1", field="secret")
    assert "INTERLINK_ENCRYPTION_KEY" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_another_key_under_the_same_name_does_not_open() -> None:
    """A key id that was changed in the store does not make another key fit."""
    moved = _with(_sealed(Vault([OLD])), k=_sealed(Vault([NEW]))["k"])
    with pytest.raises(Misconfigured):
        Vault([NEW, OLD]).open(moved, record="ep_1", field="secret")


def _open(monkeypatch: pytest.MonkeyPatch, value: str | None) -> Vault:
    monkeypatch.delenv("INTERLINK_ENCRYPTION_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("INTERLINK_ENCRYPTION_KEY", value)
    return open_vault(HubSettings())


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = (base64.b64encode(key).decode() for key in (NEW, OLD))
    vault = _open(monkeypatch, f"{new}, {old}")
    assert vault.open(_sealed(Vault([OLD])), record="ep_1", field="secret") == SECRET
    assert _sealed(vault)["k"] == _sealed(Vault([NEW]))["k"]


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
def test_keys_that_are_none(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    with pytest.raises(Misconfigured, match="INTERLINK_ENCRYPTION_KEY") as caught:
        _open(monkeypatch, value)
    assert "\n" not in str(caught.value)
    assert not value or len(value) < 4 or value not in str(caught.value)


def test_the_local_key_is_made_once_and_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        first = local_key(tmp_path)
    finally:
        os.umask(before)
    assert len(base64.b64decode(first, validate=True)) == 32
    assert local_key(tmp_path) == first
    assert stat.S_IMODE((tmp_path / "encryption.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["encryption.key"]


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.write_text("old")
    path.chmod(0o644)
    (tmp_path / "admin.new").write_text("left over by a crash")
    write_private(path, "new")
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["admin.key"]
