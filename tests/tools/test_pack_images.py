"""What is packed is read back: the same pictures in the same order, with the same labels."""

from __future__ import annotations

import shlex
import tarfile
from pathlib import Path

import pytest

from dre_ssod.data.images import open_picture
from dre_ssod.data.sources.catalog import class_names, load_one_labeled, load_unlabeled
from tests.tiny_dataset import write_tiny_dataset
from tools import pack_images


def read(name: str) -> bytes:
    with open_picture(name) as file:
        return file.read()


def test_images_come_back_in_their_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    words = [data.unlabeled, "--images", "3", "--output"]
    assert pack_images.run([*words, str(tmp_path / "a b")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("4 images in 2 shards. For a config:\nDATASETS.UNLABELED ")
    (uri,) = eval(shlex.split(said.splitlines()[1])[1])
    assert uri == f"shards://{tmp_path}/a%20b/images-{{000000..000001}}.tar"
    before, after = load_unlabeled([data.unlabeled]), load_unlabeled([uri])
    assert [read(r["file_name"]) for r in after] == [read(r["file_name"]) for r in before]
    assert [Path(r["file_name"]).name for r in after] == [f"u{n}.png" for n in range(4)]
    # The same bytes again; a folder with files is left alone.
    assert pack_images.run([*words, str(tmp_path / "again")]) == 0
    shards = sorted((tmp_path / "again").iterdir())
    assert [s.read_bytes() for s in shards] == [
        (tmp_path / "a b" / s.name).read_bytes() for s in shards
    ]
    assert pack_images.run([*words, str(tmp_path / "again")]) == 2


def test_the_working_folder_is_a_folder_to_pack_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert pack_images.run([data.unlabeled, "--output", "."]) == 0
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["images-000000.tar"]
    (uri,) = eval(shlex.split(capsys.readouterr().out.splitlines()[1])[1])
    assert len(load_unlabeled([uri])) == 4


def test_labels_come_back_too(tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    output = tmp_path / "packed"
    assert pack_images.run([data.labeled, "--labels", "--output", str(output), "--name", "t"]) == 0
    uri = f"shards://{output}/t-000000.tar"
    assert class_names([uri]) == class_names([data.labeled])
    before, after = load_one_labeled(data.labeled), load_one_labeled(uri)
    for one, other in zip(before, after, strict=True):
        assert read(one["file_name"]) == read(other["file_name"])
        assert (one["width"], one["height"]) == (other["width"], other["height"])
        assert one["annotations"] == other["annotations"]
    # Packed again, from the shards, they are the same.
    assert pack_images.run([uri, "--labels", "--output", f"{output}2", "--name", "t"]) == 0
    again = Path(f"{output}2") / "t-000000.tar"
    assert again.read_bytes() == (output / "t-000000.tar").read_bytes()


def test_names_have_one_dot_and_differ(tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    content = (data.root / "more" / "u0.png").read_bytes()
    for name in ("a/v1.0.PNG", "b/v1.0.png", "b/c.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(content)
    words = [f"folder://{tmp_path}/photos", "--output", str(tmp_path / "out")]
    assert pack_images.run(words) == 0
    with tarfile.open(tmp_path / "out" / "images-000000.tar") as tar:
        assert tar.getnames() == ["000000000_v1_0.png", "000000001_c.png", "000000002_v1_0.png"]


@pytest.mark.parametrize(
    ("gone", "said"),
    [("train/3.png", "3.png: the image is missing"), ("train.json", "no file")],
)
def test_what_is_missing_leaves_nothing(
    gone: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tiny_dataset(tmp_path / "data")
    (data.root / gone).unlink()
    assert pack_images.run([data.labeled, "--output", str(tmp_path / "out")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_name_and_a_number_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("--name ../x", "--images 0"):
        with pytest.raises(SystemExit):
            pack_images.parse_arguments(["folder://x", "--output", "out", *words.split()])
    said = capsys.readouterr().err
    assert "'../x': letters, digits" in said
    assert "0 is less than 1" in said
