"""What a run's metrics are told to say, and what they are not."""

import math
from typing import Any

import numpy as np

from modules.diagnosis import (
    below_baselines,
    diagnose,
    ends_below_best,
    falls_while_training_rises,
    news,
)
from modules.options import TrainerOptions

# What real footage did to the recipe that was chosen on rendered data.
COLLAPSE = [25.2, 24.1, 23.0, 21.8, 20.9, 20.1, 19.4, 18.9, 18.5, 18.2]
RISING = [20.0, 23.0, 25.0, 26.5, 27.5, 28.3, 29.0, 29.5, 30.0, 30.3]
BASELINES = {"first_frame": 19.6, "mean_train_frame": 18.0}


def metrics(val: list[float], train: list[float]) -> dict[str, np.ndarray]:
    return {"val_psnr": np.array(val), "train_psnr": np.array(train)}


def names(val: list[float], train: list[float], **options: Any) -> list[str]:
    options = {"num_epoch": len(val), **options}
    return [finding.name for finding in diagnose(metrics(val, train), BASELINES, options)]


def falling(val: list[float], train: list[float]) -> bool:
    return falls_while_training_rises(np.array(val), np.array(train), {}) is not None


def test_validation_that_falls_while_training_rises() -> None:
    assert falling(COLLAPSE, RISING)
    assert [falling(COLLAPSE[:n], RISING[:n]) for n in range(1, 6)] == [False] * 3 + [True] * 2
    # Controls: training falls too; validation rises; it fell by less; it comes back in the last
    # third; a value is missing.
    assert not falling(COLLAPSE, RISING[::-1])
    assert not falling(RISING, RISING)
    assert not falling([25.2] + [24.75] * 9, RISING)
    assert falling([25.2] + [24.65] * 9, RISING)
    assert not falling([*COLLAPSE[:7], 25.0, *COLLAPSE[8:]], RISING)
    assert falling([*COLLAPSE[:5], 25.0, *COLLAPSE[6:]], RISING)  # before the last four of ten
    assert not falling([*COLLAPSE[:9], math.nan], RISING)
    assert falling([math.nan, *COLLAPSE[:9]], RISING)
    assert not falling([math.nan] * 10, RISING)


def test_a_run_below_the_baselines() -> None:
    def said(*val: float, baselines: Any = BASELINES) -> str:
        found = below_baselines(np.array(val), baselines, {})
        return found.line() if found else ""

    assert said(25.2, 20.0, 19.6) == ""
    last = said(25.2, 20.0, 19.0)
    assert "epoch 2, 19.00 dB, is below the copy-first-frame baseline (19.60 dB)" in last
    assert "mean-frame" not in last and "fewer epochs" in last
    assert "mean-frame baseline (18.00 dB)" in said(25.2, 20.0, 17.9)
    with_pose = said(25.2, 21.0, baselines={**BASELINES, "nearest_pose": 24.4})  # of newer runs
    assert "epoch 1, 21.00 dB, is below the nearest-pose baseline (24.40 dB); try" in with_pose
    best = said(19.0, 19.5, 17.0)
    assert "even the best epoch (1), 19.50 dB, is below the copy-first-frame" in best
    assert "check" in best
    assert said(25.2, math.nan) == "" and said(math.nan) == ""
    for nothing in (None, {}, {"first_frame": None}, {"first_frame": math.nan}, "19.6"):
        assert said(1.0, baselines=nothing) == ""


def test_a_last_epoch_below_the_best() -> None:
    found = ends_below_best(np.array([25.0, 26.0, 25.6]))
    assert found is not None
    assert "25.60 dB, is below the best, 26.00 dB in epoch 1" in found.fact
    assert "best.ckpt holds" in found.advice
    assert ends_below_best(np.array([25.0, 26.0, 25.8])) is None
    assert ends_below_best(np.array([25.0, 26.0, math.nan])) is None
    assert ends_below_best(np.array([math.nan])) is None


def test_what_is_found_when() -> None:
    assert names(COLLAPSE, RISING) == ["falling", "last below baselines", "ends below best"]
    assert names(RISING, RISING) == []
    # A run that is only starting is below the baselines, as all are; one that is under way varies.
    assert names([15.0, 16.0], RISING[:2], num_epoch=10) == []
    assert names([15.0] * 5, RISING[:5], num_epoch=10) == ["best below baselines"]
    assert names([15.0, 16.0], RISING[:2]) == ["best below baselines"]
    assert names([15.0, 25.0, 24.6], RISING[:3], num_epoch=10) == []
    assert names([15.0, 25.0, 24.6], RISING[:3]) == ["ends below best"]
    assert names(COLLAPSE[:6], RISING[:6], num_epoch=30) == ["falling"]
    assert names(COLLAPSE[:5], RISING[:5], num_epoch=30) == []  # too early to tell
    # Options that are not known: as if it had ended.
    assert [f.name for f in diagnose(metrics([15.0], [15.0]), BASELINES, {})] != []


def test_news_are_told_once() -> None:
    told = {
        n: [f.name for f in news(metrics(COLLAPSE[:n], RISING[:n]), BASELINES, {"num_epoch": 20})]
        for n in range(1, 10)
    }
    assert {n: found for n, found in told.items() if found} == {4: ["falling"]}


def test_advice_is_what_the_run_does_not_do_yet() -> None:
    def advice(**options: Any) -> str:
        found = falls_while_training_rises(np.array(COLLAPSE), np.array(RISING), options)
        assert found is not None
        return found.advice

    assert advice(**vars(TrainerOptions())) == (
        "try `--jump 0.3`, `--frame_noise 0.3`, `--rollout_every 1 --tfr 0.5`, "
        "`--reference first` or fewer epochs (`--num_epoch`)"
    )
    assert "--jump" not in advice(jump=0.2) and "--frame_noise" in advice(jump=0.2)
    everything = advice(jump=0.3, frame_noise=1.0, rollout_every=1, reference="first")
    assert everything == "try fewer epochs (`--num_epoch`)"
