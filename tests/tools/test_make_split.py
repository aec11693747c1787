"""The tool, from a dataset's URI and a command line to its three files and its messages."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from dre_ssod.config.reading import read_config
from dre_ssod.data.conversion.convert import convert
from dre_ssod.data.sources.catalog import load_named, load_unlabeled
from dre_ssod.data.splits.files import load_split
from dre_ssod.data.splits.pools import build_pools
from dre_ssod.data.splits.split import draw_split
from tests import ROOT
from tests.tiny_dataset import TinyDataset

IDS = [f"0/{number}" for number in range(1, 9)]


def test_a_draw_is_written_and_can_be_trained_with_in_both_ways(
    tool: ModuleType, data: TinyDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "with space"
    drawn = build_pools([data.labeled], [], 25.0, 2)
    command = [data.labeled, "--percent", "25", "--fold", "2", "--output", str(output)]
    assert tool.run(command) == 0
    printed = capsys.readouterr().out
    assert drawn.split is not None
    assert "2 labeled, 6 unlabeled and 0 test images" in printed
    assert "This DATASETS.UNLABELED replaces that of a config" in printed
    assert f"SHA-256 of the labeled {drawn.split.sha256}" in printed
    assert load_split(output / "split.json", IDS) == drawn.split
    # What it prints is pasted into a shell.
    hints = [shlex.split(line) for line in printed.splitlines() if line.startswith("  DATASETS")]
    assert len(hints) == 2
    for hint in hints:
        # Also on top of a config that draws itself and has other classes.
        cfg = read_config(str(ROOT / "configs/bccd_10pct.yaml"), ["DATASETS.LABELED_FOLD", "1"])
        cfg.merge_from_list(hint)
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 0
        pools = build_pools(
            cfg.DATASETS.TRAIN,
            cfg.DATASETS.UNLABELED,
            cfg.DATASETS.LABELED_PERCENT,
            cfg.DATASETS.LABELED_FOLD,
            split_file=cfg.DATASETS.SPLIT_FILE,
        )
        for ours, theirs in ((pools.labeled, drawn.labeled), (pools.unlabeled, drawn.unlabeled)):
            names = [record["file_name"] for record in ours]
            assert names == [record["file_name"] for record in theirs]
        assert pools.labeled[0]["annotations"] == drawn.labeled[0]["annotations"]


@pytest.mark.parametrize("options", [["--labeled", "2"], ["--per-class", "2"], []])
def test_images_to_measure_on_are_kept_out_of_the_other_parts(
    tool: ModuleType,
    data: TinyDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    output = tmp_path / "out"
    assert tool.run([data.labeled, "--val", "3", *options, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert not (output / "split.json").exists()
    [hint] = [shlex.split(line) for line in printed.splitlines() if line.startswith("  DATASETS")]
    cfg = read_config("", hint)
    parts = [load_named(list(cfg.DATASETS[key])) for key in ("TRAIN", "TEST")]
    train, val = ({record["file_name"] for _, record in part} for part in parts)
    unlabeled = {record["file_name"] for record in load_unlabeled(list(cfg.DATASETS.UNLABELED))}
    assert len(val) == 3
    assert len(train) + len(val) + len(unlabeled) == len(train | val | unlabeled) == 8
    assert (output / "unlabeled.json").exists() == bool(options)
    assert ("replaces that of a config" in printed) == bool(options)
    assert len(train) == (5 if not options else 2 if "--labeled" in options else len(train))
    assert f"{len(train)} labeled, {len(unlabeled)} unlabeled and 3 test images" in printed


def test_the_published_forms_are_read(tool: ModuleType, data: TinyDataset, tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text("[3, 5]", encoding="utf-8")
    ids = str(tmp_path / "ids.json")
    assert tool.run([data.labeled, "--ids", ids, "--output", str(tmp_path / "a")]) == 0
    assert load_split(tmp_path / "a" / "split.json", IDS).labeled_ids == ("0/3", "0/5")

    saved = str(tmp_path / "a" / "split.json")
    assert tool.run([data.labeled, "--ids", saved, "--output", str(tmp_path / "b")]) == 0
    for name in ("labeled.json", "unlabeled.json", "split.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    seeds = tmp_path / "seeds.txt"
    seeds.write_text(json.dumps({"25.0": {"1": [0, 7]}}), encoding="utf-8")
    command = ["--unbiased-teacher", str(seeds), "--percent", "25", "--seed", "1"]
    assert tool.run([data.labeled, *command, "--output", str(tmp_path / "c")]) == 0
    assert load_split(tmp_path / "c" / "split.json", IDS).labeled_ids == ("0/1", "0/8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--percent", "5"], "5.0 of 8 images is less than one image; use at least 12.5 percent"),
        (["--percent", "nan"], "must be in (0, 100], is nan"),
        (["--percent", "100"], "all 8 images would be labeled"),
        (["--labeled", "9"], "--labeled is 9; there are 8 images"),
        (["--labeled", "8"], "all 8 images would be labeled"),
        (["--val", "8"], "--val is 8; it must be at least 1 and leave some of the 8 images"),
        (["--per-class", "1000"], "--per-class is 1000, but the class 'class0' has"),
        (["--ids", "nowhere.json"], "nowhere.json: cannot be read"),
        (
            ["--unbiased-teacher", "nowhere.txt", "--percent", "1", "--seed", "1"],
            "nowhere.txt: cannot be read",
        ),
    ],
)
def test_what_cannot_be_split_is_explained(
    tool: ModuleType,
    data: TinyDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert tool.run([data.labeled, *options, "--output", str(tmp_path / "out")]) == 2
    # The message is wrapped.
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_source_without_labels_and_a_second_run_are_refused(
    tool: ModuleType, data: TinyDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ["--percent", "50", "--output", str(tmp_path / "out")]
    assert tool.run([data.unlabeled, *rest]) == 2
    assert "labels" in capsys.readouterr().err
    assert tool.run([data.labeled, *rest]) == 0
    before = (tmp_path / "out" / "split.json").read_bytes()
    assert tool.run([data.labeled, *rest, "--fold", "1"]) == 2
    assert "labeled.json exists; choose another folder" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "out" / "split.json").read_bytes() == before
    assert draw_split(IDS, 50, 0) == load_split(tmp_path / "out" / "split.json", IDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name the images"),
        (["--percent", "1", "--labeled", "2"], "one of --percent and --labeled says"),
        (["--per-class", "1", "--labeled", "2"], "one of --labeled and --per-class says"),
        (["--ids", "a", "--val", "1"], "--val goes with"),
        (["--percent", "50", "--fold", "-1"], "--fold is -1"),
        (["--ids", "a", "--percent", "1"], "--ids says which images are labeled"),
        (["--ids", "a", "--unbiased-teacher", "b"], "--ids says which images are labeled"),
        (["--ids", "a", "--fold", "1"], "--fold chooses a draw"),
        (["--ids", "a", "--seed", "1"], "--seed chooses a list of --unbiased-teacher"),
        (["--percent", "1", "--seed", "1"], "a draw is chosen by --fold"),
        (["--unbiased-teacher", "b", "--percent", "1"], "--unbiased-teacher needs --seed"),
        (["--unbiased-teacher", "b", "--seed", "1"], "name the images: --percent"),
        (["--unbiased-teacher", "b", "--seed", "1", "--labeled", "3"], "needs --percent"),
        (
            ["--unbiased-teacher", "b", "--percent", "1", "--seed", "1", "--fold", "1"],
            "--fold chooses a draw",
        ),
        (["--percent", "one"], "invalid float value"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        tool.run(["coco_2017_train", "--output", "out", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("labeled", [[], ["--labeled", "2"]])
def test_no_copy_of_an_image_to_measure_on_is_in_the_pool(
    tool: ModuleType,
    data: TinyDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    labeled: list[str],
) -> None:
    """Of a folder in which images without labels are copies of labeled ones."""
    convert({"train": data.labeled}, "voc", tmp_path / "voc")
    images, annotations = (tmp_path / "voc" / name for name in ("JPEGImages", "Annotations"))
    for number in (1, 2, 3, 4, 5):
        content = (images / f"{number}.png").read_bytes()
        (images / f"copy{number}.png").write_bytes(content)
    (images / "gone.png").symlink_to(tmp_path / "nowhere.png")
    source = f"voc://{images}?annotations={annotations}"
    command = [source, "--val", "2", *labeled, "--output"]
    for fold in range(3):
        assert tool.run([*command, str(tmp_path / f"out{fold}"), "--fold", str(fold)]) == 0
        printed = capsys.readouterr().out
        assert "and 2 test images" in printed
        [hint] = [shlex.split(line) for line in printed.splitlines() if "DATASETS.TEST" in line]
        cfg = read_config("", hint)
        pools = build_pools(cfg.DATASETS.TRAIN, cfg.DATASETS.UNLABELED, test=cfg.DATASETS.TEST)
        val = {Path(record["file_name"]) for _, record in load_named(list(cfg.DATASETS.TEST))}
        assert {path.stem for path in val} <= {"6", "7", "8"}
        trained = {Path(record["file_name"]) for record in [*pools.labeled, *pools.unlabeled]}
        trained = {path for path in trained if path.exists()}
        assert len(trained) == 11
        assert not {p.read_bytes() for p in val} & {p.read_bytes() for p in trained}
    for number in (6, 7, 8):
        (images / f"copy{number}.png").write_bytes((images / f"{number}.png").read_bytes())
    assert tool.run([*command, str(tmp_path / "none")]) == 2
    said = "--val is 2, but each image has more copies than that, or one among those without labels"
    assert said in capsys.readouterr().err


def test_images_that_nobody_has_labeled_are_unlabeled(
    tool: ModuleType, data: TinyDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a folder without splits, as a labeling program leaves it."""
    voc, images = tmp_path / "voc", tmp_path / "voc" / "JPEGImages"
    convert({"train": data.labeled}, "voc", voc)
    for name in ("1", "5"):
        (voc / "Annotations" / f"{name}.xml").unlink()
    source = f"voc://{images}?annotations={voc / 'Annotations'}"
    assert tool.run([source, "--val", "2", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "4 labeled, 2 unlabeled and 2 test images" in printed
    [hint] = [shlex.split(line) for line in printed.splitlines() if line.startswith("  DATASETS")]
    cfg = read_config("", hint)
    pools = build_pools(cfg.DATASETS.TRAIN, cfg.DATASETS.UNLABELED, test=cfg.DATASETS.TEST)
    assert {Path(record["file_name"]).stem for record in pools.unlabeled} == {"1", "5"}
    assert len(pools.labeled) == 4
    # Both ways to train have the same images.
    assert tool.run([source, "--labeled", "2", "--output", str(tmp_path / "both")]) == 0
    printed = capsys.readouterr().out
    found = []
    for line in printed.splitlines():
        if line.startswith("  DATASETS"):
            sets = read_config("", shlex.split(line)).DATASETS
            pools = build_pools(sets.TRAIN, sets.UNLABELED, split_file=sets.SPLIT_FILE)
            found.append(
                [sorted(r["file_name"] for r in part) for part in (pools.labeled, pools.unlabeled)]
            )
    assert list(map(len, found[0])) == [2, 6]
    assert found == [found[0]] * 2


def test_a_half_drawn_set_is_split_by_what_is_drawn(
    tool: ModuleType, data: TinyDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A COCO file that lists images which nobody has looked at."""
    [json_file, images] = data.labeled.removeprefix("coco://").split("?images=")
    content = json.loads(Path(json_file).read_text(encoding="utf-8"))
    drawn = [item for item in content["annotations"] if item["image_id"] <= 4]
    path = tmp_path / "half.json"
    path.write_text(json.dumps({**content, "annotations": drawn}), encoding="utf-8")
    source = f"coco://{path}?images={images}"

    def split(more: str, *options: str) -> tuple[str, list[str]]:
        output = str(tmp_path / f"out{len(list(tmp_path.iterdir()))}")
        assert tool.run([f"{source}{more}", *options, "--output", output]) == 0
        printed = capsys.readouterr().out
        hints = [line for line in printed.splitlines() if line.startswith("  DATASETS")]
        return printed, shlex.split(hints[0])

    # Half of all eight are empty: how many of them are in each part depends on the draw.
    printed, _ = split("", "--val", "5", "--labeled", "2")
    assert re.search(
        r"^Without boxes: .*[1-4] of 5 test images\. They count as looked", printed, re.M
    )
    printed, _ = split("", "--labeled", "7")
    assert re.search(r"^Without boxes: [34] of 7 labeled images\.", printed, re.M)
    assert "draw with empty=unlabeled in the URI" in printed
    printed, hint = split("&empty=unlabeled", "--val", "1")
    assert "3 labeled, 4 unlabeled and 1 test images" in printed
    assert "Without boxes" not in printed
    sets = read_config("", hint).DATASETS
    pools = build_pools(sets.TRAIN, sets.UNLABELED, test=sets.TEST)
    assert (len(pools.labeled), len(pools.unlabeled)) == (3, 4)
    # What is said of the source is said of its parts.
    printed, hint = split("&empty=labeled", "--val", "7")
    assert "Without boxes" in printed
    assert "empty=unlabeled" not in printed
    sets = read_config("", hint).DATASETS
    assert all(name.endswith("&empty=labeled") for name in (*sets.TRAIN, *sets.TEST))
