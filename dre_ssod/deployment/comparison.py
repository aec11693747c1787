"""What trained runs find and miss, side by side on test images, and counted over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dre_ssod.config.reading import read_config
from dre_ssod.data.images import read_image
from dre_ssod.data.sources.catalog import class_names, load_one_labeled
from dre_ssod.deployment.detector import Detector
from dre_ssod.deployment.trained_model import find_categories, load_trained
from dre_ssod.errors import ConfigError
from dre_ssod.inspection.canvas import RGBImage
from dre_ssod.inspection.found import LEGEND, Finding, best_score, draw_finding, find, gained, tally
from dre_ssod.inspection.layout import note, side_by_side, stack

FINAL = "model_final.pth"


def draw_comparison(runs: Mapping[str, Path], count: int) -> RGBImage:
    """Draw the images on which the last run finds most of what the first one misses; among equals,
    the first. What they find in all images, that picture cannot show, so its heading counts it.
    Each model shows its detections from the score of its best F1 on.

    Args:
        runs: folders of finished runs by their captions, from left to right.
        count: of images.

    Raises:
        ConfigError: if a run is not finished, names no test set, or another one than the first.
        SourceError: if the test set cannot be read.
    """
    tests, findings = set(), {}
    for caption, run in runs.items():
        if not (run / FINAL).exists():
            raise ConfigError(f"{run} holds no {FINAL}: compare runs that have finished")
        cfg = read_config(str(run / "config.yaml"), ["MODEL.WEIGHTS", str(run / FINAL)])
        tests.add(cfg.DATASETS.TEST[:1])
        if len(tests) > 1 or tests == {()}:
            named = ", ".join(str(test) for test in sorted(tests))
            raise ConfigError(
                f"first test sets of {', '.join(map(str, runs))}: {named}; one and the same is "
                "needed, to see what is found in it and missed"
            )
        [test] = cfg.DATASETS.TEST[:1]
        names = class_names([test])
        records = load_one_labeled(test)
        detector = Detector(cfg, load_trained(cfg), find_categories(cfg, names))
        found = [_find(detector, record) for record in records]
        best = best_score(found)
        findings[caption] = [finding.above(best) for finding in found]
    every = list(findings.values())
    gains = [gained(before, after) for before, after in zip(every[0], every[-1], strict=True)]
    shown = sorted(range(len(records)), key=lambda image: -gains[image])[:count]
    rows = [note([*_heading(findings, len(shown)), LEGEND])]
    for number in shown:
        image = read_image(records[number]["file_name"], "RGB")
        panels = []
        for caption, found in findings.items():
            finding = found[number]
            text = f"{caption}: {finding.found} of {len(finding.objects)} found"
            panels.append((text, draw_finding(image, finding, names)))
        rows.append(side_by_side(panels))
    return stack(rows)


def _heading(findings: Mapping[str, list[Finding]], shown: int) -> list[str]:
    rule = ": those with most objects that are found on the right and missed on the left"
    lines = [f"{shown} test images{rule if len(findings) > 1 else ''}. In all test images:"]
    return [*lines, *(f"{caption}: {tally(found)}" for caption, found in findings.items())]


def _find(detector: Detector, record: Mapping[str, Any]) -> Finding:
    return find(detector.instances(record["file_name"]), record["annotations"])
