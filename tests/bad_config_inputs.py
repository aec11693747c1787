"""Mistakes in command lines, config files and config keys."""

from __future__ import annotations

from tests.bad_input import BadInput

ARGUMENTS = [
    BadInput(
        "Command line",
        "a mistyped key",
        "SSOD.SCORE_TRESHOLD 0.9",
        ("'SSOD.SCORE_TRESHOLD'", "Close names: SSOD.SCORE_THRESHOLD"),
    ),
    BadInput(
        "Command line",
        "a key without a value",
        "SEED",
        ("'SEED' has no partner", "pairs of KEY VALUE"),
    ),
    BadInput(
        "Command line",
        "an option behind the keys",
        "SEED 1 --resume",
        ("'--resume' has no partner", "options such as --resume before the first key"),
    ),
    BadInput(
        "Command line",
        "a group of keys instead of a key",
        "SSOD.EMA 0.99",
        ("SSOD.EMA is a group of keys", "SSOD.EMA.DECAY"),
    ),
    BadInput(
        "Command line",
        "a tuple that is not closed",
        "DATASETS.UNLABELED \"('folder://more',\"",
        ("DATASETS.UNLABELED is", "folder://more", "a tuple"),
    ),
    BadInput(
        "Command line",
        "a tuple of one without its comma",
        "DATASETS.TRAIN \"('coco_2017_train')\"",
        ("DATASETS.TRAIN is 'coco_2017_train'", "with the comma"),
    ),
    BadInput(
        "Command line",
        "a key and its value in one word",
        "SEED=1",
        ("'SEED=1' has no partner", "a space between key and value"),
    ),
    BadInput(
        "Command line",
        "no process",
        "--num-gpus 0",
        ("--num-gpus is 0", "at least 1"),
    ),
    BadInput(
        "Command line",
        "the rank of a machine that does not exist",
        "--machine-rank 1",
        ("--machine-rank is 1", "--num-machines 1"),
    ),
    BadInput(
        "Command line",
        "an address without a port",
        "--num-gpus 2 --dist-url tcp://localhost",
        ("--dist-url is 'tcp://localhost'", "tcp://HOST:PORT"),
    ),
    BadInput(
        "Command line",
        "evaluation without a model",
        "--eval-only MODEL.WEIGHTS ''",
        ("--eval-only needs a checkpoint", "MODEL.WEIGHTS FILE"),
    ),
    BadInput(
        "Command line",
        "evaluation and resuming at once",
        "--eval-only --resume",
        ("--resume", "not allowed with argument --eval-only"),
    ),
]

CONFIGS = [
    BadInput(
        "Config files",
        "a file that does not exist",
        "SEED 1",
        ("'confg.yaml'", "no such file", "close names there: config.yaml"),
        config="confg.yaml",
    ),
    BadInput(
        "Config files",
        "not YAML",
        "SEED 1",
        ("'broken.yaml'", "not valid YAML"),
        config="broken.yaml",
        theirs=r"(?<=not valid YAML: ).*",
    ),
    BadInput(
        "Config files",
        "a list instead of keys",
        "SEED 1",
        ("'list.yaml'", "holds keys and values"),
        config="list.yaml",
    ),
    BadInput(
        "Config files",
        "a tag that would run a program",
        "SEED 1",
        ("'tag.yaml'", "not valid YAML"),
        config="tag.yaml",
        theirs=r"(?<=not valid YAML: ).*",
    ),
    BadInput(
        "Config files",
        "a base that does not exist",
        "SEED 1",
        ("'orphan.yaml'", "_BASE_"),
        config="orphan.yaml",
        theirs=r"(?<=cannot be read: ).*(?=\. The path)",
    ),
    BadInput(
        "Config files",
        "a key that does not exist",
        "SEED 1",
        ("'SOLVER.MAX_ITERS'", "(in typo.yaml)", "SOLVER.MAX_ITER"),
        config="typo.yaml",
    ),
    BadInput(
        "Config files",
        "a group of keys that is given twice",
        "SEED 1",
        ("'twice.yaml'", "'SOLVER' is given twice"),
        config="twice.yaml",
    ),
]

