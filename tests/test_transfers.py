"""Copies between host and device: the values, and when they are waited for."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dre_ssod.benchmark.pretended_gpu import pretended_gpu
from dre_ssod.transfers import HostCopy, chosen, to_device
from tests.factories import gpu_only

CPU = torch.device("cpu")
VALUES = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def test_instances_keep_their_fields_and_size() -> None:
    instances = Instances((4, 5), gt_boxes=Boxes(torch.eye(4)), gt_classes=torch.arange(4))
    moved = to_device(instances, torch.device("meta"))
    assert moved.image_size == (4, 5)
    assert moved.gt_boxes.tensor.shape == (4, 4)
    assert {moved.gt_boxes.tensor.device.type, moved.gt_classes.device.type} == {"meta"}
    assert instances.gt_classes.device == CPU
    moved = to_device(instances, CPU)
    assert torch.equal(moved.gt_boxes.tensor, torch.eye(4))
    assert torch.equal(moved.gt_classes, torch.arange(4))


@pytest.mark.parametrize("mask", [[True, False, True], [False] * 3])
def test_chosen_instances_are_those_of_the_mask_for_one_wait(mask: list[bool]) -> None:
    with pretended_gpu() as found:
        classes = torch.arange(3, device="cuda")
        boxes = Boxes(torch.arange(12.0, device="cuda").reshape(3, 4))
        instances = Instances((4, 5), gt_boxes=boxes, gt_classes=classes)
        of_mask = torch.tensor(mask, device="cuda")
        found.clear()
        kept = chosen(instances, of_mask)
        assert found.places.total() == 1
        expected = instances[of_mask]
        assert kept.image_size == (4, 5)
        assert torch.equal(kept.gt_boxes.tensor, expected.gt_boxes.tensor)
        assert torch.equal(kept.gt_classes, expected.gt_classes)


@pytest.mark.parametrize("values", [VALUES, VALUES > 2, VALUES.T, torch.zeros(0, 4)])
def test_a_copy_on_the_host_has_the_values(values: Tensor) -> None:
    copy = HostCopy(values).read()
    assert copy.device == CPU
    assert copy.dtype == values.dtype
    assert torch.equal(copy, values)
    assert copy.data_ptr() != values.data_ptr() or not values.numel()


@gpu_only
def test_a_copy_is_awaited_and_what_is_queued_behind_it_is_not() -> None:
    values = VALUES.to("cuda")
    large = torch.ones(8192, 8192, device="cuda")
    # The first pinned memory of a process is asked of the driver, which waits for the GPU.
    HostCopy(values * 2).read()
    _work(large)
    copy = HostCopy(values * 2)
    assert copy._arrived is not None
    assert not copy._arrived.query()
    _work(large)
    end = torch.cuda.current_stream().record_event()
    assert torch.equal(copy.read(), VALUES * 2)
    assert not end.query()
    torch.cuda.synchronize()


def _work(large: Tensor) -> None:
    """Queue what takes a GPU far longer than the host needs to go on."""
    for _ in range(50):
        large = large @ large / 8192
