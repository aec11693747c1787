"""When a result belongs to a run that a table asks for, and what two runs have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from detectron2.config import CfgNode

from dre_ssod.config.keys import REFINING_KEYS
from dre_ssod.config.reading import leaves
from dre_ssod.runs.record import package_versions
from dre_ssod.runs.resuming import default_settings, settings_of

_OF_FILES_ALONE = ("SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINTS_KEPT", "SSOD.BURN_IN_KEPT")
"""Keys that decide which files a run leaves, and nothing about what it learns."""
AFTER_BURN_IN = (
    *("SSOD.SCORE_THRESHOLD", "SSOD.UNSUP_LOSS_WEIGHT", "SSOD.UNSUP_WARMUP_ITERS"),
    "SSOD.UNSUP_CLS_NORMALIZER",
    *("SSOD.UNSUP_RPN_OBJECTNESS", "SSOD.UNSUP_RPN_BOX", "SSOD.PCV.ENABLED"),
    *("SSOD.LER.ENABLED", "SSOD.PRC.ENABLED", "SSOD.QUALITY_POWER"),
    *("SSOD.RELATIVE_WEIGHTS", "SSOD.LABELS.RANK_SHARE"),
    *("SSOD.LABELMATCH.MIN_SCORE", "SSOD.LABELMATCH.WINDOW"),
    *("SSOD.LABELS.RANK_BY_QUALITY", "SSOD.LABELS.VOTING_SIGMA_T"),
)
"""Keys that are about pseudo-labels alone, whatever the method: a burn-in has none."""


@dataclass(frozen=True)
class Identity:
    """All that the result of a run depends on, but for the machine.

    Attributes:
        version: of this package.
        settings: config keys that belong to a run.
        sets: the keys of DATASETS as they are written.
        data: SHA-256 of what the sets hold, by role, of several test sets of each, with spaces
            between; None where nobody has looked.
    """

    version: str
    settings: dict[str, Any]
    sets: dict[str, Any]
    data: dict[str, str] | None

    @classmethod
    def of(cls, cfg: CfgNode, data: Mapping[str, str] | None = None) -> Identity:
        """The identity of the run that a config describes."""
        settings = {k: v for k, v in settings_of(cfg).items() if k not in _OF_FILES_ALONE}
        kept = {k: v for k, v in leaves(cfg.DATASETS) if k in _SETS}
        if cfg.DATASETS.UNLABELED_OVERLAP:
            # Results of before this was looked at do not have it.
            kept["UNLABELED_OVERLAP"] = True
        sets = json.loads(json.dumps(kept))
        found = None if data is None else dict(data)
        return cls(str(package_versions()["dre_ssod"]), settings, sets, found)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Identity:
        """Inverse of :meth:`as_dict`."""
        return cls(**content)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def is_result_for(self, wanted: Identity) -> bool:
        """Whether a result of this identity answers for a run of another one.

        Keys that one of the two does not know, as they came with a later version of the program,
        must have their default in the other. Sets are compared by what they hold, wherever they
        lie; by their names where nobody has looked.
        """
        looked = wanted.data is not None
        same_data = self.data == wanted.data if looked else self.sets == wanted.sets
        return self.version == wanted.version and same_data and not self.differing(wanted)

    def names_other_sets_than(self, wanted: Identity) -> list[str]:
        """The keys of DATASETS by which alone a result does not answer for a run.

        None where anything else differs too. Sets that were moved are such, but so are other ones.
        """
        keys = self.sets.keys() | wanted.sets.keys()
        others = sorted(k for k in keys if self.sets.get(k) != wanted.sets.get(k))
        for key in others:
            # No sets are none, whatever sets are called.
            both = self.sets.get(key) and wanted.sets.get(key)
            if key not in _NAMES or not both:
                return []
        same = self.version == wanted.version and not self.differing(wanted)
        return others if same else []

    def has_test_images_of(self, other: Identity) -> bool:
        """Whether figures of both are of the same images: those of the first test set.

        By its name where nobody has looked.
        """
        own, others = ((i.data or {}).get("test") for i in (self, other))
        if own is None or others is None:
            return bool(self.sets["TEST"][:1] == other.sets["TEST"][:1])
        return own.split()[:1] == others.split()[:1]

    def differing(self, other: Identity) -> set[str]:
        """The settings that are not the same."""
        defaults = default_settings()
        keys = self.settings.keys() | other.settings.keys()
        return {k for k in keys if _value(self, k, defaults) != _value(other, k, defaults)}

    def shares_burn_in(self, other: Identity) -> bool:
        """Whether two runs are the same, to the last bit, until the first pseudo-label.

        What was best so far belongs to the state of a run: where it is evaluated in its burn-in,
        keys of the evaluation must be the same too.
        """
        burn_in, period = self.settings["SSOD.BURN_IN_ITERS"], self.settings["TEST.EVAL_PERIOD"]
        free = AFTER_BURN_IN if 0 < period <= burn_in else (*AFTER_BURN_IN, *REFINING_KEYS)
        return burn_in > 0 and self._is_other_only_by(free, other)

    def is_trained_as(self, other: Identity) -> bool:
        """Whether two runs train the same model, to the last bit."""
        return self._is_other_only_by(REFINING_KEYS, other)

    def _is_other_only_by(self, free: tuple[str, ...], other: Identity) -> bool:
        fixed = (self.version, self.sets, self.data) == (other.version, other.sets, other.data)
        return fixed and self.differing(other) <= set(free)

    @property
    def digest(self) -> str:
        """Ten hex digits, by which folders and files of different runs are told apart."""
        defaults = default_settings()
        changed = {k: v for k, v in self.settings.items() if v != defaults.get(k)}
        text = json.dumps([self.version, changed, self.data or self.sets], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


_NAMES = ("TRAIN", "UNLABELED", "TEST", "SPLIT_FILE")
"""Keys of DATASETS that say where something lies."""
_SETS = (*_NAMES, "LABELED_PERCENT", "LABELED_FOLD")


def _value(identity: Identity, key: str, defaults: Mapping[str, Any]) -> Any:
    return identity.settings.get(key, defaults.get(key))
