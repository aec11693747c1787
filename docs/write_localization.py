"""Writes docs/localization.md out of docs/localization.

    python -m docs.write_localization

Each file there is the ``localization.json`` of a run, by tools/analyze_localization.py.
"""

from __future__ import annotations

import json
from typing import Any

from tabulate import tabulate

from dre_ssod.files import write_text
from tests import ROOT

PAGE = ROOT / "docs" / "localization.md"
ANALYSES = ROOT / "docs" / "localization"
_HEAD = """# Does s_loc tell how well pseudo-labels are placed?

Written by `python -m docs.write_localization` out of `docs/localization`, whose files were made by
`tools/analyze_localization.py --config-file RUN/config.yaml --min-score 0.8`, with `MODEL.WEIGHTS
RUN/model_final.pth`, for single runs of `docs/tables/bccd_leads.yaml` and `voc07small_leads.yaml`:
fold 0 (`short_burn_in`: its rows of that name). The detections of score 0.8 (tau) or more, without
refinement, are what the deployed model would make pseudo-labels of on these images, which it has
not seen. Right is an IoU of 0.5 or more with an object of their class; of several detections of
one object each counts, so right / objects is no recall. The figures of edges were measured with
those that the border of the image cuts off in prediction and truth alike, which the tool leaves
out since: without them RMS z and `SIGMA_SCALE` come out higher.
"""


def write() -> str:
    """The page."""
    parts = [_HEAD]
    for path in sorted(ANALYSES.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"## `{path.stem}`, {', '.join(found['datasets'])}\n")
        parts.append(_tables(found))
    return "\n".join(parts)


def _tables(found: dict[str, Any]) -> str:
    quarters = [[number, *part.values()] for number, part in enumerate(found["quarters"], 1)]
    spreads = [[name, *part.values()] for name, part in found["weight_spreads"].items()]
    correlations = [
        [name, part["n"], part["score"]["spearman"], part["localization_quality"]["spearman"]]
        for name, part in found["sets"].items()
    ]
    tables = (
        (quarters, ("quarter of s_loc", "n", "s_loc", "precision", "right / objects", "mean IoU")),
        (spreads, ("weight", "n", "mean", "deviation", "5 %", "95 %")),
        (correlations, ("labels", "n", "Spearman of score and IoU", "of s_loc and IoU")),
    )
    texts = [tabulate(rows, head, tablefmt="pipe", floatfmt=".3f") for rows, head in tables]
    sigma = found["sigma"]["all"]
    texts.append(
        f"Edges: mean z {sigma['mean']:+.2f}, RMS z {sigma['deviation']:.2f}, so "
        f"`MODEL.ROI_BOX_HEAD.SIGMA_SCALE {found['sigma_scale']:.2f}` would make sigma right.\n"
    )
    return "\n\n".join(texts)


if __name__ == "__main__":
    write_text(PAGE, write())
