"""Every command in README.md and docs runs: tiny data and models, a moment, one process."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import train_net
from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import leaves, read_config
from tests.documented_world import write_world
from tests.factories import tiny_cfg
from tests.test_docs_commands import LINES
from tests.tiny_dataset import loggers_kept

# What a word of a line says about why it is not run here.
NOT_RUN = {
    "torchrun": "processes of a launcher: tests/launch",
    "--num-machines": "several machines: tests/launch",
    "tools/submit.py": "a Slurm: tests/launch/test_slurm_cluster.py",
    "tools/run_table.py": "whole trainings: tests/tools/test_run_table.py has a small table",
    "tools/simulate_labeling.py": "trainings: tests/tools/test_simulate_labeling.py has tiny ones",
    "('wandb',)": "a service: tests/engine/hooks/test_trackers.py",
    "('shards://s3://bucket/shards/images-{000000..009999}.tar',)": "a store: tests/stores",
    "DETECTRON2_DATASETS=s3://bucket/data": "a store: tests/stores/test_runs.py",
    "s3://bucket/pool": "a store: tests/stores/test_results.py",
    "s3://bucket/reports/run.html": "a store: tests/stores/test_delivery.py",
    "tools/gpu_check.py": "a GPU: tests/tools/test_gpu_check.py has its dry run",
}
TRAIN2017 = "datasets/coco/annotations/instances_train2017"
# Placeholders of documents, and what is meant by them here.
MEANT = {"coco://FILE?images=DIR": f"coco://{TRAIN2017}.json?images=datasets/coco/train2017"}
SMALLER = {"--num-gpus": "1", "--rounds": "1", "--entries": "200", "--val": "4"}
BENCHMARKS = {
    "growth": "",
    "eval": "--images 8 --rounds 1",
    "loader": "--images 2 --rounds 1",
    "inference": "--images 2 --rounds 1",
}
MOMENT = {
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": (1,),
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.ACCUMULATION_STEPS": 1,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "SOLVER.AMP.ENABLED": False,
    "SSOD.LABELED_TO_UNLABELED": (1, 1),
    "SSOD.BURN_IN_ITERS": 1,
    "TEST.EVAL_PERIOD": 2,
}
TAKES_KEYS = ("train_net", "tools.benchmark", "tools.visualize_data", "tools.analyze_localization")


def tiny_words(given: Sequence[str]) -> list[str]:
    """Keys and values that make any config tiny and short, whatever the command says of them."""
    usual, tiny = dict(leaves(get_cfg())), dict(leaves(tiny_cfg()))
    keys = {key: value for key, value in tiny.items() if value != usual[key]} | MOMENT
    keys |= {"MODEL.TIMM.WEIGHTS": "", "MODEL.PIXEL_STD": [58.0, 57.0, 57.0]}
    del keys["MODEL.ROI_HEADS.NUM_CLASSES"]
    if "MODEL.WEIGHTS" not in given:
        keys["MODEL.WEIGHTS"] = ""
    if "SOLVER.AMP.DTYPE" in given:
        # Without AMP it would be refused, as having no effect.
        del keys["SOLVER.AMP.ENABLED"]
    if "SSOD.PANEL_PERIOD" in given:
        keys["SSOD.PANEL_PERIOD"] = 2
    if any("MUM" in word for word in given):
        # One image in a pass has none to exchange tiles with.
        keys["SSOD.MUM.GROUP"] = 1
    return [word for key, value in keys.items() for word in (key, str(value))]


def run(program: str, words: list[str]) -> None:
    """Run a program as the line of a document does, and see that it succeeds."""
    for option, value in SMALLER.items():
        if option in words and words[words.index(option) + 1].isdigit():
            words[words.index(option) + 1] = value
    if program == "tools.benchmark":
        options = BENCHMARKS.get(words[0], "--rounds 1").split()
        words = [words[0], *options, *words[1:]]
    if program in TAKES_KEYS and words[:1] not in (["growth"], ["eval"], ["sources"]):
        words = [*words, *tiny_words(words)]
    sys.argv = [program, *words]
    # Several documents write files of the same name, or train with the same config.
    if "--output" in words and (path := Path(words[words.index("--output") + 1])).exists():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if program == "train_net" and not {"--resume", "--eval-only"} & {*words}:
        args = train_net.parse_arguments(words)
        folder = read_config(args.config_file, args.opts).OUTPUT_DIR
        shutil.rmtree(folder, ignore_errors=True)
    assert importlib.import_module(program).run(words) == 0


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the documents: some read what others have written."""
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    failed: list[str] = []
    done: set[tuple[str, ...]] = set()
    runs = {
        "bccd_10pct": "configs/bccd_10pct.yaml",
        "run": "configs/bccd_10pct.yaml DATASETS.UNLABELED ('folder://more_photos',)",
        "voc": "configs/voc.yaml",
        "supervised": "configs/baselines/bccd_10pct_supervised.yaml",
        "semi_supervised": "configs/bccd_10pct.yaml",
    }
    before = [
        ["train_net.py", "--config-file", *words.split(), "OUTPUT_DIR", f"output/{folder}"]
        for folder, words in runs.items()
    ]
    labeling = "tools/pseudo_label.py --run output/run --input photos --output labeled"
    before.append(labeling.split())
    for line in [*before, *(line for _, line in LINES)]:
        start = next((n for n, word in enumerate(line) if word.endswith(".py")), None)
        if start is None or tuple(line) in done or NOT_RUN.keys() & {*line}:
            continue
        done.add(tuple(line))
        words = line[start + 1 :]
        for name, meant in MEANT.items():
            words = [word.replace(name, meant) for word in words]
        program = line[start].removesuffix(".py").replace("/", ".")
        try:
            with loggers_kept():
                run(program, words)
        except (Exception, SystemExit) as error:
            failed.append(f"{' '.join(line)}\n  {error!r:.300}\n  {capsys.readouterr().err[-600:]}")
        capsys.readouterr()
    assert not failed, f"{len(failed)} of {len(done)}:\n" + "\n".join(failed)
    assert len(done) > 30
