"""Writes the tables of README.md and docs/results.md, in short what docs/comparisons.md has.

    python -m docs.write_summaries

They stand between ``<!-- NAME, written by docs.write_summaries -->`` and ``<!-- end of NAME -->``.
No figure in them is typed; what says nothing else is AP of the teacher on test images, in percent.
What compares runs of two machines, by device, PyTorch and number format, is marked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from docs.write_comparisons import RESULTS
from dre_ssod.files import open_whole, write_text
from dre_ssod.tables.curves import APART, worth_text
from dre_ssod.tables.definition import read_table
from dre_ssod.tables.filed import Result, find_results, read_results
from dre_ssod.tables.markdown import interval_text, markdown_table, mean_text
from dre_ssod.tables.plot import draw_curves
from dre_ssod.tables.report import MODELS, Figure, RowReport, compare_rows, first_curve
from dre_ssod.tables.statistics import Summary
from tests import ROOT

CURVES = ROOT / "docs" / "images" / "bccd_labels.png"
_BLOOD, _PHOTOGRAPHS = "bccd_methods", "voc07small_methods"
_PLAIN, _HEAD = "supervised", "supervised, with the recipe's box head"
_TEACHER, _PRINTED, _RECIPE = "mean teacher", "DRE", "recipe"
_UNREFINED = "recipe, not refined at test"
_KNOWN_BEST = "DRE, beta-NLL 1, one mean, voting and ranking at test"
"""The recipe among the leads, one of which it is."""
_LEADS = {
    "beta-NLL 1 in place of eq. 9's sum": ("DRE, beta-NLL 1", "DRE"),
    "beta-NLL 0.5": ("DRE, beta-NLL 0.5", "DRE"),
    **{
        title: (f"DRE, beta-NLL 1, {lead}", "DRE, beta-NLL 1")
        for title, lead in {
            "voting and ranking by quality at test time": "voting and ranking at test",
            "pseudo-labels moved by voting": "labels voted on",
            "and their NMS ranked by quality": "labels voted on and ranked",
            "s_loc to the power of 4": "quality to the power of 4",
            "weights relative to their mean": "relative weights",
            "both": "relative weights, quality to the power of 4",
            "s_loc times 2, up to 1": "rescaled quality",
            "sigma times 1.5, as its residuals say": "sigma times 1.5",
            "thresholds by class, by rank (LabelMatch)": "labels by rank",
            "one mean in eq. 14": "one mean",
        }.items()
    },
    "voting and ranking by quality, with one mean": (
        _KNOWN_BEST,
        "DRE, beta-NLL 1, one mean",
    ),
    **{
        f"in the recipe: {title}": (f"recipe, {lead}", _KNOWN_BEST)
        for title, lead in {
            "tau 0.6": "tau 0.6",
            "PCV": "PCV",
            "beta of eq. 3 warmed up": "weight warmed up",
            "no decay of the rate": "rate not lowered",
            "large-scale jitter": "large-scale jitter",
            "RPN within images": "RPN within images",
        }.items()
    },
}
"""Leads by what they change: the row with it, and the one without."""
_THIRD_DRAWS = {
    _BLOOD: ("", "test"),
    "bccd_table3": ("", "test"),
    "bccd_table4": ("DRE, ", "test"),
    "bccd_leads": ("", "val"),
}
"""Tables with a third draw of 20 labels: what their rows are called there, and the split."""
_METHODS = ROOT / "configs" / "methods"
"""Where the rows of other methods have their files."""


class Known:
    """A table and its rows by name, as far as there are results."""

    def __init__(self, name: str, results: Sequence[Result]) -> None:
        self.table = read_table(ROOT / "docs" / "tables" / f"{name}.yaml")
        self.cells = self.table.cells()
        self.found = find_results(results, self.cells)
        self._compared: dict[str, dict[str, RowReport]] = {}
        self.rows = self._compared_with(self.table.reference)

    def ap(self, row: str) -> str:
        """Such as "54.1 ± 0.9"."""
        summary = self._figure(row).summary
        return mean_text(summary) + self._share(row, summary)

    def over(self, row: str, base: str, metric: str = "AP", model: str = "teacher") -> str:
        """Such as "+2.8 [+2.4, +3.2]", paired by run."""
        report = self._compared_with(base)[row]
        if report.unpaired:
            raise ValueError(f"{self.table.name}: {row} and {base} have other test images")
        difference = report.figures[model][metric].difference
        marked = APART if report.apart else ""
        return interval_text(difference) + marked + self._share(row, difference)

    def with_difference(self, row: str) -> tuple[str, str]:
        """Its AP, and that over the table's reference."""
        base = self.table.reference
        return self.ap(row), "-" if row == base else self.over(row, base)

    def best_other(self) -> str:
        """The method of others with the highest mean, of those with all runs."""
        means = {
            name: self._figure(name).summary
            for name, row in self.table.rows.items()
            if any(file.resolve().parent == _METHODS for file in row.files)
        }
        complete = {n: s.mean for n, s in means.items() if s and s.n == self.rows[n].runs}
        return max(complete, key=complete.__getitem__)

    def _compared_with(self, base: str) -> dict[str, RowReport]:
        if base not in self._compared:
            rows = compare_rows(replace(self.table, reference=base), self.cells, self.found)
            self._compared[base] = {row.name: row for row in rows}
        return self._compared[base]

    def _figure(self, row: str) -> Figure:
        return self.rows[row].figures["teacher"]["AP"]

    def _share(self, row: str, summary: Summary | None) -> str:
        wanted = self.rows[row].runs
        if summary is None or summary.n == wanted:
            return ""
        return f" ({summary.n} of {wanted} draws)"


