"""A trained detector for use outside of training, from a config and a checkpoint."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import Tensor, nn

from dre_ssod.checkpoints.weights import load_all, load_student
from dre_ssod.config.checks import check_config
from dre_ssod.config.effects import check_effects
from dre_ssod.config.reading import read_config
from dre_ssod.data.images import check_shape, read_image
from dre_ssod.data.views.photometric import Image
from dre_ssod.errors import ConfigError, SourceError
from dre_ssod.runs.detector import (
    TrainedDetector,
    categories_of,
    check_classes,
    compare_classes,
    find_checkpoint,
    read_detector,
)
from dre_ssod.runs.resuming import check_fits
from dre_ssod.stores import place_of, weights_file

logger = logging.getLogger(__name__)

# Of boxes and sigma in pixels; and of scores and qualities.
PIXEL_DIGITS, SCORE_DIGITS = 3, 5
Category = dict[str, Any]
"""An entry of ``categories`` in COCO JSON: ``id`` and ``name``."""


def configure_arguments(args: argparse.Namespace) -> tuple[CfgNode, list[Category]]:
    """See :func:`configure_trained`; of a command line with
    :func:`dre_ssod_cli.parsers.add_model_options`."""
    names = [name.strip() for name in args.classes.split(",") if name.strip()]
    return configure_trained(args.run, args.config_file, args.opts, names)


def configure_trained(
    path: str | Path = "",
    config_file: str = "",
    opts: Sequence[Any] = (),
    names: Sequence[str] = (),
) -> tuple[CfgNode, list[Category]]:
    """The checked config of a trained model, MODEL.WEIGHTS included, and its classes.

    Args:
        path: a checkpoint, or the folder of a run, here or in a store; "" to take MODEL.WEIGHTS of
            the two below.
        config_file, opts: as of :func:`dre_ssod.config.reading.read_config`. Without a file, the
            checkpoint says the settings, and a config.yaml beside it what it leaves out.
        names: of the classes; empty to take those of the checkpoint, or of DATASETS.TRAIN where it
            names none. See :func:`find_categories` for names that the checkpoint has otherwise.

    Raises:
        ConfigError: naming the argument or key that cannot be used, or if nothing tells; see also
            :func:`check_device`.
        CheckpointError, UntrustedFileError: if the checkpoint cannot be used.
    """
    if path and "MODEL.WEIGHTS" in opts[::2]:
        raise ConfigError(
            f"two models are named, {str(path)!r} and one by MODEL.WEIGHTS: leave out one of them"
        )
    if path:
        weights = str(find_checkpoint(place_of(str(path))))
    else:
        weights = read_config(config_file, opts).MODEL.WEIGHTS
    if not weights:
        raise ConfigError(
            "no trained model is named: MODEL.WEIGHTS is empty. Give the folder of a run or a "
            "checkpoint (--run PATH), or append MODEL.WEIGHTS and a file"
        )
    described = read_detector(Path(weights_file(weights)))
    if config_file:
        cfg = read_config(config_file, opts)
    else:
        cfg = _read_described(weights, described, opts)
    cfg.MODEL.WEIGHTS = weights
    known = [] if described is None else described.categories
    categories = find_categories(cfg, names, known)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(categories)
    check_config(cfg, world_size=1)
    check_effects(cfg, opts[::2], trains=False)
    check_device(cfg, opts[::2])
    return cfg, categories


def _read_described(
    weights: str, described: TrainedDetector | None, opts: Sequence[Any]
) -> CfgNode:
    """The config that a checkpoint and, on this machine, the config.yaml beside it give."""
    beside = Path(weights).with_name("config.yaml")
    config_file = str(beside) if "://" not in weights and beside.is_file() else ""
    if described is None and not config_file:
        if "://" not in weights and not Path(weights).is_file():
            raise ConfigError(f"MODEL.WEIGHTS: there is no file {weights!r}")
        raise ConfigError(
            f"{weights} does not say its settings and classes, and there is no config.yaml beside "
            "it, as of checkpoints of other programs or of version 0.1.0: name the config file "
            "(--config-file FILE; config_file in Python)"
        )
    settings = {} if described is None else described.settings
    if not config_file:
        settings = {"DATALOADER.NUM_WORKERS": -1, **settings}
    try:
        return read_config(config_file, opts, settings)
    except ConfigError as error:
        if "(in the checkpoint)" not in str(error):
            raise
        raise ConfigError(
            f"{weights} is of another version of this project: {error} A config file in place of "
            "its settings (--config-file FILE; config_file in Python) can leave the key out."
        ) from error


def check_score(cfg: CfgNode, option: str, score: float) -> None:
    """Refuse a lowest score that the model's own bound makes meaningless.

    Raises:
        ConfigError: naming the option that holds the score.
    """
    lowest = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
    if not lowest <= score <= 1.0:
        raise ConfigError(
            f"{option} is {score}; it must lie between MODEL.ROI_HEADS.SCORE_THRESH_TEST, "
            f"{lowest}, below which the model detects nothing, and 1."
        )


def check_weights(cfg: CfgNode, train: Sequence[str] = ()) -> None:
    """Compare a config with what MODEL.WEIGHTS says of its detector, if it says anything.

    Args:
        train: DATASETS.TRAIN, where the model is going to be measured by its classes.

    Raises:
        ConfigError: naming what differs; see :func:`dre_ssod.runs.resuming.check_fits` and
            :func:`check_classes`.
    """
    described = read_detector(Path(weights_file(cfg.MODEL.WEIGHTS)))
    if described is None:
        return
    check_fits(described.settings, cfg)
    if train:
        check_classes(described, train)


def load_trained(cfg: CfgNode, which: str = "teacher") -> nn.Module:
    """The detector of MODEL.WEIGHTS in eval mode; of a checkpoint of this project, the teacher.

    Args:
        cfg: with MODEL.ROI_HEADS.NUM_CLASSES above 0.
        which: "teacher" or "student".

    Raises:
        ConfigError: if there is no file, it lacks a weight that the config asks for, it was trained
            by settings that contradict the config, or it holds no student where that is asked for.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError(
            "MODEL.WEIGHTS is empty: append MODEL.WEIGHTS and a trained model's file."
        )
    check_weights(cfg)
    bare = cfg.clone()
    bare.defrost()
    # Overwritten by the checkpoint, so the package or file of it need not be there.
    bare.MODEL.TIMM.WEIGHTS = ""
    model: nn.Module = build_model(bare)
    if which == "student":
        if not load_student(cfg.MODEL.WEIGHTS, model):
            raise ConfigError(
                f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} holds no student, so --model student cannot "
                "be: name a checkpoint of a training, such as model_final.pth, or leave it out"
            )
    else:
        load_all(model, cfg.MODEL.WEIGHTS)
    return model.eval()