VALUES = [
    BadInput(
        "Config keys",
        "a text for a number",
        "SSOD.SCORE_THRESHOLD high",
        ("SSOD.SCORE_THRESHOLD is 'high'", "a number", "So far it is 0.2"),
    ),
    BadInput(
        "Config keys",
        "a score above 1",
        "SSOD.SCORE_THRESHOLD 1.5",
        ("SSOD.SCORE_THRESHOLD is 1.5", "[0.0, 1.0]"),
    ),
    BadInput(
        "Config keys",
        "an infinite weight",
        "SSOD.UNSUP_LOSS_WEIGHT 1e999",
        ("SSOD.UNSUP_LOSS_WEIGHT is inf", "[0.0, 1000000.0]"),
    ),
    BadInput(
        "Config keys",
        "a decimal number of iterations",
        "SOLVER.MAX_ITER 1e5",
        ("SOLVER.MAX_ITER is 100000.0", "a whole number"),
    ),
    BadInput(
        "Config keys",
        "checkpoints every 0 iterations",
        "SOLVER.CHECKPOINT_PERIOD 0",
        ("SOLVER.CHECKPOINT_PERIOD is 0", "[1, 1000000000]"),
    ),
    BadInput(
        "Config keys",
        "steps in falling order",
        'SOLVER.STEPS "(200, 100)"',
        ("SOLVER.STEPS is (200, 100)", "rising order"),
    ),
    BadInput(
        "Config keys",
        "a step at the end of the run",
        'SOLVER.MAX_ITER 500 SOLVER.STEPS "(300, 500)"',
        ("SOLVER.STEPS is (300, 500)", "SOLVER.MAX_ITER 500", "leave that one out"),
    ),
    BadInput(
        "Config keys",
        "a rate that rises at the end",
        "SOLVER.LR_SCHEDULER_NAME WarmupCosineLR SOLVER.BASE_LR_END 1.0",
        ("SOLVER.BASE_LR_END is 1.0", "from 0 to SOLVER.BASE_LR"),
    ),
    BadInput(
        "Config keys",
        "a key of Detectron2's that has no use here",
        "VIS_PERIOD 20",
        ("VIS_PERIOD is 20", "SSOD.PANEL_PERIOD"),
    ),
    BadInput(
        "Config keys",
        "a batch that does not divide",
        "SOLVER.IMS_PER_BATCH 5",
        ("SOLVER.IMS_PER_BATCH is 5", "a multiple of 2", "SSOD.LABELED_TO_UNLABELED"),
    ),
    BadInput(
        "Config keys",
        "reweighting without the variance branch",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE smooth_l1",
        ("SSOD.LER.ENABLED is True", "BBOX_REG_LOSS_TYPE is 'smooth_l1'"),
    ),
    BadInput(
        "Config keys",
        "a key that the method does not read",
        "SSOD.METHOD MUM SSOD.SCORE_THRESHOLD 0.6",
        ("MUM does not read SSOD.SCORE_THRESHOLD 0.6", "SSOD.UNBIASED_TEACHER.SCORE_THRESHOLD"),
    ),
    BadInput(
        "Config keys",
        "a key of something that is off",
        "SSOD.STRONG_VIEW.GEOMETRIC False SSOD.STRONG_VIEW.MAX_ROTATE 5",
        ("does not read SSOD.STRONG_VIEW.MAX_ROTATE 5.0", "GEOMETRIC is False", "switch on"),
    ),
    BadInput(
        "Config keys",
        "a key of another kind of backbone",
        "MODEL.BACKBONE.FREEZE_AT 0",
        ("does not read MODEL.BACKBONE.FREEZE_AT 0", "MODEL.BACKBONE.NAME is 'build_timm_fpn"),
    ),
    BadInput(
        "Config keys",
        "a part that is not registered",
        "MODEL.ROI_HEADS.NAME GausianROIHeads",
        ("MODEL.ROI_HEADS.NAME is 'GausianROIHeads'", "'GaussianROIHeads'"),
        theirs=r"(?<=must be one of ).*(?=; configs)",
    ),
    BadInput(
        "Config keys",
        "a part that has no losses for unlabeled images",
        "MODEL.PROPOSAL_GENERATOR.NAME RPN",
        ("MODEL.PROPOSAL_GENERATOR.NAME is 'RPN'", "one of 'SemiSupervisedRPN'"),
    ),
    BadInput(
        "Config keys",
        "a device that does not exist",
        "MODEL.DEVICE gpu",
        ("MODEL.DEVICE is 'gpu'", "'cuda'"),
    ),
    BadInput(
        "Config keys",
        "a timm model that does not exist",
        "MODEL.TIMM.NAME mobilenetv3_smal_050",
        ("'mobilenetv3_smal_050'", "close names", "mobilenetv3_small_050"),
        theirs=r"(?<=no model of timm ).*(?=; timm)",
    ),
    BadInput(
        "Config keys",
        "backbone weights that do not exist",
        "MODEL.TIMM.WEIGHTS gone.pth",
        ("MODEL.TIMM.WEIGHTS", "'gone.pth'", "valid"),
    ),
    BadInput(
        "Config keys",
        "a class count against the data",
        "MODEL.ROI_HEADS.NUM_CLASSES 80",
        ("NUM_CLASSES is 80", "3 classes: class0, class1, class2", "or to 0"),
    ),
    BadInput(
        "Config keys",
        "weights that do not exist",
        "MODEL.WEIGHTS gone.pth",
        ("MODEL.WEIGHTS is 'gone.pth'", "a file that exists"),
    ),
    BadInput(
        "Config keys",
        "weights that are an image",
        "MODEL.WEIGHTS train/1.png",
        ("train/1.png",),
    ),
    BadInput(
        "Config keys",
        "weights that would run a program",
        "MODEL.WEIGHTS evil.pth",
        ("evil.pth",),
    ),
    BadInput(
        "Config keys",
        "a file as the folder of the run",
        "OUTPUT_DIR train.json",
        ("OUTPUT_DIR is 'train.json'", "a folder"),
        theirs=r"(?<=can be made: ).*(?=\.)",
    ),
    BadInput(
        "Config keys",
        "an object store as the folder of the run",
        "OUTPUT_DIR s3://bucket/run",
        ("OUTPUT_DIR is 's3://bucket/run'", "a folder of this machine"),
    ),
    BadInput(
        "Config keys",
        "the folder of another run",
        "OUTPUT_DIR used",
        ("OUTPUT_DIR 'used'", "--resume", "another OUTPUT_DIR"),
    ),
    BadInput(
        "Config keys",
        "a run whose only checkpoint is damaged",
        "--resume OUTPUT_DIR damaged",
        ("damaged/model_0000001.pth",),
        theirs=r"(?<=cut off or damaged: ).*(?=\. Bring)",
    ),
]