class Tables(dict[str, Known]):
    """Tables by name, each read once."""

    def __init__(self, results: Sequence[Result]) -> None:
        super().__init__()
        self._results = results

    def __missing__(self, name: str) -> Known:
        self[name] = Known(name, self._results)
        return self[name]


def gain(tables: Tables) -> str:
    """What README promises."""
    sets = {
        "blood cells, 20 labeled and 185 unlabeled images": tables[_BLOOD],
        "photographs of 20 classes, 200 and 1,800": tables[_PHOTOGRAPHS],
    }
    lines = [
        [
            name,
            known.ap(_PLAIN),
            f"{known.ap(_HEAD)} ({known.over(_HEAD, _PLAIN)})",
            f"{known.ap(_RECIPE)} ({known.over(_RECIPE, _HEAD)})",
            f"{known.ap(known.best_other())} ({known.best_other()})",
        ]
        for name, known in sets.items()
    ]
    head = ["", "labels alone", "and the recipe's box head (gain)", "and unlabeled images (gain)"]
    return markdown_table(lines, [*head, "another method at its best"])


def headline(tables: Tables) -> str:
    """Rows of both tables of methods, and what the recipe has over each."""
    sets = {
        "blood cells, 20 labels": tables[_BLOOD],
        "photographs of 20 classes, 200 labels": tables[_PHOTOGRAPHS],
    }

    def line(title: str, text: Callable[[Known], str]) -> list[str]:
        return [title, *map(text, sets.values())]

    def other(known: Known) -> str:
        return f"{known.best_other()} {known.ap(known.best_other())}"

    def over(base: str, metric: str = "AP") -> Callable[[Known], str]:
        return lambda known: known.over(_RECIPE, base, metric)

    lines = [
        line("supervised", lambda known: known.ap(_PLAIN)),
        line(_HEAD, lambda known: known.ap(_HEAD)),
        line("mean teacher", lambda known: known.ap(_TEACHER)),
        line("DRE as it is printed", lambda known: known.ap(_PRINTED)),
        line("the best of the other methods", other),
        line("**the recipe**", lambda known: f"**{known.ap(_RECIPE)}**"),
        line("the recipe over the mean teacher", over(_TEACHER)),
        line("over supervised training", over(_PLAIN)),
        line("of that its box head, by labels alone", lambda k: k.over(_HEAD, _PLAIN)),
        line("the same, AP75", lambda k: k.over(_HEAD, _PLAIN, "AP75")),
        line("and unlabeled images", over(_HEAD)),
        line("the same, AP75", over(_HEAD, "AP75")),
        line("the recipe over DRE as it is printed", over(_PRINTED)),
        line("over the best of the others", lambda k: k.over(_RECIPE, k.best_other())),
        line("over itself without voting and ranking at test time", over(_UNREFINED)),
    ]
    return markdown_table(lines, ["", *sets])


def table3(tables: Tables) -> str:
    """The four rows of the paper's table 3 on both sets."""
    blood, photographs = tables["bccd_table3"], tables["voc07small_table3"]
    lines = [
        [row, *blood.with_difference(row), *photographs.with_difference(row)]
        for row in blood.table.rows
    ]
    over = f"over {blood.table.reference}"
    return markdown_table(lines, ["", "blood cells", over, "photographs", over])