def check_device(cfg: CfgNode, given: Sequence[Any]) -> None:
    """Refuse a GPU that is named where there is none; where none is named, the CPU stands in.

    Args:
        given: the keys of the command line.

    Raises:
        ConfigError: naming it.
    """
    is_named = "MODEL.DEVICE" in given and cfg.MODEL.DEVICE.startswith("cuda")
    if is_named and not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE (device in Python) is {cfg.MODEL.DEVICE!r}, but PyTorch finds no GPU on "
            "this machine: the only device is 'cpu'. Name that, or leave it out, which takes a "
            "GPU where there is one"
        )


def device_of(cfg: CfgNode, local_rank: int = 0) -> str:
    """MODEL.DEVICE for one process: its own GPU, or the CPU where there is none."""
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        return str(cfg.MODEL.DEVICE)
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{local_rank}" if cfg.MODEL.DEVICE == "cuda" else str(cfg.MODEL.DEVICE)


def find_categories(
    cfg: CfgNode, names: Sequence[str] = (), known: Sequence[Category] = ()
) -> list[Category]:
    """The classes of a model, in the order of its outputs, with their ids in COCO files.

    Args:
        names: of the classes, which then have the ids 1 to K, unless they are those of ``known``.
            Other ones than those are warned of.
        known: the classes by the checkpoint, which are taken where there are no ``names``; where
            there are neither, those of DATASETS.TRAIN.

    Raises:
        ConfigError: if DATASETS.TRAIN is not there, the number contradicts the config, or ``names``
            are those of the checkpoint in another order.
    """
    named: list[Category] = [{"id": i, "name": n} for i, n in enumerate(names, start=1)]
    if list(names) == [category["name"] for category in known]:
        named = list(known)
    try:
        categories = named or list(known) or categories_of(cfg.DATASETS.TRAIN)
    except SourceError as error:
        raise ConfigError(
            f"the names of the classes cannot be taken from DATASETS.TRAIN: {error}. "
            "Name them in the model's order: --classes A,B,C (classes in Python)"
        ) from error
    expected = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if expected not in (0, len(categories)):
        raise ConfigError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {expected}, but {len(categories)} classes are named: "
            f"{', '.join(category['name'] for category in categories)}"
        )
    if names and known:
        advice = "leave --classes (classes in Python) out, or name them in the model's order"
        compare_classes(known, names, "those of --classes", advice)
    return categories


def as_boxes(found: Instances, categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Detections on the CPU as COCO's boxes: ``category_id``, ``bbox``, ``score`` of each.

    Where the model has a variance branch also ``sigma`` (4,) in pixels and ``quality`` (s_loc).

    Args:
        categories: of the classes, in the order of the model's outputs.
    """
    boxes = []
    for index in range(len(found)):
        x1, y1, x2, y2 = found.pred_boxes.tensor[index].tolist()
        box: dict[str, Any] = {
            "category_id": categories[int(found.pred_classes[index])]["id"],
            "bbox": [round(value, PIXEL_DIGITS) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(float(found.scores[index]), SCORE_DIGITS),
        }
        if found.has("pred_boxes_sigma"):
            sigma = found.pred_boxes_sigma[index].tolist()
            box["sigma"] = [round(value, PIXEL_DIGITS) for value in sigma]
            box["quality"] = round(float(found.localization_quality[index]), SCORE_DIGITS)
        boxes.append(box)
    return boxes


class InferenceReader:
    """Makes model inputs of images as Detectron2's ``DefaultPredictor`` does."""

    def __init__(self, cfg: CfgNode) -> None:
        sides = [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST]
        self.max_size = cfg.INPUT.MAX_SIZE_TEST
        self.resize = T.ResizeShortestEdge(sides, self.max_size)
        self.image_format = cfg.INPUT.FORMAT

    def __call__(self, file_name: str) -> dict[str, Any]:
        """The input for a file; see :meth:`prepare`.

        Raises:
            ImageError: if the file cannot be used as an image.
        """
        return self.prepare(read_image(file_name, self.image_format), file_name)

    def prepare(self, image: Image, name: str) -> dict[str, Any]:
        """A model input: ``image`` (3, H, W) at test size, ``height`` and ``width`` before.

        Args:
            image: (H, W, 3) uint8, its channels in the order of ``image_format``.
            name: of the image, for the message.

        Raises:
            ImageError: if it is so long and thin that nothing would be left of it at test size.
        """
        check_shape(name, image.shape, self.max_size)
        height, width = image.shape[:2]
        resized = self.resize.get_transform(image).apply_image(image)
        tensor: Tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        return {"image": tensor, "height": height, "width": width}
