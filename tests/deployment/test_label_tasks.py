"""The images to label next as tasks: names that programs find, and what is said of them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from defusedxml.ElementTree import fromstring

from dre_ssod.data.sources.catalog import load_one_labeled
from dre_ssod.deployment.labeling.corrected_labels import join
from dre_ssod.deployment.labeling.label_merge import merge
from dre_ssod.deployment.labeling.label_tasks import (
    check_images,
    corrected_uri,
    how_to_use,
    write_tasks,
)
from dre_ssod.deployment.labeling.labeling_job import LabelingJob
from dre_ssod.errors import SourceError
from dre_ssod.stores import Piece


@pytest.fixture
def job(finished: LabelingJob, tmp_path: Path) -> LabelingJob:
    """A finished job of three listed images, in a folder that may be changed."""
    return replace(finished, folder=shutil.copytree(finished.folder, tmp_path / "job"))


def rename_root(job: LabelingJob, root: str) -> None:
    """Let the list of a job be of images in another folder, or of complete names."""
    settings = json.loads((job.folder / "settings.json").read_text())
    settings["manifest"]["root"] = root
    (job.folder / "settings.json").write_text(json.dumps(settings))


def listed(job: LabelingJob) -> list[str]:
    images = json.loads((job.folder / "label_next.json").read_text())["images"]
    return [image["file_name"] for image in images]


def served(address: str, root: Path, storage: Path) -> Path | None:
    """The file that Label Studio serves: below its document root, and in a storage that is, too."""
    assert root in storage.parents, "a storage is no child of the document root"
    [name] = parse_qs(urlsplit(address).query)["d"]
    path = Path(os.path.normpath(root / name))
    return path if str(path.parent).startswith(str(storage)) and path.is_file() else None


@pytest.mark.parametrize("ending", ["", "/../{name}"])
def test_label_studio_serves_the_images_from_a_storage(
    job: LabelingJob, images: Path, ending: str
) -> None:
    """Their own folder is the storage; the root is the one above."""
    rename_root(job, f"{images}{ending.format(name=images.name)}")
    tasks = json.loads(write_tasks(job, "labelstudio").read_text())
    files = [served(task["data"]["image"], images.parent, images) for task in tasks]
    assert files == [images / name for name in listed(job)]
    said = how_to_use(job, "labelstudio") or ""
    assert f"LOCAL_FILES_DOCUMENT_ROOT={images.parent}, " in said
    assert f"a source storage of the type Local Files with the path {images}. Do not sync" in said


def test_label_studio_serves_a_copy_of_what_is_in_a_store(job: LabelingJob) -> None:
    rename_root(job, "s3://bucket/photos")
    tasks = json.loads(write_tasks(job, "labelstudio").read_text())
    assert [t["data"]["image"].partition("=")[2] for t in tasks] == [
        f"photos/{name.replace(' ', '%20')}" for name in listed(job)
    ]
    said = how_to_use(job, "labelstudio") or ""
    assert "ROOT=COPY, " in said
    assert said.endswith("COPY/photos is a copy of s3://bucket/photos on its machine.")


def test_cvat_refuses_names_that_it_does_not_know(job: LabelingJob, images: Path) -> None:
    """It takes the id of such an image for the number of a frame, which these are not."""
    xml = fromstring(write_tasks(job, "cvat").read_bytes()).findall("image")
    assert [image.get("name") for image in xml] == listed(job)
    assert [image.get("id") for image in xml] == ["1000000", "1000001", "1000002"]
    said = how_to_use(job, "cvat") or ""
    assert f"names in its task are those below {images}, folders included" in said
    assert said.endswith("without a label of the task: class0, class1, class2.")


def test_names_are_below_a_folder_for_any_source(job: LabelingJob, images: Path) -> None:
    """Also of a job whose list has complete names."""
    entry = '"file_name": "'
    for path in (job.folder / "label_next.json", *job.folder.glob("chunks/*.jsonl")):
        path.write_text(path.read_text().replace(entry, f"{entry}{images}/"))
    rename_root(job, "")
    names = [str(Path(name).relative_to(images)) for name in listed(job)]
    xml = fromstring(write_tasks(job, "cvat").read_bytes()).findall("image")
    assert [image.get("name") for image in xml] == names
    tasks = json.loads(write_tasks(job, "labelstudio").read_text())
    files = [served(task["data"]["image"], images.parent, images) for task in tasks]
    assert files == [images / name for name in names]


def test_images_that_no_program_opens_are_refused_before_the_work(
    job: LabelingJob, images: Path
) -> None:
    for form in ("labelstudio", "cvat", "coco", "yolo", "voc"):
        check_images(job.folder, form)
    rename_root(job, "s3://bucket/photos")
    check_images(job.folder, "labelstudio")
    with pytest.raises(SourceError, match=r"s3://bucket/photos/0\.png: is in a store or a shard"):
        check_images(job.folder, "voc")
    piece = Piece(f"{images}/a.tar", 0, 9, "0.png")
    (job.folder / "manifest.jsonl").write_text(json.dumps([1, str(piece)]) + "\n")
    rename_root(job, "")
    for form in ("labelstudio", "cvat", "coco", "yolo"):
        with pytest.raises(SourceError, match="copy the set to a folder first"):
            check_images(job.folder, form)


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_joined_labels_outlive_the_job(
    job: LabelingJob, images: Path, tmp_path: Path, form: str
) -> None:
    """Labels that were corrected in its folder are of the images, under the user's own name."""
    photos = tmp_path / "photos"
    photos.symlink_to(images)
    rename_root(job, str(photos))
    path = write_tasks(job, form)
    uri = corrected_uri(job.folder, form) or ""
    assert all(os.path.islink(record["file_name"]) for record in load_one_labeled(uri))
    joined = join([], [uri], replace=False)
    files = [record["file_name"] for record in joined.records]
    assert files == [str(photos / name) for name in listed(job)]
    if form == "yolo":
        said = how_to_use(job, form) or ""
        labels = f"{path}/labels/train"
        assert said.endswith(f"labelImg {path}/images/train {labels}/classes.txt {labels}")
    shutil.rmtree(job.folder)
    assert all(map(os.path.isfile, files))


