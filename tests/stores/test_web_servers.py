"""Stores that are web servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from detectron2.utils.file_io import PathManager

from dre_ssod.stores import StoreError, local_copy, open_copy, place_of, weights_file
from tests.stores.test_stores import age


@contextmanager
def serving(
    folder: Path, handler_type: type[SimpleHTTPRequestHandler] = SimpleHTTPRequestHandler
) -> Iterator[str]:
    """The address of a web server of a folder."""
    handler = partial(handler_type, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a web server, which knows the folder ``photos``."""
    pytest.importorskip("aiohttp", reason="needs pip install 'dre_ssod[stores]'")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "web" / "photos").mkdir(parents=True)
    (tmp_path / "web" / "photos" / "a.jpg").write_bytes(b"picture")
    with serving(tmp_path / "web") as address:
        yield address


def test_a_web_server(web: str) -> None:
    folder = place_of(f"{web}/photos/")
    assert folder.is_dir()
    assert (folder / "a.jpg").is_file()
    assert not (folder / "b.jpg").exists()
    assert [place.name for place in folder.iterdir()] == ["a.jpg"]
    with open_copy(f"{web}/photos/a.jpg") as file:
        assert file.read() == b"picture"
    with pytest.raises(FileNotFoundError, match=r"photos/b\.jpg"):
        open_copy(f"{web}/photos/b.jpg")
    # Nobody listens to port 9: this says nothing of the object.
    with pytest.raises(StoreError, match=r"no answer in 4 tries.*Cannot connect"):
        open_copy("http://127.0.0.1:9/photos/a.jpg")


def test_weights_of_a_web_server_are_those_that_are_there_now(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of another server, or of before, under the same path."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "detectron2"))
    files = [tmp_path / folder / "run" / "model_final.pth" for folder in ("web", "other")]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"model" * (number + 1))
    with serving(tmp_path / "other") as other:
        for address, file in zip((web, other), files, strict=True):
            copy = Path(weights_file(f"{address}/run/model_final.pth"))
            assert copy.suffix == ".pth"
            assert copy.read_bytes() == file.read_bytes()
    files[0].write_bytes(b"trained again")
    for read in (weights_file, PathManager.get_local_path):
        assert Path(read(f"{web}/run/model_final.pth")).read_bytes() == b"trained again"


class WithoutDates(SimpleHTTPRequestHandler):
    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified":
            super().send_header(keyword, value)


def test_what_a_store_gives_nothing_but_a_size_of_is_fetched_each_time(
    web: str, tmp_path: Path, cache_folder: Path
) -> None:
    """Contents of equal size cannot be told apart by that; pictures are believed in for a day."""
    labels = tmp_path / "web" / "labels.json"
    with serving(labels.parent, WithoutDates) as address:
        for content in (b"first", b"other"):
            labels.write_bytes(content)
            assert Path(local_copy(f"{address}/labels.json")).read_bytes() == content
        for _ in range(2):
            with open_copy(f"{address}/labels.json") as file:
                assert file.read() == b"other"
            labels.write_bytes(b"third")
        for copy in cache_folder.glob("*/*/*.json"):
            age(90_000, copy)
        with open_copy(f"{address}/labels.json") as file:
            assert file.read() == b"third"
