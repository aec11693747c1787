"""When a result may be used again, and what two runs share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dre_ssod.config.checks import CHECKS
from dre_ssod.config.keys import REFINING_KEYS, get_cfg
from dre_ssod.config.reading import leaves, read_config
from dre_ssod.tables.identity import AFTER_BURN_IN, Identity

DATA = {"labeled": "a1", "unlabeled": "b2", "test": "c3"}


def identity(**keys: Any) -> Identity:
    own = {"SSOD__BURN_IN_ITERS": 5, **keys}
    words = [word for key, value in own.items() for word in (key.replace("__", "."), value)]
    return Identity.of(read_config("", words), DATA)


def test_a_result_is_used_again_for_the_same_run_alone() -> None:
    wanted = identity()
    assert Identity.from_dict(wanted.as_dict()).is_result_for(wanted)
    for other in (
        identity(SSOD__SCORE_THRESHOLD=0.7),
        identity(SEED=2),
        replace(wanted, version="0.0"),
        replace(wanted, data={**DATA, "unlabeled": "b3"}),
    ):
        assert not other.is_result_for(wanted)
        assert other.digest != wanted.digest


def test_files_and_places_do_not_matter() -> None:
    wanted = identity()
    for other in (
        identity(OUTPUT_DIR="elsewhere", DATALOADER__NUM_WORKERS=3),
        identity(SOLVER__CHECKPOINT_PERIOD=7, SOLVER__CHECKPOINTS_KEPT=2),
        identity(SSOD__BURN_IN_KEPT=True),
    ):
        assert other.is_result_for(wanted)
        assert other.digest == wanted.digest
    # The same images under another name.
    moved = replace(wanted, sets={**wanted.sets, "TRAIN": ["coco://moved.json"]})
    assert moved.is_result_for(wanted)
    assert not moved.is_result_for(replace(wanted, data=None))


def test_results_that_are_there_but_for_names_of_sets_are_known() -> None:
    wanted = identity(DATASETS__TRAIN=("coco://a.json",), DATASETS__TEST=("voc://b",))
    moved = identity(DATASETS__TRAIN=("coco://new/a.json",), DATASETS__TEST=("voc://b",))
    assert moved.names_other_sets_than(wanted) == ["TRAIN"]
    for other in (
        wanted,
        replace(moved, version="0.0"),
        replace(moved, sets={**moved.sets, "LABELED_FOLD": 7}),
        # Without test images nothing of the kind can have been moved.
        replace(moved, sets={**moved.sets, "TEST": []}),
        replace(moved, settings={**moved.settings, "SEED": 2}),
    ):
        assert other.names_other_sets_than(wanted) == []


def test_test_images_are_known_by_what_they_hold_or_by_their_names() -> None:
    own = identity(DATASETS__TEST=("voc://a",))
    other = identity(DATASETS__TEST=("voc://b",))
    assert own.has_test_images_of(other)
    assert not own.has_test_images_of(replace(own, data={**DATA, "test": "c4"}))
    # Others may have no unlabeled images.
    assert own.has_test_images_of(replace(own, data={"labeled": "a1", "test": "c3"}))
    for data in (None, {}):
        assert own.has_test_images_of(replace(own, data=data))
        assert not own.has_test_images_of(replace(other, data=data))


def test_keys_of_a_later_version_count_where_they_are_not_at_their_default() -> None:
    wanted = identity()
    before = {k: v for k, v in wanted.settings.items() if k != "SSOD.PCV.ENABLED"}
    earlier = replace(wanted, settings=before)
    assert earlier.is_result_for(wanted)
    assert not earlier.is_result_for(identity(SSOD__PCV__ENABLED=True))


def test_runs_share_a_burn_in_that_nothing_before_its_end_tells_apart() -> None:
    own = identity()
    assert own.shares_burn_in(identity(SSOD__SCORE_THRESHOLD=0.7, SSOD__LER__ENABLED=False))
    for other in (
        identity(SOLVER__BASE_LR=0.1),
        identity(SSOD__METHOD="MeanTeacher"),
        identity(SSOD__BURN_IN_ITERS=6),
        identity(MODEL__ROI_BOX_HEAD__BETA_NLL=1.0),
        identity(SEED=2),
        replace(own, data={**DATA, "labeled": "a2"}),
    ):
        assert not own.shares_burn_in(other)
    none = identity(SSOD__BURN_IN_ITERS=0)
    assert not none.shares_burn_in(none)


def test_the_best_of_a_burn_in_with_evaluations_is_told_apart_by_how_it_is_evaluated() -> None:
    for period, shared in ((0, True), (6, True), (5, False)):
        own = identity(TEST__EVAL_PERIOD=period)
        other = identity(TEST__EVAL_PERIOD=period, TEST__RANK_BY_QUALITY=True)
        assert own.shares_burn_in(other) is shared
        assert own.is_trained_as(other)
    assert not identity().is_trained_as(identity(SSOD__SCORE_THRESHOLD=0.7))


def test_labeled_images_that_are_used_both_ways_make_another_run() -> None:
    cfg = get_cfg()
    plain = Identity.of(cfg)
    assert "UNLABELED_OVERLAP" not in plain.sets
    cfg.DATASETS.UNLABELED_OVERLAP = True
    both = Identity.of(cfg)
    assert not plain.is_result_for(both)
    assert not both.is_result_for(plain)


@pytest.mark.parametrize("key", [*AFTER_BURN_IN, *REFINING_KEYS])
def test_named_keys_exist(key: str) -> None:
    assert key in dict(leaves(get_cfg()))
    assert key not in CHECKS or key.startswith(("SSOD.", "TEST."))
