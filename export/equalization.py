"""Channels of a float32 graph made alike, and ranges cut, so that INT8's activations keep still under camera noise.

A tensor's 256 steps are as wide as its widest channel asks for. Behind folded kernels the widest is many times the
narrowest, so that many channels change by whole steps or not at all, and a still face's landmarks jitter. ReLU lets a
positive factor through: each channel is multiplied by one, and the next layer's weights are divided by it. In float32
the graph stays the same. Factors that make all channels equally wide are too much of a good thing: the error goes over
to the weights. So how far to go, and how much of the range to cut off, is tried for each tensor: best is what spoils
least of the next layer's answer, and of its difference between two frames of a still face, each channel by its own
difference.

(Equalisation across layers is Nagel et al., arXiv 1906.04721; there both layers' weights are to have equal ranges.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.manifest import INPUT

if TYPE_CHECKING:
    import torch

CROP_NOISE = 1.0  # grey levels: about what a camera's 2 are once the crop has averaged them
_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a channel's largest value, in its factor
_KEPT = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of the largest value, in the range
_WIDEST = 1e3  # of a channel's factor against another's: dead channels have no width
_TINY = 1e-30  # where there is nothing to divide by
_MOVES = ("Transpose", "Reshape", "Gather", "Concat")  # nodes that only move values


@dataclass(frozen=True, kw_only=True)
class Equalized:
    """A float32 graph that computes what the given one does.

    `ranges` are for its layers' inputs, by the tensor's name: the largest value to quantize with, from zero.
    """

    data: bytes
    ranges: dict[str, float]


def equalized(data: bytes, faces: NDArray[np.uint8]) -> Equalized:
    """The graph with its channels made alike wherever convolutions' ReLUs feed one other layer alone.

    Args:
        data: a float32 ONNX graph.
        faces: crops (B, S, S, 3) to look at, each as two frames under noise.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    model = onnx.load_model_from_string(data)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    values = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    links = list(_links(model.graph, values))
    frames = np.concatenate(list(noisy_frames(faces, 2).swapaxes(0, 1)))  # the first frames, then the second ones
    ranges = {}
    for link, seen in zip(links, _outputs(data, [link.tensor for link in links], frames), strict=True):
        name = link.after.input[1]
        factors, ranges[link.tensor] = _best(link, torch.from_numpy(seen), torch.from_numpy(values[name].copy()))
        values[name] = values[name] / _along(factors, values[name].ndim - 1)
        start = 0
        for name in (name for layer in link.before for name in layer.input[1:]):
            own = factors[start : start + len(values[name])]
            values[name] = values[name] * _along(own, values[name].ndim)
            start += len(own) if values[name].ndim == 1 else 0  # the bias comes last
    for name in {name for link in links for layer in (*link.before, link.after) for name in layer.input[1:]}:
        tensors[name].CopyFrom(numpy_helper.from_array(values[name].astype(np.float32), name))
    return Equalized(data=model.SerializeToString(), ranges=ranges)


def noisy_frames(faces: NDArray[np.uint8], count: int, deviation: float = CROP_NOISE) -> NDArray[np.uint8]:
    """Each of `faces` (B, S, S, 3) in front of a noisy camera: (B, count, S, S, 3), always the same."""
    still = np.broadcast_to(faces[:, None], (len(faces), count, *faces.shape[1:]))
    return noisy(still, deviation, np.random.default_rng(0))


def noisy(images: NDArray[np.uint8], deviation: float, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Images as a camera with Gaussian noise of this deviation, in grey levels, takes them."""
    values = images + np.float32(deviation) * generator.standard_normal(images.shape, dtype=np.float32)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class _Link:
    """Convolutions, in the order of their channels in `tensor`: what the layer `after` them is given, behind ReLUs."""

    tensor: str
    before: list[Any]
    after: Any
    rectified: bool  # a ReLU is behind `after`, too


def _links(graph: Any, constants: dict[str, NDArray[np.float32]]) -> Iterator[_Link]:
    makers = {output: node for node in graph.node for output in node.output}
    users: dict[str, list[str]] = {output.name: [""] for output in graph.output}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node.op_type)

    def layers(name: str) -> list[Any]:
        """The convolutions whose channels `name` holds; None among them where it is not theirs alone."""
        node = makers.get(name)
        if node is None or len(users[name]) > 1:
            return [None]
        if node.op_type in _MOVES:
            return [layer for source in node.input if source not in constants for layer in layers(source)]
        before = makers.get(node.input[0]) if node.op_type == "Relu" and len(users[node.input[0]]) == 1 else None
        return [before if before is not None and before.op_type == "Conv" and len(before.input) == 3 else None]

    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in constants or len(node.input) < 3:
            continue
        before, weight = layers(node.input[0]), constants[node.input[1]]
        # A layer in groups, or one that takes positions for channels, has another number of inputs.
        if None not in before and sum(len(constants[layer.input[2]]) for layer in before) == weight.shape[1]:
            rectified = users[node.output[0]] == ["Relu"]
            yield _Link(tensor=node.input[0], before=before, after=node, rectified=rectified)


def _outputs(data: bytes, names: list[str], crops: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    import onnx

    from runtime.engines.onnx import create_session

    if not names:
        return []
    model = onnx.load_model_from_string(data)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session: Any = create_session(model.SerializeToString(), name="float32 graph", providers=["CPUExecutionProvider"])
    return list(session.run(names, {INPUT: crops}))


def _along(factors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """Factors for the first of so many dimensions."""
    return factors.reshape(-1, *[1] * (dimensions - 1))


def _best(link: _Link, seen: torch.Tensor, weight: torch.Tensor) -> tuple[NDArray[np.float32], float]:
    """Factors (C,) of the channels of `seen`, (2 B, C, H, W) or (2 B T, C), largest 1, and the range after them."""
    from onnx import helper
    from torch.nn import functional

    attributes = {a.name: helper.get_attribute_value(a) for a in link.after.attribute}
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    stride = tuple(attributes.get("strides", (1, 1)))
    seen, weight = (values.reshape(*values.shape, *[1] * (4 - values.ndim)) for values in (seen, weight))

    def answers(values: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        sums = functional.conv2d(functional.pad(values, (left, right, top, bottom)), kernel, stride=stride)
        return sums.relu() if link.rectified else sums

    def squares(values: torch.Tensor) -> torch.Tensor:
        return values.square().mean(dim=(0, 2, 3))

    def between(values: torch.Tensor) -> torch.Tensor:
        first, second = values.chunk(2)
        return second - first

    true = answers(seen, weight)
    own = squares(between(true)).clamp(min=_TINY)
    width = seen.amax(dim=(0, 2, 3))
    width = width.clamp(min=max(float(width.max()) / _WIDEST, _TINY))
    best: tuple[float, NDArray[np.float32], float] | None = None
    for power in _POWERS:
        factors = width**-power
        factors /= factors.max()
        scaled, kernel = seen * factors[:, None, None], weight / factors[:, None, None]
        step = kernel.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=_TINY) / 127
        rounded = (kernel / step).round() * step
        for kept in _KEPT:
            largest = kept * float(scaled.max())
            unit = max(largest, _TINY) / 255
            off = answers((scaled / unit).round().clamp(max=255) * unit, rounded) - true
            spoilt = float(((squares(off) + squares(between(off))) / own).mean())
            if best is None or spoilt < best[0]:
                best = spoilt, factors.numpy(), largest
    assert best is not None
    return best[1], best[2]
