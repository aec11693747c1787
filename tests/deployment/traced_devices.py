"""Where each tensor of a traced model would lie, had it been loaded on a GPU: read off its graph.

``torch.jit.load`` moves weights and constants, whatever their shape, and calls with a device of
their own stay what they were. A pretended GPU cannot see into TorchScript, so the graph is followed
instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

GPU, CPU = "GPU", "CPU"


def mixed_devices(graph: Any) -> list[str]:
    """The operators that would refuse tensors of both sides, and where they stand in the source.

    A tensor of no dimensions on the CPU may meet any other, as on a GPU.

    Args:
        graph: of a ``torch.jit.trace``, inlined, before it is saved: it still knows dimensions.
    """
    places: dict[str, str | None] = {i.debugName(): GPU for i in graph.inputs()}
    return list(_follow(graph, places))


def _follow(block: Any, places: dict[str, str | None]) -> Iterator[str]:
    for node in block.nodes():
        inputs, outputs = list(node.inputs()), list(node.outputs())
        inner = list(node.blocks())
        for part in inner:
            # Of a loop: its counter first, then what is carried around; a branch has no inputs.
            carried = zip(list(part.inputs())[1:], inputs[2:], strict=False)
            places.update({name.debugName(): places.get(v.debugName()) for name, v in carried})
            yield from _follow(part, places)
            results = list(part.outputs())[-len(outputs) :] if outputs else []
            for output, result in zip(outputs, results, strict=True):
                found = places.get(result.debugName())
                places[output.debugName()] = places.get(output.debugName()) or found
        if inner:
            continue
        tensors = [v for v in inputs if _is_tensor(v) and places.get(v.debugName())]
        sides = {places[v.debugName()] for v in tensors}
        large = {places[v.debugName()] for v in tensors if _dimensions(v) != 0}
        if node.kind() in _TAKE_BOTH:
            side = places.get(inputs[0].debugName())
        elif node.kind() == "prim::Constant" or node.kind() == "prim::GetAttr":
            side = GPU
        elif node.kind() == "prim::NumToTensor":
            side = CPU
        else:
            side = _asked_for(node, inputs, places)
            if side is None:
                if CPU in large and GPU in sides:
                    yield f"{node.kind()} at {_source(node)}"
                side = GPU if GPU in sides else CPU if CPU in sides else None
        places.update({output.debugName(): side for output in outputs})


_TAKE_BOTH = {"aten::index", "aten::index_put", "aten::index_put_"}
"""Operators whose result lies with their first tensor: indices may lie on the CPU."""
_BUNDLES = {"prim::ListConstruct", "prim::TupleConstruct"}


def _asked_for(node: Any, inputs: list[Any], places: dict[str, str | None]) -> str | None:
    """The side that a device among the inputs, or the tensor to be like, names."""
    if node.kind() in _BUNDLES:
        sides = [places.get(v.debugName()) for v in inputs]
        return GPU if GPU in sides else CPU if CPU in sides else None
    if node.kind() in ("aten::type_as",) or (
        node.kind() == "aten::to" and len(inputs) > 1 and _is_tensor(inputs[1])
    ):
        return places.get(inputs[1].debugName())
    for value in inputs:
        if str(value.type()) in ("Device", "Device?"):
            source = value.node()
            if source.kind() == "prim::device":
                return places.get(next(source.inputs()).debugName())
            if value.toIValue() is not None:
                return CPU
    made = node.kind().removeprefix("aten::") in (
        "arange",
        "zeros",
        "ones",
        "full",
        "empty",
        "tensor",
    )
    return CPU if made else None


def _is_tensor(value: Any) -> bool:
    return value.type().kind() in ("TensorType", "ListType", "TupleType")


def _dimensions(value: Any) -> int | None:
    return value.type().dim() if value.type().kind() == "TensorType" else None


def _source(node: Any) -> str:
    lines = [line.strip() for line in node.sourceRange().splitlines()]
    return next((line for line in lines if "/torch/" not in line), "")
