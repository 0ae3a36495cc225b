"""What is around a CUDA graph: static inputs, outputs of their own, and why a capture failed."""

from collections.abc import Callable

import pytest
import torch

from modules.runtime import graphs
from modules.runtime.graphs import Graphed, reason


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As capture() does, where there is no CUDA: three runs to warm up, one to record."""
    captures: list[int] = []

    def capture(compute: Callable[[], None], memory: object = None) -> Callable[[], None]:
        captures.append(1)
        for _ in range(4):
            compute()
        return compute

    monkeypatch.setattr(graphs, "capture", capture)
    return captures


def test_captured_once_and_replayed_on_other_values(recorded: list[int]) -> None:
    places: set[int] = set()

    def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        places.add(a.data_ptr())
        return a + 2 * b

    graphed = Graphed(add)
    results = [graphed(torch.full((2,), float(i)), torch.ones(2)) for i in range(5)]
    assert [r.tolist() for r in results] == [[i + 2.0] * 2 for i in range(5)]  # none overwritten
    assert len(recorded) == 1
    assert len(places) == 1  # a graph reads its inputs from where they were captured


def test_a_function_that_returns_nothing() -> None:
    total = torch.zeros(2)

    def add(x: torch.Tensor) -> None:
        total.add_(x)

    graphed = Graphed(add)
    graphed.record(torch.zeros(2))
    assert graphed(torch.ones(2)) is None
    graphed(torch.ones(2))
    assert total.tolist() == [2.0, 2.0]


def test_inputs_of_another_shape_are_an_error() -> None:
    graphed = Graphed(lambda x: 2 * x)
    graphed(torch.ones(2))
    with pytest.raises(RuntimeError):
        graphed(torch.ones(3))


def test_the_first_error_is_the_reason() -> None:
    """PyTorch raises another one while it clears up."""
    try:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        finally:
            raise RuntimeError("capture failed due to a previous error")
    except RuntimeError as error:
        assert reason(error) == "operation not permitted when stream is capturing"
    assert reason(RuntimeError()) == "RuntimeError"
