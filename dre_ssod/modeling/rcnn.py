"""The detector: Detectron2's GeneralizedRCNN with one forward pass for both kinds of images.

And for methods that need them one with a head for whole images, and pairs whose detectors label for
each other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import get_norm, shapes_to_tensor
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from dre_ssod.modeling.student_batch import Features, PairBatch, StudentBatch
from dre_ssod.structures import StudentLosses
from dre_ssod.transfers import filled_like, to_device


def uses_channels_last(cfg: CfgNode) -> bool:
    """Whether MODEL.CHANNELS_LAST holds on MODEL.DEVICE: on a CPU alone.

    On a GPU cuDNN would prepare the small backbone for seconds at each new image size.
    """
    return bool(cfg.MODEL.CHANNELS_LAST and cfg.MODEL.DEVICE == "cpu")


@META_ARCH_REGISTRY.register()
class SemiSupervisedRCNN(GeneralizedRCNN):
    """Faster R-CNN for the student and the teacher.

    Called with a list of dicts it behaves as any Detectron2 model, in training and evaluation.
    Called with a :class:`StudentBatch` in training it returns :class:`StudentLosses`.
    """

    @configurable
    def __init__(self, *, channels_last: bool = False, **kwargs: Any) -> None:
        """
        Args:
            channels_last: memory layout of the weights and the images.
            kwargs: as for Detectron2's ``GeneralizedRCNN``.
        """
        super().__init__(**kwargs)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        arguments: dict[str, Any] = super().from_config(cfg)
        arguments["channels_last"] = uses_channels_last(cfg)
        return arguments

    @property
    def detectors(self) -> tuple[SemiSupervisedRCNN, ...]:
        """This one; of a pair, each by itself, with the tensors that it has in the pair."""
        return (self,)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalize, pad and batch, in the model's memory layout."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            (inputs,) = batched_inputs
            images = self._traced_image(inputs["image"])
        else:
            images = super().preprocess_image(batched_inputs)
        images.tensor = images.tensor.contiguous(memory_format=self.memory_format)
        return images

    def _traced_image(self, image: Tensor) -> ImageList:
        """What Detectron2 makes of one image (3, H, W), for any device that loads the trace.

        Detectron2 rounds a tensor of sizes that a trace keeps on the CPU by constants that go to
        the GPU with the weights. Single numbers may meet wherever they are.
        """
        constraints = self.backbone.padding_constraints
        divisor = constraints.get("size_divisibility", self.backbone.size_divisibility) or 1
        height, width = image.shape[-2:]
        padding = []
        for side in (width, height):
            least = constraints.get("square_size", 0) or side
            padding += [0, least + -least % divisor - side]
        image = (self._move_to_current_device(image) - self.pixel_mean) / self.pixel_std
        return ImageList(F.pad(image, padding)[None], [shapes_to_tensor([height, width])])

    def _move_to_current_device(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            # Detectron2's own way keeps a traced model free to move to another device.
            return super()._move_to_current_device(x)
        return x.to(self.device, non_blocking=True)

    def forward(
        self, batched_inputs: StudentBatch | PairBatch | list[dict[str, Any]]
    ) -> StudentLosses | dict[str, Tensor] | list[dict[str, Instances]]:
        """All losses of a student's batch; else what Detectron2's does with its own inputs.

        In training those are the supervised losses of labeled images, by name, as if there were no
        unlabeled ones; in eval mode the detections of each image.
        """
        if isinstance(batched_inputs, StudentBatch | PairBatch):
            return self.student_losses(batched_inputs)
        if not self.training:
            detections: list[dict[str, Instances]] = self.inference(batched_inputs)
            return detections
        return self.student_losses(StudentBatch(labeled=batched_inputs)).supervised

    def student_losses(self, batch: StudentBatch | PairBatch) -> StudentLosses:
        """All losses of a step, from one pass over labeled images and strong views together."""
        assert isinstance(batch, StudentBatch), "two batches are for a pair of detectors"
        images = self.preprocess_image([*batch.labeled, *batch.strong])
        targets = [to_device(x["instances"], self.device) for x in batch.labeled]
        mixer = batch.mixer
        if mixer is not None:
            images = mixer.images(images, batch)
        features = self.backbone(images.tensor)
        if mixer is not None:
            features = mixer.features(features, batch)
        # Read only now: a GPU has these features to compute while the host waits.
        rpn_labels, cls_labels, box_labels = batch.read_labels()
        weights = None if mixer is None else mixer.weights()
        terms = batch.method.rpn_terms if batch.method else ()
        proposals, losses = self.proposal_generator.student_losses(
            images,
            features,
            targets,
            rpn_labels,
            terms,
            weights,
            batch.method.rpn_weights if batch.method else None,
        )
        labels = cls_labels, box_labels
        asked = batch.ask, batch.method, weights
        scores = self.image_scores(features) if batch.method else None
        losses.merge(
            self.roi_heads.student_losses(features, proposals, targets, *labels, *asked, scores)
        )
        return losses

    def image_scores(self, features: Features) -> Tensor | None:
        """(N, K) in (0, 1): which classes N images show; None, since there is no head for it."""
        return None

    @staticmethod
    def scale_sigma(detections: Instances, height: int, width: int) -> None:
        """Carry ``pred_boxes_sigma`` from the detections' frame to an image of another size."""
        if detections.has("pred_boxes_sigma"):
            scale_y = height / detections.image_size[0]
            scale_x = width / detections.image_size[1]
            sigma = detections.pred_boxes_sigma
            scale = filled_like(sigma, (scale_x, scale_y, scale_x, scale_y))
            detections.pred_boxes_sigma = sigma * scale

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[Any]:
        """As Detectron2's, but what is found in an image does not depend on the others beside it.

        ``pred_boxes_sigma`` is in pixels of the frame of the boxes.
        """
        results: list[Any] = [None] * len(batched_inputs)
        for group in self._groups([x["image"] for x in batched_inputs]):
            known = None if detected_instances is None else [detected_instances[i] for i in group]
            found = super().inference([batched_inputs[i] for i in group], known, False)
            for i, result in zip(group, found, strict=True):
                results[i] = result
        if not do_postprocess:
            return results
        sizes = [r.image_size for r in results]
        for result, inputs in zip(results, batched_inputs, strict=True):
            height, width = result.image_size
            self.scale_sigma(result, inputs.get("height", height), inputs.get("width", width))
        return self._postprocess(results, batched_inputs, sizes)

    def _groups(self, images: Sequence[Tensor]) -> list[list[int]]:
        """Positions of the images that share a forward pass.

        Those padded to one size: the padding beside an image changes what convolutions see at its
        border. On a CPU each image is alone: there PyTorch picks its algorithms by the number of
        images, so that roundings differ, and a batch saves little time.
        """
        if len(images) == 1 or not self._batches_images:
            return [[position] for position in range(len(images))]
        groups: dict[tuple[int, int], list[int]] = {}
        for position, image in enumerate(images):
            groups.setdefault(self._padded_size(image), []).append(position)
        return list(groups.values())

    @property
    def _batches_images(self) -> bool:
        """Whether several images share a pass; the tests try it on a CPU, too."""
        return bool(self.device.type != "cpu")

    def _padded_size(self, image: Tensor) -> tuple[int, int]:
        """(height, width) that ``preprocess_image`` gives an image which is alone."""
        constraints = self.backbone.padding_constraints
        square = constraints.get("square_size", 0)
        height, width = (square, square) if square > 0 else image.shape[-2:]
        unit = max(constraints.get("size_divisibility", self.backbone.size_divisibility), 1)
        return -(-height // unit) * unit, -(-width // unit) * unit


@META_ARCH_REGISTRY.register()
class ImageClassRCNN(SemiSupervisedRCNN):
    """A detector with a head that says which classes an image shows, for methods to learn from.

    On the coarsest feature map: two 1x1 convolutions, each with a batch norm, and the mean of the
    sigmoid over the map. Batch norms take their statistics over all processes.
    """

    @configurable
    def __init__(self, *, num_classes: int, **kwargs: Any) -> None:
        """
        Args:
            num_classes: K.
            kwargs: as for :class:`SemiSupervisedRCNN`.
        """
        super().__init__(**kwargs)
        shapes = self.backbone.output_shape()
        self._level = max(shapes, key=lambda name: shapes[name].stride)
        channels = shapes[self._level].channels
        self.image_head = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            get_norm("naiveSyncBN", channels),
            nn.ReLU(),
            nn.Conv2d(channels, num_classes, 1, bias=False),
            get_norm("naiveSyncBN", num_classes),
        ).to(memory_format=self.memory_format)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        arguments: dict[str, Any] = super().from_config(cfg)
        arguments["num_classes"] = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        return arguments

    def image_scores(self, features: Features) -> Tensor:
        """(N, K) y, in float32: the mean over a feature map of the sigmoid of each class.

        Not in AMP's format: the batch norms of several processes take a variance as a difference.
        """
        with torch.autocast(self.device.type, enabled=False):
            scores: Tensor = self.image_head(features[self._level].float())
        return scores.sigmoid().mean(dim=(2, 3))


