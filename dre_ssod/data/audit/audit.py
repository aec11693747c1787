"""Everything that can be said about the datasets of a run before it starts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dre_ssod.data.audit.files import LEVELS, FileCheck, Progress, check_files, useful_workers
from dre_ssod.data.audit.findings import (
    DETECTIONS,
    LONGEST,
    Finding,
    find_class_problems,
    find_duplicates,
    find_in_set,
)
from dre_ssod.data.audit.sets import ROLES, AuditedSet, SetSummary, load_set, summarize
from dre_ssod.data.kinds import SEVERITIES


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        level: of ``files.LEVELS``.
        summaries: one per set, in the order of the sets.
        findings: errors first, then warnings, then notes.
        files: different image files that were checked.
        reading_seconds: time that annotations took to read.
        checking_seconds: time that image files took to check.
        workers: processes that checked them.
    """

    level: str
    summaries: list[SetSummary]
    findings: list[Finding]
    files: int
    reading_seconds: float
    checking_seconds: float
    workers: int

    @property
    def failed(self) -> bool:
        """Whether there is an error among the findings."""
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def files_per_second(self) -> float:
        """Image files checked in a second, by all processes together."""
        return self.files / max(self.checking_seconds, 1e-9)


def audit(
    names: Mapping[str, Sequence[str]],
    level: str = "header",
    workers: int = 1,
    progress: Progress | None = None,
    detections: int = DETECTIONS,
    longest: Mapping[str, int] | None = None,
    overlap: bool = False,
) -> Audit:
    """Read the sets, check their files and compare them with each other.

    Nothing that a dataset holds is raised as an error: it becomes a finding.

    Args:
        names: registered names or URIs by role; see ``sets.ROLES``.
        level: "header" reads the headers and ends of image files, "full" decodes every image.
        workers: processes for the image files; fewer are used where starting them does not pay.
        detections: that a model may give per image (``TEST.DETECTIONS_PER_IMAGE``).
        longest: side of an image after resizing in pixels, by role; None for Detectron2's default.
        overlap: ``DATASETS.UNLABELED_OVERLAP``: labeled images stay in unlabeled sets.
        progress: is told how many image files there are, then of each that was checked.
    """
    if level not in LEVELS or set(names) - set(ROLES) or workers < 1:
        raise ValueError(f"level {level!r} of {LEVELS}, roles {[*names]} of {ROLES}, {workers=}")
    start = time.perf_counter()
    datasets = [
        load_set(role, number, name)
        for role in ROLES
        for number, name in enumerate(names.get(role, ()), start=1)
    ]
    known = [
        record
        for dataset in datasets
        if dataset.annotated and not (overlap and dataset.role == "labeled")
        for record in dataset.records
    ]
    datasets = [
        dataset if dataset.role != "unlabeled" else dataset.without(known) for dataset in datasets
    ]
    paths = list(
        dict.fromkeys(record["file_name"] for dataset in datasets for record in dataset.records)
    )
    workers = useful_workers(len(paths), level, workers)
    read = time.perf_counter()
    results, equal = check_files(paths, level, workers, progress)
    checked = time.perf_counter()
    checks = dict(zip(paths, results, strict=True))
    summaries: list[SetSummary] = []
    findings: list[Finding] = []
    for dataset in datasets:
        sizes = _image_sizes(dataset, checks)
        summaries.append(summarize(dataset, checks, sizes))
        side = (longest or {}).get(dataset.role, LONGEST)
        findings += find_in_set(dataset, checks, sizes, detections, side)
    histograms = {summary.label: summary.class_histogram for summary in summaries}
    findings += find_class_problems(datasets, histograms)
    findings += find_duplicates(datasets, equal, overlap)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Audit(
        level=level,
        summaries=summaries,
        findings=findings,
        files=len(paths),
        reading_seconds=read - start,
        checking_seconds=checked - read,
        workers=workers,
    )


def _image_sizes(dataset: AuditedSet, checks: Mapping[str, FileCheck]) -> npt.NDArray[np.float64]:
    """(N, 2) width and height of each record: of the file, else as annotated, else NaN."""
    sizes = []
    for record in dataset.records:
        check = checks[record["file_name"]]
        stated = (record.get("width", np.nan), record.get("height", np.nan))
        sizes.append((check.width, check.height) if check.width else stated)
    return np.array(sizes, dtype=np.float64).reshape(-1, 2)
