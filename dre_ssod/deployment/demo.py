"""A trained detector on image files: which files, what it finds, and where the pictures go."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn

from dre_ssod.data.images import read_image
from dre_ssod.data.sources.folder import IMAGE_EXTENSIONS, is_image_name, list_images
from dre_ssod.deployment.detector import Detector
from dre_ssod.deployment.trained_model import Category, as_boxes, check_score
from dre_ssod.errors import ConfigError
from dre_ssod.inspection.canvas import RGBImage
from dre_ssod.inspection.drawing import draw_detections
from dre_ssod.inspection.panels import write_picture
from dre_ssod.stores import Place, StorePath, place_of

JPEG_EXTENSIONS = (".jpg", ".jpeg")


@dataclass(frozen=True)
class InputImage:
    """An image to look at.

    Attributes:
        path: of the file.
        name: relative to the folder that the user named, or the file's own name.
    """

    path: Place
    name: Path


class DrawingDetector(Detector):
    """A detector that draws what it finds, and gives it as COCO results."""

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        categories: Sequence[Category],
        threshold: float,
        bands: bool = True,
        color_by: str = "class",
    ) -> None:
        """
        Args:
            model: in eval mode.
            categories: of the classes, in the order of the model's outputs.
            threshold: lowest score of a detection that is kept, in [0, 1].
            bands, color_by: see :func:`dre_ssod.inspection.drawing.draw_detections`.

        Raises:
            ConfigError: if the model gives no detection of so low a score.
        """
        check_score(cfg, "--confidence-threshold", threshold)
        super().__init__(cfg, model, categories)
        self._threshold = threshold
        self._bands, self._color_by = bands, color_by

    def detect(self, image_rgb: RGBImage, name: str) -> Instances:
        """Detections on an image (H, W, 3), in its own frame, on the CPU.

        Args:
            name: of the image, for messages.

        Raises:
            ImageError: if it is too long and thin for the model.
        """
        found = self.instances(image_rgb, "RGB", name)
        return found[found.scores >= self._threshold]

    def draw(self, image_rgb: RGBImage, found: Instances) -> RGBImage:
        """The image with its detections: labels, scores, qualities and bands of uncertainty."""
        return draw_detections(image_rgb, found, self.class_names, self._bands, self._color_by)

    def results(self, found: Instances, image_id: int, file_name: str) -> list[dict[str, Any]]:
        """Detections as COCO results; see :func:`dre_ssod.deployment.trained_model.as_boxes`."""
        named = {"image_id": image_id, "file_name": file_name}
        return [named | box for box in as_boxes(found, self.categories)]


def find_images(patterns: Sequence[str]) -> list[InputImage]:
    """The images that files, globs and folders (searched recursively) name, each once, in order.

    Raises:
        ConfigError: if one of them names nothing.
    """
    found: dict[str, InputImage] = {}
    for pattern in patterns:
        # A file may have the signs of a glob in its name.
        named = place_of(pattern).exists()
        matches = [pattern] if named else sorted(glob.glob(pattern, recursive=True))
        images = [image for match in matches for image in _expand(place_of(match), named)]
        if not images:
            raise ConfigError(
                f"--input {pattern!r}: no image of that name; give files, globs or folders with "
                f"images ({', '.join(IMAGE_EXTENSIONS)})"
            )
        for image in images:
            found.setdefault(_real(image.path), image)
    return list(found.values())


def _real(path: Place) -> str:
    """The file behind all links; also of a link that leads to itself, which is no file."""
    return str(path) if isinstance(path, StorePath) else os.path.realpath(path)


def _expand(path: Place, named: bool) -> list[InputImage]:
    """A folder's images; a file if the user ``named`` it, or it is an image by its extension."""
    if path.is_dir():
        return [InputImage(path / name, Path(name)) for name in list_images(path)]
    return [InputImage(path, Path(path.name))] if named or is_image_name(path.name) else []


def names_in_results(images: Sequence[InputImage]) -> list[str]:
    """What results call each image: its name or, where others have the same one, its path."""
    names = [image.name.as_posix() for image in images]
    count = Counter(names)
    return [
        name if count[name] == 1 else str(image.path)
        for name, image in zip(names, images, strict=True)
    ]


def plan_outputs(images: Sequence[InputImage], output: Place, overwrite: bool) -> list[Place]:
    """Where the picture of each image goes: no two to the same place, none onto an input.

    Pictures of JPEG files are JPEG files, all others PNG.

    Args:
        output: a folder, made where needed; or a file name with an image extension for one image.
        overwrite: whether files that are there already may be replaced.

    Raises:
        ConfigError: if ``output`` does not fit, or a file would be overwritten.
    """
    is_file = output.suffix.lower() in IMAGE_EXTENSIONS and not output.is_dir()
    if is_file and len(images) > 1:
        raise ConfigError(
            f"--output {str(output)!r} is one file, but there are {len(images)} images; give a "
            "folder"
        )
    if not is_file and output.exists() and not output.is_dir():
        raise ConfigError(f"--output {str(output)!r} is a file that is no picture; give a folder")
    planned: dict[Place, InputImage] = {}
    for image in images:
        path = output if is_file else output / _picture_name(image.name).as_posix()
        plain, number = path, 1
        while path in planned:
            number += 1
            path = plain.parent / f"{plain.stem}_{number}{plain.suffix}"
        planned[path] = image
    refuse_overwriting(planned, [image.path for image in images], overwrite)
    return list(planned)


def refuse_overwriting(outputs: Iterable[Place], inputs: Iterable[Place], overwrite: bool) -> None:
    """Raise a ConfigError if an output is an input, or is there already and may not be replaced."""
    originals = {_real(path) for path in inputs}
    for path in outputs:
        if _real(path) in originals:
            raise ConfigError(
                f"the input {str(path)!r} would be overwritten; choose another place for the output"
            )
        if path.exists() and not overwrite:
            raise ConfigError(
                f"{str(path)!r} is there already; choose another place, or add --overwrite to "
                "replace what is there"
            )


def _picture_name(name: Path) -> Path:
    return name if name.suffix.lower() in JPEG_EXTENSIONS else name.with_suffix(".png")


def run_on_image(
    detector: DrawingDetector, image: InputImage, number: int, name: str, picture: Path | None
) -> list[dict[str, Any]]:
    """Detect on one file and draw; returns its COCO results.

    Args:
        number, name: ``image_id`` and ``file_name`` of the results.
        picture: where to draw; None for nowhere.

    Raises:
        ImageError: if the file cannot be used as an image.
        FileError: if the picture cannot be written.
    """
    pixels = read_image(str(image.path), "RGB")
    found = detector.detect(pixels, str(image.path))
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_picture(picture, detector.draw(pixels, found))
    return detector.results(found, number, name)
