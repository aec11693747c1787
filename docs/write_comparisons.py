"""Writes docs/comparisons.md out of docs/tables and docs/results.

    python -m docs.write_comparisons

No figure there is typed: each comes out of the results of runs, which tools/run_table.py has kept.
"""

from __future__ import annotations

from dre_ssod.files import write_text
from dre_ssod.tables.definition import read_table
from dre_ssod.tables.filed import read_results
from dre_ssod.tables.markdown import as_markdown
from dre_ssod.tables.report import report_rows
from tests import ROOT

TABLES = (
    *("bccd_config", "bccd_methods", "voc07small_methods", "voc07small_short_burn_in"),
    *("bccd_table3", "voc07small_table3", "bccd_table4", "bccd_labels"),
    *("bccd_leads", "voc07small_leads"),
)
PAGE = ROOT / "docs" / "comparisons.md"
RESULTS = ROOT / "docs" / "results"
_HEAD = """# Comparisons

Written by `python -m docs.write_comparisons` out of the tables in `docs/tables` and the results of
runs in `docs/results`; [tables.md](tables.md) says how they are run. What is missing has not been
run.
"""
_SECONDS_OF_HOUR = 3600.0


def write() -> str:
    """The page."""
    results = read_results(RESULTS)
    hours = sum(r.cost["cpu_seconds"] or 0.0 for r in results) / _SECONDS_OF_HOUR
    evaluations = sum(not r.is_trained for r in results)
    parts = [
        _HEAD,
        f"{len(results)} runs so far, of which {evaluations} evaluate the model of another; "
        f"{hours:.1f} CPU hours, the time of GPUs not counted.\n",
    ]
    for name in TABLES:
        table = read_table(ROOT / "docs" / "tables" / f"{name}.yaml")
        parts.append(as_markdown(table, report_rows(table, results), level=2))
    return "\n".join(parts)


if __name__ == "__main__":
    write_text(PAGE, write())
