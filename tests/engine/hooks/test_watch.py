from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import TrainerBase
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage

from dre_ssod.engine.hooks.watch import ClassWatch, PseudoLabelWatch, TwoMeansWatch, box_window
from dre_ssod.engine.metrics import ClassCounts
from dre_ssod.engine.setup import complete
from dre_ssod.engine.trainer import SSODTrainer
from dre_ssod.engine.unreadable import FEW_IMAGES, UnreadableImages
from dre_ssod.errors import UserError
from dre_ssod.structures import ImageFailure, TrainingBatch
from tests.tiny_dataset import tiny_run, write_tiny_dataset

pytestmark = pytest.mark.usefixtures("heard_loggers")


def failure(number: int, replaced: bool = True) -> ImageFailure:
    return ImageFailure(f"{number}.jpg", f"{number}.jpg: truncated", replaced)


def test_each_file_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    images = UnreadableImages(1.0)
    images.update([failure(1), failure(2), failure(1)], drawn=8, skipped=3)
    images.update([failure(2), failure(3)], drawn=7, skipped=2)
    images.update([], drawn=5, skipped=0)
    named = [record.args[0] for record in caplog.records if record.args]
    assert named == ["1.jpg: truncated", "2.jpg: truncated", "3.jpg: truncated"]
    assert (images.drawn, images.skipped) == (20, 5)


def test_the_first_failure_stops_a_run_that_allows_none() -> None:
    images = UnreadableImages(0.0)
    images.update([], drawn=FEW_IMAGES, skipped=0)
    with pytest.raises(UserError, match=r"^1 of the 1020 images .*MAX_UNREADABLE_SHARE 0.0 allows"):
        images.update([failure(1)], drawn=20, skipped=1)


def test_the_share_counts_a_thousand_images_at_least() -> None:
    images = UnreadableImages(0.01)
    # 1 % of 1000 are 10.
    images.update([failure(n) for n in range(10)], drawn=20, skipped=10)
    with pytest.raises(UserError, match="11 of the 21 images"):
        images.update([failure(10)], drawn=1, skipped=1)


def test_the_share_is_of_all_images_drawn_also_before_a_resume() -> None:
    first = UnreadableImages(0.01)
    first.update([], drawn=5000, skipped=0)
    first.update([failure(n) for n in range(40)], drawn=0, skipped=40)
    resumed = UnreadableImages(0.01)
    resumed.load_state_dict(first.state_dict())
    resumed.update([failure(n) for n in range(10)], drawn=0, skipped=10)
    with pytest.raises(UserError, match="51 of the 5000 images"):
        resumed.update([failure(0)], drawn=0, skipped=1)


def test_a_batch_with_a_gap_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    images = UnreadableImages(1.0)
    images.check_complete([TrainingBatch([], failures=(failure(1),))])
    gap = TrainingBatch([], failures=(failure(2), failure(3, replaced=False)))
    with pytest.raises(UserError, match=r"one place in a batch .* 3.jpg: truncated"):
        images.check_complete([gap])
    assert "2.jpg" in caplog.text


class Run(TrainerBase):
    """Writes the given (pseudo, labeled) boxes per image; None writes neither."""

    def __init__(self, figures: list[tuple[float, float] | None]) -> None:
        super().__init__()
        self.figures = figures

    def run_step(self) -> None:
        figures = self.figures[self.iter]
        if figures is not None:
            names = ("ssod/pseudo_boxes_per_image", "ssod/labeled_boxes_per_image")
            values: dict[str, Any] = dict(zip(names, figures, strict=True))
            get_event_storage().put_scalars(cur_iter=self.iter, **values)

    def after_step(self) -> None:
        super().after_step()
        self.storage.step()


def warnings(
    watch: PseudoLabelWatch, figures: list[tuple[float, float] | None], caplog: Any
) -> list[str]:
    run = Run(figures)
    run.register_hooks([watch])
    caplog.clear()
    run.train(0, len(figures))
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_silence_is_told_once_a_period(caplog: pytest.LogCaptureFixture) -> None:
    watch = PseudoLabelWatch(max_silence=3, max_ratio=0.0, more="lower SSOD.X.TAU")
    # The burn-in writes no figures and is no silence.
    found = warnings(watch, [None] * 10 + [(0.0, 2.0)] * 7, caplog)
    assert [message.split(":")[0] for message in found] == [
        "No pseudo-label for 3 iterations",
        "No pseudo-label for 6 iterations",
    ]
    assert "lower SSOD.X.TAU" in found[0]
    assert "SSOD.BURN_IN_ITERS" in found[0]


