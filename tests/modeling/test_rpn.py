"""The region proposal network on labels and on pseudo-labels."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from dre_ssod.benchmark.pretended_gpu import pretended_gpu
from dre_ssod.methods import build_method
from dre_ssod.modeling.rpn import SemiSupervisedRPN
from dre_ssod.structures import StudentLosses
from tests.factories import BOXES, SIZE, beta_4, pseudo_labels, tiny_cfg, tiny_model

OTHER_BOXES = ((30.0, 4.0, 60.0, 30.0),)
NAMES = ["loss_rpn_cls", "loss_rpn_loc"]
# So many that every anchor is used: nothing is left to chance.
ALL_ANCHORS = {"MODEL.RPN.BATCH_SIZE_PER_IMAGE": 4096, "MODEL.RPN.POSITIVE_FRACTION": 1.0}


def _rpn(**overrides: Any) -> SemiSupervisedRPN:
    return tiny_model(tiny_cfg(**overrides), spread=1.0).proposal_generator


def _images(count: int) -> ImageList:
    return ImageList(torch.zeros(count, 3, *SIZE), [SIZE] * count)


def _features(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"p{level}": torch.randn(count, 16, 64 >> level, -(-96 >> level), generator=generator)
        for level in (2, 3, 4, 5, 6)
    }


def _run(
    rpn: SemiSupervisedRPN,
    labeled: list[Instances],
    pseudo: list[Instances],
    features: dict[str, Tensor] | None = None,
    terms: Collection[str] = NAMES,
    weights: Tensor | None = None,
    field: str | None = None,
) -> tuple[list[Instances], StudentLosses]:
    count = len(labeled) + len(pseudo)
    features = _features(count) if features is None else features
    torch.manual_seed(0)
    return rpn.student_losses(_images(count), features, labeled, pseudo, terms, weights, field)


def test_on_labels_alone_it_is_detectron2s() -> None:
    rpn = _rpn()
    plain = RPN(tiny_cfg(), tiny_model(tiny_cfg()).backbone.output_shape())
    plain.load_state_dict(rpn.state_dict())
    labels = [pseudo_labels(BOXES), pseudo_labels(OTHER_BOXES)]
    proposals, losses = _run(rpn, labels, [])
    torch.manual_seed(0)
    expected_proposals, expected = plain(_images(2), _features(2), labels)
    assert losses.supervised == expected
    assert not losses.unsupervised
    for ours, theirs in zip(proposals, expected_proposals, strict=True):
        assert torch.equal(ours.proposal_boxes.tensor, theirs.proposal_boxes.tensor)
        assert torch.equal(ours.objectness_logits, theirs.objectness_logits)


def test_a_pseudo_label_teaches_what_a_label_does() -> None:
    rpn = _rpn(**ALL_ANCHORS)
    features = {name: value.repeat(2, 1, 1, 1) for name, value in _features(1).items()}
    labels = [pseudo_labels(BOXES)]
    _, losses = _run(rpn, labels, labels, features)
    for name in NAMES:
        assert losses.supervised[name].item() > 0
        torch.testing.assert_close(losses.unsupervised[f"{name}_unsup"], losses.supervised[name])


def test_each_group_is_averaged_over_its_own_images() -> None:
    rpn = _rpn(**ALL_ANCHORS)
    labeled, pseudo = [pseudo_labels(BOXES)], [pseudo_labels(OTHER_BOXES), pseudo_labels(BOXES)]
    _, joined = _run(rpn, labeled, pseudo)
    features = _features(3)
    _, first = _run(rpn, labeled, [], {name: value[:1] for name, value in features.items()})
    _, rest = _run(rpn, pseudo, [], {name: value[1:] for name, value in features.items()})
    for name in NAMES:
        torch.testing.assert_close(joined.supervised[name], first.supervised[name])
        torch.testing.assert_close(joined.unsupervised[f"{name}_unsup"], rest.supervised[name])


@pytest.mark.parametrize("objectness", [True, False])
@pytest.mark.parametrize("box", [True, False])
def test_each_unsupervised_term_can_be_switched_off(objectness: bool, box: bool) -> None:
    cfg = tiny_cfg(**{"SSOD.UNSUP_RPN_OBJECTNESS": objectness, "SSOD.UNSUP_RPN_BOX": box})
    labels = [pseudo_labels(BOXES)], [pseudo_labels(OTHER_BOXES)]
    proposals, losses = _run(_rpn(), *labels, terms=build_method(cfg).rpn_terms)
    expected = {"loss_rpn_cls_unsup": objectness, "loss_rpn_loc_unsup": box}
    assert losses.unsupervised.keys() == {name for name, on in expected.items() if on}
    assert losses.supervised.keys() == set(NAMES)
    assert len(proposals) == 2


def test_anchors_of_labels_and_of_pseudo_labels_are_counted_apart() -> None:
    rpn = _rpn(**ALL_ANCHORS)
    counts = []
    # A label and none, and the other way round.
    for labeled, pseudo in ((BOXES, ()), ((), BOXES)):
        with EventStorage() as storage:
            _run(rpn, [pseudo_labels(labeled)], [pseudo_labels(pseudo)])
        own, other = (f"{scope}rpn/num_pos_anchors" for scope in ("", "unsup/"))
        for name in (own, other):
            assert len(storage.history(name).values()) == 1
        counts.append((storage.history(own).latest(), storage.history(other).latest()))
    (found, none), others = counts
    assert found > none == 0
    assert others == (none, found)


KINDS: list[tuple[str, float]] = [("smooth_l1", 0.0), ("smooth_l1", 0.5), ("giou", 0.0)]
KINDS += [("diou", 0.0), ("ciou", 0.0)]
THREE = (BOXES, (), OTHER_BOXES)
"""Boxes of three images, one of which has none."""


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_images_are_weighed_by_one_pass_as_each_by_itself(kind: str, beta: float) -> None:
    keys = {"MODEL.RPN.BBOX_REG_LOSS_TYPE": kind, "MODEL.RPN.SMOOTH_L1_BETA": beta}
    rpn = _rpn(**ALL_ANCHORS, **keys, **{"MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 3.0})
    weights = torch.tensor([0.5, 2.0, 0.25])
    labels, features = [pseudo_labels(boxes) for boxes in THREE], _features(4)
    _, joined = _run(rpn, labels[:1], labels, features, weights=weights)
    first = {name: value[:1] for name, value in features.items()}
    expected = dict.fromkeys(NAMES, torch.zeros(()))
    for number, weight in enumerate(weights, start=1):
        own = {name: value[number : number + 1] for name, value in features.items()}
        both = {name: torch.cat([first[name], own[name]]) for name in own}
        _, alone = _run(rpn, labels[:1], labels[number - 1 : number], both)
        for name in NAMES:
            expected[name] = expected[name] + weight * alone.unsupervised[f"{name}_unsup"] / 3
    parameters = list(rpn.rpn_head.parameters())
    for name in NAMES:
        found = joined.unsupervised[f"{name}_unsup"]
        assert found.item() > 0
        torch.testing.assert_close(found, expected[name])
        pairs = (
            torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            for loss in (found, expected[name])
        )
        for ours, theirs in zip(*pairs, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("weighs", "field"), [(True, None), (False, "gt_scores")])
def test_anchors_of_weighed_images_are_counted_as_those_of_others(
    weighs: bool, field: str | None
) -> None:
    """Once in an iteration, by the mean over images."""
    rpn, labels = _rpn(**ALL_ANCHORS), [pseudo_labels(boxes) for boxes in THREE]
    counts = []
    for weights, name in ((torch.ones(3) if weighs else None, field), (None, None)):
        with EventStorage() as storage:
            _run(rpn, labels[:1], labels, weights=weights, field=name)
        histories = (storage.history(f"unsup/rpn/num_{kind}_anchors") for kind in ("pos", "neg"))
        counts.append([history.values() for history in histories])
    assert counts[0] == counts[1]


def test_a_gpu_is_waited_for_as_often_for_many_weighed_images_as_for_one() -> None:
    waits = []
    with pretended_gpu() as found:
        rpn = _rpn(**{"MODEL.DEVICE": "cuda"})
        for count in (1, 3):
            labels = [pseudo_labels().to("cuda") for _ in range(1 + count)]
            features = {name: value.to("cuda") for name, value in _features(1 + count).items()}
            weights = torch.ones(count, device="cuda")
            found.clear()
            _run(rpn, labels[:1], labels[1:], features, weights=weights)
            waits.append(sum(n for (_, place), n in found.places.items() if _is_of_losses(place)))
    assert waits[0] == waits[1] > 0


def _is_of_losses(place: str) -> bool:
    return place.startswith("dre_ssod.modeling.rpn:") or place.endswith(
        (" losses", "_loss", " get_deltas")
    )


def _sampled(rpn: SemiSupervisedRPN, target: Instances) -> tuple[list[Boxes], Tensor, Tensor]:
    """Anchors of a canvas of SIZE, and labels and boxes of those that an image in it draws."""
    anchors = rpn.anchor_generator(list(_features(1).values()))
    torch.manual_seed(0)
    [labels], [boxes] = rpn.label_and_sample_anchors(anchors, [target])
    return anchors, labels, boxes


def test_beside_an_image_is_nothing_to_learn_from() -> None:
    """The image takes the upper left quarter of the canvas, and its object the corner of that."""
    height, width = (side // 2 for side in SIZE)
    target = Instances((height, width))
    target.gt_boxes = Boxes(torch.tensor([[width - 12.0, height - 9.0, width, height]]))
    drawn = {}
    for where in ("canvas", "image"):
        rpn = _rpn(**ALL_ANCHORS, **{"MODEL.RPN.SAMPLE_FROM": where})
        anchors, labels, boxes = _sampled(rpn, target)
        x, y = Boxes.cat(anchors).get_centers().unbind(dim=1)
        inside = (x < width) & (y < height)
        drawn[where] = labels
        assert (boxes[labels == 1] == target.gt_boxes.tensor).all()
        assert (labels[inside] >= 0).any()
    assert (drawn["canvas"][~inside] == 0).any()
    assert (drawn["image"][~inside] == -1).all()
    # What is in the image is an object or not by the same rule.
    both = inside & (drawn["canvas"] == 1)
    assert both.any()
    assert torch.equal(drawn["canvas"][inside], drawn["image"][inside])


@pytest.mark.parametrize("boxes", [BOXES, ()])
def test_an_image_of_the_canvas_size_draws_as_detectron2_does(boxes: Any) -> None:
    target = pseudo_labels(boxes)
    plain, within = (
        _sampled(_rpn(**{"MODEL.RPN.SAMPLE_FROM": where}), target)[1]
        for where in ("canvas", "image")
    )
    assert plain.dtype == within.dtype
    assert torch.equal(plain, within)


def test_proposals_carry_no_gradient() -> None:
    proposals, _ = _run(_rpn(), [pseudo_labels(BOXES)], [pseudo_labels(OTHER_BOXES)])
    assert not any(p.proposal_boxes.tensor.requires_grad for p in proposals)


@pytest.mark.parametrize("labeled_boxes", [BOXES, ()])
@pytest.mark.parametrize("pseudo_boxes", [BOXES, ()])
def test_images_without_boxes(labeled_boxes: Any, pseudo_boxes: Any) -> None:
    rpn = _rpn()
    _, losses = _run(rpn, [pseudo_labels(labeled_boxes)], [pseudo_labels(pseudo_boxes)])
    total = losses.total(beta_4)
    assert torch.isfinite(total)
    total.backward()
    assert all(parameter.grad is not None for parameter in rpn.parameters())
    # Nothing to find is itself a lesson.
    assert losses.unsupervised["loss_rpn_cls_unsup"].item() > 0
    if not pseudo_boxes:
        assert losses.unsupervised["loss_rpn_loc_unsup"].item() == 0.0


def test_low_precision_predictions_give_float32_losses() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        _, losses = _run(_rpn(), [pseudo_labels(BOXES)], [pseudo_labels(OTHER_BOXES)])
    terms = [*losses.supervised.values(), *losses.unsupervised.values()]
    assert {term.dtype for term in terms} == {torch.float32}
