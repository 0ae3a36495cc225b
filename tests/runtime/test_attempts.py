"""Trying again: how often, after what, and what is said in the end."""

import pytest

from modules.runtime import attempts
from modules.runtime.attempts import reason_of, retried
from modules.runtime.errors import UserError
from modules.runtime.patience import patiently


def disk_refuses() -> UserError:
    error = UserError("a.ckpt: cannot be written (No space left on device)")
    error.__cause__ = OSError(28, "No space left on device")
    return error


class Action:
    """Fails so many times, then returns 7."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.left, self.calls = error, times, 0

    def __call__(self) -> int:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return 7


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(attempts.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), disk_refuses()])
def test_what_a_disk_refuses_is_tried_again(error: Exception, slept: list[float]) -> None:
    action = Action(error, 4)
    assert retried(action) == 7
    assert (action.calls, sum(slept)) == (5, 2.0)


def test_waits_do_not_multiply(slept: list[float]) -> None:
    """What is tried again here does not wait further inside."""
    action = Action(PermissionError(13, "Permission denied"), 99)
    with pytest.raises(PermissionError):
        retried(lambda: patiently(action, renaming=True))
    assert (action.calls, sum(slept)) == (5, 2.0)
    with pytest.raises(PermissionError):
        patiently(action, renaming=True)  # the control
    assert sum(slept) > 14.0


def test_there_is_a_limit() -> None:
    action = Action(disk_refuses(), 5)
    with pytest.raises(UserError, match="No space left"):
        retried(action)
    assert action.calls == 5


@pytest.mark.parametrize("error", [UserError("--lr: must be positive"), ValueError("shape")])
def test_a_mistake_is_not(error: Exception) -> None:
    action = Action(error, 1)
    with pytest.raises(type(error)):
        retried(action)
    assert action.calls == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "x.png"), "Permission denied"),
        (disk_refuses(), "No space left on device"),
        (UserError("run/metrics.csv: has no rows"), "run/metrics.csv: has no rows"),
        (MemoryError(), "MemoryError"),
        (ValueError("a\nb"), "ValueError: a\\nb"),
    ],
)
def test_reasons(error: Exception, text: str) -> None:
    assert reason_of(error) == text