def test_a_pseudo_label_ends_the_silence(caplog: pytest.LogCaptureFixture) -> None:
    figures: list[tuple[float, float] | None] = [(0.0, 2.0), (0.0, 2.0), (0.1, 2.0)]
    assert not warnings(PseudoLabelWatch(3, 0.0), figures * 4, caplog)


def test_the_silence_goes_on_after_a_resume(caplog: pytest.LogCaptureFixture) -> None:
    first = PseudoLabelWatch(5, 0.0)
    assert not warnings(first, [(0.0, 1.0)] * 4, caplog)
    second = PseudoLabelWatch(5, 0.0)
    second.load_state_dict(first.state_dict())
    assert len(warnings(second, [(0.0, 1.0)], caplog)) == 1


@pytest.mark.parametrize(("pseudo", "told"), [(6.1, 2), (5.9, 0)])
def test_many_pseudo_boxes_are_told_once_a_window(
    pseudo: float, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    watch = PseudoLabelWatch(max_silence=0, max_ratio=3.0, window=4, fewer="lower SSOD.X.SHARE")
    # The mean over the window counts: half of the iterations have twice as many.
    figures: list[tuple[float, float] | None] = [(0.0, 2.0), (2.0 * pseudo, 2.0)]
    found = warnings(watch, figures * 5, caplog)
    assert len(found) == told
    for message in found:
        assert "6.1 pseudo-boxes per unlabeled image against 2.0 boxes" in message
        assert "SSOD.WARN_PSEUDO_BOX_RATIO 3 allows: lower SSOD.X.SHARE, lower SSOD." in message


def test_boxes_are_compared_with_all_labeled_images_also_those_without_boxes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As many images without boxes: half as many boxes per image, of all and of each class."""
    data = write_tiny_dataset(tmp_path / "data")
    path = data.root / "train.json"
    content = json.loads(path.read_text())
    images, boxes = content["images"], content["annotations"]
    more = [{**image, "id": 1000 + image["id"]} for image in images]
    for image in more:
        image["file_name"] = f"empty_{image['file_name']}"
    path.write_text(json.dumps({**content, "images": [*images, *more]}))
    keys = {"SSOD.WARN_PSEUDO_BOX_RATIO": 2.0, "DATASETS.LABELED_PERCENT": 100.0}
    cfg = tiny_run(data, tmp_path, **keys)
    complete(cfg)
    trainer = SSODTrainer(cfg)
    watches = [h for h in trainer._hooks if isinstance(h, (PseudoLabelWatch, ClassWatch))]
    of_all, of_classes = watches
    assert isinstance(of_all, PseudoLabelWatch)
    assert isinstance(of_classes, ClassWatch)
    assert of_classes._expected.sum() == len(boxes) / (2 * len(images))
    assert (trainer.pools.empty, len(trainer.pools.labeled)) == (len(images), len(images))
    (message,) = warnings(of_all, [(2.1, 2.0)] * 10, caplog)
    assert (
        "2.1 pseudo-boxes per unlabeled image against 1.0 boxes per labeled image (50% of"
        in message
    )


@pytest.mark.parametrize(
    ("iterations", "window"), [(180000, 200), (800, 200), (280, 70), (40, 10), (3, 10), (0, 10)]
)
def test_a_short_run_compares_its_boxes_sooner(iterations: int, window: int) -> None:
    assert box_window(iterations) == window


def test_zero_switches_both_off(caplog: pytest.LogCaptureFixture) -> None:
    watch = PseudoLabelWatch(0, 0.0, window=2)
    assert not warnings(watch, [(0.0, 1.0)] * 10 + [(99.0, 1.0)] * 10, caplog)


class Shares(TrainerBase):
    """Writes the given shares of foreground regions; None writes none."""

    def __init__(self, shares: list[float | None]) -> None:
        super().__init__()
        self.shares = shares

    def run_step(self) -> None:
        share = self.shares[self.iter]
        if share is not None:
            get_event_storage().put_scalar("ssod/foreground_regions", share, cur_iter=self.iter)

    def after_step(self) -> None:
        super().after_step()
        self.storage.step()


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        # The burn-in writes none, and steps without pseudo-labels have no mean of foreground.
        ([None] * 20 + [0.0] * 20 + [0.1] * 9, False),
        ([None] * 20 + [0.0, 0.1] * 10, True),
        ([0.25, 0.1] * 5 + [0.3] * 10, False),
        ([0.25] * 20, False),
        ([0.25] * 20 + [0.1] * 20, True),
    ],
)
def test_a_small_share_of_foreground_regions_is_told_once(
    shares: list[float | None], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    run = Shares(shares + shares)
    run.register_hooks([TwoMeansWatch(window=10)])
    run.train(0, len(shares))
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(found) == told
    for message in found:
        assert "foreground, over 10 iterations" in message
        assert "set SSOD.UNSUP_CLS_NORMALIZER sampled" in message


def test_the_share_is_told_with_its_weight(caplog: pytest.LogCaptureFixture) -> None:
    run = Shares([0.084] * 20)
    run.register_hooks([TwoMeansWatch(window=10)])
    run.train(0, 20)
    (message,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert message.startswith("8 % of the regions")
    assert "counts 12 times" in message


@pytest.mark.parametrize(
    ("keys", "watched"),
    [
        ({}, True),
        ({"SSOD.UNSUP_CLS_NORMALIZER": "sampled"}, False),
        ({"SSOD.METHOD": "MeanTeacher"}, False),
    ],
)
def test_the_share_of_foreground_is_watched_where_there_are_two_means(
    keys: dict[str, str], watched: bool, tmp_path: Path
) -> None:
    cfg = tiny_run(write_tiny_dataset(tmp_path / "data"), tmp_path)
    cfg.merge_from_list([word for pair in keys.items() for word in pair])
    complete(cfg)
    hooks = SSODTrainer(cfg)._hooks
    assert any(isinstance(hook, TwoMeansWatch) for hook in hooks) is watched


class Counting(TrainerBase):
    """Counts pseudo-labels of the given classes on one image of each step; None: a burn-in."""

    def __init__(self, classes: list[list[int] | None], num_classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.counts = ClassCounts.none(num_classes, torch.device("cpu"))

    def run_step(self) -> None:
        found = self.classes[self.iter]
        if found is not None:
            kinds = torch.tensor(found, dtype=torch.int64)
            self.counts.add([Instances((8, 8), gt_classes=kinds, gt_scores=torch.ones(len(kinds)))])


def class_warnings(
    classes: list[list[int] | None],
    share: float,
    window: int,
    expected: list[float],
    caplog: Any,
    is_by_rank: bool = False,
) -> list[str]:
    run = Counting(classes, len(expected))
    names = [f"class {k}" for k in range(len(expected))]
    advice = ("lower SSOD.X.TAU", is_by_rank)
    watch = ClassWatch(run.counts, names, torch.tensor(expected), share, window, *advice)
    run.register_hooks([watch])
    caplog.clear()
    run.train(0, len(classes))
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_class_without_pseudo_labels_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """Class 1 has 1 of 30, then 0; class 2 is too rare for its absence to say anything."""
    steps: list[list[int] | None] = [None] * 7 + [[0, 0, 1], *([[0, 0]] * 29)]
    found = class_warnings(steps, 0.1, 10, [2.0, 3.0, 0.1], caplog)
    assert len(found) == 1
    assert "class 1 1 of 30, where" in found[0]
    assert "class 0" not in found[0]
    assert "class 2" not in found[0]
    assert "over 10 iterations" in found[0]
    assert "background. Lower SSOD.X.TAU, choose by rank (" in found[0]
    (found_by_rank,) = class_warnings(steps, 0.1, 10, [2.0, 3.0, 0.1], caplog, is_by_rank=True)
    assert "background. Lower SSOD.X.TAU, or raise SSOD.BURN_IN_ITERS" in found_by_rank


def test_a_class_that_is_lost_later_is_named_then(caplog: pytest.LogCaptureFixture) -> None:
    steps: list[list[int] | None] = [[0, 1]] * 20 + [[0]] * 20
    assert len(class_warnings(steps, 0.1, 20, [1.0, 1.0], caplog)) == 1
    # A tenth of what is expected is enough.
    enough: list[list[int] | None] = [[0, 1], *([[0]] * 9)] * 4
    assert not class_warnings(enough, 0.1, 20, [1.0, 1.0], caplog)
    assert not class_warnings(steps, 0.0, 20, [1.0, 1.0], caplog)


def test_of_many_classes_ten_are_named(caplog: pytest.LogCaptureFixture) -> None:
    (found,) = class_warnings([[]] * 10, 0.1, 10, [2.0] * 12, caplog)
    assert "class 9 0 of 20 and 2 more classes" in found


def test_watches_advise_what_the_method_has_an_ear_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    share = {"SSOD.LABELS.RANK_SHARE": 0.5, "SSOD.WARN_NO_PSEUDO_LABELS_ITERS": 1}
    cfg = tiny_run(write_tiny_dataset(tmp_path / "data"), tmp_path, **share)
    complete(cfg)
    hooks = SSODTrainer(cfg)._hooks
    (watch,) = (hook for hook in hooks if isinstance(hook, PseudoLabelWatch))
    (message,) = warnings(watch, [(0.0, 1.0)], caplog)
    assert "if it stays, raise SSOD.LABELS.RANK_SHARE (at most 1) or lower SSOD.LABELM" in message