def test_what_is_corrected_where_it_is_stays(job: LabelingJob, images: Path) -> None:
    """Whatever other form is written after it, and when the list changes."""
    coco = write_tasks(job, "coco")
    assert coco.parent == job.folder / "tasks"
    coco.write_text("corrected")
    yolo, voc = (write_tasks(job, form) for form in ("yolo", "voc"))
    labels = (yolo / "labels" / "train").glob("*.txt")
    corrected = next(path for path in labels if path.name != "classes.txt")
    corrected.write_text("")
    for form, path in (("coco", coco), ("yolo", yolo), ("voc", voc)):
        assert write_tasks(job, form) == path
    assert {path.name for path in coco.parent.iterdir()} == {coco.name, yolo.name, voc.name}
    assert not list(job.folder.glob("tasks_*"))
    merge(job, 1, "both")
    other = write_tasks(job, "coco")
    assert other != coco
    uri = f"coco://{other}?images={images}"
    assert [record["file_name"] for record in load_one_labeled(uri)] == [
        str(images / name) for name in listed(job)
    ]
    assert (coco.read_text(), corrected.read_text()) == ("corrected", "")


def test_an_image_that_is_gone_is_named_where_it_is_to_be_linked_to(
    job: LabelingJob, images: Path, tmp_path: Path
) -> None:
    photos = Path(shutil.copytree(images, tmp_path / "photos"))
    rename_root(job, str(photos))
    gone = photos / listed(job)[0]
    gone.unlink()
    with pytest.raises(SourceError, match=rf"^{gone}: is listed .* Put it back and repeat"):
        write_tasks(job, "yolo")
    assert not (job.folder / "tasks").exists()


def test_links_of_the_user_stay(images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").symlink_to(images / "0.png")
    (tmp_path / "mine" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "mine" / "classes.txt").write_text("cell\n")
    joined = join([], [f"yolo://{tmp_path}/mine"], replace=False)
    assert [record["file_name"] for record in joined.records] == [f"{tmp_path}/mine/a.png"]
