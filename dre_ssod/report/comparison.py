"""What runs find and miss, side by side on test images, and counted over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dre_ssod.data.images import read_image
from dre_ssod.errors import ConfigError
from dre_ssod.inspection.canvas import RGBImage
from dre_ssod.inspection.found import LEGEND, Finding, draw_finding, tally
from dre_ssod.inspection.layout import note, side_by_side, stack
from dre_ssod.report.examined import ExaminedRun


def draw_comparison(runs: Mapping[str, ExaminedRun], count: int) -> RGBImage:
    """Draw the images of the first test set on which the last run finds most objects more than the
    first one; among equals, the first. What they find in all images, that picture cannot show, so
    its heading counts it.

    Args:
        runs: by their captions, from left to right.
        count: of images.

    Raises:
        ConfigError: if their first test sets are not the same.
    """
    tested = {caption: next(iter(run.sets.values())) for caption, run in runs.items()}
    first, *others = tested.values()
    if any(part.content != first.content for part in others):
        named = ", ".join(f"{caption}: {part.name}" for caption, part in tested.items())
        raise ConfigError(
            f"the first test sets are not the same images and labels ({named}); they must be, to "
            "see what is found in them and missed"
        )
    judged = {caption: part.judged for caption, part in tested.items()}
    every = list(judged.values())
    gains = [after.found - before.found for before, after in zip(every[0], every[-1], strict=True)]
    shown = sorted(range(len(gains)), key=lambda image: -gains[image])[:count]
    rows = [note([*_heading(judged, len(shown)), LEGEND])]
    for number in shown:
        image = read_image(first.records[number]["file_name"], "RGB")
        panels = []
        for caption, found in judged.items():
            finding = found[number]
            text = f"{caption}: {finding.found} of {len(finding.objects)} found"
            panels.append((text, draw_finding(image, finding, first.class_names)))
        rows.append(side_by_side(panels))
    return stack(rows)


def _heading(findings: Mapping[str, Sequence[Finding]], shown: int) -> list[str]:
    rule = ": those on which the right finds most objects more than the left"
    lines = [f"{shown} test images{rule if len(findings) > 1 else ''}. In all test images:"]
    return [*lines, *(f"{caption}: {tally(found)}" for caption, found in findings.items())]
