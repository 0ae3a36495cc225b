"""CUDA graphs: a computation recorded once and replayed in one launch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def capture(compute: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of compute(), which reads and writes the same tensors each time; returns replay.

    It is run three times first, so that kernels are chosen and lazy state exists. Raises
    RuntimeError for what a graph cannot hold. Source: "CUDA semantics", PyTorch's documentation.
    """
    stream = torch.cuda.Stream()
    before = torch.cuda.current_stream()
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        for _ in range(3):
            compute()
    before.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            compute()
    finally:
        torch.cuda.set_stream(before)  # a capture that fails may leave its own
    return graph.replay


def reason(error: BaseException) -> str:
    """Why a capture failed, in a line: PyTorch raises another error while it clears up."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Graphed:
    """A function of tensors of fixed shapes as a CUDA graph, captured when it is first called."""

    def __init__(self, compute: Callable[..., Tensor | None]) -> None:
        self.compute = compute
        self.inputs: list[Tensor] = []
        self.output: Tensor | None = None
        self.replay: Callable[[], None] | None = None

    def record(self, *values: Tensor) -> None:
        """Capture the graph for values of these shapes. RuntimeError where that cannot be."""
        self.inputs = [value.clone() for value in values]
        self.replay = capture(self._run)

    def _run(self) -> None:
        self.output = self.compute(*self.inputs)

    def __call__(self, *values: Tensor) -> Any:
        """What compute(*values) returns, made by the graph."""
        if self.replay is None:
            self.record(*values)
        assert self.replay is not None
        for static, value in zip(self.inputs, values, strict=True):
            static.copy_(value)
        self.replay()
        return None if self.output is None else self.output.clone()  # the next replay overwrites it
