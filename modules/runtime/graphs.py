"""CUDA graphs: a computation recorded once and replayed in one launch."""

import gc
import os
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from modules.runtime import distributed
from modules.runtime.errors import UserError

WARM_UP = 3  # runs before a capture
TOO_LARGE = (
    "a training step does not fit into the GPU's memory: CVAE_RECOMPUTE=1 in the environment, a "
    "smaller --batch_size or --train_vi_len, a smaller model or smaller frames need less"
)


def graphs_wanted(device: torch.device) -> bool:
    """Whether steps are to be CUDA graphs: on CUDA, unless CVAE_NO_GRAPH is set, for debugging."""
    return device.type == "cuda" and not os.environ.get("CVAE_NO_GRAPH")


class GraphMemory:
    """The memory that several graphs share, and the stream that all are captured on.

    It holds the largest of them, not their sum: one runs at a time, and no tensor that it makes is
    read after another ran (a Graphed's output is a copy).
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.MemPool()
        self.stream = torch.cuda.Stream()


def capture(compute: Callable[[], None], memory: GraphMemory) -> Callable[[], None]:
    """A CUDA graph of compute(), which reads and writes the same tensors each time; returns replay.

    It is run three times first, so that kernels are chosen and lazy state exists; whatever outlives
    a run must exist after the first capture in this memory. Raises RuntimeError for what a graph
    cannot hold. Source: "CUDA semantics", PyTorch's documentation.
    """
    before = torch.cuda.current_stream()
    memory.stream.wait_stream(before)
    graph = torch.cuda.CUDAGraph()
    # Python's collector of cycles may find an earlier graph, and PyTorch up to 2.11 ends the
    # process where a graph's memory is given back while another one is captured.
    collecting = gc.isenabled()
    gc.disable()
    try:
        # The runs before take the memory that the graph will have: otherwise they would need as
        # much again. For that the backward pass must run in this thread, in the capture too, since
        # what cuDNN chose is known to the thread in which it chose.
        with torch.autograd.set_multithreading_enabled(False):
            with torch.cuda.stream(memory.stream), torch.cuda.use_mem_pool(memory.pool):
                for _ in range(WARM_UP):
                    compute()
            before.wait_stream(memory.stream)
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
        if collecting:
            gc.enable()

    def replay(_keep: GraphMemory = memory) -> None:
        graph.replay()

    return replay


def first_cause(error: BaseException) -> BaseException:
    """The error that was raised first: PyTorch raises another one while it cleans up a capture."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def out_of_memory(error: BaseException) -> bool:
    """Whether the GPU's memory ran out."""
    return isinstance(first_cause(error), torch.OutOfMemoryError)


def reason(error: BaseException) -> str:
    """Why a capture failed, in a line, without PyTorch's advice on its own settings."""
    first = first_cause(error)
    line = (str(first).strip() or type(first).__name__).splitlines()[0]
    return ". ".join(line.split(". ")[:2]) if out_of_memory(error) else line


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
        self.replay = capture(self._run, self.memory or GraphMemory())

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

    All batches are of one size. Where a capture fails it says why, and from then on all steps are
    run without graphs.
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
        try:
            if self.why_eager is None:
                self.graphs[teacher_forcing](*part.tensors())
            else:
                self.step(part, teacher_forcing=teacher_forcing)
        except RuntimeError as error:
            if out_of_memory(error):
                raise UserError(TOO_LARGE) from error
            raise

    def _capture(self, part: Any, teacher_forcing: bool) -> None:
        """The graph of this mode, or why there is none."""

        def on(*tensors: Tensor) -> None:
            self.step(part.replaced(tensors), teacher_forcing=teacher_forcing)

        self.memory = self.memory or GraphMemory()
        self.graphs[teacher_forcing] = Graphed(on, self.memory)
        try:
            with self.step.disabled():
                self.graphs[teacher_forcing].record(*part.tensors())
        except RuntimeError as error:
            if out_of_memory(error) and distributed.world_size() > 1:  # others wait for this one
                raise UserError(TOO_LARGE) from error
            self.why_eager = reason(error)
        # All ranks replay a graph, or none does: they sum their gradients together.
        if distributed.maximum(int(self.why_eager is not None))[0]:
            self.why_eager = self.why_eager or "another process could not capture its step"
            self.graphs.clear()
            self.memory = None
            self.step.update.optimizer.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()
            print(f"note: training without CUDA graphs ({self.why_eager})", flush=True)