@META_ARCH_REGISTRY.register()
class PairedRCNN(SemiSupervisedRCNN):
    """A detector and its partner: one module, so that there is one optimizer, average and file.

    Whoever asks for detections gets those of the first detector, whose weights have their plain
    names; those of the second begin with ``partner.``. In training both learn::

        L = L_1 + L_2
    """

    @configurable
    def __init__(self, *, partner: SemiSupervisedRCNN, **kwargs: Any) -> None:
        """
        Args:
            partner: the second detector.
            kwargs: of the first, as for :class:`SemiSupervisedRCNN`.
        """
        super().__init__(**kwargs)
        self.partner = partner

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        arguments: dict[str, Any] = super().from_config(cfg)
        arguments["partner"] = SemiSupervisedRCNN(cfg)
        return arguments

    @property
    def detectors(self) -> tuple[SemiSupervisedRCNN, ...]:
        first = copy.copy(self)
        first.__class__ = SemiSupervisedRCNN
        first._modules = {name: m for name, m in self._modules.items() if name != "partner"}
        return first, self.partner

    def student_losses(self, batch: StudentBatch | PairBatch) -> StudentLosses:
        """The sum of both detectors' losses, and the means of their figures over both.

        A batch for one detector is one for both.
        """
        both = batch if isinstance(batch, PairBatch) else PairBatch(batch, batch)
        found = super().student_losses(both.first)
        found.add(self.partner.student_losses(both.second))
        return found


@META_ARCH_REGISTRY.register()
class TwoHeadedRCNN(PairedRCNN):
    """A pair with one backbone and one RPN, so that only the box heads are two.

    Both pass the images through the backbone for themselves, and its gradients add up. The RPN's
    losses are the mean of both passes, as it is one.
    """

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        """
        Args:
            kwargs: as for :class:`PairedRCNN`.
        """
        super().__init__(**kwargs)
        self.partner.backbone = self.backbone
        self.partner.proposal_generator = self.proposal_generator

    def student_losses(self, batch: StudentBatch | PairBatch) -> StudentLosses:
        """As of a pair, but for the terms of the RPN, ``loss_rpn_*``, which are means."""
        found = super().student_losses(batch)
        for terms in (found.supervised, found.unsupervised):
            terms.update({n: loss / 2 for n, loss in terms.items() if n.startswith("loss_rpn")})
        return found
