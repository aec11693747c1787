"""Results in a store: what is sent, what is refused before the work, what is kept after it."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dre_ssod.errors import ConfigError, FileError
from dre_ssod.files import write_text
from dre_ssod.stores import (
    Place,
    StoreError,
    Written,
    any_file,
    any_folder,
    delivered_file,
    delivered_folder,
    delivery,
    folder_without,
)

FOLDER, FILE = "s3://data/out/new", "s3://data/out/page.html"


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are made before they are sent."""
    folder = tmp_path / "staging"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def fill(folder: Path, *names: str) -> None:
    """Files with their names in them, written in this order."""
    for second, name in enumerate(names):
        write_text(folder / name, name)
        os.utime(folder / name, (second, second))


def deliver(*names: str, then: Callable[[Path], object]) -> None:
    """Files into ``FOLDER``, with something that happens before the work ends."""
    with delivered_folder(FOLDER) as (folder, _):
        fill(folder, *names)
        then(folder)


def raising(error: Exception) -> None:
    raise error


def refusing(*errors: Exception) -> Callable[..., None]:
    """A function that raises these, one at each call, and then the last again."""
    left = list(errors)

    def fail(*arguments: Any, **named: Any) -> None:
        raise left.pop(0) if len(left) > 1 else left[0]

    return fail


def test_a_path_of_this_machine_is_written_to_as_it_is(tmp_path: Path) -> None:
    with delivered_file(tmp_path / "page.html") as (path, place):
        assert path == place == tmp_path / "page.html"
        path.write_text("page")
    with (
        pytest.raises(ConfigError, match=r"page\.html exists; choose another name"),
        delivered_file(tmp_path / "page.html"),
    ):
        raise AssertionError("the work has begun")
    with delivered_file(tmp_path / "page.html", any_file) as (path, _):
        assert path.read_text() == "page"


def test_a_file_is_sent_when_it_is_done(bucket: Any, staging: Path) -> None:
    with delivered_file(FILE) as (path, place):
        path.write_text("page")
        assert str(place) == FILE
        assert not bucket.exists(FILE)
    assert bucket.cat(FILE) == b"page"
    assert bucket.info(FILE)["ContentType"] == "text/html"
    assert bucket.find("data") == ["data/out/page.html"]
    assert not [*staging.iterdir()]


