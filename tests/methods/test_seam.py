"""The five moments at which a method differs: each reaches what it should, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from detectron2.structures import ImageList, Instances
from torch import Tensor

from dre_ssod.methods import Clock
from dre_ssod.methods.dre import DRE
from dre_ssod.methods.mean_teacher import MeanTeacher
from dre_ssod.modeling.student_batch import Features, Mixer, StudentBatch
from dre_ssod.structures import StudentLosses
from dre_ssod.teacher import Labels
from tests.engine.steps import SAMPLE_ALL, assert_equal, batch, make_trainer, run, state
from tests.factories import BOXES, SIZE, draw, labeled_image, pseudo_labels, tiny_cfg, tiny_model
from tests.modeling.regions import Scores

NEAR = ((30.0, 4.0, 60.0, 30.0), (10.0, 30.0, 34.0, 54.0))


class Given:
    """A label set that needs no carrying; counts how often it is read."""

    def __init__(self, boxes: Any) -> None:
        self.labels = [pseudo_labels(boxes)]
        self.read = 0

    def instances(self) -> list[Instances]:
        self.read += 1
        return self.labels


def _scores(boxes: Sequence[Any]) -> Scores:
    count = sum(map(len, boxes))
    return Scores(torch.full((count,), 0.5), torch.full((count,), 0.5), torch.ones(count))


def _losses(labels: Labels, **batch: Any) -> StudentLosses:
    model = tiny_model(tiny_cfg(**SAMPLE_ALL), spread=0.5)
    torch.manual_seed(0)
    found: StudentLosses = model(
        StudentBatch(
            labeled=[labeled_image(0)],
            strong=[{"image": draw(SIZE, BOXES, seed=1)}],
            labels=labels,
            method=MeanTeacher(MeanTeacher.Settings()),
            **batch,
        )
    )
    return found


# Labels


def test_each_loss_learns_from_its_own_labels() -> None:
    one = Given(BOXES)
    before = _losses(Labels(one, one, Given(BOXES), _scores)).unsupervised
    for name, changed in (
        ("rpn", {"loss_rpn_cls_unsup", "loss_rpn_loc_unsup"}),
        ("cls", {"loss_cls_unsup"}),
        ("box", {"loss_box_reg_unsup"}),
    ):
        sets = {"rpn": one, "cls": one, "box": Given(BOXES)} | {name: Given(NEAR)}
        after = _losses(Labels(**sets, ask=_scores)).unsupervised
        different = {term for term in after if not torch.allclose(after[term], before[term])}
        assert different == changed


def test_label_sets_that_are_one_are_read_and_sampled_once() -> None:
    one = Given(BOXES)
    seen: list[bool] = []

    class Recording(MeanTeacher):
        def unlabeled_losses(self, cls: Any, box: Any) -> StudentLosses:
            seen.append(cls is box)
            return super().unlabeled_losses(cls, box)

    model = tiny_model(tiny_cfg(), spread=0.5)
    images = [labeled_image(0)], [{"image": draw(SIZE, BOXES, seed=1)}]
    for labels in (Labels.single(one, _scores), Labels(one, one, Given(BOXES), _scores)):
        model(StudentBatch(*images, labels, Recording(MeanTeacher.Settings())))
    assert seen == [True, False]
    assert one.read == 2


def test_the_teacher_is_asked_only_if_a_method_wants_to_know() -> None:
    asked = []

    def ask(boxes: Sequence[Any]) -> Scores:
        asked.append(len(boxes))
        return _scores(boxes)

    _losses(Labels.single(Given(BOXES), ask))
    assert asked == []
    model = tiny_model(tiny_cfg(), spread=0.5)
    strong = [{"image": draw(SIZE, BOXES, seed=1)}]
    labels = Labels.single(Given(BOXES), ask)
    model(StudentBatch([labeled_image(0)], strong, labels, DRE(DRE.Settings())))
    assert asked == [1]


# Mixing


class Blanked(Mixer):
    """Paints the strong views black, passes on black features, and finds nothing on them."""

    def __init__(self, order: list[str]) -> None:
        self._order = order

    def images(self, images: ImageList, batch: StudentBatch) -> ImageList:
        self._order.append("images")
        images.tensor[len(batch.labeled) :] = 0.0
        return images

    def features(self, features: Features, batch: StudentBatch) -> Features:
        self._order.append("features")
        assert all(len(maps) == len(batch.labeled) + 1 for maps in features.values())
        return features

    def labels(self, labels: list[Instances], batch: StudentBatch) -> list[Instances]:
        self._order.append("labels")
        return [found[:0] for found in labels]


class Doubled(Mixer):
    """Adds every strong view once more, and weighs the images."""

    def __init__(self, *weights: float) -> None:
        self._weights = torch.tensor(weights)

    def images(self, images: ImageList, batch: StudentBatch) -> ImageList:
        first = len(batch.labeled)
        sizes = images.image_sizes + images.image_sizes[first:]
        return ImageList(torch.cat([images.tensor, images.tensor[first:]]), sizes)

    def labels(self, labels: list[Instances], batch: StudentBatch) -> list[Instances]:
        return labels * 2

    def weights(self) -> Tensor:
        return self._weights


def test_a_mixer_changes_images_features_and_labels_of_the_strong_views_alone() -> None:
    order: list[str] = []
    plain = _losses(Labels.single(Given(BOXES), _scores))
    mixed = _losses(Labels.single(Given(BOXES), _scores), mixer=Blanked(order))
    assert order == ["images", "features", "labels"]
    assert mixed.unsupervised["loss_box_reg_unsup"].item() == 0.0
    assert plain.unsupervised["loss_box_reg_unsup"].item() > 0.0
    for name in ("loss_rpn_cls", "loss_rpn_loc"):
        torch.testing.assert_close(mixed.supervised[name], plain.supervised[name])


def test_a_mixer_may_add_images_and_weigh_them() -> None:
    labels = Labels.single(Given(BOXES), _scores)
    plain = _losses(labels).unsupervised
    for weights, factor in (((1.0, 1.0), 1.0), ((2.0, 0.0), 1.0), ((0.5, 1.5), 1.0), ((2, 3), 2.5)):
        weighted = _losses(labels, mixer=Doubled(*weights)).unsupervised
        assert weighted.keys() == plain.keys()
        for name, loss in weighted.items():
            torch.testing.assert_close(loss, factor * plain[name], rtol=1e-4, atol=1e-5)


def test_a_teacher_cannot_be_asked_about_a_mixed_image() -> None:
    model = tiny_model(tiny_cfg(), spread=0.5)
    strong = [{"image": draw(SIZE, BOXES, seed=1)}]
    labels = Labels.single(Given(BOXES), _scores)
    batch = StudentBatch([labeled_image(0)], strong, labels, DRE(DRE.Settings()), Doubled(1, 1))
    with pytest.raises(ValueError, match=r"Doubled mixes images.*as PRC does"):
        model(batch)


# Losses


def test_a_method_weighs_every_term_by_name() -> None:
    class Halved(DRE):
        def weight(self, term: str, clock: Clock) -> float:
            assert clock == Clock(0, 0, 100)
            return 0.5 * super().weight(term, clock)

    trainers = [make_trainer([batch(0)], lr=0.0) for _ in range(2)]
    trainers[1].method = Halved(trainers[1].method.settings)
    whole, half = (run(trainer) for trainer in trainers)
    assert half["total_loss"] == pytest.approx(whole["total_loss"] / 2)
    assert half["loss_cls"] == whole["loss_cls"]
    for one, two in zip(
        trainers[0].model.parameters(), trainers[1].model.parameters(), strict=True
    ):
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad / 2)


def test_a_method_says_which_terms_train_the_rpn() -> None:
    class Unboxed(MeanTeacher):
        rpn_terms = ("loss_rpn_cls",)

    trainer = make_trainer([batch(0)])
    trainer.method = Unboxed(replace(MeanTeacher.Settings(), score_threshold=0.3))
    found = run(trainer)
    assert "loss_rpn_cls_unsup" in found
    assert "loss_rpn_loc_unsup" not in found


# Following


def test_a_teacher_that_stays_is_not_touched() -> None:
    class Frozen(DRE):
        def decay(self, clock: Clock) -> None:
            return None

    trainer = make_trainer([batch(0)])
    trainer.method = Frozen(trainer.method.settings)
    before = state(trainer.teacher)
    assert run(trainer)["ssod/ema_decay"] == 1.0
    assert_equal(state(trainer.teacher), before)


# What a method learns


class Counting(DRE):
    """Counts the images that were labeled."""

    def __init__(self, settings: DRE.Settings) -> None:
        super().__init__(settings)
        self.seen = 0.0

    def label(self, teacher: Any, samples: Sequence[Any], clock: Clock) -> Labels:
        counts = {"images": torch.tensor([[float(len(samples)), 1.0]])}
        return replace(super().label(teacher, samples, clock), counts=counts)

    def learn(self, totals: Mapping[str, Tensor]) -> None:
        assert totals["images"].shape == (1, 2)
        self.seen += totals["images"][0, 0].item()

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def test_a_tally_comes_back_as_a_sum() -> None:
    trainer = make_trainer([batch(0, unlabeled=2), batch(1)])
    method = trainer.method = Counting(trainer.method.settings)
    run(trainer, (0, 1))
    assert method.seen == 3.0


def test_nothing_is_learned_from_a_step_that_is_skipped() -> None:
    trainer = make_trainer([batch(0)], skip_nonfinite=True)
    method = trainer.method = Counting(trainer.method.settings)
    with torch.no_grad():
        trainer.model.roi_heads.box_predictor.cls_score.bias[0] = float("nan")
    run(trainer)
    assert method.seen == 0.0
