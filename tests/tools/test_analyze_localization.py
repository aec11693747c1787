"""The tool, from a config, a model file and a dataset's URI to its JSON, picture and table."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from torch import nn

from dre_ssod.errors import ConfigError
from dre_ssod.evaluation.localization_data import collect, compare
from tests.factories import BOXES, NUM_CLASSES, SIZE, draw, tiny_cfg, tiny_model


def boxes_of(image_id: int) -> list[tuple[float, float, float, float]]:
    """The objects of an image, at another place in each."""
    shift = 6.0 * image_id
    return [(x1 + shift, y1, x2 + shift, y2) for x1, y1, x2, y2 in BOXES]


class Oracle(nn.Module):
    """Detects every object exactly, the second one with a low score, with a quality of its own."""

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        outputs = []
        for inputs in batch:
            assert "annotations" not in inputs
            found = Instances((inputs["height"], inputs["width"]))
            found.pred_boxes = Boxes(torch.tensor(boxes_of(inputs["image_id"])))
            found.scores = torch.tensor([0.9, 0.4])
            found.pred_classes = torch.tensor([0, 0])
            found.localization_quality = torch.tensor([0.1 * inputs["image_id"], 0.0])
            found.pred_boxes_sigma = torch.full((2, 4), 2.0)
            outputs.append({"instances": found})
        return outputs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of three images with two objects each."""
    root = tmp_path_factory.mktemp("data")
    height, width = SIZE
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(NUM_CLASSES)],
    }
    for image_id in range(1, 4):
        pixels = draw(SIZE, boxes_of(image_id), seed=image_id).permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(root / f"{image_id}.png")
        content["images"].append(
            {"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width}
        )
        for x1, y1, x2, y2 in boxes_of(image_id):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    (root / "truth.json").write_text(json.dumps(content))
    return f"coco://{root}/truth.json?images={root}"


@pytest.fixture
def run(tmp_path: Path, dataset: str) -> Path:
    """A folder with the config and the model of a run; random weights, every box a detection."""
    cfg = tiny_cfg(
        **{
            "DATASETS.TRAIN": (dataset,),
            "DATASETS.TEST": (dataset,),
            "SSOD.ENABLED": False,
            "SSOD.LER.ENABLED": False,
            "SSOD.PRC.ENABLED": False,
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
            "OUTPUT_DIR": str(tmp_path),
        }
    )
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": tiny_model(cfg, spread=0.5).state_dict()}, tmp_path / "model.pth")
    return tmp_path


def arguments(run: Path, *opts: str, min_score: str = "0.05") -> list[str]:
    config = ["--config-file", str(run / "config.yaml"), "--min-score", min_score]
    return [*config, "MODEL.WEIGHTS", str(run / "model.pth"), *opts]


class Shifted(Oracle):
    """Finds every object a pixel beside its place, to the right and below."""

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        outputs = super().forward(batch)
        for output in outputs:
            output["instances"].pred_boxes.tensor += 1.0
        return outputs


def test_edges_of_found_objects_say_what_sigma_wants_to_be_multiplied_by(
    tool: ModuleType, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dre_ssod.deployment.trained_model.load_trained", lambda *_: Shifted())
    tool.main(tool.parse_arguments(arguments(run)))
    content = json.loads((run / "localization" / "localization.json").read_text())
    # Sigma is two pixels.
    assert content["sigma"]["all"]["n"] == 3 * 2 * 4
    assert content["sigma_scale"] == pytest.approx(0.5)


def test_writes_json_and_picture_and_prints_the_table(
    tool: ModuleType, run: Path, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (run / "config.yaml").read_text()
    tool.main(tool.parse_arguments(arguments(run)))
    folder = run / "localization"
    content = json.loads((folder / "localization.json").read_text())
    assert content["datasets"] == [dataset]
    whole, matched = content["sets"]["all"], content["sets"]["matched"]
    assert 3 < whole["n"] > matched["n"]
    for criterion in ("score", "localization_quality"):
        assert -1 <= whole[criterion]["spearman"] <= 1
        assert -1 <= whole[criterion]["pearson"] <= 1
    assert content["sigma"]["all"]["n"] <= 4 * matched["n"]
    assert set(content["rankings"][dataset]) == {"score", "s_loc", "score * s_loc"}
    assert sum(part["n"] for part in content["quarters"]) == whole["n"]
    assert content["weight_spreads"]["s_loc (LER)"]["n"] == whole["n"]
    # The edges whose residuals are known tell what sigma wants to be multiplied by.
    assert content["sigma_scale"] == content["sigma"]["all"]["deviation"]
    picture = np.asarray(Image.open(folder / "localization.png").convert("RGB"))
    assert picture.shape[1] > 1000
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    out = capsys.readouterr().out
    assert f"{whole['score']['spearman']:.2f}" in out
    assert "s_loc" in out
    # What is measured on images that were trained on is no scale for others.
    assert "3 of its 3 images are in DATASETS.TRAIN as well" in " ".join(out.split())
    assert (run / "config.yaml").read_text() == config, "the run's own config is left alone"


def test_detections_meet_the_objects_of_their_own_image(tool: ModuleType, run: Path) -> None:
    cfg = tool.configure(tool.parse_arguments(arguments(run, "INPUT.MIN_SIZE_TEST", "32")))
    table, rankings = collect(cfg, Oracle(), min_score=0.5)
    np.testing.assert_allclose(table.ious, [1.0, 1.0, 1.0])
    np.testing.assert_allclose(table.scores, [0.9, 0.9, 0.9])
    np.testing.assert_allclose(table.qualities, [0.1, 0.2, 0.3])
    np.testing.assert_allclose(table.residuals, np.zeros((3, 4)), atol=1e-5)
    # AP is over all detections, the unsure ones as well, and all of them are right.
    assert set(rankings) == set(cfg.DATASETS.TEST)
    for figures in rankings[cfg.DATASETS.TEST[0]].values():
        assert figures == {"AP": 100.0, "AP50": 100.0, "AP75": 100.0}


def test_weights_are_those_that_the_config_of_the_run_gives(tool: ModuleType, run: Path) -> None:
    text = (run / "config.yaml").read_text()
    for old, new in (
        ("QUALITY_POWER: 1.0", "QUALITY_POWER: 4.0"),
        ("RELATIVE_WEIGHTS: false", "RELATIVE_WEIGHTS: true"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (run / "config.yaml").write_text(text)
    tool.main(tool.parse_arguments(arguments(run)))
    found = json.loads((run / "localization" / "localization.json").read_text())["weight_spreads"]
    formula = "s_max * (s_loc / s_max)^4 / mean"
    assert list(found) == [f"{formula} (LER)", f"score * {formula} (PRC)"]
    assert [part["mean"] for part in found.values()] == pytest.approx([1.0, 1.0])


def test_nothing_detected_is_reported_as_such(
    tool: ModuleType, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "elsewhere"
    tool.main(tool.parse_arguments(["--output", str(output), *arguments(run, min_score="1.0")]))
    content = json.loads((output / "localization.json").read_text())
    nothing = {"spearman": None, "pearson": None}
    assert content["sets"]["all"] == {"n": 0, "score": nothing, "localization_quality": nothing}
    assert (output / "localization.png").exists()
    assert "undefined" in capsys.readouterr().out


def test_a_config_without_variance_is_refused(tool: ModuleType, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"BBOX_REG_LOSS_TYPE is 'smooth_l1'.*'kl'"):
        tool.main(
            tool.parse_arguments(
                arguments(run, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l1")
            )
        )


def test_weights_without_variance_are_refused(tool: ModuleType, run: Path) -> None:
    weights = torch.load(run / "model.pth", weights_only=True)["model"]
    kept = {name: value for name, value in weights.items() if "log_variance" not in name}
    torch.save({"model": kept}, run / "model.pth")
    with pytest.raises(ConfigError, match=r"model\.pth.*log_variance"):
        tool.main(tool.parse_arguments(arguments(run)))


@pytest.mark.parametrize(
    "words",
    [
        ("TEST.RANK_BY_QUALITY", "True"),
        ("TEST.VARIANCE_VOTING.ENABLED", "True"),
        ("TEST.VARIANCE_VOTING.SIGMA_T", "0.2", "TEST.VARIANCE_VOTING.ENABLED", "True"),
    ],
)
def test_refinements_at_test_time_are_off(
    tool: ModuleType, run: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A run's own config, as that of the quickstart, may have them on."""
    cfg = tool.configure(tool.parse_arguments(arguments(run, *words)))
    assert not cfg.TEST.RANK_BY_QUALITY
    assert not cfg.TEST.VARIANCE_VOTING.ENABLED
    assert "are off here" in capsys.readouterr().out
    tool.configure(tool.parse_arguments(arguments(run)))
    assert "are off here" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("opts", "named"),
    [(("MODEL.WEIGHTS", ""), "MODEL.WEIGHTS"), (("DATASETS.TEST", "()"), "DATASETS.TEST")],
)
def test_missing_inputs_are_named(
    tool: ModuleType, run: Path, opts: tuple[str, str], named: str
) -> None:
    with pytest.raises(ConfigError, match=f"{named} is empty"):
        tool.main(tool.parse_arguments(arguments(run, *opts)))


def test_scores_that_the_model_cuts_off_are_refused(tool: ModuleType, run: Path) -> None:
    with pytest.raises(ConfigError, match=r"0\.05.*SCORE_THRESH_TEST, 0\.3"):
        tool.main(tool.parse_arguments(arguments(run, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.3")))


@pytest.mark.parametrize("flag", [["--resume"], ["--eval-only"], ["--num-gpus", "2"]])
def test_flags_of_training_are_refused(tool: ModuleType, run: Path, flag: list[str]) -> None:
    with pytest.raises(SystemExit):
        tool.parse_arguments([*flag, *arguments(run)])


def test_crowd_regions_are_no_objects_and_what_lies_in_them_is_left_out(tool: ModuleType) -> None:
    detections = Instances(SIZE)
    detections.pred_boxes = Boxes(torch.tensor(BOXES))
    detections.scores = torch.tensor([0.9, 0.8])
    detections.pred_classes = torch.tensor([0, 0])
    detections.localization_quality = torch.tensor([0.4, 0.3])
    detections.pred_boxes_sigma = torch.full((2, 4), 2.0)
    annotations = [
        {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": crowd}
        for box, crowd in zip(BOXES, (0, 1), strict=True)
    ]
    assert compare(detections, annotations).ious.tolist() == [1.0]
    # Of another class than the crowd's, it is wrong.
    annotations[1]["category_id"] = 1
    assert compare(detections, annotations).ious.tolist() == [1.0, 0.0]


def test_edges_that_the_border_cuts_off_in_both_say_nothing_of_sigma() -> None:
    """Rescaling to the size of the image leaves a clipped edge a rounding beside the border."""
    height, width = SIZE
    detections = Instances(SIZE)
    detections.pred_boxes = Boxes(
        torch.tensor([[0.0, 2.0, width - 0.001, height], [3.0, 0.0, 40.0, height]])
    )
    detections.scores = torch.tensor([0.9, 0.8])
    detections.pred_classes = torch.tensor([0, 1])
    detections.localization_quality = torch.tensor([0.4, 0.3])
    detections.pred_boxes_sigma = torch.full((2, 4), 2.0)
    truth = [[1.0, 0.0, width, height - 4.0], [0.0, 0.0, 44.0, height]]
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": number}
        for number, box in enumerate(truth)
    ]
    found = compare(detections, annotations).residuals
    nan = np.nan
    np.testing.assert_allclose(found, [[nan, 1.0, nan, 2.0], [1.5, nan, -2.0, nan]])
