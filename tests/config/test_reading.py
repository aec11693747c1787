from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dre_ssod.config.keys import get_cfg
from dre_ssod.config.reading import read_config, suitable_workers
from dre_ssod.errors import ConfigError
from tests import ROOT


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(file: str = "", *opts: str) -> str:
    with pytest.raises(ConfigError) as error:
        read_config(file, opts)
    return str(error.value)


def test_nothing_gives_the_defaults() -> None:
    assert read_config() == get_cfg()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=str)
def test_files_are_read_as_detectron2_reads_them(path: Path) -> None:
    expected = get_cfg()
    expected.merge_from_file(str(path))
    if expected.DATALOADER.NUM_WORKERS == -1:
        expected.DATALOADER.NUM_WORKERS = suitable_workers(expected.MODEL.DEVICE)
    assert read_config(str(path)) == expected


def test_a_saved_config_comes_back(tmp_path: Path) -> None:
    cfg = read_config("", ["SSOD.STRONG_VIEW.ERASE_COUNT", "(2, 3)", "OUTPUT_DIR", "a b"])
    file = write(tmp_path / "c.yaml", cfg.dump())
    expected = get_cfg()
    expected.merge_from_file(file)
    assert read_config(file) == expected
    assert read_config(file).SSOD.STRONG_VIEW == cfg.SSOD.STRONG_VIEW


def test_of_several_files_later_ones_win(tmp_path: Path) -> None:
    one = write(tmp_path / "1.yaml", "SEED: 1\nSSOD: {EMA: {DECAY: 0.5}}\n")
    two = write(tmp_path / "2.yaml", "SEED: 2\n")
    cfg = read_config(f"{one},{two}")
    assert (cfg.SEED, cfg.SSOD.EMA.DECAY) == (2, 0.5)
    assert read_config(f"{two},{one}").SEED == 1
    assert read_config(write(tmp_path / "1,2.yaml", "SEED: 3\n")).SEED == 3
    with pytest.raises(ConfigError, match=r"'no\.yaml': there is no such file"):
        read_config(f"{one},no.yaml")


def test_the_command_line_wins_and_its_last_word_counts(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "SEED: 1\nSSOD:\n  EMA:\n    DECAY: 0.5\n")
    cfg = read_config(file, ["SEED", "2", "SEED", "3"])
    assert (cfg.SEED, cfg.SSOD.EMA.DECAY) == (3, 0.5)


def test_a_whole_number_stands_for_a_decimal_one(tmp_path: Path) -> None:
    for cfg in (
        read_config("", ["SSOD.UNSUP_LOSS_WEIGHT", "2"]),
        read_config(write(tmp_path / "c.yaml", "SSOD: {UNSUP_LOSS_WEIGHT: 2}")),
    ):
        assert cfg.SSOD.UNSUP_LOSS_WEIGHT == 2.0
        assert isinstance(cfg.SSOD.UNSUP_LOSS_WEIGHT, float)


def test_texts_are_taken_as_typed() -> None:
    assert read_config("", ["OUTPUT_DIR", "a,b (c)"]).OUTPUT_DIR == "a,b (c)"
    assert read_config("", ["OUTPUT_DIR", "'12'"]).OUTPUT_DIR == "12"
    assert "'12'" in refusal("", "OUTPUT_DIR", "12")


def test_an_empty_group_changes_nothing(tmp_path: Path) -> None:
    assert read_config(write(tmp_path / "c.yaml", "SSOD:\n  EMA: {}\n")) == get_cfg()


def test_a_wrong_key_of_a_file_is_told_with_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "SSOD:\n  EMA:\n    DECAI: 0.5\n")
    message = refusal(file)
    assert "'SSOD.EMA.DECAI'" in message
    assert f"(in {file})" in message
    assert "Close names: SSOD.EMA.DECAY" in message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "holds keys and values"),
        ("just words", "holds keys and values"),
        ("SSOD: 3", "SSOD is a group of keys"),
        ("SSOD:\n", "SSOD is a group of keys"),
        ("1: 2", "no config key '1'"),
        ("SEED: [1]", "SEED is [1]"),
        ("_BASE_: c.yaml", "leads back to itself"),
        ("_BASE_: 3", "holds keys and values"),
        ("SEED: \x00", "not valid YAML"),
        ("SSOD: {ENABLED: True}\nSEED: 1\nSSOD: {ENABLED: False}", "'SSOD' is given twice"),
        ("SOLVER:\n  MAX_ITER: 1\n  MAX_ITER: 2", "the second time\n  in "),
    ],
)
def test_rubbish_is_refused(tmp_path: Path, text: str, word: str) -> None:
    file = write(tmp_path / "c.yaml", text)
    message = refusal(file)
    assert word in message
    assert "c.yaml" in message


def test_a_key_that_is_given_twice_is_refused_in_a_base_too(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "SEED: 1\nSOLVER: {MAX_ITER: 5}\nSEED: 2\n")
    message = refusal(write(tmp_path / "c.yaml", "_BASE_: base.yaml\nSEED: 3\n"))
    assert "the key 'SEED' is given twice, the second time" in message
    assert "line 3, column 1" in message
    # An alias gives nothing again.
    write(tmp_path / "base.yaml", "TEST: &a {}\nDATASETS: *a\nSOLVER: {MAX_ITER: 5}\n")
    assert read_config(str(tmp_path / "c.yaml")).SOLVER.MAX_ITER == 5


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"SEED: \xff\xfe\x81")
    assert str(file) in refusal(str(file))
    assert "no such file" in refusal(str(tmp_path))


def test_no_file_runs_anything(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = f"SEED: !!python/object/apply:os.mkdir ['{mark}']\n"
    assert "python/object/apply" in refusal(write(tmp_path / "c.yaml", text))
    assert not mark.exists()


def test_loading_processes_are_chosen_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["DATALOADER.NUM_WORKERS", "-1", "MODEL.DEVICE"]
    assert read_config("", [*words, "cpu"]).DATALOADER.NUM_WORKERS == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    for gpus, expected in ((1, 8), (4, 3), (16, 1)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert read_config("", [*words, "cuda"]).DATALOADER.NUM_WORKERS == expected
    assert read_config("", [*words[:1], "2"]).DATALOADER.NUM_WORKERS == 2
