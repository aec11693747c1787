"""What run folders say about how they came about, and where several do not belong together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from dre_ssod.config.reading import leaves, read_config
from dre_ssod.methods import method_class
from dre_ssod.runs.history import RunError, RunHistory, read_runs

CONFIG, STARTS, RESULTS = "config.yaml", "run.json", "results.json"
_MEANINGLESS = ("OUTPUT_DIR",)
"""Config keys in which runs always differ."""
_OF_A_START = (
    *("started", "command", "seed", "weights", "world_size", "precision", "machine", "versions"),
    *("git", "datasets"),
)
_COMPARED = ("role", "name", "content")
_OF_A_SET = (*_COMPARED, "images", "boxes", "classes")
_OF_AN_EVALUATION = ("kind", "finished")
Starts = Mapping[str, Sequence[dict[str, Any]]]
"""Entries of ``run.json`` about trainings, at least one, by the name of the run."""


@dataclass(frozen=True)
class RunFolder:
    """One run, as its folder tells it.

    Attributes:
        path: of the folder.
        history: its figures over the iterations, and its name.
        trainings: entries of ``run.json`` about trainings, one for each start; at least one.
        evaluations: entries of ``results.json``.
        config: its ``config.yaml`` as text.
        settings: the config by dotted keys, values as text.
        method: name of the method.
    """

    path: Path
    history: RunHistory
    trainings: Sequence[dict[str, Any]]
    evaluations: Sequence[dict[str, Any]]
    config: str
    settings: dict[str, str]
    method: str

    @property
    def name(self) -> str:
        """As shown."""
        return self.history.name

    @property
    def sets(self) -> list[dict[str, Any]]:
        """The sets of the last start, as ``run.json`` has them."""
        rows: list[dict[str, Any]] = self.trainings[-1]["datasets"]
        return rows

    def set_of(self, role: str, name: str) -> dict[str, Any] | None:
        """A set of the last start; None if the run had no such."""
        return next((r for r in self.sets if (r["role"], r["name"]) == (role, name)), None)


def read_folders(paths: Sequence[Path]) -> list[RunFolder]:
    """Read run folders.

    Raises:
        RunError: if one lacks a file of a run, or holds one that cannot be read.
        ConfigError: if a config has keys or values that this version does not know.
    """
    return [
        _read_folder(path, history) for path, history in zip(paths, read_runs(paths), strict=True)
    ]


def _read_folder(path: Path, history: RunHistory) -> RunFolder:
    trainings = _trainings(path / STARTS, _OF_A_START, _OF_A_SET)
    results = path / RESULTS
    evaluations = _entries(results, "evaluations") if results.is_file() else []
    _check(results, evaluations, _OF_AN_EVALUATION)
    cfg = read_config(str(path / CONFIG))
    return RunFolder(
        path=path,
        history=history,
        trainings=trainings,
        evaluations=evaluations,
        config=(path / CONFIG).read_text(encoding="utf-8"),
        settings={key: str(value) for key, value in leaves(cfg)},
        method=method_class(cfg).__name__,
    )


def _trainings(
    path: Path, of_a_start: Sequence[str], of_a_set: Sequence[str]
) -> list[dict[str, Any]]:
    """Entries of a ``run.json`` about trainings, with what is needed of each and of its sets."""
    trainings = [e for e in _entries(path, "runs") if e.get("kind") == "training"]
    if not trainings:
        raise RunError(f"{path} tells of no training; name the OUTPUT_DIR of a training")
    _check(path, trainings, of_a_start)
    _check(path, [row for e in trainings for row in e["datasets"]], of_a_set)
    return trainings


def _entries(path: Path, key: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))[key]
    except FileNotFoundError as error:
        raise RunError(f"{path}: there is no such file; name the OUTPUT_DIR of a run") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: it has no readable list {key!r}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise RunError(f"{path}: its {key!r} must be a list of entries")
    return entries


def _check(path: Path, entries: Sequence[dict[str, Any]], needed: Sequence[str]) -> None:
    for entry in entries:
        if lacking := [key for key in needed if key not in entry]:
            raise RunError(
                f"{path}: an entry lacks {', '.join(lacking)}; it is damaged, or was written by "
                "an older version of this program, which cannot be reported on"
            )


def facts(run: RunFolder) -> dict[str, str]:
    """What was trained how, on what machine, for how long: texts by their titles."""
    first, last = run.trainings[0], run.trainings[-1]
    machine, versions, git = last["machine"], last["versions"], last["git"]
    commit = f"{git['commit'][:12]}{' and changes' if git['dirty'] else ''}" if git else "unknown"
    per_iteration = run.history.find("time")
    found = {
        "Method": run.method,
        "Model": _model_name(run.settings),
        "Iterations": f"{run.history.iterations} of {run.settings['SOLVER.MAX_ITER']}",
        "Images of a batch": run.settings["SOLVER.IMS_PER_BATCH"],
        "Learning rate": run.settings["SOLVER.BASE_LR"],
        "Seed": str(last["seed"]),
        "Started from": last["weights"] or _weights_of_backbone(run.settings),
        "Started": " and again ".join(_time(entry["started"]) for entry in run.trainings),
        "Finished": _finished(run),
        "Seconds of an iteration": f"{per_iteration.last:.2f}" if per_iteration else "unknown",
        "Machine": f"{machine.get('gpu', machine['device'])}, {machine['platform']}",
        "Processes": str(last["world_size"]),
        "Number format": last["precision"],
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "Commit": commit,
        "Command": first["command"],
    }
    if took := _duration(run):
        found["Took"] = took
    return found


def _model_name(settings: dict[str, str]) -> str:
    backbone = settings["MODEL.BACKBONE.NAME"]
    if "timm" in backbone:
        return f"{settings['MODEL.TIMM.NAME']} with a feature pyramid"
    return (
        f"{backbone.removeprefix('build_').removesuffix('_backbone')}, depth "
        + (settings["MODEL.RESNETS.DEPTH"])
    )


def _weights_of_backbone(settings: dict[str, str]) -> str:
    """Where the run was given no weights of a whole detector."""
    if "timm" in settings["MODEL.BACKBONE.NAME"] and settings["MODEL.TIMM.WEIGHTS"]:
        return f"{settings['MODEL.TIMM.WEIGHTS']} for the backbone, else random weights"
    return "random weights"


def _time(text: str) -> str:
    return text[:16].replace("T", " ")


def _finished(run: RunFolder) -> str:
    """When the training ended; a run that has ended may go on by a larger SOLVER.MAX_ITER."""
    end = int(run.settings["SOLVER.MAX_ITER"])
    ends = [entry["finished"] for entry in run.evaluations if entry["kind"] == "training"]
    # A start after the end trains nothing.
    starts = [e["started"] for e in run.trainings if (e.get("first_iteration") or 0) < end]
    if run.history.iterations < end or not ends:
        return "not yet"
    ended = datetime.fromisoformat(ends[-1])
    goes_on = any(datetime.fromisoformat(start) > ended for start in starts)
    return "not yet" if goes_on else _time(ends[-1])


def _duration(run: RunFolder) -> str | None:
    """From start to end of a run that was never interrupted, evaluations included."""
    ends = [entry["finished"] for entry in run.evaluations if entry["kind"] == "training"]
    if len(run.trainings) != 1 or not ends:
        return None
    took = datetime.fromisoformat(ends[-1]) - datetime.fromisoformat(run.trainings[0]["started"])
    return str(timedelta(seconds=round(took.total_seconds()))) + " (hours:minutes:seconds)"


def config_differences(runs: Sequence[RunFolder]) -> dict[str, list[str]]:
    """Keys in which the configs differ, with the value of each run."""
    keys = sorted({key for run in runs for key in run.settings} - set(_MEANINGLESS))
    values = {key: [run.settings.get(key, "no such key") for run in runs] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def notices(runs: Sequence[RunFolder]) -> list[str]:
    """What keeps figures on the page from being compared, or from meaning what they seem to."""
    return _notices({run.name: run.trainings for run in runs})


def notices_of(histories: Sequence[RunHistory], paths: Sequence[Path]) -> list[str]:
    """The :func:`notices` about runs of which no more is known than their figures.

    A folder without ``run.json`` is passed over; of one that cannot be read it is said.

    Args:
        paths: of the folders of the runs, one for each.
    """
    starts, unknown = {}, []
    for history, path in zip(histories, paths, strict=True):
        if (path / STARTS).is_file():
            try:
                starts[history.name] = _trainings(path / STARTS, ("datasets",), _COMPARED)
            except RunError as error:
                unknown.append(f"{history.name}: its data could not be compared: {error}.")
    return [*_notices(starts), *unknown]


def _notices(starts: Starts) -> list[str]:
    return [*_changes_within(starts), *_differences_between(starts)]


def _changes_within(starts: Starts) -> Iterator[str]:
    for name, trainings in starts.items():
        for number, (one, other) in enumerate(pairwise(trainings), start=1):
            if changed := _roles_that_differ(one["datasets"], other["datasets"]):
                yield (
                    f"{name}: its {' and '.join(changed)} data changed between start {number} "
                    f"and start {number + 1}; its curves are not of one data set."
                )


def _differences_between(starts: Starts) -> Iterator[str]:
    """Between the first run and each of the others, by the sets of their last starts."""
    sets = [(name, trainings[-1]["datasets"]) for name, trainings in starts.items()]
    for name, rows in sets[1:]:
        first, first_rows = sets[0]
        changed = _roles_that_differ(first_rows, rows)
        if "test" in changed:
            yield (
                f"{first} and {name} were tested on different data: their AP cannot be compared. "
                f"{_tested(first, first_rows)}; {_tested(name, rows)}."
            )
        if "labeled" in changed:
            yield (
                f"{first} and {name} had different labels to train on: a difference in "
                "AP is not one of the methods alone."
            )


def _tested(name: str, rows: Sequence[dict[str, Any]]) -> str:
    return f"{name}: {', '.join(row['name'] for row in rows if row['role'] == 'test')}"


def _roles_that_differ(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> list[str]:
    """Roles that both have, whose sets do not hold the same."""
    found = []
    for role in dict.fromkeys(row["role"] for row in one):
        contents = [
            [row["content"] for row in rows if row["role"] == role] for rows in (one, other)
        ]
        if contents[1] and contents[0] != contents[1]:
            found.append(role)
    return found
