"""What of a table is there already, what is missing, and how the missing runs are started."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode

from dre_ssod.checkpoints.folder import BURN_IN, name_last, our_files
from dre_ssod.engine.setup import complete
from dre_ssod.engine.training_data import load_pools
from dre_ssod.files import open_whole, write_text
from dre_ssod.runs.contents import by_role
from dre_ssod.runs.history import METRICS
from dre_ssod.runs.sets import describe_sets
from dre_ssod.tables.definition import Cell, TableError
from dre_ssod.tables.filed import Result, find_result, slug
from dre_ssod.tables.identity import Identity
from dre_ssod.tables.schedule import Job

IDENTITY = "identity.json"
"""In the folder of a run: what it was started as."""
CONFIG = "table_config.yaml"
FINAL = "model_final.pth"


@dataclass
class Plan:
    """The runs of a table.

    Attributes:
        found: results that are there, by name of the cell.
        missing: cells without one, by name.
        identities: of all cells that are wanted, by name.
        jobs: that make the missing results.
        kinds: of the evaluation that counts, by name of the job.
    """

    found: dict[str, Result] = field(default_factory=dict)
    missing: dict[str, Cell] = field(default_factory=dict)
    identities: dict[str, Identity] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)


def read_data(cfg: CfgNode) -> dict[str, str]:
    """SHA-256 of what the sets of a config hold, by role; of several test sets, of each.

    Raises:
        ConfigError, SourceError: if they cannot be used.
    """
    own = cfg.clone()
    complete(own)
    rows = [(row.role, row.content) for row in describe_sets(own, load_pools(own))]
    known = [(role, content) for role, content in rows if content is not None]
    found = {role: content.sha256 for role, content in by_role(known).items()}
    # Test sets are measured one by one.
    tests = [content.sha256 for role, content in known if role == "test"]
    return {**found, "test": " ".join(tests)} if tests else found


def identify(
    cells: Iterable[Cell], look: Callable[[CfgNode], dict[str, str]] = read_data
) -> dict[str, Identity]:
    """The identities of cells, by name.

    Args:
        look: called once for all cells of the same sets.
    """
    seen: dict[str, dict[str, str]] = {}
    found = {}
    for cell in cells:
        # A method without unlabeled images has other sets.
        filtered = cell.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        kind = (cell.cfg.SSOD.ENABLED, cell.cfg.SSOD.METHOD, filtered)
        key = json.dumps([Identity.of(cell.cfg).sets, *kind])
        if key not in seen:
            seen[key] = look(cell.cfg)
        found[cell.name] = Identity.of(cell.cfg, seen[key])
    return found


def begun(cells: Iterable[Cell], runs: Path) -> list[Cell]:
    """Those of which there is something that other runs may take over.

    Args:
        runs: folder of run folders.
    """
    held = {path.parent.name for kept in (BURN_IN, FINAL) for path in runs.glob(f"*/{kept}")}
    # By the name alone: whether it is that run's, its data say, and to read them takes time.
    named = {folder.rpartition("-")[0] for folder in held}
    return [cell for cell in cells if slug(cell.name) in named]


def make_plan(
    cells: Sequence[Cell],
    identities: Mapping[str, Identity],
    results: Sequence[Result],
    runs: Path,
) -> Plan:
    """What is there, and the jobs that make the rest.

    A run that trains the same model as an earlier one of the table evaluates that one's; one that
    is the same until the end of its burn-in starts from there.

    Args:
        cells: that are wanted.
        identities: theirs, and those of other cells that may be taken over from.
        results: that are kept.
        runs: folder of run folders.
    """
    plan = Plan(identities={cell.name: identities[cell.name] for cell in cells})
    for cell in cells:
        result = find_result(results, identities[cell.name])
        if result is None:
            plan.missing[cell.name] = cell
        else:
            plan.found[cell.name] = result
    places = {name: folder_of(name, identities, runs) for name in identities}
    # Those that have their models, or will have them.
    others = [n for n in identities if n not in plan.missing and _is_of(places[n], identities[n])]
    trained = [name for name in others if (places[name] / FINAL).is_file()]
    burned_in = [name for name in others if (places[name] / BURN_IN).is_file()]
    for name, cell in plan.missing.items():
        own = identities[name]
        twin = next((n for n in trained if identities[n].is_trained_as(own)), None)
        donor = next((n for n in burned_in if identities[n].shares_burn_in(own)), None)
        if twin is not None:
            job = _evaluation(cell, own, places[name], twin, places[twin])
        else:
            source = None if donor is None else places[donor]
            job = _training(cell, own, places[name], donor or "", source)
            trained.append(name)
            burned_in += [name] if donor is None else []
        plan.jobs.append(job)
        plan.kinds[name] = "training" if twin is None else "evaluation"
    return plan


def folder_of(name: str, identities: Mapping[str, Identity], runs: Path) -> Path:
    """The folder of a run: named for people, and by all that its result depends on."""
    return runs / f"{slug(name)}-{identities[name].digest}"


def _training(cell: Cell, identity: Identity, folder: Path, donor: str, source: Path | None) -> Job:
    needs = None if source is None else source / BURN_IN
    kept = source is None and cell.cfg.SSOD.BURN_IN_ITERS > 0
    opts = ["SSOD.BURN_IN_KEPT", "True"] if kept else []
    return Job(
        name=cell.name,
        folder=folder,
        words=["--config-file", str(folder / CONFIG), "--resume", *opts],
        iterations=cell.cfg.SOLVER.MAX_ITER,
        images=cell.cfg.SOLVER.IMS_PER_BATCH,
        begins=0 if source is None else cell.cfg.SSOD.BURN_IN_ITERS,
        after=donor,
        needs=needs,
        prepare=partial(_prepare, cell.cfg, identity, folder, needs),
    )


def _evaluation(cell: Cell, identity: Identity, folder: Path, twin: str, source: Path) -> Job:
    weights = ["MODEL.WEIGHTS", str(source / FINAL)]
    return Job(
        name=cell.name,
        folder=folder,
        words=["--config-file", str(folder / CONFIG), "--eval-only", *weights],
        iterations=0,
        images=0,
        after=twin,
        prepare=partial(_prepare, cell.cfg, identity, folder, None),
    )


def _prepare(cfg: CfgNode, identity: Identity, folder: Path, burn_in: Path | None) -> None:
    """Write the config of a run into its folder and, if it begins there, take over a burn-in.

    Raises:
        TableError: if the folder holds another run.
    """
    _check_folder(folder, identity)
    write_text(folder / IDENTITY, json.dumps(identity.as_dict()))
    own = cfg.clone()
    own.defrost()
    own.OUTPUT_DIR = str(folder)
    # A table has many runs, and of each the last checkpoint will do.
    own.SOLVER.CHECKPOINTS_KEPT = 1
    write_text(folder / CONFIG, own.dump())
    if burn_in is not None:
        take_over(burn_in, folder)


def take_over(burn_in: Path, folder: Path) -> None:
    """Have a run begin where the burn-in of another one ended, if it has not begun.

    Args:
        burn_in: checkpoint in the other run's folder; where it is missing, nothing is done.
        folder: of the run.
    """
    if not burn_in.is_file() or our_files(folder):
        return
    # The figures so far; what came after the checkpoint is cut off when it is resumed.
    figures = burn_in.with_name(METRICS)
    for path in (figures, burn_in) if figures.is_file() else (burn_in,):
        with path.open("rb") as source, open_whole(folder / path.name) as target:
            shutil.copyfileobj(source, target)
    name_last(folder, burn_in.name)


def _check_folder(folder: Path, identity: Identity) -> None:
    if (folder / IDENTITY).is_file() and not _is_of(folder, identity):
        raise TableError(
            f"{folder} holds a run of other settings, data or version; move it elsewhere"
        )


def _is_of(folder: Path, identity: Identity) -> bool:
    """Whether the run in a folder was started as this one.

    Its name does not say so: by another default of a key, the same name is of other settings.
    """
    try:
        content = (folder / IDENTITY).read_text(encoding="utf-8")
        return Identity.from_dict(json.loads(content)).is_result_for(identity)
    except (OSError, ValueError, TypeError, RecursionError):
        return False
