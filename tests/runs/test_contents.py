"""What a run remembers of its sets."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
from detectron2.structures import BoxMode

from dre_ssod.errors import SourceError
from dre_ssod.runs.contents import SetContent, by_role, check_agreement, check_resumed

CLASSES = ("cat", "dog")
Records = list[dict[str, Any]]


def records(count: int = 4, folder: str = "/data") -> Records:
    return [
        {
            "image_id": number,
            "file_name": f"{folder}/{number}.jpg",
            "annotations": [
                {
                    "bbox": [1, 2.5, 30, 40],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": number % 2,
                    "iscrowd": 0,
                }
            ],
        }
        for number in range(count)
    ]


def changed(change: Callable[[Records], Any]) -> Records:
    found = copy.deepcopy(records())
    change(found)
    return found


CHANGES: dict[str, tuple[Callable[[Records], Any], str]] = {
    "an image more": (lambda r: r.append(records(5)[4]), "4 images, now 5: 1 added"),
    "an image less": (lambda r: r.pop(), "4 images, now 3: 1 removed"),
    "another file of the same id": (
        lambda r: r[0].update(file_name="/data/x.jpg"),
        "4 images, now 4: 1 added, 1 removed",
    ),
    "a box": (
        lambda r: r[1]["annotations"][0].update(bbox=[1, 2.5, 30, 41]),
        "4 images, now 4: 1 with other boxes or classes",
    ),
    "a class": (lambda r: r[1]["annotations"][0].update(category_id=0), "1 with other boxes"),
    "a crowd": (lambda r: r[1]["annotations"][0].update(iscrowd=1), "1 with other boxes"),
    "the form of the boxes": (
        lambda r: [item["annotations"][0].update(bbox_mode=BoxMode.XYXY_ABS) for item in r],
        "4 with other boxes",
    ),
    "the order": (lambda r: r.reverse(), "4 images, now 4: the same in another order"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_of_a_set_is_counted(what: str) -> None:
    change, expected = CHANGES[what]
    before, after = SetContent.of(records(), CLASSES), SetContent.of(changed(change), CLASSES)
    assert expected in before.change_to(after)
    assert before.sha256 != after.sha256


def test_moved_data_and_numbers_of_another_type_are_the_same() -> None:
    moved = records(folder="/elsewhere")
    moved[0]["annotations"][0]["bbox"] = [1.0, 2.5, 30.0, 40.0]
    before, after = SetContent.of(records(), CLASSES), SetContent.of(moved, CLASSES)
    assert before.change_to(after) == ""
    assert before.sha256 == after.sha256


def test_annotations_of_unlabeled_images_do_not_count() -> None:
    relabeled = changed(lambda r: r[0].pop("annotations"))
    assert SetContent.of(records()).change_to(SetContent.of(relabeled)) == ""


def test_content_survives_a_checkpoint() -> None:
    content = SetContent.of(records(), CLASSES)
    again = SetContent.from_state(content.state_dict())
    assert (again.sha256, again.classes) == (content.sha256, CLASSES)


def contents(labeled: Records, unlabeled: Records) -> dict[str, SetContent]:
    return by_role(
        [
            ("labeled", SetContent.of(labeled, CLASSES)),
            ("unlabeled", SetContent.of(unlabeled[:2])),
            ("unlabeled", SetContent.of(unlabeled[2:])),
        ]
    )


def saved() -> dict[str, dict[str, Any]]:
    return {role: c.state_dict() for role, c in contents(records(), records()).items()}


@pytest.mark.parametrize("classes", [("dog", "cat"), ("cat", "cow"), ("cat", "dog", "fox")])
def test_other_classes_are_refused_whatever_is_accepted(classes: tuple[str, ...]) -> None:
    now = {"labeled": SetContent.of(records(), classes)}
    with pytest.raises(SourceError, match=r"trained on the 2 classes 'cat', 'dog'.*other classes"):
        check_resumed(saved(), now, ("labeled", "unlabeled", "test"))


def test_other_data_are_refused_in_numbers_until_they_are_accepted_by_name(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dre_ssod"), "propagate", True)
    now = contents(records(5), records(3))
    with pytest.raises(SourceError) as caught:
        check_resumed(saved(), now, ("unlabeled",))
    for part in ("labeled sets: 4 images, now 5: 1 added", "4 images, now 3: 1 removed"):
        assert part in str(caught.value)
    assert """DATASETS.ACCEPT_CHANGED "('labeled','unlabeled',)".""" in str(caught.value)
    check_resumed(saved(), now, ("labeled", "unlabeled"))
    assert caplog.text.count("accepted by DATASETS.ACCEPT_CHANGED") == 2


def test_the_same_data_pass_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    check_resumed(saved(), contents(records(), records()), ())
    assert not caplog.text


def test_sets_of_a_role_count_in_their_order() -> None:
    """The stream of a run numbers the images of all of its sets."""
    exchanged = [*records()[2:], *records()[:2]]
    with pytest.raises(SourceError, match=r"unlabeled sets: .*the same in another order"):
        check_resumed(saved(), contents(records(), exchanged), ())


def test_processes_must_have_read_the_same() -> None:
    own = {"labeled a": "1", "unlabeled b": "2"}
    check_agreement([own, dict(own)])
    with pytest.raises(
        SourceError, match=r"process 2 reads other .* than process 0: unlabeled b\."
    ):
        check_agreement([own, own, {**own, "unlabeled b": "3"}])
    with pytest.raises(SourceError, match=r"process 1 .*: unlabeled b, unlabeled c"):
        check_agreement([own, {"labeled a": "1", "unlabeled c": "2"}])