def table4(tables: Tables) -> str:
    """The paper's table 4, tau."""
    known = tables["bccd_table4"]
    lines = [[row, *known.with_difference(row)] for row in known.table.rows]
    return markdown_table(lines, ["", "blood cells", f"over {known.table.reference}"])


def leads(tables: Tables) -> str:
    """What each lead changes, on the images by which was chosen."""
    blood, photographs = tables["bccd_leads"], tables["voc07small_leads"]
    lines = [
        [
            title,
            blood.over(lead, base),
            blood.over(lead, base, "AP75"),
            blood.over(lead, base, model="student"),
            photographs.over(lead, base) if {lead, base} <= photographs.rows.keys() else "",
        ]
        for title, (lead, base) in _LEADS.items()
    ]
    head = ["blood cells, AP", "AP75", "AP of the student", "photographs, AP"]
    return markdown_table(lines, ["lead", *head])


def rare_class(tables: Tables) -> str:
    """All runs of the third draw of blood cells, by what they find of the rare class."""
    rows: dict[int, tuple[float, list[str]]] = {}
    for name, (prefix, split) in _THIRD_DRAWS.items():
        known = tables[name]
        for cell in known.cells:
            result = known.found.get(cell.name)
            if result is None or cell.repeat.name != "fold 2":
                continue
            teacher, student = (result.per_class(model)["Platelets"] for model in MODELS)
            overall = result.figure("teacher", "AP")
            assert teacher is not None
            assert overall is not None
            line = [f"{prefix}{cell.row}", split, result.device, f"{overall:.1f}"]
            rows.setdefault(id(result), (teacher, [*line, f"{teacher:.1f} / {student:.1f}"]))
    head = ["third draw", "split", "on", "AP", "AP of Platelets, teacher / student"]
    return markdown_table([line for _, line in sorted(rows.values())], head)


def labels(tables: Tables) -> str:
    """AP by share of labels, and what the share is worth by supervised training."""
    known = tables["bccd_labels"]
    reports = list(known.rows.values())
    curves = list(dict.fromkeys(row.curve for row in reports))
    shares = sorted({row.x for row in reports})
    lines = []
    for share in shares:
        line = [f"{share:g} %"]
        for curve in curves:
            row = next((r for r in reports if (r.curve, r.x) == (curve, share)), None)
            if row is None:
                line.append("")
                continue
            worth = worth_text(reports, row, "teacher", unit=" %")
            told = curve != first_curve(reports) and worth != "-"
            line.append(known.ap(row.name) + (f", as {worth}" if told else ""))
        lines.append(line)
    return markdown_table(lines, ["labels", *curves])


BLOCKS: dict[Path, tuple[Callable[[Tables], str], ...]] = {
    ROOT / "README.md": (gain,),
    ROOT / "docs" / "results.md": (headline, leads, labels, table3, table4, rare_class),
}


def filled(text: str, name: str, block: str) -> str:
    """A page with the text between a block's marks put in."""
    begin, end = f"<!-- {name}, written by docs.write_summaries -->\n", f"\n<!-- end of {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    whole, count = pattern.subn(lambda _: f"{begin}\n{block}\n{end}", text)
    if count != 1:
        raise ValueError(f"{count} blocks {begin.strip()} ... {end.strip()}, expected one")
    return whole


def page(path: Path, results: Sequence[Result]) -> str:
    """A page as it should be."""
    text, tables = path.read_text(encoding="utf-8"), Tables(results)
    for write in BLOCKS[path]:
        text = filled(text, write.__name__, write(tables))
    return text


def drawn_points(results: Sequence[Result]) -> str:
    """What the picture of the curves shows, kept in it as its description."""
    rows = Known("bccd_labels", results).rows.values()
    return json.dumps({row.name: row.figures["teacher"]["AP"].runs for row in rows})


def draw(results: Sequence[Result]) -> None:
    """Draw the curves of AP against labels."""
    known = Known("bccd_labels", results)
    figure = draw_curves(known.table.title, list(known.rows.values()), known.table.x_label)
    with open_whole(CURVES) as file:
        description = {"Description": drawn_points(results)}
        figure.savefig(file, format="png", dpi=110, metadata=description)


if __name__ == "__main__":
    kept = read_results(RESULTS)
    for known_page in BLOCKS:
        write_text(known_page, page(known_page, kept))
    draw(kept)
