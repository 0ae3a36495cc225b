"""What is around a CUDA graph, where there is no CUDA: inputs, outputs, what a failure leaves."""

from collections.abc import Callable

import pytest
import torch

from modules.losses import EpochAverages
from modules.runtime import graphs
from modules.runtime.errors import UserError
from modules.runtime.graphs import Graphed, GraphedStep, reason
from tests.support.small_run import new_run, part_of, run_epochs

FULL = "CUDA out of memory. Tried to allocate 1 GiB. More"


def fail(error: Exception) -> None:
    """As torch.cuda.graph does: it raises another error while it clears up."""
    try:
        raise error
    finally:
        raise RuntimeError("capture failed due to a previous error")


@pytest.fixture(autouse=True)
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """In place of capture(): three runs to warm up and one to record. Returns what each capture is
    to end with, from the last on; with nothing left all succeed."""
    errors: list[Exception | None] = []

    def capture(compute: Callable[[], None], memory: object = None) -> Callable[[], None]:
        for _ in range(4):
            compute()
        if errors and (error := errors.pop()):
            fail(error)
        return compute

    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(graphs, "GraphMemory", object)
    return errors


def test_captured_once_and_replayed_on_other_values() -> None:
    places: list[int] = []
    memory = torch.empty(2)  # a replay writes where the one before did

    def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        places.append(a.data_ptr())
        return torch.add(a, b, alpha=2, out=memory)

    graphed = Graphed(add)
    results = [graphed(torch.full((2,), float(i)), torch.ones(2)) for i in range(5)]
    assert [r.tolist() for r in results] == [[i + 2.0] * 2 for i in range(5)]  # none overwritten
    assert len(places) == 4 + 5
    assert len(set(places)) == 1  # a graph reads its inputs from where they were captured
    with pytest.raises(RuntimeError):
        graphed(torch.ones(3), torch.ones(3))  # of another shape
    total = torch.zeros(2)

    def nothing_returned(x: torch.Tensor) -> None:
        total.add_(x)

    nothing = Graphed(nothing_returned)
    nothing.record(torch.zeros(2))
    total.zero_()
    assert [nothing(torch.ones(2)) for _ in range(2)] == [None, None]
    assert total.tolist() == [2.0, 2.0]


def test_what_cannot_be_captured_is_computed_with_one_note(
    captures: list[Exception | None], capsys: pytest.CaptureFixture[str]
) -> None:
    captures.append(RuntimeError("operation not permitted when stream is capturing\nmore lines"))
    graphed = Graphed(lambda x: 2 * x)
    assert [graphed(torch.full((1,), float(i))).item() for i in range(3)] == [0, 2, 4]
    note = "note: generating without CUDA graphs (operation not permitted when stream is capturing)"
    assert capsys.readouterr().out == note + "\n"
    assert reason(RuntimeError()) == "RuntimeError"


EVERYTHING = "--frame_noise 0.1 --ema 0.9 --augment shift"


def assert_same(one: list[EpochAverages], other: list[EpochAverages]) -> None:
    """To rounding, as the gradients of a batch that is filled up are summed in another order."""
    for a, b in zip(one, other, strict=True):
        assert list(b) == pytest.approx(list(a), rel=1e-4, abs=1e-7)


def test_captured_steps_equal_eager_ones() -> None:
    """Static inputs, warming up that changes nothing, a last batch filled up to the others."""
    (one, eager), (other, step) = new_run(EVERYTHING), new_run(EVERYTHING)
    graphed = GraphedStep(step, 2)
    assert_same(run_epochs(one, eager), run_epochs(other, graphed))
    assert sorted(graphed.graphs) == [False, True]  # one for each mode, whatever the last batch
    assert graphed.why_eager is None
    for models in ((one.model, other.model), (one.average.model, other.average.model)):
        torch.testing.assert_close(*(m.state_dict() for m in models), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("operation not permitted when capturing\nmore"), "operation not permitted"),
        (torch.OutOfMemoryError(FULL), "CUDA out of memory. Tried to allocate 1 GiB)"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_steps_that_cannot_be_captured_are_run_with_one_note(
    error: Exception, words: str, later: bool, captures: list, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the first mode or the second: then the graph of the first is given up."""
    captures += [error, None][: 1 + later]
    (one, eager), (other, step) = new_run(), new_run()
    graphed = GraphedStep(step, 2)
    assert_same(run_epochs(one, eager), run_epochs(other, graphed))
    assert capsys.readouterr().out.count(f"note: training without CUDA graphs ({words}") == 1
    assert captures == [] and graphed.graphs == {}


@pytest.mark.parametrize("others_failed", [0, 1])
def test_all_ranks_replay_graphs_or_none_does(
    others_failed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def maximum(own: int) -> list[int]:
        asked.append(own)
        return [max(own, others_failed)]

    state, step = new_run()
    graphed = GraphedStep(step)
    monkeypatch.setattr(graphs.distributed, "maximum", maximum)
    for number in range(3):
        graphed(part_of(step, [0, 5], number=number), teacher_forcing=True)
    assert asked == [0]  # when a graph is captured, and not at every step
    assert len(graphed.graphs) == 1 - others_failed
    note = "note: training without CUDA graphs (another process could not capture its step)"
    assert (note in capsys.readouterr().out) == bool(others_failed)
    assert state.sums.read().trained == 6  # either way


def test_a_step_that_does_not_fit_is_a_user_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _, step = new_run()
    part = part_of(step, [0, 5])
    # A rank must not go on by itself: the others wait for it in their warm-up.
    monkeypatch.setattr(graphs, "capture", lambda *_: fail(torch.OutOfMemoryError(FULL)))
    monkeypatch.setattr(graphs.distributed, "world_size", lambda: 2)
    with pytest.raises(UserError, match="does not fit into the GPU's memory: CVAE_RECOMPUTE=1"):
        GraphedStep(step)(part, teacher_forcing=True)
    monkeypatch.undo()

    graphed = GraphedStep(lambda *_, **__: fail(torch.OutOfMemoryError(FULL)))
    graphed.why_eager = "as here"
    with pytest.raises(UserError, match="does not fit into the GPU's memory: CVAE_RECOMPUTE=1"):
        graphed(part, teacher_forcing=True)
    graphed.step = lambda *_, **__: fail(ValueError("another fault"))  # the control
    with pytest.raises(RuntimeError, match="previous error"):
        graphed(part, teacher_forcing=True)
