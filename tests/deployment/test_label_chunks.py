"""Images that could not be reached: their chunk is tried again, and nothing is lost meanwhile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from dre_ssod.deployment.labeling.bulk_labeling import label_missing
from dre_ssod.deployment.labeling.label_chunks import Tries
from dre_ssod.deployment.labeling.label_merge import last_merge, merge, merge_since, note_merge
from dre_ssod.deployment.labeling.label_tasks import write_tasks
from dre_ssod.deployment.labeling.labeling_job import LabelingJob, prepare
from tests.deployment.labeling_jobs import job_in, merged, read, result, run


@pytest.fixture
def photos(images: Path, tmp_path: Path) -> Path:
    """Images that a test may take away."""
    return Path(shutil.copytree(images, tmp_path / "photos"))


def test_an_outage_is_made_good_by_the_same_command(
    cfg: CfgNode, photos: Path, tmp_path: Path
) -> None:
    """The whole folder is gone in the middle of the job, with loading processes."""
    whole = run(job_in(tmp_path / "whole", photos), cfg)
    job = job_in(tmp_path / "job", photos)
    prepare(job, cfg)
    workers = cfg.clone()
    workers.DATALOADER.NUM_WORKERS = 1
    first = next(label_missing(job, workers))
    photos.rename(tmp_path / "gone")
    assert list(label_missing(job, workers)) == [0, 0]
    summary = merge(job, 3, "both")
    # The broken one is known to be broken only if its chunk was the first.
    assert (summary.images + summary.skipped, summary.unreached) == (first, 8 - first)
    assert summary.first_unreached[-1].startswith(f"{photos}/")
    left = [json.loads(line) for line in (job.folder / "unreached.jsonl").read_text().splitlines()]
    assert len(left) == 8 - first
    assert all("there is no such file" in line["error"] for line in left)
    (tmp_path / "gone").rename(photos)
    assert sum(label_missing(job, cfg)) == 8 - first
    assert merged(job) == whole
    assert sorted(path.name for path in (job.folder / "chunks").iterdir()) == [
        f"00000{number}.jsonl" for number in range(3)
    ]
    assert not (job.folder / "unreached.jsonl").exists()


def test_the_rest_is_labeled_and_stays_when_other_images_are_gone_next_time(
    cfg: CfgNode, photos: Path, tmp_path: Path
) -> None:
    whole = job_in(tmp_path / "whole", photos)
    expected = run(whole, cfg)
    job = job_in(tmp_path / "job", photos)
    prepare(job, cfg)
    (photos / "1.png").rename(tmp_path / "1.png")
    assert sorted(label_missing(job, cfg)) == [2, 2, 3]
    summary = merge(job, 8, "both")
    assert (summary.images, summary.skipped, summary.unreached) == (6, 1, 1)
    assert summary.first_unreached == [f"{photos}/1.png"]
    assert len(result(job)["images"]) == 6
    write_tasks(job, "labelstudio")
    # Of the same chunk.
    (photos / "0.png").rename(tmp_path / "0.png")
    assert list(label_missing(job, cfg)) == [2]
    assert merge(job, 8, "both").first_unreached == [f"{photos}/1.png"]
    (tmp_path / "1.png").rename(photos / "1.png")
    assert list(label_missing(job, cfg)) == [3]
    assert merged(job) == expected


def test_a_chunk_that_one_process_has_tried_in_vain_is_not_tried_by_the_others(
    tmp_path: Path,
) -> None:
    (tmp_path / "chunks").mkdir()
    line = {"id": 1, "file_name": "a.png", "error": "gone", "unreached": True}
    one, two = Tries(tmp_path, 1), Tries(tmp_path, 1)
    assert one.keep(0, [line]) == 0
    assert one.is_over(0)
    assert two.is_over(0)
    later = Tries(tmp_path, 1)
    assert not later.is_over(0)
    assert later.keep(0, [{"id": 1, "file_name": "a.png", "boxes": []}]) == 1
    assert later.is_over(0)
    assert Tries(tmp_path, 1).is_over(0)


def test_what_is_incomplete_is_merged_by_each_process(
    cfg: CfgNode, finished: LabelingJob, photos: Path, tmp_path: Path
) -> None:
    """Another one may have reached an image after the merge."""
    job = job_in(tmp_path / "job", photos)
    prepare(job, cfg)
    (photos / "1.png").unlink()
    list(label_missing(job, cfg))
    note_merge(job.folder, {}, merge(job, 3, "both"))
    assert merge_since(job.folder, {}, {}) is None
    assert last_merge(job.folder)["summary"]["unreached"] == 1
    assert read(finished)["label_next.json"]
