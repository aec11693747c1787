"""RoI heads: what is sampled, and under which names it is counted."""

from __future__ import annotations

from typing import Any

import pytest
from detectron2.utils.events import EventStorage

from tests.factories import BOXES, pseudo_labels
from tests.modeling.regions import ground_truth, make_features, make_heads, make_proposals

OTHER_BOXES = [[4.0, 6.0, 30.0, 40.0]]
FOREGROUND = "roi_head/num_fg_samples"


def _counts(cls_labels: Any, box_labels: Any) -> dict[str, float]:
    """Foreground regions of one image with a label and one with pseudo-labels, by name."""
    head = make_heads(**{"SSOD.PRC.ENABLED": False})
    proposals = make_proposals(BOXES, OTHER_BOXES)
    with EventStorage() as storage:
        head.heads.student_losses(
            make_features(2),
            proposals,
            [ground_truth()],
            cls_labels,
            box_labels,
            None,
            head.method,
        )
    latest = storage.latest()
    assert all(len(storage.history(name).values()) == 1 for name in latest)
    return {name: latest[name][0] for name in latest if name.endswith(FOREGROUND)}


@pytest.mark.parametrize("boxes", [OTHER_BOXES, ()])
def test_regions_of_labels_and_of_pseudo_labels_are_counted_apart(boxes: Any) -> None:
    labels = [pseudo_labels(boxes)]
    counts = _counts(labels, labels)
    assert counts.keys() == {FOREGROUND, f"unsup/{FOREGROUND}"}
    assert counts[FOREGROUND] > 0
    assert (counts[f"unsup/{FOREGROUND}"] > 0) == bool(boxes)


def test_labels_of_the_box_loss_alone_are_counted_by_a_name_of_their_own() -> None:
    counts = _counts([pseudo_labels(())], [pseudo_labels(OTHER_BOXES)])
    assert counts[f"unsup/{FOREGROUND}"] == 0
    assert counts[f"unsup_box/{FOREGROUND}"] > 0
    assert len(counts) == 3
