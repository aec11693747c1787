"""What a run has read of its sets, so that another process or a resumed run can be compared."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dre_ssod.data.records import is_crowd
from dre_ssod.data.sources.shards import ShardRecords
from dre_ssod.errors import SourceError

ROLES = ("labeled", "unlabeled", "test")
"""What sets are used for; also what DATASETS.ACCEPT_CHANGED may name."""

logger = logging.getLogger(__name__)

Hashes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SetContent:
    """The images of a set in their order, each as two numbers; of shards, each shard.

    Attributes:
        ids: (N,) of the image's id and the name of its file, without its folder; of a shard of the
            names of its images and of where they lie.
        labels: (N,) of its boxes, classes and crowd marks; 0 where annotations are not read.
        classes: names by index; () where annotations are not read.
        unit: what N counts.
    """

    ids: Hashes
    labels: Hashes
    classes: tuple[str, ...]
    unit: str = "images"

    @classmethod
    def of(cls, records: Sequence[dict[str, Any]], classes: Sequence[str] = ()) -> SetContent:
        """The content of Detectron2's records; of unlabeled ones where there are no classes."""
        if isinstance(records, ShardRecords):
            shards = np.array([_hash(digest) for digest in records.digests()], np.int64)
            return cls(shards, np.zeros_like(shards), (), "shards")
        ids = [_hash((r.get("image_id"), Path(r["file_name"]).name)) for r in records]
        labels = [_hash(_objects(r)) if classes else 0 for r in records]
        return cls(np.array(ids, np.int64), np.array(labels, np.int64), tuple(classes))

    @classmethod
    def joined(cls, contents: Sequence[SetContent]) -> SetContent:
        """Several sets of equal classes, one after the other."""
        return cls(
            np.concatenate([content.ids for content in contents]),
            np.concatenate([content.labels for content in contents]),
            contents[0].classes,
            " and ".join(dict.fromkeys(content.unit for content in contents)),
        )

    @property
    def sha256(self) -> str:
        """Of all there is (hex)."""
        digest = hashlib.sha256("\n".join(self.classes).encode(errors="surrogatepass"))
        for part in (self.ids, self.labels):
            digest.update(part.astype("<i8").tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "ids": torch.from_numpy(self.ids),
            "labels": torch.from_numpy(self.labels),
            "classes": list(self.classes),
            "unit": self.unit,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> SetContent:
        """Inverse of :meth:`state_dict`."""
        ids, labels = state["ids"].numpy(), state["labels"].numpy()
        return cls(ids, labels, tuple(state["classes"]), state.get("unit", "images"))

    def change_to(self, other: SetContent) -> str:
        """How another content differs, in numbers; "" where it does not."""
        if np.array_equal(self.ids, other.ids) and np.array_equal(self.labels, other.labels):
            return ""
        before = dict(zip(self.ids.tolist(), self.labels.tolist(), strict=True))
        after = dict(zip(other.ids.tolist(), other.labels.tolist(), strict=True))
        kept = before.keys() & after.keys()
        counts = {
            "added": len(after) - len(kept),
            "removed": len(before) - len(kept),
            "with other boxes or classes": sum(before[i] != after[i] for i in kept),
        }
        found = [f"{count} {what}" for what, count in counts.items() if count]
        now = f"{len(other.ids)} {other.unit if other.unit != self.unit else ''}".rstrip()
        sizes = f"{len(self.ids)} {self.unit}, now {now}: "
        return sizes + (", ".join(found) or "the same in another order")


def by_role(rows: Sequence[tuple[str, SetContent]]) -> dict[str, SetContent]:
    """The sets of each role as one, in the order in which training counts their images."""
    found: dict[str, list[SetContent]] = {}
    for role, content in rows:
        found.setdefault(role, []).append(content)
    return {role: SetContent.joined(contents) for role, contents in found.items()}


def check_resumed(
    saved: Mapping[str, Mapping[str, Any]],
    contents: Mapping[str, SetContent],
    accepted: Sequence[str],
) -> None:
    """Compare the sets of a resumed run with those that its checkpoint was trained on.

    Args:
        saved: states of :class:`SetContent` by role.
        contents: of now, by role.
        accepted: roles whose sets may have changed (``DATASETS.ACCEPT_CHANGED``).

    Raises:
        SourceError: if the classes are not those of the run, or another change is not accepted.
    """
    changes: dict[str, str] = {}
    for role in ROLES:
        # A run without such sets, before or now, has none to compare.
        if role not in saved or role not in contents:
            continue
        before, now = SetContent.from_state(saved[role]), contents[role]
        if before.classes != now.classes:
            raise SourceError(
                f"the run was trained on the {_naming(before.classes)}, but its {role} sets now "
                f"have the {_naming(now.classes)}: its weights would mean other classes. Bring "
                "the former list back, or start another run from its weights with MODEL.WEIGHTS "
                "in another OUTPUT_DIR."
            )
        if change := before.change_to(now):
            changes[role] = f"{role} sets: {change}"
    refused = [role for role in changes if role not in accepted]
    if refused:
        named = "".join(f"'{role}'," for role in changes)
        raise SourceError(
            f"the data have changed since the run was interrupted ({'; '.join(changes.values())}), "
            "so it would no longer see the images that it would have seen. Bring the former data "
            f'back, or, to continue all the same, add DATASETS.ACCEPT_CHANGED "({named})".'
        )
    for change in changes.values():
        logger.warning(
            "Changed since the run was interrupted and accepted by DATASETS.ACCEPT_CHANGED: %s. "
            "Figures before and after cannot be compared.",
            change,
        )


def check_agreement(digests: Sequence[dict[str, str]]) -> None:
    """Check that all processes of a run have read the same.

    Args:
        digests: of each process, ``SetContent.sha256`` by a name of the set.

    Raises:
        SourceError: naming the sets that differ and the first process that has another one.
    """
    for rank, own in enumerate(digests):
        differing = [name for name in digests[0] | own if digests[0].get(name) != own.get(name)]
        if differing:
            raise SourceError(
                f"process {rank} reads other images or annotations than process 0: "
                f"{', '.join(differing)}. All machines need the same data."
            )


def _objects(record: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (int(a["category_id"]), is_crowd(a), int(a["bbox_mode"]), *map(float, a["bbox"]))
        for a in record["annotations"]
    ]


def _hash(value: object) -> int:
    text = repr(value).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def _naming(classes: Sequence[str]) -> str:
    shown = ", ".join(map(repr, classes[:20])) + (", ..." if len(classes) > 20 else "")
    return f"{len(classes)} classes {shown}"
