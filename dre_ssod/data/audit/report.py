"""An audit as tables for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from tabulate import tabulate

from dre_ssod.data.audit.audit import Audit
from dre_ssod.data.audit.sets import SetSummary
from dre_ssod.data.kinds import KINDS, SEVERITIES
from dre_ssod.errors import printable

MAX_CLASSES = 100
"""Rows of the table of classes; the JSON has all."""


def as_text(audit: Audit, examples: int = 3) -> str:
    """The report as paragraphs and tables.

    Args:
        examples: of each finding that are shown.
    """
    annotated = [summary for summary in audit.summaries if summary.boxes_an_image]
    parts = [_sets(audit.summaries)]
    if annotated:
        parts += [_boxes(annotated), _classes(annotated)]
    parts += [_findings(audit, examples), _speed(audit)]
    return printable("\n\n".join(parts))


def as_dict(audit: Audit) -> dict[str, Any]:
    """The report for ``json.dumps``: the fields of ``Audit``, and every item of each finding."""
    content = dataclasses.asdict(audit)
    content["failed"] = audit.failed
    content["files_per_second"] = audit.files_per_second
    content["findings"] = [
        {
            "kind": finding.kind,
            "severity": finding.severity,
            "sets": list(finding.sets),
            "count": len(finding.items),
            "meaning": KINDS[finding.kind].meaning,
            "advice": KINDS[finding.kind].advice,
            "items": list(finding.items),
        }
        for finding in audit.findings
    ]
    return content


def kinds_table() -> str:
    """Every kind of finding with its severity and meaning."""
    rows = [(kind.severity, name, kind.meaning) for name, kind in KINDS.items()]
    return tabulate(rows, headers=["severity", "finding", "meaning"], tablefmt="simple")


def _sets(summaries: list[SetSummary]) -> str:
    rows = []
    for summary in summaries:
        sizes = ["x".join(map(str, size)) for size in summary.image_sizes.values()]
        modes = ", ".join(f"{count} {mode}" for mode, count in summary.modes.items())
        rows.append(
            [
                summary.label,
                summary.images,
                " to ".join(dict.fromkeys(sizes)),
                modes,
                summary.rotated,
                summary.name,
            ]
        )
    headers = ["set", "images", "size, px", "pixels", "EXIF-rotated", "source"]
    return tabulate(rows, headers=headers, tablefmt="simple")


def _boxes(summaries: list[SetSummary]) -> str:
    counts, sizes = [], []
    for summary in summaries:
        spread = [f"{summary.boxes_an_image[key]:.4g}" for key in ("mean", "min", "median", "max")]
        counts.append(
            [
                summary.label,
                summary.boxes,
                *spread,
                summary.images_without_boxes,
                summary.dropped_boxes,
                summary.crowd_regions,
            ]
        )
        total = max(1, summary.boxes)
        shares = [f"{100 * count / total:.1f} %" for count in summary.box_areas.values()]
        sides = " / ".join(f"{value:.3g}" for value in summary.side_quantiles.values())
        relative = " / ".join(f"{value:.2f}" for value in summary.relative_side_quantiles.values())
        sizes.append([summary.label, *shares, sides, relative])
    count_headers = "set,boxes,mean per image,min,median,max,without boxes,dropped,crowd"
    size_headers = ["set", "small", "medium", "large", "side, px", "side / image side"]
    note = (
        "side: square root of the area, at the quantiles 5, 25, 50, 75 and 95 %; small, medium and "
        "large: below 32^2, below 96^2, and from 96^2 square pixels"
    )
    return "\n\n".join(
        [
            tabulate(counts, headers=count_headers.split(","), disable_numparse=[2, 3, 4, 5]),
            f"{tabulate(sizes, headers=size_headers, disable_numparse=True)}\n{note}",
        ]
    )


def _classes(summaries: list[SetSummary]) -> str:
    names = list(dict.fromkeys(name for part in summaries for name in part.class_histogram))
    rows = []
    for name in names[:MAX_CLASSES]:
        row: list[str] = [name]
        for summary in summaries:
            count = summary.class_histogram.get(name)
            share = f" ({100 * (count or 0) / max(1, summary.boxes):.1f} %)"
            row.append("not named" if count is None else f"{count}{share}")
        rows.append(row)
    headers = ["class", *(f"boxes in {summary.label}" for summary in summaries)]
    table = tabulate(rows, headers=headers, disable_numparse=True, colalign=_right(headers))
    left = len(names) - MAX_CLASSES
    return table + (f"\nand {left} more classes: see the JSON report" if left > 0 else "")


def _right(headers: list[str]) -> list[str]:
    return ["left", *["right"] * (len(headers) - 1)]


def _findings(audit: Audit, examples: int) -> str:
    if not audit.findings:
        return "Nothing to complain about."
    paragraphs = []
    for finding in audit.findings:
        kind = KINDS[finding.kind]
        lines = [
            f"{kind.severity.upper()} {finding.kind}: {len(finding.items)} in "
            f"{', '.join(finding.sets)} ({kind.meaning}). To do: {kind.advice}."
        ]
        lines += [f"    {item}" for item in finding.items[:examples]]
        left = len(finding.items) - examples
        if left > 0:
            lines.append(f"    and {left} more")
        paragraphs.append("\n".join(lines))
    return "\n".join(paragraphs)


def _speed(audit: Audit) -> str:
    counts = Counter(finding.severity for finding in audit.findings)
    error, warning, note = (counts[severity] for severity in SEVERITIES)
    return (
        f"{audit.files} files checked at level {audit.level} in {audit.checking_seconds:.2f} s by "
        f"{audit.workers} process(es): {audit.files_per_second:,.0f} images/s, "
        f"{audit.files_per_second / audit.workers:,.0f} per process. Annotations took "
        f"{audit.reading_seconds:.2f} s.\n"
        f"{error} kind(s) of error, {warning} of warning, {note} of note: "
        f"{'FAILED' if audit.failed else 'passed'}."
    )
