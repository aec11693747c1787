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


def refusing(error: BaseException) -> Callable[..., None]:
    def fail(*arguments: Any) -> None:
        raise error

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


@pytest.mark.parametrize("deliver_to", [delivered_file, delivered_folder])
def test_a_path_that_cannot_be_written_shows_before_the_work(
    tmp_path: Path, deliver_to: Callable[[Path], AbstractContextManager[object]]
) -> None:
    """And of one that can be, nothing is left before something is written."""
    (tmp_path / "notes.txt").write_text("no folder")
    path = tmp_path / "notes.txt" / "more" / "page.html"
    with (
        pytest.raises(FileError, match=r"page\.html cannot be written: Not a directory.*choose a"),
        deliver_to(path),
    ):
        raise AssertionError("the work has begun")
    with deliver_to(tmp_path / "new" / "page.html"):
        assert [entry.name for entry in tmp_path.iterdir() if entry.name != "staging"] == [
            "notes.txt"
        ]


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
    put = bucket.put

    def noting(here: list[str], there: list[str]) -> None:
        sent.append([name.removeprefix("data/out/new/") for name in there])
        put(here, there)

    monkeypatch.setattr(bucket, "put", noting)
    monkeypatch.setattr(delivery, "_BYTES_AT_ONCE", 11)
    with delivered_folder(FOLDER) as (folder, _):
        fill(folder, "b/2.png", "b/1.png", "a", "index.json")
    assert [name for batch in sent for name in batch] == ["b/2.png", "b/1.png", "a", "index.json"]
    assert len(sent) == 3
    assert bucket.cat(f"{FOLDER}/b/1.png") == b"b/1.png"
    assert len(bucket.find(FOLDER)) == 4


def test_what_does_not_fit_is_refused_before_the_work(bucket: Any) -> None:
    bucket.pipe("data/there/a.txt", b"mine")
    without = folder_without("b.txt", "a.txt")
    there = "s3://data/there"
    refused = {
        "/a.txt exists; choose another name": delivered_file(f"{there}/a.txt"),
        "there is a folder; name a file": delivered_file(there, any_file),
        "there exists and is not empty": delivered_folder(there),
        "a.txt is a file; name a folder": delivered_folder(f"{there}/a.txt", any_folder),
        "there/a.txt exists; choose another folder": delivered_folder(there, without),
        "https://host/a.txt: nothing is written there": delivered_file("https://host/a.txt"),
        "a.txt::s3://data/a.zip: nothing": delivered_file("zip://a.txt::s3://data/a.zip"),
        "memory://a/a.txt: nothing is written": delivered_file("memory://a/a.txt"),
        "s4://data/a.txt: nothing is written": delivered_file("s4://data/a.txt"),
        "s3:/data/a.txt: nothing is written": delivered_file("s3:/data/a.txt"),
        "s3://: nothing is written there.*s3://BUCKET/NAME": delivered_folder("s3://"),
        "s3://data: nothing is written there": delivered_file("s3://data"),
    }
    for said, deliver in refused.items():
        with pytest.raises(ConfigError, match=said), deliver:
            raise AssertionError("the work has begun")
    assert bucket.find("data") == ["data/there/a.txt"]


def test_what_may_be_replaced_is(bucket: Any) -> None:
    bucket.pipe({"data/out/new/mine": b"mine", "data/out/new/a": b"old"})
    with delivered_folder(FOLDER, any_folder) as (folder, _):
        fill(folder, "a")
    with delivered_folder(FOLDER, folder_without("b")) as (folder, _):
        fill(folder, "b")
    found = {name.removeprefix("data/out/new/"): bucket.cat(name) for name in bucket.find(FOLDER)}
    assert found == {"mine": b"mine", "a": b"a", "b": b"b"}


def test_a_store_that_takes_nothing_shows_before_the_work(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = {
        "access is refused.*AWS_PROFILE": PermissionError("denied"),
        "no answer in 4 tries.*reset": ConnectionResetError("reset"),
        "data/out: fsspec does not write to this store": NotImplementedError(),
    }
    for said, error in troubles.items():
        with monkeypatch.context() as patch:
            patch.setattr(bucket, "put_file", refusing(error))
            with pytest.raises(StoreError, match=said), delivered_file(FILE):
                raise AssertionError("the work has begun")
    with (
        pytest.raises(StoreError, match=r"^s3://no-such-bucket: there is no such bucket; make it"),
        delivered_file("s3://no-such-bucket/a/b"),
    ):
        raise AssertionError("the work has begun")
    assert bucket.ls("") == ["data"]


def test_a_trial_that_stays_is_named(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bucket, "rm_file", refusing(PermissionError("no deletion")))
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
    monkeypatch.setattr(bucket, "put", refusing(ConnectionResetError("reset")))


def user_stops(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "put", refusing(KeyboardInterrupt()))


def others_come_first(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another process, of which this one's list of the folder knows nothing.
    other = type(bucket)(skip_instance_cache=True)
    other.pipe("data/out/new/theirs", b"theirs")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (bucket_is_gone, "then: s3://data: there is no such bucket; make it"),
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
    put = bucket.put

    def once(here: list[str], there: list[str]) -> None:
        if here[0].endswith("index.json"):
            raise PermissionError("denied")
        put(here, there)

    monkeypatch.setattr(bucket, "put", once)
    with pytest.raises(StoreError, match=r"1 of 2 files were sent, then: .*access is refused"):
        deliver("a", "index.json", then=lambda _: None)
    assert bucket.find("data") == ["data/out/new/a"]


def test_a_short_trouble_of_the_store_is_none(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put, calls = bucket.put, []

    def later(here: list[str], there: list[str]) -> None:
        calls.append(there)
        if len(calls) < 3:
            raise ConnectionResetError("reset")
        put(here, there)

    monkeypatch.setattr(bucket, "put", later)
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
