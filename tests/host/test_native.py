"""The compiled kernels are loaded where they are, and left alone where they are not, are others, or are not wanted."""

from __future__ import annotations

import shutil

import pytest

from coopsgd.host import native


@pytest.fixture(autouse=True)
def anew():
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def test_they_are_left_alone_when_told_to(monkeypatch):
    monkeypatch.setenv(native.OFF, "0")
    assert not native.in_use()


@pytest.mark.skipif(not native.in_use(), reason="built without a compiler")
@pytest.mark.parametrize("what", ["gone", "of another source", "no library"])
def test_where_there_are_none_to_use(monkeypatch, tmp_path, what):
    (own,) = native.Path(native.__file__).parent.glob("_native*.so")
    if what != "gone":
        shutil.copy(own, tmp_path / own.name)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    if what == "of another source":
        monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    elif what == "no library":
        (tmp_path / own.name).write_bytes(b"none")
    assert not native.in_use()