def test_files_of_a_folder_come_in_the_order_in_which_they_were_written(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[list[str]] = []
    put = type(bucket).put

    def noting(system: Any, here: list[str], there: list[str]) -> None:
        sent.append([name.removeprefix("data/out/new/") for name in there])
        put(system, here, there)

    monkeypatch.setattr(type(bucket), "put", noting)
    monkeypatch.setattr(delivery, "_BYTES_AT_ONCE", 11)
    with delivered_folder(FOLDER) as (folder, _):
        fill(folder, "b/2.png", "b/1.png", "a", "index.json")
    assert [name for batch in sent for name in batch] == ["b/2.png", "b/1.png", "a", "index.json"]
    assert len(sent) == 3
    assert bucket.cat(f"{FOLDER}/b/1.png") == b"b/1.png"
    assert len(bucket.find(FOLDER)) == 4


@pytest.mark.parametrize(
    ("deliver", "said"),
    [
        (lambda: delivered_file("s3://data/there/a.txt"), "a.txt exists; choose another name"),
        (lambda: delivered_file("s3://data/there", any_file), "there is a folder; name a file"),
        (lambda: delivered_folder("s3://data/there"), "there exists and is not empty"),
        (lambda: delivered_folder("s3://data/there/a.txt", any_folder), "is a file; name a fol"),
        (
            lambda: delivered_folder("s3://data/there", folder_without("b.txt", "a.txt")),
            "there/a.txt exists; choose another folder",
        ),
        (lambda: delivered_file("https://host/a.txt"), "web servers and archives are only read"),
        (lambda: delivered_file("zip://a.txt::s3://data/a.zip"), "nothing is written there"),
        (lambda: delivered_file("memory://a/a.txt"), "nothing is written there"),
        (lambda: delivered_file("s4://data/a.txt"), "nothing is written there"),
        (lambda: delivered_folder("s3://"), "s3://BUCKET/NAME"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_work(
    deliver: Callable[[], AbstractContextManager[Written]], said: str, bucket: Any
) -> None:
    bucket.pipe("data/there/a.txt", b"mine")
    with pytest.raises(ConfigError, match=said), deliver():
        raise AssertionError("the work has begun")
    assert bucket.find("data") == ["data/there/a.txt"]


def test_what_may_be_replaced_is(bucket: Any) -> None:
    bucket.pipe({"data/out/new/mine": b"mine", "data/out/new/a": b"old"})
    with delivered_folder(FOLDER, any_folder) as (folder, _):
        fill(folder, "a")
    with delivered_folder(FOLDER, folder_without("b")) as (folder, _):
        fill(folder, "b")
    assert bucket.cat(FOLDER, recursive=True) == {
        "data/out/new/mine": b"mine",
        "data/out/new/a": b"a",
        "data/out/new/b": b"b",
    }


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("s3://no-such-bucket/a/b", None, "no-such-bucket/a: there is no such bucket to write to"),
        (FILE, PermissionError("denied"), "access is refused.*AWS_PROFILE"),
        (FILE, ConnectionResetError("reset"), "no answer in 4 tries.*reset"),
        (FILE, NotImplementedError(), "data/out: fsspec does not write to this store"),
    ],
)
def test_a_store_that_takes_nothing_shows_before_the_work(
    address: str, error: Exception | None, said: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if error is not None:
        monkeypatch.setattr(type(bucket), "put_file", refusing(error))
    with pytest.raises(StoreError, match=said), delivered_file(address):
        raise AssertionError("the work has begun")
    assert bucket.ls("") == ["data"]


def test_a_trial_that_stays_is_named(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(type(bucket), "rm_file", refusing(PermissionError("no deletion")))
    with caplog.at_level(logging.WARNING), delivered_file(FILE) as (path, _):
        path.write_text("page")
    assert "stays, an empty object" in caplog.text
    trial, page = sorted(bucket.find("data"))
    assert trial in caplog.text
    assert page == "data/out/page.html"


def test_nothing_is_sent_of_work_that_fails(bucket: Any, staging: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        deliver("a", then=lambda _: raising(ZeroDivisionError()))
    assert bucket.find("data") == []
    assert not [*staging.iterdir()]


def test_a_full_disk_is_that_of_the_temporary_folder(bucket: Any) -> None:
    with pytest.raises(FileError, match=r"cannot be written\. .*TMPDIR chooses another disk"):
        deliver("a", then=lambda folder: raising(FileError(f"{folder} cannot be written.")))
    with pytest.raises(FileError, match=r"^other cannot be written$"):
        deliver("a", then=lambda _: raising(FileError("other cannot be written")))


def bucket_is_gone(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.rm("data", recursive=True)


def store_is_gone(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(bucket), "put", refusing(ConnectionResetError("reset")))


def user_stops(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(system: Any, here: list[str], there: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(bucket), "put", stop)


def others_come_first(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another process, of which this one's list of the folder knows nothing.
    other = type(bucket)(skip_instance_cache=True)
    other.pipe("data/out/new/theirs", b"theirs")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (bucket_is_gone, "there is no such object"),
        (store_is_gone, "no answer in 4 tries, the last: ConnectionResetError: reset"),
        (user_stops, "interrupted"),
        (others_come_first, "s3://data/out/new exists and is not empty"),
    ],
)
def test_what_cannot_be_sent_is_kept_and_named(
    trouble: Callable[..., None],
    said: str,
    bucket: Any,
    staging: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def then(folder: Path) -> None:
        # The list of the bucket that this process keeps is an old one from here on.
        bucket.ls("data")
        trouble(bucket, monkeypatch)

    with pytest.raises(StoreError) as stopped:
        deliver("a", "index.json", then=then)
    [folder] = staging.glob("*/new")
    message = str(stopped.value)
    assert message.startswith(f"{FOLDER}: 0 of 2 files were sent, then: ")
    assert said in message
    assert f"kept in {folder}: copy it to {FOLDER}" in message
    assert sorted(path.name for path in folder.iterdir()) == ["a", "index.json"]
    if trouble is bucket_is_gone:
        bucket.mkdir("data")


def test_a_store_that_goes_between_two_files_has_the_first(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = type(bucket).put

    def once(system: Any, here: list[str], there: list[str]) -> None:
        if here[0].endswith("index.json"):
            raise PermissionError("denied")
        put(system, here, there)

    monkeypatch.setattr(type(bucket), "put", once)
    with pytest.raises(StoreError, match=r"1 of 2 files were sent, then: .*access is refused"):
        deliver("a", "index.json", then=lambda _: None)
    assert bucket.find("data") == ["data/out/new/a"]


def test_a_short_trouble_of_the_store_is_none(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put, calls = type(bucket).put, []

    def later(system: Any, here: list[str], there: list[str]) -> None:
        calls.append(there)
        if len(calls) < 3:
            raise ConnectionResetError("reset")
        put(system, here, there)

    monkeypatch.setattr(type(bucket), "put", later)
    with delivered_file(FILE) as (path, _):
        path.write_text("page")
    assert len(calls) == 3
    assert bucket.cat(FILE) == b"page"


def test_a_rule_of_a_program_is_asked_twice(bucket: Any) -> None:
    asked: list[str] = []

    def rule(place: Place) -> None:
        asked.append(str(place))

    with delivered_file(FILE, rule) as (path, _):
        path.write_text("page")
        assert asked == [FILE]
    assert asked == [FILE, FILE]
