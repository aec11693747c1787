"""A table from its definition to its files: what is missing is run, kept and reported."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from dre_ssod.errors import printable
from dre_ssod.files import open_whole, write_text
from dre_ssod.tables.definition import Cell, Table, TableError
from dre_ssod.tables.filed import file_result, read_results
from dre_ssod.tables.identity import Identity
from dre_ssod.tables.markdown import as_markdown
from dre_ssod.tables.plan import Plan, begun, identify, make_plan
from dre_ssod.tables.plot import draw_curves, draw_rows
from dre_ssod.tables.processes import Starter
from dre_ssod.tables.report import as_data, of_first_sets, report_rows
from dre_ssod.tables.schedule import Job, RunFailedError, run_all


def run_missing(
    table: Table, cells: Sequence[Cell], start: Starter, at_once: int, output: Path, results: Path
) -> dict[str, Identity]:
    """Run those of the cells that have no result, and report after each.

    They take over what runs of other cells of the table have left in ``output``.

    Args:
        at_once: runs at a time.
        output: for the folders of the runs, and the report.
        results: for results that are kept.

    Returns:
        The identities of these cells and of others that were looked at, with data, by name.

    Raises:
        TableError: naming the rows that name no test set.
        RunFailedError: after all others have ended, if runs failed.
    """
    _refuse_unmeasured(cells)
    logging.getLogger("dre_ssod").setLevel(logging.WARNING)
    chosen = {cell.name for cell in cells}
    others = [cell for cell in begun(table.cells(), output) if cell.name not in chosen]
    identities = identify([*cells, *others])
    plan = make_plan(cells, identities, read_results(results), output)
    print(describe(plan), flush=True)

    def keep(job: Job) -> None:
        identity = identities[job.name]
        file_result(plan.missing[job.name], identity, job.folder, results, plan.kinds[job.name])
        write_report(table, results, output, identities)

    failed = run_all(plan.jobs, start, at_once, on_end=keep)
    if failed:
        words = "; ".join(f"{name}: {said}" for name, said in failed.items())
        raise RunFailedError(f"{len(failed)} run(s) failed, the same command tries again: {words}")
    return identities


def _refuse_unmeasured(cells: Sequence[Cell]) -> None:
    """A run that measures nothing would leave no result, however long it takes."""
    rows = dict.fromkeys(cell.row for cell in cells if not cell.cfg.DATASETS.TEST)
    if rows:
        raise TableError(
            f"DATASETS.TEST is () in {', '.join(map(repr, rows))}: a table tells what its runs "
            "reach on test images, so each row must name a set of them, in its config or 'set'"
        )


def write_report(
    table: Table, folder: Path, output: Path, looked: Mapping[str, Identity] | None = None
) -> str:
    """Write the three files of what is there; returns the Markdown.

    Args:
        folder: of results.
        looked: identities with data, by name of the cell; their results are found by that.
    """
    rows = report_rows(table, read_results(folder), looked)
    text = as_markdown(table, rows)
    write_text(output / f"{table.name}.md", text)
    write_text(output / f"{table.name}.json", json.dumps(as_data(table, rows), indent=1) + "\n")
    with open_whole(output / f"{table.name}.png") as picture:
        title = table.title + of_first_sets(name for row in rows for name in row.first_sets)
        curves = any(row.curve for row in rows)
        drawn = draw_curves(title, rows, table.x_label) if curves else draw_rows(title, rows)
        drawn.savefig(picture, format="png", dpi=110)
    return text


def describe(plan: Plan) -> str:
    """What is to be done, in a few lines."""
    lines = [f"{len(plan.found)} of {len(plan.identities)} results are there."]
    for job in plan.jobs:
        if plan.kinds[job.name] == "evaluation":
            lines.append(f"{job.name}: evaluates the model of {job.after}")
        else:
            source = f", from the burn-in of {job.after}" if job.after else ""
            lines.append(f"{job.name}: {job.iterations} iterations{source}")
    return printable("\n".join(lines))
