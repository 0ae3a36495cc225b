"""CUDA graphs: a computation recorded once and replayed in one launch."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from modules.runtime import distributed
from modules.runtime.device import free_memory
from modules.runtime.errors import UserError

WARM_UP = 3  # runs before a capture
TOO_LARGE = (
    "a training step does not fit into the GPU's memory: --recompute, a smaller --batch_size or "
    "--train_vi_len, a smaller model or smaller frames need less"
)


def graphs_wanted(device: torch.device) -> bool:
    """Whether steps are to be CUDA graphs: on CUDA, unless CVAE_NO_GRAPH is set, for debugging."""
    return device.type == "cuda" and not os.environ.get("CVAE_NO_GRAPH")


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
    """A function of tensors of fixed shapes as a CUDA graph, captured when it is first called.

    Where that cannot be it says so once and calls the function itself.
    """

    def __init__(
        self, compute: Callable[..., Tensor | None], memory: GraphMemory | None = None
    ) -> None:
        """memory: shared with other graphs; None: it has its own."""
        self.compute, self.memory = compute, memory
        self.inputs: list[Tensor] = []
        self.output: Tensor | None = None
        self.replay: Callable[[], None] | None = None
        self.eager = False

    def record(self, *values: Tensor) -> None:
        """Capture the graph for values of these shapes. RuntimeError where that cannot be."""
        self.inputs = [value.clone() for value in values]
        self.replay = capture(self._run, self.memory)

    def _run(self) -> None:
        self.output = self.compute(*self.inputs)

    def __call__(self, *values: Tensor) -> Any:
        """What compute(*values) returns."""
        if self.replay is None and not self.eager:
            try:
                self.record(*values)
            except RuntimeError as error:
                print(f"note: generating without CUDA graphs ({reason(error)})", flush=True)
                self.eager = True
        if self.replay is None:
            return self.compute(*values)
        for static, value in zip(self.inputs, values, strict=True):
            static.copy_(value)
        self.replay()
        return None if self.output is None else self.output.clone()  # the next replay overwrites it


class GraphedStep:
    """A training step as CUDA graphs: one with teacher forcing and one without.

    All batches are of one size. Where a capture fails it says why, and from then on the steps
    run as they are.
    """

    def __init__(self, step: Any, clips: int = 0) -> None:
        """step:  a TrainingStep, whose part.tensors() are all that one step differs by
        clips: that each batch is filled up to; 0: they are of one size as they are
        """
        self.step, self.clips = step, clips
        self.graphs: dict[bool, Graphed] = {}  # by teacher forcing
        self.memory: GraphMemory | None = None
        self.why_eager: str | None = None  # why steps are not graphs; None where they are

    def __call__(self, part: Any, *, teacher_forcing: bool) -> None:
        """The step; UserError if it does not fit into the GPU's memory."""
        if self.why_eager is None and teacher_forcing not in self.graphs:
            self._capture(part, teacher_forcing)
        if self.why_eager is None:
            self.graphs[teacher_forcing](*part.tensors())
            return
        try:
            self.step(part, teacher_forcing=teacher_forcing)
        except RuntimeError as error:
            if not isinstance(first_cause(error), torch.OutOfMemoryError):
                raise
            raise UserError(TOO_LARGE) from error

    def _capture(self, part: Any, teacher_forcing: bool) -> None:
        """The graph of this mode. Where memory runs out, that of the other mode is given up."""

        def on(*tensors: Tensor) -> None:
            self.step(part.replaced(tensors), teacher_forcing=teacher_forcing)

        for again in (False, True):
            self.memory = self.memory or GraphMemory()
            graph = Graphed(on, self.memory)
            try:
                with self.step.disabled():
                    graph.record(*part.tensors())
            except RuntimeError as error:
                too_large = isinstance(first_cause(error), torch.OutOfMemoryError)
                if too_large and distributed.world_size() > 1:  # other ranks wait for this one
                    raise UserError(TOO_LARGE) from error
                self._free()
                if again or not too_large:
                    self.why_eager = reason(error)
                    break
            else:
                self.graphs[teacher_forcing] = graph
                break
        # All ranks replay a graph, or none does: their sums meet.
        if distributed.maximum(int(self.why_eager is not None))[0]:
            self.why_eager = self.why_eager or "another process could not capture its step"
            self._free()
            print(f"note: training without CUDA graphs ({self.why_eager})", flush=True)

    def _free(self) -> None:
        """Give the memory of all graphs back."""
        self.graphs.clear()
        self.memory = None
        self.step.update.optimizer.zero_grad(set_to_none=True)
        free_memory()
