"""Checkpoints: plain Detectron2 files whose ``model`` is the teacher.

Entries: ``model`` (teacher, plain keys), ``student``, ``trainer`` (iteration, optimizer, scheduler,
gradient scaler, seed, metrics of the last iterations) and ``iteration``. ``DefaultPredictor``,
``--eval-only`` and Detectron2's demo read ``model``, which is the detector to be deployed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from dre_ssod.checkpoints.folder import (
    LAST,
    clear_unfinished,
    find_last,
    name_last,
    our_files,
    read_tensors,
    telling_what_stays,
)
from dre_ssod.checkpoints.reading import load_arrays
from dre_ssod.errors import CheckpointError, UntrustedFileError
from dre_ssod.files import open_whole


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that runs no code of a file and writes files whole or not at all.

    It reads the same formats and addresses: ``.pth``, ``.pyth``, the ``.pkl`` of the model zoos,
    local, ``https://`` and ``detectron2://``.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth, and then name it in ``last_checkpoint``: the first process does.

        Called on all of them, since they may have to bring together what each knows.

        Raises:
            CheckpointError: if it cannot be written; earlier files are untouched.
        """
        content = {"model": self.model.state_dict()}
        content |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        if not self.save_dir or not self.save_to_disk:
            return
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        with telling_what_stays(), open_whole(path) as file:
            torch.save(content | kwargs, file)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Have ``last_checkpoint`` name a file."""
        name_last(Path(self.save_dir), last_filename_basename)

    def find_last(self) -> str | None:
        """The file from which the run continues, the same on every process.

        The first process chooses; see :func:`dre_ssod.checkpoints.folder.find_last`. What an
        interrupted write left is removed.

        Raises:
            CheckpointError: on every process, if no checkpoint can be used.
        """
        path: str | None = None
        trouble: str | None = None
        if comm.is_main_process():
            try:
                found = find_last(Path(self.save_dir))
                path = None if found is None else str(found.path)
                clear_unfinished(Path(self.save_dir))
            except CheckpointError as error:
                trouble = str(error)
        path, trouble = comm.all_gather((path, trouble))[0]
        if trouble is not None:
            raise CheckpointError(trouble)
        if path is not None and not Path(path).is_file():
            raise CheckpointError(
                f"{path} is there on the first machine, but not on this one: OUTPUT_DIR must be a "
                "folder that all machines share"
            )
        return path

    def load_model(self, path: str) -> dict[str, str]:
        """Load the weights of a file and say which ones it does not give.

        Returns:
            Why a weight stays as it was, by its name in the model.
        """
        self._not_given: dict[str, str] = {}
        self.load(path, checkpointables=[])
        return self._not_given

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        super()._log_incompatible_keys(incompatible)
        self._not_given = dict.fromkeys(incompatible.missing_keys, "not in the file")
        self._not_given |= {name: "another shape" for name, *_ in incompatible.incorrect_shapes}
        # Where a file lacks them, Detectron2's FrozenBatchNorm2d makes up statistics.
        for name in self.model.state_dict():
            layer, _, entry = name.rpartition(".")
            if entry in ("running_mean", "running_var") and f"{layer}.weight" in self._not_given:
                self._not_given[name] = "not in the file"

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            with open(filename, "rb") as file:
                return _zoo_model(load_arrays(file, filename), filename)
        if filename.endswith(".pyth"):
            return _pycls_model(read_tensors(filename), filename)
        loaded: dict[str, Any] = super()._load_file(filename)
        return loaded

    def _torch_load(self, filename: str) -> Any:
        return read_tensors(filename)


def _zoo_model(content: Any, filename: str) -> dict[str, Any]:
    """A file of Detectron2's model zoo, or one of Caffe2's, whose names need matching."""
    if not isinstance(content, dict):
        raise UntrustedFileError(f"{filename} holds a {type(content).__name__} and no model")
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)
    weights = {name: blob for name, blob in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _pycls_model(content: Any, filename: str) -> dict[str, Any]:
    if not isinstance(content, dict) or "model_state" not in content:
        raise UntrustedFileError(f"{filename} holds no 'model_state', as pycls checkpoints do")
    state = content["model_state"].items()
    weights = {name: value for name, value in state if not name.endswith("num_batches_tracked")}
    return {"model": weights, "__author__": "pycls", "matching_heuristics": True}


def refuse_to_overwrite(output_dir: str) -> None:
    """Raise if a new run would write over the checkpoints of an older one.

    Raises:
        FileExistsError: if ``output_dir`` holds checkpoints of a run.
    """
    folder = Path(output_dir)
    if (folder / LAST).exists() or our_files(folder):
        raise FileExistsError(
            f"OUTPUT_DIR {output_dir!r} already holds the checkpoints of a run. Continue it with "
            "--resume, or choose another OUTPUT_DIR."
        )
