"""``results.json`` and ``results.md``: what came out of a run, per model, set, protocol and class.

Both hold every evaluation that was asked for in a run folder: the one that ends a training, and
those of ``--eval-only``. Evaluations are added, never replaced. Those during training are in
``metrics.json``.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from tabulate import tabulate

from dre_ssod.checkpoints.folder import look_into
from dre_ssod.errors import printable
from dre_ssod.evaluation.coco import METRICS
from dre_ssod.evaluation.evaluators import PROTOCOLS
from dre_ssod.files import write_text
from dre_ssod.locks import now
from dre_ssod.runs.record import append_entry, one_at_a_time


def record_results(
    cfg: CfgNode,
    results: Mapping[str, Any],
    kind: str,
    checkpoint: str,
    iteration: int | None,
) -> None:
    """Add an evaluation to ``results.json`` and rewrite ``results.md``; main process alone.

    Args:
        results: by model, then by set if DATASETS.TEST names several, then by protocol.
        kind: "training" (the evaluation that ends one) or "evaluation".
        checkpoint: file that holds the models.
        iteration: last finished iteration of the models, from 0; None if not known.
    """
    test_sets = cfg.DATASETS.TEST
    if not comm.is_main_process() or not test_sets:
        return
    models: dict[str, dict[str, dict[str, Any]]] = {}
    for model, found in results.items():
        by_set = {test_sets[0]: found} if len(test_sets) == 1 else found
        models[model] = {
            name: {key: _figures(values) for key, values in protocols.items()}
            for name, protocols in by_set.items()
        }
    entry = {
        "kind": kind,
        "finished": now(),
        "checkpoint": checkpoint,
        "iteration": iteration,
        "models": models,
    }
    folder = Path(cfg.OUTPUT_DIR)
    with one_at_a_time(folder):
        entries = append_entry(folder / "results.json", "evaluations", entry, protocols=PROTOCOLS)
        write_text(folder / "results.md", format_results(entries))


def saved_iteration(checkpoint: str) -> int | None:
    """The last finished iteration of a checkpoint; None for files that do not say, or are remote.

    Raises:
        UntrustedFileError: if it is damaged or holds code.
    """
    iteration = look_into(Path(checkpoint)).get("iteration")
    return iteration if isinstance(iteration, int) else None


def format_results(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Markdown with one section per evaluation, the latest first.

    Args:
        evaluations: entries of ``results.json``.
    """
    parts = ["# Results\n", "AP in percent. Figures of different protocols cannot be compared.\n"]
    used = {
        key
        for entry in evaluations
        for sets in entry["models"].values()
        for protocols in sets.values()
        for key in protocols
    }
    meanings = [f"- `{key}`: {text}." for key, text in PROTOCOLS.items() if key in used]
    parts.append("\n".join(meanings) + "\n")
    for entry in reversed(evaluations):
        iteration = "" if entry["iteration"] is None else f", iteration {entry['iteration']}"
        parts.append(f"## {entry['kind'].capitalize()}: `{entry['checkpoint']}`{iteration}\n")
        parts.append(f"Finished {entry['finished']}.\n")
        parts.append(_summary(entry["models"]) + "\n")
        for name in {name: None for sets in entry["models"].values() for name in sets}:
            table = _per_class(entry["models"], name)
            if table:
                parts.append(f"Per class, `{name}`:\n")
                parts.append(table + "\n")
    return "\n".join(parts)


def _figures(values: Mapping[str, float]) -> dict[str, Any]:
    """Metrics of all classes together, and by class; null where there is none."""
    metrics: dict[str, float | None] = {}
    per_class: dict[str, dict[str, float | None]] = {}
    for name, value in values.items():
        metric, dash, label = name.partition("-")
        number = float(value) if math.isfinite(value) else None
        if dash:
            per_class.setdefault(label, {})[metric] = number
        else:
            metrics[name] = number
    return {"metrics": metrics, "per_class": per_class}


def _summary(models: Mapping[str, Any]) -> str:
    rows = [
        (model, name, key, *(_number(figures["metrics"].get(column)) for column in METRICS))
        for model, sets in models.items()
        for name, protocols in sets.items()
        for key, figures in protocols.items()
    ]
    return _table(rows, ("model", "set", "protocol", *METRICS))


def _per_class(models: Mapping[str, Any], name: str) -> str:
    """One row per class, one column per model, protocol and metric; "" if nothing goes by class."""
    columns: dict[str, dict[str, float | None]] = {}
    for model, sets in models.items():
        for key, figures in sets.get(name, {}).items():
            for label, values in figures["per_class"].items():
                for metric, value in values.items():
                    columns.setdefault(f"{model} {key} {metric}", {})[label] = value
    labels = {label: None for column in columns.values() for label in column}
    rows = [(label, *(_number(c.get(label)) for c in columns.values())) for label in labels]
    return _table(rows, ("class", *columns)) if rows else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    # Class names come from files of others: as text, not as HTML or a terminal's orders.
    escaped = [
        [html.escape(printable(cell), quote=False).replace("|", "\\|") for cell in row]
        for row in rows
    ]
    return str(tabulate(escaped, headers, tablefmt="pipe", disable_numparse=True))
