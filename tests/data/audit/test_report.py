from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dre_ssod.data.audit.audit import Audit
from dre_ssod.data.audit.findings import Finding
from dre_ssod.data.audit.report import MAX_CLASSES, as_dict, as_text, kinds_table
from dre_ssod.data.audit.sets import SetSummary
from dre_ssod.data.kinds import KINDS

QUANTILES = {"0.05": 4.0, "0.25": 8.0, "0.5": 16.0, "0.75": 64.0, "0.95": 100.0}
LABELED = SetSummary(
    label="labeled 1",
    role="labeled",
    name="coco://a.json?images=b",
    images=3,
    boxes=8,
    crowd_regions=2,
    dropped_boxes=1,
    boxes_an_image={"mean": 8 / 3, "min": 0.0, "median": 2.0, "max": 6.0},
    images_without_boxes=1,
    class_histogram={"cat": 6, "dog": 2},
    box_areas={"small": 4, "medium": 2, "large": 2},
    side_quantiles=QUANTILES,
    relative_side_quantiles={key: value / 100 for key, value in QUANTILES.items()},
    modes={"RGB": 2, "L": 1},
    image_sizes={"smallest": (40, 30), "largest": (640, 480)},
    rotated=1,
)
POOL = replace(
    LABELED,
    label="unlabeled 1",
    name="folder://c",
    boxes=0,
    boxes_an_image={},
    class_histogram={},
    side_quantiles={},
    relative_side_quantiles={},
)
ERROR = Finding("leakage", ("labeled 1", "test 1"), ("a = b", "c = d", "e = f"))
WARNING = Finding("empty-box", ("labeled 1",), ("g",))
REPORT = Audit(
    level="header",
    summaries=[LABELED, POOL],
    findings=[ERROR, WARNING],
    files=6000,
    reading_seconds=0.5,
    checking_seconds=1.5,
    workers=2,
)


def line_with(text: str, start: str, nth: int = 0) -> str:
    return [line for line in text.splitlines() if line.startswith(start)][nth]


def test_the_tables_hold_the_figures() -> None:
    text = as_text(REPORT)
    files, boxes = (" ".join(line_with(text, "labeled 1", nth).split()) for nth in (0, 1))
    assert files == "labeled 1 3 40x30 to 640x480 2 RGB, 1 L 1 coco://a.json?images=b"
    assert boxes == "labeled 1 8 2.667 0 2 6 1 1 2"
    assert line_with(text, "labeled 1", 2).split()[2:8] == ["50.0", "%", "25.0", "%", "25.0", "%"]
    assert "4 / 8 / 16 / 64 / 100" in line_with(text, "labeled 1", 2)
    assert "0.04 / 0.08 / 0.16 / 0.64 / 1.00" in line_with(text, "labeled 1", 2)
    assert line_with(text, "dog").split() == ["dog", "2", "(25.0", "%)"]
    # Without annotations there is one line of its files and none of boxes.
    assert sum(line.startswith("unlabeled 1") for line in text.splitlines()) == 1


def test_the_last_lines_give_speed_and_verdict() -> None:
    *_, speed, verdict = as_text(REPORT).splitlines()
    assert "6000 files checked at level header in 1.50 s by 2 process(es)" in speed
    assert "4,000 images/s, 2,000 per process" in speed
    assert verdict == "1 kind(s) of error, 1 of warning, 0 of note: FAILED."
    *_, verdict = as_text(replace(REPORT, findings=[WARNING])).splitlines()
    assert verdict == "0 kind(s) of error, 1 of warning, 0 of note: passed."
    assert "Nothing to complain about." in as_text(replace(REPORT, findings=[]))


@pytest.mark.parametrize(("examples", "left"), [(0, 3), (1, 2), (2, 1), (3, None)])
def test_as_many_examples_as_asked_for(examples: int, left: int | None) -> None:
    text = as_text(replace(REPORT, findings=[ERROR]), examples)
    assert "ERROR leakage: 3 in labeled 1, test 1" in text
    assert KINDS["leakage"].advice in text
    assert [item in text for item in ERROR.items] == [n < examples for n in range(3)]
    assert (f"and {left} more" in text) == (left is not None)


def test_a_class_that_a_set_does_not_name_is_told_from_one_without_boxes() -> None:
    other = replace(LABELED, label="test 1", class_histogram={"cat": 8, "owl": 0})
    text = as_text(replace(REPORT, summaries=[LABELED, other]))
    assert line_with(text, "dog").split() == ["dog", "2", "(25.0", "%)", "not", "named"]
    assert line_with(text, "owl").split() == ["owl", "not", "named", "0", "(0.0", "%)"]


def test_a_long_list_of_classes_is_cut() -> None:
    many = replace(LABELED, class_histogram={f"class{n}": n for n in range(MAX_CLASSES + 7)})
    text = as_text(replace(REPORT, summaries=[many]))
    assert f"class{MAX_CLASSES - 1} " in text
    assert f"class{MAX_CLASSES} " not in text
    assert "and 7 more classes" in text


def test_names_of_files_cannot_steer_the_terminal() -> None:
    item = "a\x1b[2J\u202e.jpg"
    report = replace(REPORT, findings=[Finding("empty-file", ("labeled 1",), (item,))])
    assert "    a\\x1b[2J\\u202e.jpg" in as_text(report)
    assert as_dict(report)["findings"][0]["items"] == [item]


def test_json_holds_everything() -> None:
    content = json.loads(json.dumps(as_dict(REPORT), allow_nan=False))
    assert content["failed"] is True
    assert content["files_per_second"] == pytest.approx(4000)
    assert content["summaries"][0]["class_histogram"] == {"cat": 6, "dog": 2}
    assert content["summaries"][0]["image_sizes"]["largest"] == [640, 480]
    assert content["findings"][0] == {
        "kind": "leakage",
        "severity": "error",
        "sets": ["labeled 1", "test 1"],
        "count": 3,
        "meaning": KINDS["leakage"].meaning,
        "advice": KINDS["leakage"].advice,
        "items": list(ERROR.items),
    }


def test_every_kind_is_listed() -> None:
    for name, kind in KINDS.items():
        assert line_with(kinds_table(), f"{kind.severity:<10}  {name} ").endswith(kind.meaning)
