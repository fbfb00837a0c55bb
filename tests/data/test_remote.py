"""Data at a URL are copied once to each machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from images import write_images

from autotl.data import read_source, remote
from autotl.errors import DataError
from autotl.space import registry


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote.fetch.cache_clear()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{write_images(tmp_path / 'photos', 3)}"


def test_a_remote_folder_is_read_like_a_local_one(url: str, tmp_path: Path) -> None:
    plugins = registry.load()
    there, here = (read_source(s, plugins).examples for s in (url, str(tmp_path / "photos")))
    assert [e.label for e in there] == [e.label for e in here]
    assert [Path(e.item).read_bytes() for e in there] == [Path(e.item).read_bytes() for e in here]
    assert all(Path(e.item).is_relative_to(tmp_path / "cache") for e in there)
    assert Path(remote.fetch(url)).name == "photos"


def test_other_sources_are_unchanged(tmp_path: Path) -> None:
    for source in ("sklearn:digits", str(tmp_path), "C://photos", "hf:owner/name"):
        assert remote.fetch(source) == source
    assert not (tmp_path / "cache").exists()


def test_it_is_copied_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    copy = remote._copy
    monkeypatch.setattr(remote, "_copy", lambda *a: (copies.append(a), copy(*a)))
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(remote.fetch.__wrapped__, [url] * 4))) == 1
    assert len(copies) == 1


def test_data_that_have_changed_are_copied_again(url: str, tmp_path: Path) -> None:
    first = remote.fetch.__wrapped__(url)
    (tmp_path / "photos" / "red" / "0.png").unlink()
    second = remote.fetch.__wrapped__(url)
    assert first != second
    assert len(list(Path(second).rglob("*.png"))) == len(list(Path(first).rglob("*.png"))) - 1


def test_a_copy_that_was_interrupted_is_not_used(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = type(fsspec.filesystem("file"))
    get = system.get

    def break_off(self: object, source: str, target: str, **options: object) -> None:
        Path(target).mkdir(parents=True)
        (Path(target) / "red").mkdir()
        raise OSError("connection lost")

    monkeypatch.setattr(system, "get", break_off)
    with pytest.raises(DataError, match="connection lost"):
        remote.fetch(url)
    monkeypatch.setattr(system, "get", get)
    assert len(list(Path(remote.fetch(url)).rglob("*.png"))) == 9


def test_what_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        remote.fetch(f"file://{tmp_path}/fotos")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(DataError, match="pip install s3fs"):
        remote.fetch("s3://bucket/photos")
