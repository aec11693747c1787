"""Results of finished runs, one small file each, in a folder that outlives the runs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

from dre_ssod.errors import UserError
from dre_ssod.files import write_text
from dre_ssod.runs.history import METRICS, read_series
from dre_ssod.tables.definition import Cell
from dre_ssod.tables.identity import Identity

logger = logging.getLogger(__name__)

_NOBODY_LOOKED: Mapping[str, Identity] = MappingProxyType({})
COST = "cost.json"
"""In the folder of a run: what each of its lives took."""
PROTOCOL = "bbox"
_FILTER = "DATALOADER.FILTER_EMPTY_ANNOTATIONS"
_TRAINED_BY = ("precision", "machine", "versions")
_OF_A_LIFE = ("cpu_seconds", "peak_mib", "peak_gpu_mib")


class ResultError(UserError):
    """A file of results that cannot be used."""


@dataclass(frozen=True)
class Result:
    """What came out of one run.

    Attributes:
        identity: of the run.
        models: by model, test set and protocol, as in ``results.json``.
        origin: when, by which commit and by what ``kind`` of run it was made; where, by which
            versions and in which number format its model was trained. Of results of before the kind
            was kept those that have the time of a step are trainings.
        cost: ``step_seconds`` (mean, after the burn-in, of medians over 20 steps), ``cpu_seconds``,
            ``peak_mib`` of the process, and ``peak_gpu_mib`` that PyTorch allocated on the GPU, 0
            on a CPU; None, or not there, where nobody knows.
    """

    identity: Identity
    models: dict[str, Any]
    origin: dict[str, Any]
    cost: dict[str, float | None]

    @property
    def is_trained(self) -> bool:
        """Whether the run trained a model, rather than evaluate that of another one."""
        has_steps = self.cost.get("step_seconds") is not None
        return bool(self.origin.get("kind", "training" if has_steps else "") == "training")

    @property
    def device(self) -> str:
        """What trained it: the name of a GPU, or "CPU"."""
        machine = self.origin.get("machine") or {}
        return str(machine.get("gpu") or machine.get("device", "unknown")).replace("cpu", "CPU")

    @property
    def machine(self) -> tuple[str, str, str]:
        """The device, the version of PyTorch up to its second number, and the number format."""
        version = str((self.origin.get("versions") or {}).get("torch", "unknown"))
        precision = str(self.origin.get("precision", "unknown"))
        return self.device, ".".join(version.split(".")[:2]), precision

    @property
    def first_of_several(self) -> str:
        """The test set that its figures are of, where it has been measured on others too; or ""."""
        return first_of_several(next(iter(self.models.values()), {}))

    def figure(self, model: str, metric: str) -> float | None:
        """A figure of the first test set, in percent; None if there is none."""
        return self._found(model).get("metrics", {}).get(metric)

    def per_class(self, model: str) -> dict[str, float | None]:
        """AP by class, of the first test set."""
        classes = self._found(model).get("per_class", {})
        return {name: values.get("AP") for name, values in classes.items()}

    def _found(self, model: str) -> dict[str, Any]:
        for protocols in self.models.get(model, {}).values():
            return dict(protocols.get(PROTOCOL, {}))
        return {}


def read_results(folder: Path) -> list[Result]:
    """All results of a folder, by name of their file; none if there is no such folder.

    Raises:
        ResultError: naming a file that cannot be read.
    """
    return [read_result(path) for path in sorted(folder.glob("*.json"))]


def read_result(path: Path) -> Result:
    """One of them.

    Raises:
        ResultError: naming the file, if it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        identity = Identity.from_dict(content["identity"])
        return Result(identity, content["models"], content["origin"], content["cost"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultError(
            f"{path} is no result of a run ({type(error).__name__}: {error}); move it elsewhere"
        ) from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def find_result(results: Sequence[Result], wanted: Identity) -> Result | None:
    """The newest result that answers for a run; None if there is none."""
    fitting = [result for result in results if result.identity.is_result_for(wanted)]
    return max(fitting, key=_finished, default=None)


def find_results(
    results: Sequence[Result],
    cells: Sequence[Cell],
    looked: Mapping[str, Identity] = _NOBODY_LOOKED,
) -> dict[str, Result]:
    """What there is for the runs of a table, by name of the cell.

    Sets are known by their names, where nobody has looked at what they hold now. Where runs have
    then read other data under the same names, those of the newest count: the others, of which a
    warning tells, are not there. Another tells of results that are there but for names of sets.

    Args:
        looked: identities with data, by name of the cell.
    """
    wanted = {cell.name: looked.get(cell.name) or Identity.of(cell.cfg) for cell in cells}
    asked = {name: find_result(results, identity) for name, identity in wanted.items()}
    found = {name: result for name, result in asked.items() if result is not None}
    found = _each_once(cells, found)
    newest: dict[str, str] = {}
    for identity in (
        *(r.identity for r in sorted(found.values(), key=_finished)),
        *looked.values(),
    ):
        newest |= _data_by_names(identity)
    stale = [
        name
        for name, result in found.items()
        if name not in looked and _data_by_names(result.identity).items() - newest.items()
    ]
    if stale:
        logger.warning(
            "Of other data than the newest results, under the same names of DATASETS, and so not "
            "counted: %s. Run them again.",
            ", ".join(stale),
        )
    unseen = {name: wanted[name] for name in asked if name not in found and name not in looked}
    _tell_of_other_names(results, unseen)
    return {name: result for name, result in found.items() if name not in stale}


def _each_once(cells: Sequence[Cell], found: Mapping[str, Result]) -> dict[str, Result]:
    """Without what a row has already: two draws of few images may be the same, and are one run."""
    kept: dict[str, Result] = {}
    taken: dict[tuple[str, int], str] = {}
    for cell in cells:
        if cell.name not in found:
            continue
        first = taken.setdefault((cell.row, id(found[cell.name])), cell.name)
        if first == cell.name:
            kept[cell.name] = found[cell.name]
        else:
            logger.warning(
                "%s has the labeled images of %s, and so is the same run: not counted.",
                cell.name,
                first,
            )
    return kept


def _tell_of_other_names(results: Sequence[Result], unseen: Mapping[str, Identity]) -> None:
    """Warn of results that runs nobody has looked at the data of have under other names."""
    alike = {
        name: sorted({k for r in results for k in r.identity.names_other_sets_than(identity)})
        for name, identity in unseen.items()
    }
    told = [f"{name} ({', '.join(keys)})" for name, keys in alike.items() if keys]
    if told:
        logger.warning(
            "Not counted, as there are results but of sets of other names (by key of DATASETS): "
            "%s. If the sets were only moved, run these rows without --report: images are then "
            "compared by what they hold, and runs that have a result are not repeated.",
            ", ".join(told),
        )


def _data_by_names(identity: Identity) -> dict[str, str]:
    """What each role of a run has read, by the names that the config has for it."""
    tests = {"test": identity.sets["TEST"]}
    others = {key: value for key, value in identity.sets.items() if key != "TEST"}
    others[_FILTER] = identity.settings.get(_FILTER)
    return {
        json.dumps([role, tests.get(role, others)], sort_keys=True): content
        for role, content in (identity.data or {}).items()
    }


def _finished(result: Result) -> float:
    """Seconds since 1970, in whatever zone they were written; 0 where it is not known."""
    try:
        return datetime.fromisoformat(str(result.origin.get("finished"))).timestamp()
    except ValueError:
        return 0.0


def slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^a-z0-9.]+", "_", text.lower()).strip("_.") or "row"


def first_of_several(sets: Iterable[str]) -> str:
    """The first of the test sets of an evaluation, whose figures are shown; "" of one alone."""
    names = list(sets)
    return names[0] if len(names) > 1 else ""


def file_result(cell: Cell, identity: Identity, run: Path, folder: Path, kind: str) -> Path:
    """Keep what a finished run has left; returns the new file.

    Args:
        run: its OUTPUT_DIR.
        kind: of the evaluation that counts, "training" or "evaluation".

    Raises:
        ResultError: if the run has not been evaluated, or its files cannot be read.
        FileError: if the new file cannot be written.
    """
    end = cell.cfg.SOLVER.MAX_ITER
    evaluation = _last(run / "results.json", "evaluations", kind, ("models", "finished"), end)
    origin = _last(run / "run.json", "runs", kind, (*_TRAINED_BY, "git"), end)
    if kind == "evaluation":
        # It computes in float32 itself, whatever the model was trained in.
        [weights] = _last(run / "run.json", "runs", kind, ("weights",), end).values()
        origin |= _last(Path(weights).with_name("run.json"), "runs", "training", _TRAINED_BY, end)
    content = {
        "row": cell.row,
        "repeat": cell.repeat.name,
        "models": evaluation["models"],
        "cost": measure_cost(run, cell.cfg.SSOD.BURN_IN_ITERS),
        "origin": {"finished": evaluation["finished"], "kind": kind, **origin},
        "identity": identity.as_dict(),
    }
    path = _place(folder, f"{slug(cell.row)}-{slug(cell.repeat.name)}", identity)
    write_text(path, _lines(content))
    return path


def _place(folder: Path, name: str, identity: Identity) -> Path:
    """The file of a result, which replaces none but its own.

    By another default of a key the same digest is of other settings.
    """
    for number in count(1):
        end = f"_{number}" if number > 1 else ""
        path = folder / f"{name}-{identity.digest}{end}.json"
        if not path.is_file() or read_result(path).identity.is_result_for(identity):
            break
    return path


def measure_cost(run: Path, burn_in: int) -> dict[str, float | None]:
    """What a run took; see :class:`Result`. Lives that were killed have left nothing.

    Raises:
        ResultError: if what the run has left about it cannot be read.
    """
    lives = _lives(run / COST) if _has(run, COST) else []
    steps = read_series(run / METRICS).get("time") if _has(run, METRICS) else None
    times = [] if steps is None else _after(burn_in, steps.iterations, steps.values)
    return {
        "step_seconds": fmean(times) if times else None,
        "cpu_seconds": sum(life["cpu_seconds"] for life in lives) if lives else None,
        "peak_mib": max((life["peak_mib"] for life in lives), default=None),
        "peak_gpu_mib": max((life["peak_gpu_mib"] for life in lives), default=None),
    }


def _lives(path: Path) -> list[dict[str, float]]:
    try:
        lives = json.loads(path.read_text(encoding="utf-8"))["lives"]
        return [{name: life[name] for name in _OF_A_LIFE} for life in lives]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"{path} does not say what the run took ({type(error).__name__}: {error}); move it "
            "elsewhere"
        ) from error


def _after(burn_in: int, iterations: Sequence[int], values: Sequence[float]) -> list[float]:
    # Lines of 20 iterations: the first after the burn-in has some of the burn-in.
    return [v for i, v in zip(iterations, values, strict=True) if i >= burn_in + 20]


def _has(run: Path, name: str) -> bool:
    return (run / name).is_file()


def _last(path: Path, key: str, kind: str, wanted: Sequence[str], end: int) -> dict[str, Any]:
    """Of the last entry of a kind; a start after the end of a training trains nothing."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))[key]
        begun = (entry for entry in entries if (entry.get("first_iteration") or 0) < end)
        *_, found = (entry for entry in begun if entry["kind"] == kind)
        return {name: found[name] for name in wanted}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"{path} names no {kind} with its {', '.join(wanted)}: the run has not come to its end"
        ) from error


def _lines(content: Mapping[str, Any]) -> str:
    """JSON with one line per entry."""
    entries = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    return "{\n" + ",\n".join(entries) + "\n}\n"
