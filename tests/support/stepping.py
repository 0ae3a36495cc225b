"""Doing something at a given training step."""

from collections.abc import Callable
from typing import Any
from unittest import mock

from modules.training import TrainingStep


def at_step(number: int, act: Callable[[], Any]) -> Any:
    """A patch that acts before the number-th training step (from 0) of this process."""
    whole_step, calls = TrainingStep.__call__, iter(range(10**6))

    def step(self: TrainingStep, *arguments: Any, **options: Any) -> None:
        if next(calls) == number:
            act()
        whole_step(self, *arguments, **options)

    return mock.patch.object(TrainingStep, "__call__", step)
