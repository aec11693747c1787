from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dre_ssod.errors import FileError
from dre_ssod.files import link_or_copy, open_whole, open_whole_folder, set_aside, write_text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with something in it, alone in its folder."""
    found = tmp_path / "file.txt"
    found.write_text("before")
    return found


def assert_untouched(path: Path) -> None:
    assert path.read_text() == "before"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Stands for a full disk: writing beyond the limit fails as ENOSPC would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "folder"
    with open_whole_folder(path) as folder:
        (folder / "1.txt").write_text("1")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["1.txt"]
    with pytest.raises(ZeroDivisionError), open_whole_folder(tmp_path / "b") as folder:
        (folder / "1.txt").write_text(str(1 / 0))
    with pytest.raises(FileError, match="b cannot be written"), open_whole_folder(tmp_path / "b"):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "source.png"))
    # An error about what is read is passed on.
    with pytest.raises(FileNotFoundError), open_whole_folder(tmp_path / "b"):
        (tmp_path / "source.png").read_bytes()
    # A folder that somebody else fills in the meantime is not replaced.
    with pytest.raises(FileError, match="folder cannot be written"), open_whole_folder(path):
        pass
    assert [place.name for place in tmp_path.rglob("*")] == ["a", "folder", "1.txt"]


def test_the_working_folder_is_filled_and_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell that is in it would see nothing of another one by its name."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = here.stat()
    with pytest.raises(ZeroDivisionError), open_whole_folder(Path()) as folder:
        (folder / "1.txt").write_text(str(1 / 0))
    with open_whole_folder(Path()) as folder:
        (folder / "a").mkdir()
        (folder / "a" / "1.txt").write_text("1")
        (folder / "2.txt").write_text("2")
        assert not Path("2.txt").exists()
    assert os.path.samestat(before, here.stat())
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == ["here", "here/2.txt", "here/a", "here/a/1.txt"]
    # What somebody else has put there is not touched.
    with (
        pytest.raises(FileError, match="here cannot be written: Directory not empty"),
        open_whole_folder(Path("../here")) as folder,
    ):
        (folder / "2.txt").write_text("other")
    assert Path("2.txt").read_text() == "2"
    assert len(list(here.iterdir())) == 2
    with pytest.raises(FileError, match="Is a directory"):
        write_text(Path(), "x")


def save_tensor(path: Path) -> None:
    with open_whole(path) as file:
        torch.save({"w": torch.zeros(100_000)}, file)


@pytest.mark.parametrize("write", [save_tensor, lambda path: write_text(path, 100_000 * "x")])
def test_a_full_disk_is_named_and_leaves_what_was_there(
    path: Path, write: Callable[[Path], None]
) -> None:
    with (
        file_size_limit(20_000),
        pytest.raises(FileError, match=r"file.txt cannot be written: File too large \(\d+ MiB are"),
    ):
        write(path)
    assert_untouched(path)


def test_an_error_while_writing_leaves_what_was_there(path: Path) -> None:
    def half() -> None:
        with open_whole(path) as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(FileError, match="No space left on device"):
        half()
    assert_untouched(path)


def test_a_file_that_does_not_reach_the_disk_leaves_what_was_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("lost")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(FileError, match="cannot be written: lost"):
        write_text(path, "after")
    assert_untouched(path)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("a bug")])
def test_errors_that_have_nothing_to_do_with_the_file_stay_what_they_are(
    path: Path, error: Exception
) -> None:
    with pytest.raises(type(error), match="a bug"), open_whole(path):
        raise error
    assert_untouched(path)


def test_the_failure_to_read_another_file_is_not_one_to_write(path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), open_whole(path) as file:
        file.write((tmp_path / "missing").read_bytes())
    assert_untouched(path)


def test_the_advice_fits_any_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(FileError) as caught:
        write_text(tmp_path / "file", "x")
    assert "checkpoint" not in str(caught.value).lower()
    assert "--resume" not in str(caught.value)
    with pytest.raises(FileError, match="Not a directory"):
        write_text(Path("/dev/null/folder/file"), "x")


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match=r"gone/model.pth cannot be written.*No such file"),
        open_whole(tmp_path / "gone" / "model.pth"),
    ):
        pass


def test_text_is_written_with_its_folders_and_names_that_are_no_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / "a" / "b.txt", f"é {name}")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "é ".encode() + b"caf\xe9"


def test_a_further_name_takes_no_space_or_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "1.pth", tmp_path / "2.pth"
    first.write_text("first")
    second.write_text("second")
    link_or_copy(first, "best.pth")
    link_or_copy(first, "best.pth")
    assert (tmp_path / "best.pth").samefile(first)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(second, "best.pth")
    assert not (tmp_path / "best.pth").samefile(second)
    assert (tmp_path / "best.pth").read_text() == "second"
    assert not list(tmp_path.glob("*.partial"))


def test_files_are_set_aside_under_free_names(tmp_path: Path) -> None:
    for expected in ("config_1.yaml", "config_2.yaml"):
        (tmp_path / "config.yaml").write_text(expected)
        assert set_aside(tmp_path / "config.yaml").name == expected
    assert (tmp_path / "config_1.yaml").read_text() == "config_1.yaml"


def test_a_new_name_survives_a_crash_of_the_machine(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is brought to the disk before it gets its name, its folder after."""
    synchronized = []
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        is_folder = os.path.samestat(found, path.parent.stat())
        synchronized.append(("folder" if is_folder else "file", path.read_text()))
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(path, "after")
    assert synchronized == [("file", "before"), ("folder", "after")]
