"""What a reader of the pictures relies on: where pixels change, and by how much."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from matplotlib.colors import to_rgb

from dre_ssod.inspection.canvas import PALETTE, magnification
from dre_ssod.inspection.drawing import draw_detections, draw_ground_truth
from dre_ssod.inspection.layout import side_by_side

NAMES = ("disk", "ring")
BOX = (40.0, 48.0, 120.0, 96.0)
HEIGHT, WIDTH = 128, 160
SCALE = 3


def image() -> npt.NDArray[np.uint8]:
    return np.full((HEIGHT, WIDTH, 3), 40, dtype=np.uint8)


def detections(
    sigma: tuple[float, float, float, float] | None = None,
    quality: float | None = None,
    class_index: int = 0,
) -> Instances:
    result = Instances((HEIGHT, WIDTH))
    result.pred_boxes = Boxes(torch.tensor([BOX]))
    result.scores = torch.tensor([0.93])
    result.pred_classes = torch.tensor([class_index])
    if sigma is not None:
        result.pred_boxes_sigma = torch.tensor([sigma])
    if quality is not None:
        result.localization_quality = torch.tensor([quality])
    return result


def difference(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    return (first.astype(int) != second.astype(int)).any(axis=2)


def test_small_images_are_magnified_by_whole_numbers() -> None:
    assert magnification(120, 160) == 3
    assert magnification(16, 16) == 30
    assert magnification(480, 640) == magnification(2000, 1000) == 1
    drawn = draw_detections(image(), detections(), NAMES)
    assert drawn.shape == (HEIGHT * SCALE, WIDTH * SCALE, 3)
    assert drawn.dtype == np.uint8


def test_nothing_to_draw_leaves_the_pixels_as_they_are() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    magnified = noise.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    np.testing.assert_array_equal(draw_detections(noise, detections()[[]], NAMES), magnified)
    np.testing.assert_array_equal(draw_ground_truth(noise, [], NAMES), magnified)


def test_the_outline_runs_along_the_box_in_the_color_of_its_class() -> None:
    for index in range(2):
        drawn = draw_detections(image(), detections(class_index=index), NAMES)
        expected = np.array(to_rgb(PALETTE[index])) * 255
        x1, y1, x2, y2 = (round(value * SCALE) for value in BOX)
        middle_x, middle_y = (x1 + x2) // 2, (y1 + y2) // 2
        for x, y in ((x1, middle_y), (x2, middle_y), (middle_x, y2)):
            patch = drawn[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).astype(float)
            # Less than two pixels wide, and centred between two.
            assert np.abs(patch - expected).max(axis=1).min() < 30
        assert (drawn[middle_y, middle_x] == 40).all()


@pytest.mark.parametrize("edge", range(4))
def test_the_band_of_an_edge_reaches_one_sigma_to_either_side(edge: int) -> None:
    """Only one edge has a sigma worth seeing, of 4.5 pixels; the others have none."""
    sigma = [0.0, 0.0, 0.0, 0.0]
    sigma[edge] = 4.5
    drawn = draw_detections(image(), detections(sigma=tuple(sigma)), NAMES)  # type: ignore[arg-type]
    changed = (drawn != 40).any(axis=2)
    x1, y1, x2, y2 = BOX
    # A line through the box across the edge, away from the label.
    line = changed[:, round((x1 + x2) / 2 + 36) * SCALE]
    if edge % 2 == 0:
        line = changed[round((y1 + y2) / 2) * SCALE]
    marked = line.nonzero()[0] / SCALE
    near = marked[np.abs(marked - BOX[edge]) < 15]
    assert near.min() == pytest.approx(BOX[edge] - 4.5, abs=0.5)
    assert near.max() == pytest.approx(BOX[edge] + 4.5, abs=0.7)
    opposite = BOX[(edge + 2) % 4]
    assert np.abs(marked[np.abs(marked - opposite) < 15] - opposite).max() < 1.5


def test_broad_bands_stop_at_a_tenth_of_the_box_and_can_be_left_out() -> None:
    broad = detections(sigma=(50.0, 30.0, 50.0, 30.0))
    drawn = draw_detections(image(), broad, NAMES)
    x1, y1, x2, y2 = BOX
    changed = (drawn[round((y1 + y2) / 2) * SCALE] != 40).any(axis=1).nonzero()[0] / SCALE
    reach = 0.1 * (x2 - x1)
    assert changed.min() == pytest.approx(x1 - reach, abs=0.5)
    assert changed.max() == pytest.approx(x2 + reach, abs=0.7)
    inside = changed[(changed > x1 + reach + 1) & (changed < x2 - reach - 1)]
    assert len(inside) == 0
    # And so does the room that they take from the label.
    capped = detections(sigma=(8.0, 4.8, 8.0, 4.8))
    np.testing.assert_array_equal(drawn, draw_detections(image(), capped, NAMES))
    plain = draw_detections(image(), broad, NAMES, bands=False)
    np.testing.assert_array_equal(plain, draw_detections(image(), detections(), NAMES))


def test_objects_of_one_class_can_be_told_apart() -> None:
    pair = Instances((HEIGHT, WIDTH))
    pair.pred_boxes = Boxes(torch.tensor([[20.0, 20.0, 50.0, 90.0], [80.0, 20.0, 140.0, 90.0]]))
    pair.scores = torch.tensor([0.9, 0.9])
    pair.pred_classes = torch.tensor([1, 1])
    for color_by, indices in (("class", (1, 1)), ("object", (0, 1))):
        drawn = draw_detections(image(), pair, NAMES, color_by=color_by)
        for x, index in zip((20, 80), indices, strict=True):
            patch = drawn[70 * SCALE, x * SCALE - 1 : x * SCALE + 2].astype(float)
            expected = np.array(to_rgb(PALETTE[index])) * 255
            assert np.abs(patch - expected).max(axis=1).min() < 30


def test_the_label_shows_the_quality_where_there_is_one() -> None:
    plain = draw_detections(image(), detections(), NAMES)
    with_quality = draw_detections(image(), detections(quality=0.41), NAMES)
    other_quality = draw_detections(image(), detections(quality=0.14), NAMES)
    assert difference(plain, with_quality).any()
    assert difference(with_quality, other_quality).any()
    # In the label alone, above the box.
    rows = difference(plain, with_quality).any(axis=1).nonzero()[0]
    assert rows.max() <= BOX[1] * SCALE


@pytest.mark.parametrize("name", ["$\\frac{ $", "$x^2$", "cost $5", "<b>"])
def test_the_name_of_a_class_is_no_formula(name: str) -> None:
    drawn = draw_detections(image(), detections(), [name])
    assert difference(drawn, draw_detections(image(), detections(), ["disk"])).any()


def test_labels_of_boxes_at_the_border_stay_inside_and_apart() -> None:
    pair = Instances((HEIGHT, WIDTH))
    pair.pred_boxes = Boxes(torch.tensor([[140.0, 0.0, 160.0, 128.0], [140.0, 0.0, 160.0, 128.0]]))
    pair.scores = torch.tensor([0.9, 0.9])
    pair.pred_classes = torch.tensor([0, 0])
    truth = Instances((HEIGHT, WIDTH))
    truth.gt_boxes, truth.gt_classes = pair.pred_boxes, pair.pred_classes
    boxes_alone = draw_ground_truth(image(), truth, ("",))
    one = difference(draw_detections(image(), pair[:1], NAMES), boxes_alone)
    two = difference(draw_detections(image(), pair, NAMES), boxes_alone)
    # The ground of a label, all of it in the picture, and twice as much for two.
    assert one.sum() > 500
    assert two.sum() == pytest.approx(2 * one.sum(), rel=0.1)


def test_annotations_and_instances_draw_the_same_ground_truth() -> None:
    x1, y1, x2, y2 = BOX
    annotation = {
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 1,
    }
    instances = Instances((HEIGHT, WIDTH))
    instances.gt_boxes = Boxes(torch.tensor([BOX]))
    instances.gt_classes = torch.tensor([1])
    drawn = draw_ground_truth(image(), [annotation], NAMES)
    np.testing.assert_array_equal(drawn, draw_ground_truth(image(), instances, NAMES))
    crowd = draw_ground_truth(image(), [{**annotation, "iscrowd": 1}], NAMES)
    bottom = round(y2 * SCALE)
    assert (drawn[bottom] != 40).any(axis=1).sum() > (crowd[bottom] != 40).any(axis=1).sum() > 0


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(128, 160\).*\(64, 80\)"):
        draw_detections(image()[::2, ::2], detections(), NAMES)
    with pytest.raises(ValueError, match="class index 5"):
        draw_detections(image(), detections(class_index=5), NAMES)
    with pytest.raises(ValueError, match="float64"):
        draw_ground_truth(np.zeros((8, 8, 3)), [], NAMES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no panels"):
        side_by_side([])


def test_panels_stand_in_order_and_of_one_height() -> None:
    red, green = np.zeros((2, 100, 200, 3), dtype=np.uint8)
    red[..., 0], green[..., 1] = 255, 255
    small = green[:50, :100]
    row = side_by_side([("left", red), ("right", small)])
    is_red = (row == (255, 0, 0)).all(axis=2)
    is_green = (row == (0, 255, 0)).all(axis=2)
    # 100 x 200 is magnified twice, 50 x 100 five times and so sets the height of both.
    assert magnification(100, 200) == 2
    assert magnification(50, 100) == 5
    assert is_red.sum() == is_green.sum() == 250 * 500
    assert is_red.any(axis=0).nonzero()[0].max() < is_green.any(axis=0).nonzero()[0].min()
    above = row[: is_red.any(axis=1).nonzero()[0].min()]
    assert (above < 100).any(), "captions"
    assert (row[0] == 255).all()


def test_a_caption_wider_than_its_panel_is_not_cut() -> None:
    narrow = np.zeros((480, 4, 3), dtype=np.uint8)
    row = side_by_side([("a caption much wider than four pixels", narrow)])
    assert row.shape[1] > 250
    assert (row[:, :8] == 255).all()
    assert (row[:, -8:] == 255).all()
