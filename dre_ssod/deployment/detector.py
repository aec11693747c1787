"""A trained detector in three lines of Python: ``dre_ssod.load(PATH)(IMAGE)``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch import nn

from dre_ssod.data.images import ImageError, read_image
from dre_ssod.data.views.photometric import Image
from dre_ssod.deployment.trained_model import (
    Category,
    InferenceReader,
    check_score,
    configure_trained,
    device_of,
    load_trained,
)
from dre_ssod.errors import ConfigError, UserError

if TYPE_CHECKING:
    import supervision

ImageOrFile = str | os.PathLike[str] | Image
"""A file, or an array (H, W, 3) uint8."""
_NOT_SEVERAL = (str, bytes, os.PathLike, np.ndarray, torch.Tensor, Mapping)
"""What can be gone through, and is still no collection of images."""


@dataclass(frozen=True)
class Detections:
    """What is found in an image, the highest score first: R boxes in pixels of the image.

    Attributes:
        boxes: (R, 4) float32, x1, y1, x2, y2.
        scores: (R,) float32.
        class_ids: (R,) int64, the model's own, from 0.
        class_names: of each box.
        sigma: (R, 4) float32, standard deviation of each edge; None without a variance branch.
        quality: (R,) float32, s_loc of eq. 5; None as above.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    class_names: tuple[str, ...]
    sigma: NDArray[np.float32] | None = None
    quality: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def to_supervision(self) -> supervision.Detections:
        """The same for the package supervision; names, sigma and quality lie in its ``data``.

        Raises:
            UserError: if the package is not installed.
        """
        try:
            import supervision  # An extra: nothing else here needs it.
        except ModuleNotFoundError as error:
            raise UserError(
                "the package supervision is not installed: pip install supervision"
            ) from error
        data: dict[str, Any] = {"class_name": np.array(self.class_names, dtype=str)}
        for name, values in (("sigma", self.sigma), ("quality", self.quality)):
            if values is not None:
                data[name] = values
        return supervision.Detections(
            xyxy=self.boxes, confidence=self.scores, class_id=self.class_ids, data=data
        )


class Detector:
    """A trained model, what an image goes through before it, and the names of its classes."""

    def __init__(self, cfg: CfgNode, model: nn.Module, categories: Sequence[Category]) -> None:
        """
        Args:
            model: of ``cfg``, in eval mode.
            categories: of the classes, in the order of the model's outputs.
        """
        self.cfg = cfg
        self.categories = list(categories)
        self.class_names = [category["name"] for category in categories]
        self._model = model
        self._reader = InferenceReader(cfg)

    # A text is a sequence of texts too: for it, the first one is meant.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, images: ImageOrFile, min_score: float = ..., channels: str = ...
    ) -> Detections: ...

    @overload
    def __call__(
        self, images: Sequence[ImageOrFile], min_score: float = ..., channels: str = ...
    ) -> list[Detections]: ...

    def __call__(
        self,
        images: ImageOrFile | Sequence[ImageOrFile],
        min_score: float = 0.5,
        channels: str = "BGR",
    ) -> Detections | list[Detections]:
        """Detect on an image, or on each of a sequence.

        Args:
            images: files, or arrays (H, W, 3) uint8; files are turned as their EXIF data say.
            min_score: lowest score of a detection.
            channels: their order in arrays: "BGR" as OpenCV reads and Detectron2's
                ``DefaultPredictor`` takes them, or "RGB" as Pillow reads them.

        Raises:
            ImageError: if a file cannot be read, something else is no such image, or one is too
                long and thin to be resized.
            ConfigError: if the model gives no detection of so low a score, or ``channels`` is
                neither.
        """
        check_score(self.cfg, "min_score", min_score)
        if channels not in ("BGR", "RGB"):
            raise ConfigError(f"channels is {channels!r}; it must be 'BGR' or 'RGB'")
        if isinstance(images, Iterable) and not isinstance(images, _NOT_SEVERAL):
            return [self._named(self.instances(image, channels), min_score) for image in images]
        # One image, or whatever else it is: what cannot be used is refused where it is read.
        one: Any = images
        return self._named(self.instances(one, channels), min_score)

    @torch.no_grad()
    def instances(self, image: ImageOrFile, channels: str = "BGR", name: str = "") -> Instances:
        """All detections on an image in its own frame, on the CPU, as Detectron2 has them.

        Args:
            name: of an array, for messages.
        """
        pixels = self._pixels(image, channels)
        inputs = self._reader.prepare(pixels, name or _described(image))
        found: Instances = self._model([inputs])[0]["instances"].to("cpu")
        return found

    def _pixels(self, image: ImageOrFile, channels: str) -> Image:
        if isinstance(image, str | os.PathLike):
            return read_image(os.fspath(image), self._reader.image_format)
        if not (
            isinstance(image, np.ndarray)
            and image.dtype == np.uint8
            and image.ndim == 3
            and image.shape[2] == 3
            and image.size
        ):
            raise ImageError(
                f"{_described(image)}: an image is a file name, or a NumPy array (height, width, "
                "3) of uint8 with its channels in the order of the argument channels; several are "
                "a list"
            )
        is_ordered = channels == self._reader.image_format
        return np.ascontiguousarray(image if is_ordered else image[:, :, ::-1])

    def _named(self, found: Instances, min_score: float) -> Detections:
        found = found[found.scores >= min_score]
        classes = found.pred_classes.numpy()
        has_variance = found.has("pred_boxes_sigma")
        return Detections(
            boxes=found.pred_boxes.tensor.numpy(),
            scores=found.scores.numpy(),
            class_ids=classes,
            class_names=tuple(self.class_names[number] for number in classes),
            sigma=found.pred_boxes_sigma.numpy() if has_variance else None,
            quality=found.localization_quality.numpy() if has_variance else None,
        )


def _described(image: object) -> str:
    """What stands for an image in a message: its file, or what else it is."""
    if isinstance(image, str | os.PathLike):
        return str(os.fspath(image))
    if isinstance(image, np.ndarray):
        return f"array of {image.dtype} of shape {image.shape}"
    return type(image).__name__


def load(
    path: str | os.PathLike[str],
    model: str = "teacher",
    *,
    device: str = "",
    config_file: str = "",
    classes: Sequence[str] = (),
    opts: Sequence[Any] = (),
) -> Detector:
    """A detector from a checkpoint, which says its settings and the names of its classes itself.

    Args:
        path: a checkpoint (.pth), or the folder of a run, here or in a store: of that
            ``model_final.pth``, or, here, the newest where the run is not done, or has gone on
            since.
        model: "teacher" or "student".
        device: such as "cpu" or "cuda:1", which must be there; by default a GPU where there is one.
        config_file: in place of the checkpoint's settings. Where it has none, as those of version
            0.1.0, the config.yaml beside it is taken.
        classes: names in the model's order, where neither the checkpoint nor the training data
            tell. Other names than the checkpoint's are warned of; the same in another order are an
            error.
        opts: config keys and values in turn, as ``["TEST.VARIANCE_VOTING.ENABLED", True]``.

    Raises:
        UserError: naming what cannot be used, and what to do.
    """
    if model not in ("teacher", "student"):
        raise ConfigError(f"model is {model!r}; it must be 'teacher' or 'student'")
    on_device = ["MODEL.DEVICE", device] if device else []
    cfg, categories = configure_trained(os.fspath(path), config_file, [*opts, *on_device], classes)
    cfg.MODEL.DEVICE = device_of(cfg)
    return Detector(cfg, load_trained(cfg, model), categories)
