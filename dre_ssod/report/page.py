"""Everything about the runs as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from dre_ssod.errors import printable
from dre_ssod.evaluation.reliability import Reliability
from dre_ssod.files import write_text
from dre_ssod.inspection.run_plots import panels_of
from dre_ssod.locks import now
from dre_ssod.report.charts import coverage_chart, panel_chart, precision_recall_chart
from dre_ssod.report.examined import ExaminedRun, ExaminedSet, examine_run
from dre_ssod.report.folders import (
    RunFolder,
    config_differences,
    facts,
    notices,
    read_folders,
)
from dre_ssod.report.gallery import choose, draw_cases
from dre_ssod.report.mistakes import KINDS, Judged, confusion
from dre_ssod.runs.history import comparison

FILES = Path(__file__).parent
MOST_IMAGES = 24
MOST_CLASSES = 24
"""Classes with a chart of their own, those of the lowest AP; and of a whole table of confusion."""
MOST_CONFUSIONS = 20
_TRAINING_PANELS = ("Average precision", "Labeled losses", "Unlabeled losses, before their weight")
_SUMMARY_COLUMNS = (0, 1, 3, 4, 5, 6, 7, 2)
"""Of the comparison of runs, AP before what a phone has no room for."""
SHADES = 5


def write_report(
    folders: Sequence[Path],
    output: Path,
    model: str | None = "teacher",
    opts: Sequence[str] = (),
    lowest_score: float | None = None,
    most_images: int = MOST_IMAGES,
) -> str:
    """Write the page about the runs in some folders; returns its address.

    Args:
        output: the file.
        model: "teacher" or "student", as of :func:`dre_ssod.report.examined.examine_run`; None for
            what the folders alone tell.
        opts, lowest_score: as of that function.
        most_images: how many images are shown at most.

    Raises:
        UserError: if a folder is not that of a run, its model or data cannot be read, or the page
            not be written.
    """
    runs = read_folders(folders)
    examined = [examine_run(run, model, opts, lowest_score) for run in runs] if model else []
    return write_page(output, runs, examined, most_images)


def write_page(
    output: Path,
    runs: Sequence[RunFolder],
    examined: Sequence[ExaminedRun],
    most_images: int = MOST_IMAGES,
) -> str:
    """Write :func:`make_page` into a file; returns its address."""
    write_text(output, make_page(runs, examined, most_images))
    return output.resolve().as_uri()


def make_page(runs: Sequence[RunFolder], examined: Sequence[ExaminedRun], most_images: int) -> str:
    """The page.

    Args:
        examined: the same runs with their detections; empty for what the folders alone tell.
        most_images: how many images are shown at most, of all sets together.
    """
    histories = [run.history for run in runs]
    header, rows = comparison(histories)
    table: list[list[object]] = [[*header], *rows]
    panels = panels_of(histories)
    curves = [panel_chart(p, histories) for p in panels if p.title in _TRAINING_PANELS]
    others = [panel_chart(p, histories) for p in panels if p.title not in _TRAINING_PANELS]
    told = [note for one in examined for note in one.notices]
    return _render(
        title="Report of " + " and ".join(run.name for run in runs),
        created=now()[:16].replace("T", " "),
        version=importlib.import_module("dre_ssod").__version__,
        notices=[*notices(runs), *told],
        runs=runs,
        summary=[[row[k] for k in _SUMMARY_COLUMNS] for row in table],
        facts=_fact_rows(runs),
        differences=config_differences(runs),
        curves=curves,
        others=others,
        examined=examined,
        sets=_sets(runs, examined, most_images),
        kinds=KINDS,
        coverage=coverage_chart(examined) if any(_edges(one) for one in examined) else None,
        edges=[(one.run.name, name, part) for one in examined for name, part in _edges(one)],
    )


def _fact_rows(runs: Sequence[RunFolder]) -> list[tuple[str, list[str], bool]]:
    """Title, the text of each run, and whether they differ."""
    found = [facts(run) for run in runs]
    titles = dict.fromkeys(title for one in found for title in one)
    rows = [(title, [one.get(title, "unknown") for one in found]) for title in titles]
    return [(title, texts, len(set(texts)) > 1) for title, texts in rows]


def _edges(one: ExaminedRun) -> list[tuple[str, Reliability]]:
    return [(name, part) for name, part in (one.sigma or {}).items() if part.n]


def _sets(
    runs: Sequence[RunFolder], examined: Sequence[ExaminedRun], most_images: int
) -> list[dict[str, Any]]:
    """What the page shows of each test set; of equal names, those of different content apart."""
    tested: dict[tuple[str, str], dict[int, ExaminedSet]] = {}
    for number, one in enumerate(examined):
        for part in one.sets.values():
            tested.setdefault((part.name, part.content), {})[number] = part
    found = []
    left = most_images
    for sets, ((name, _), parts) in zip(range(len(tested), 0, -1), tested.items(), strict=True):
        named = {runs[number].name: part for number, part in parts.items()}
        first = next(iter(parts.values()))
        with_objects = _class_indices(first)
        ranked = sorted(with_objects, key=lambda k: max(p.precision.ap[k] for p in parts.values()))
        shown = sorted(ranked[:MOST_CLASSES])
        pairs = list(named.items())
        # Sets share what those before have left.
        numbers = choose(list(parts.values()), -(-left // sets))
        left -= len(numbers)
        found.append(
            {
                "name": name,
                "runs": [(number, runs[number].name, part) for number, part in parts.items()],
                "classes": list(enumerate(first.class_names)),
                "images": len(first.records),
                "counts": _class_counts(first),
                "without_chart": len(with_objects) - len(shown),
                "charts": [precision_recall_chart(k, first.class_names[k], pairs) for k in shown],
                "kept": {run: sum(len(j.detections) for j in part.judged) for run, part in pairs},
                "mistakes": {run: _mistakes_by_class(part) for run, part in pairs},
                "confusion": {
                    run: confusion_of(part.class_names, part.judged) for run, part in pairs
                },
                "cases": list(draw_cases(named, numbers, list(parts))),
            }
        )
    return found


def _class_counts(part: ExaminedSet) -> list[int]:
    """(K,) objects of each class."""
    counts = [0] * len(part.class_names)
    for judged in part.judged:
        for item in judged.objects:
            counts[int(item["category_id"])] += 1
    return counts


def _class_indices(part: ExaminedSet) -> list[int]:
    return [index for index, count in enumerate(_class_counts(part)) if count]


def _mistakes_by_class(part: ExaminedSet) -> list[dict[str, int]]:
    """By class: objects, those found, and mistakes by kind."""
    rows = [
        {"objects": count, "found": 0, **dict.fromkeys(KINDS, 0)} for count in _class_counts(part)
    ]
    for judged in part.judged:
        for item, partner in zip(judged.objects, judged.partner, strict=True):
            rows[int(item["category_id"])]["found"] += partner >= 0
        for mistake in judged.mistakes:
            rows[mistake.class_index][mistake.kind] += 1
    return rows


def confusion_of(names: Sequence[str], judged: Sequence[Judged]) -> dict[str, Any]:
    """The table with a shade for each count, if it is not too large; else the largest counts."""
    counts = confusion(judged, len(names))
    rows, columns = [*names, "nothing"], [*names, "not found"]
    if len(names) <= MOST_CLASSES:
        cells = [
            [(int(n), math.ceil(SHADES * n / max(1, line.sum()))) for n in line] for line in counts
        ]
        return {"columns": columns, "table": list(zip(rows, cells, strict=True))}
    pairs = [
        (int(counts[i, k]), rows[i], columns[k])
        for i in range(len(names))
        for k in range(len(names))
        if i != k and counts[i, k]
    ]
    return {"pairs": sorted(pairs, key=lambda pair: -pair[0])[:MOST_CONFUSIONS]}


def _render(**content: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["number"] = number
    style, script = ((FILES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        style=style,
        script=script,
        script_hash=digest,
        **content,
    )


def _shown(value: Any) -> Any:
    """What would steer a reader's program, as names of files can hold it, becomes an escape."""
    return printable(value) if type(value) is str else value


def number(value: float | int | str | None) -> str:
    """A cell: two decimals, or a dash where there is nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
