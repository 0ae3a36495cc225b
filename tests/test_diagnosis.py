"""What a run's metrics are told to say, and what they are not."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from modules import diagnosis
from modules.options import parse_trainer
from modules.runlog import Run

# What real footage did to the recipe that was chosen on rendered data.
COLLAPSE = [25.2, 24.1, 23.0, 21.8, 20.9, 20.1, 19.4, 18.9, 18.5, 18.2]
RISING = [20.0, 23.0, 25.0, 26.5, 27.5, 28.3, 29.0, 29.5, 30.0, 30.3]
BASELINES = {"first_frame": 19.6, "mean_train_frame": 18.0}


def a_run(val: list[float], train: list[float], baselines: Any = BASELINES, **options: Any) -> Run:
    """One that has ended, unless `num_epoch` says otherwise."""
    columns = {"val_psnr": val, "train_psnr": train, "tf_active": [0.0] * len(val), "epoch": val}
    options = {"num_epoch": len(val), **options}
    metrics = {name: np.array(column, float) for name, column in columns.items()}
    return Run(Path(), {"baselines": baselines, "options": options}, metrics)


def names(val: list[float], train: list[float], **options: Any) -> list[str]:
    return [*diagnosis.diagnose(a_run(val, train, **options))]


def test_validation_that_falls_while_training_rises() -> None:
    def falling(val: list[float], train: list[float] = RISING) -> bool:
        return diagnosis.falls_while_training_rises(a_run(val, train[: len(val)])) != ""

    assert [falling(COLLAPSE[:n]) for n in range(1, 11)] == [False] * 3 + [True] * 7
    assert not falling(COLLAPSE, RISING[::-1])  # training falls too
    assert falling([25.2] + [24.65] * 9) and not falling([25.2] + [24.75] * 9)
    # It comes back in the last third, which is the last four of ten, or before it.
    assert not falling([*COLLAPSE[:7], 25.0, *COLLAPSE[8:]])
    assert falling([*COLLAPSE[:5], 25.0, *COLLAPSE[6:]])
    assert not falling([*COLLAPSE[:9], math.nan]) and not falling([math.nan] * 10)


def test_a_run_below_the_baselines() -> None:
    def said(*val: float, baselines: Any = BASELINES) -> str:
        return diagnosis.below_baselines(a_run([*val], [*val], baselines))

    assert said(25.2, 20.0, 19.6) == ""
    last = said(25.2, 20.0, 19.0)
    assert last == "epoch 2, 19.00 dB, is below the baseline copy-first-frame (19.60 dB)"
    assert said(25.2, 20.0, 17.9).endswith("copy-first-frame (19.60 dB) and mean-frame (18.00 dB)")
    assert "even the best epoch (1), 19.50 dB, is below the b" in said(19.0, 19.5, 17.0)
    assert said(25.2, math.nan) == "" and said(math.nan) == ""
    for nothing in (None, {"first_frame": math.nan}):
        assert said(1.0, baselines=nothing) == ""


def test_what_is_found_when() -> None:
    assert names(COLLAPSE, RISING) == ["falling", "below baselines"]
    assert names(RISING, RISING) == []
    # A run that is only starting is below the baselines, as all are; one that is under way varies.
    assert names([15.0, 16.0], RISING[:2], num_epoch=10) == []
    assert names([15.0] * 5, RISING[:5], num_epoch=10) == ["below baselines"]
    assert names([15.0, 16.0], RISING[:2]) == ["below baselines"]
    assert names([15.0, 25.0, 23.6], RISING[:3], num_epoch=10) == []
    found = diagnosis.diagnose(a_run([15.0, 25.0, 23.6], RISING[:3]))
    assert found["ends below best"].endswith("25.00 dB in epoch 1 (best.ckpt), 23.60 dB at the end")
    assert names([15.0, 25.0, 24.1], RISING[:3]) == []
    # A preset has chosen the number of epochs itself.
    assert names([15.0, 25.0, 23.6], RISING[:3], preset="demo") == []
    assert names(COLLAPSE[:6], RISING[:6], num_epoch=30) == ["falling"]
    assert names(COLLAPSE[:5], RISING[:5], num_epoch=30) == []  # too early to tell
    # Options that are not known: as if it had ended.
    assert diagnosis.diagnose(Run(Path(), {"baselines": BASELINES}, a_run([15.0], [15.0]).metrics))


def test_news_are_told_once_and_the_whole_at_the_end() -> None:
    runs = {n: a_run(COLLAPSE[:n], RISING[:n], num_epoch=20) for n in range(1, 10)}
    told = {n: diagnosis.warnings_of(run, latest=True) for n, run in runs.items()}
    assert [n for n, found in told.items() if found] == [4]
    assert told[4][0].startswith("warning: validation PSNR falls while training PSNR rises: 25.20")
    *facts, cause = diagnosis.warnings_of(a_run(COLLAPSE, RISING))
    assert len(facts) == 2 and all(fact.startswith("warning: ") for fact in facts)
    assert cause.startswith("likeliest cause: ") and "docs/theory.md" in cause
    assert diagnosis.warnings_of(a_run(RISING, RISING)) == []


def test_the_likeliest_cause_comes_first() -> None:
    """Each by what its metrics show."""
    remedied = {"jump": 0.3, "frame_noise": 0.3, "rollout_every": 1}
    last_low = [25.2, 25.0, 24.8, 19.0]
    for val, train, forced, options, cause, remedy in (
        ([15.0, 16.0, 17.0], [math.nan] * 3, 0, {"lr": 0.003}, "diverged", "--lr 0.001"),
        ([15.0, 16.0, 17.0], [20.0, 21.0, 22.0], 0, {}, "too short", "--num_epoch 6"),
        (COLLAPSE, RISING, 0, {"kl_beta": 0.0}, "leaks through the posterior", "--kl_beta 0.001"),
        (last_low, RISING[:4], [1, 1, 0, 0], {}, "teacher forcing ended", "--rollout_every 1"),
        (COLLAPSE, RISING, 0, {}, "own predictions", "--jump 0.3"),
        (COLLAPSE, RISING, 0, {"jump": 0.3}, "own predictions", "--frame_noise 0.3"),
        (COLLAPSE, RISING, 0, remedied, "overfitting", "more data"),  # the best was the first
        ([24.0, *COLLAPSE], [*RISING, 31], 0, remedied, "overfitting", "--num_epoch 2"),
        ([24.0, *COLLAPSE], [*RISING, 31], 0, {**remedied, "preset": "best"}, "over", "more data"),
        ([19.0, 18.5, 18.0], RISING[:3], 0, remedied, "background", "--reference first"),
        (last_low, last_low, 0, remedied, "may not match", "dataloader.py check"),
    ):
        run = a_run(val, train, **{"kl_beta": 1.0, **options})
        run.metrics["tf_active"] = np.broadcast_to(forced, len(val)).astype(float)
        said = diagnosis.advice(run)
        assert cause in said and remedy in said.replace("`", ""), (said, cause)
        for word in said.split("`")[1::2]:  # every option that is named exists
            if " " in word and word.startswith("--"):
                parse_trainer("", ["--DR", "x", *word.split()])
