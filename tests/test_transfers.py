"""Copies between host and device: the values, and when they are waited for."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dre_ssod.transfers import HostCopy, to_device

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


@pytest.mark.parametrize("values", [VALUES, VALUES > 2, VALUES.T, torch.zeros(0, 4)])
def test_a_copy_on_the_host_has_the_values(values: Tensor) -> None:
    copy = HostCopy(values).read()
    assert copy.device == CPU
    assert copy.dtype == values.dtype
    assert torch.equal(copy, values)
    assert copy.data_ptr() != values.data_ptr() or not values.numel()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_goes_on_with_what_comes_after_a_copy() -> None:
    device = torch.device("cuda")
    large = torch.ones(8192, 8192, device=device)
    large @ large
    copy = HostCopy(VALUES.to(device) * 2)
    for _ in range(50):
        large = large @ large / 8192
    end = torch.cuda.current_stream().record_event()
    assert torch.equal(copy.read(), VALUES * 2)
    # The copy has arrived, and the GPU is still busy with what was given to it afterwards.
    assert not end.query()
    torch.cuda.synchronize()
