"""CUDA graphs: a computation recorded once and replayed in one launch."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from modules.runtime import distributed

WARM_UP = 3  # runs before a capture


class GraphMemory:
    """The memory that several graphs share, and the stream that all are captured on.

    They may share it since one runs at a time and no tensor that it makes is read after another ran
    (a Graphed's output is a copy). So memory holds the largest of them, not their sum.
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.MemPool()
        self.stream = torch.cuda.Stream()


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Python's collector of cycles does not run while inside.

    It may find an earlier graph or its memory. PyTorch ends the process, with an internal error of
    its allocator, where memory of a graph is given back while another graph is captured.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def capture(compute: Callable[[], None], memory: GraphMemory | None = None) -> Callable[[], None]:
    """A CUDA graph of compute(), which reads and writes the same tensors each time; returns replay.

    It is run three times first, so that kernels are chosen and lazy state exists; whatever outlives
    a run must exist after the first capture in this memory, since later ones may write where it
    was free before. Raises RuntimeError for what a graph cannot hold. Source: "CUDA semantics",
    PyTorch's documentation.
    memory: shared with other graphs; None: this graph has its own
    """
    memory = memory or GraphMemory()
    before = torch.cuda.current_stream()
    memory.stream.wait_stream(before)
    graph = torch.cuda.CUDAGraph()
    # The runs before take the memory that the graph will have: otherwise they would need as much
    # again. For that the backward pass must run in this thread, in the capture too, since what
    # cuDNN chose is known to the thread in which it chose.
    with nothing_collected(), torch.autograd.set_multithreading_enabled(False):
        with torch.cuda.stream(memory.stream), torch.cuda.use_mem_pool(memory.pool):
            for _ in range(WARM_UP):
                compute()
        before.wait_stream(memory.stream)
        try:
            # With several processes a thread of NCCL's looks at earlier work meanwhile.
            with torch.cuda.graph(
                graph,
                pool=cast(Any, memory.pool.id),
                stream=memory.stream,
                capture_error_mode="thread_local" if distributed.world_size() > 1 else "global",
            ):
                compute()
        finally:
            torch.cuda.set_stream(before)  # a capture that fails may leave its own

    def replay(_keep: GraphMemory = memory) -> None:
        graph.replay()

    return replay


def reason(error: BaseException) -> str:
    """Why a capture failed, in a line: PyTorch raises another error while it clears up."""
    error = first_cause(error)
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, torch.OutOfMemoryError):  # advice on PyTorch's own settings follows
        line = ". ".join(line.split(". ")[:2])
    return line


def first_cause(error: BaseException) -> BaseException:
    """The error that was raised first."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class Graphed:
    """A function of tensors of fixed shapes as a CUDA graph, captured when it is first called."""

    def __init__(
        self, compute: Callable[..., Tensor | None], memory: GraphMemory | None = None
    ) -> None:
        """memory: shared with other graphs; None: it has its own."""
        self.compute, self.memory = compute, memory
        self.inputs: list[Tensor] = []
        self.output: Tensor | None = None
        self.replay: Callable[[], None] | None = None

    def record(self, *values: Tensor) -> None:
        """Capture the graph for values of these shapes. RuntimeError where that cannot be."""
        self.inputs = [value.clone() for value in values]
        self.replay = capture(self._run, self.memory)

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
