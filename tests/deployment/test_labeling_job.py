"""Which folders a job may have, and whose images it takes for its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from dre_ssod.deployment.labeling.labeling_job import prepare
from dre_ssod.errors import ConfigError, SourceError
from tests.deployment.labeling_jobs import job_in


@pytest.fixture
def projects(images: Path, tmp_path: Path) -> list[Path]:
    """Two folders with images and labels of the same names."""
    projects = [tmp_path / "a", tmp_path / "b"]
    for project in projects:
        shutil.copytree(images, project / "photos" / "JPEGImages")
        (project / "photos" / "ImageSets" / "Main").mkdir(parents=True)
        (project / "photos" / "ImageSets" / "Main" / "train.txt").write_text("0\n1\n")
        listed = [
            {"id": n, "file_name": f"JPEGImages/{n}.png", "width": 8, "height": 6} for n in (5, 6)
        ]
        content = {"images": listed, "annotations": [], "categories": []}
        (project / "set.json").write_text(json.dumps(content))
    return projects


@pytest.mark.parametrize(
    "source",
    [
        "photos",
        "./photos/../photos",
        "folder://photos",
        "coco://set.json?images=photos",
        "coco://set.json?images=photos&outside=allow",
        "voc://photos?split=train",
    ],
)
def test_the_same_command_in_another_folder_is_another_job(
    cfg: CfgNode,
    projects: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    job = replace(job_in(tmp_path / "job", tmp_path), source=source)
    for project in (projects[0], projects[0]):
        monkeypatch.chdir(project)
        prepare(job, cfg)
    monkeypatch.chdir(projects[1])
    said = rf"job of the images in {projects[0]}/photos.*, and --input .* names others here"
    with pytest.raises(ConfigError, match=said):
        prepare(job, cfg)
    # A link to the first project is that project.
    (tmp_path / "link").symlink_to(projects[0])
    monkeypatch.chdir(tmp_path / "link")
    prepare(job, cfg)


def test_a_job_continues_while_its_folder_of_images_is_gone(
    cfg: CfgNode, projects: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be reached is told of each image; another folder is none."""
    job = replace(job_in(tmp_path / "job", tmp_path), source="./photos")
    monkeypatch.chdir(projects[0])
    prepare(job, cfg)
    Path("photos").rename("away")
    prepare(job, cfg)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="there is no such folder"):
        prepare(job, cfg)


@pytest.mark.parametrize("source", ["{}", "folder://{}", "yolo://{}"])
def test_no_job_is_inside_of_the_folder_that_is_searched_for_its_images(
    cfg: CfgNode, images: Path, tmp_path: Path, source: str
) -> None:
    """Its links to images would be found there."""
    photos = Path(shutil.copytree(images, tmp_path / "photos"))
    (tmp_path / "link").symlink_to(photos)
    before = sorted(photos.rglob("*"))
    for output in (photos / "labeled", photos, tmp_path / "link" / "labeled"):
        job = replace(job_in(output, photos), source=source.format(photos))
        with pytest.raises(ConfigError, match=f"--output {output} is inside of --input {photos}:"):
            prepare(job, cfg)
    assert sorted(photos.rglob("*")) == before
    prepare(job_in(tmp_path / "photos_labeled", photos), cfg)
