"""Containers: how losses and figures add up."""

from __future__ import annotations

import pytest
import torch

from dre_ssod.structures import Mean, StudentLosses, TrainingBatch, UnlabeledSample, View
from tests.factories import beta_4


def test_a_view_knows_its_size() -> None:
    view = View(torch.zeros(3, 4, 7, dtype=torch.uint8), torch.eye(3, dtype=torch.float64))
    assert view.size == (4, 7)


def test_a_batch_may_be_labeled_only() -> None:
    assert TrainingBatch(labeled=[{}]).unlabeled == []


def test_images_are_pinned_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a GPU there is no such memory.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    image, matrix = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.eye(3)
    pair = UnlabeledSample("u.jpg", *(View(image, matrix) for _ in range(3)))
    batch = TrainingBatch([{"image": image, "file_name": "l.jpg"}], [pair])
    pinned = batch.pin_memory()
    sample = pinned.unlabeled[0]
    images = [pinned.labeled[0]["image"], sample.weak.image, sample.for_second().strong.image]
    assert all(bool((moved == 1).all()) for moved in [*images, pinned.unlabeled[0].strong.image])
    assert pinned.labeled[0]["file_name"] == "l.jpg"
    assert torch.equal(pinned.unlabeled[0].strong.matrix, matrix)
    assert not image.any()


def test_total_is_equation_3() -> None:
    terms = {
        name: torch.tensor(value, requires_grad=True)
        for name, value in {"a": 1.0, "b": 2.0, "c_unsup": 5.0}.items()
    }
    losses = StudentLosses(
        supervised={"a": terms["a"], "b": terms["b"]}, unsupervised={"c_unsup": terms["c_unsup"]}
    )
    total = losses.total(beta_4)
    assert total.shape == ()
    assert total.item() == 1.0 + 2.0 + 4.0 * 5.0
    total.backward()
    assert [term.grad.item() for term in terms.values() if term.grad is not None] == [1.0, 1.0, 4.0]


def test_total_of_labeled_images_alone_ignores_beta() -> None:
    losses = StudentLosses(supervised={"a": torch.tensor(1.5)})
    assert losses.total(beta_4).item() == 1.5


def test_merge_joins_every_kind_of_term() -> None:
    one, two, mean = torch.tensor(1.0), torch.tensor(2.0), Mean.of(torch.ones(2))
    losses = StudentLosses(supervised={"a": one})
    losses.merge(StudentLosses({"b": two}, {"c": two}, {"d": mean}))
    assert losses == StudentLosses({"a": one, "b": two}, {"c": two}, {"d": mean})


@pytest.mark.parametrize("kind", ["supervised", "unsupervised"])
def test_merge_refuses_a_name_used_twice(kind: str) -> None:
    term = {"loss_cls": torch.tensor(1.0)}
    losses = StudentLosses(**{kind: term})
    with pytest.raises(ValueError, match="loss_cls"):
        losses.merge(StudentLosses(**{kind: dict(term)}))


def test_mean_keeps_its_parts_and_no_graph() -> None:
    values = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    mean = Mean.of(values)
    assert (mean.total.item(), mean.count.item()) == (9.0, 3.0)
    assert not mean.total.requires_grad


def test_mean_of_booleans_is_a_share_and_of_nothing_has_no_count() -> None:
    share = Mean.of(torch.tensor([True, False, False, True]))
    assert (share.total.item(), share.count.item()) == (2.0, 4.0)
    chosen = Mean.of(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, True]))
    assert (chosen.total.item(), chosen.count.item()) == (7.0, 2.0)
    nothing = Mean.of(torch.zeros(0))
    assert (nothing.total.item(), nothing.count.item()) == (0.0, 0.0)
