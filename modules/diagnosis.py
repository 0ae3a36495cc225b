"""What a run's metrics say that a user must not overlook, in plain words, and what to try.

    for finding in diagnose(metrics, baselines, options):
        print(finding.line())

Pure functions of the columns of metrics.csv, each (epochs,), and of config.json's entries. A value
that is not finite counts as missing.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

FALLEN = 0.5  # dB below the best from which validation has fallen, not just varied
BEHIND = 0.3  # dB below the best that a run's last epoch should not be
FEWEST = 3  # epochs that a trend takes

# Predictions that need no model, by their names in config.json: see modules/evaluation.py. Runs of
# earlier versions lack the last one.
BASELINES = {
    "first_frame": "copy-first-frame",
    "mean_train_frame": "mean-frame",
    "nearest_pose": "nearest-pose",
}
# Options that make the model correct its own errors: set in a run → what to type where it is not.
# The strongest first.
REMEDIES = {
    "jump": "`--jump 0.3`",
    "frame_noise": "`--frame_noise 0.3`",
    "rollout_every": "`--rollout_every 1 --tfr 0.5`",
}
FEWER = "fewer epochs (`--num_epoch`)"
REFERENCE = "`--reference first`"
CHECK = "`python dataloader.py check`"


class Finding(NamedTuple):
    """What is wrong with a run, and what to do about it."""

    name: str
    fact: str
    advice: str

    def line(self) -> str:
        """Both, in one line."""
        return f"warning: {self.fact}; {self.advice}"


Metrics = Mapping[str, np.ndarray]
Options = Mapping[str, Any]


def diagnose(metrics: Metrics, baselines: Any, options: Options) -> list[Finding]:
    """What is found in the epochs so far, the most important first.

    baselines: config.json's, in dB; anything else gives no comparison
    options:   the run's; `num_epoch` tells whether it has ended
    """
    psnr = metrics["val_psnr"]
    planned = options.get("num_epoch")
    planned = planned if isinstance(planned, int) else len(psnr)
    found: list[Finding | None] = []
    if len(psnr) >= planned / 5:  # the first epochs of a long run are no trend …
        found.append(falls_while_training_rises(psnr, metrics["train_psnr"], options))
    if len(psnr) >= min(planned, max(FEWEST, planned / 2)):  # … and below any baseline
        found.append(below_baselines(psnr, baselines, options))
    if len(psnr) >= planned:
        found.append(ends_below_best(psnr))
    return [finding for finding in found if finding]


def news(metrics: Metrics, baselines: Any, options: Options) -> list[Finding]:
    """What is found since the last epoch, and was not before it."""
    earlier = {name: column[:-1] for name, column in metrics.items()}
    known = {finding.name for finding in diagnose(earlier, baselines, options)}
    return [f for f in diagnose(metrics, baselines, options) if f.name not in known]


def best_epoch(psnr: np.ndarray) -> int | None:
    """The first epoch with the highest value; None if there is none."""
    known = np.isfinite(psnr)
    return int(np.where(known, psnr, -np.inf).argmax()) if known.any() else None


def falls_while_training_rises(
    val_psnr: np.ndarray, train_psnr: np.ndarray, options: Options
) -> Finding | None:
    """Validation more than 0.5 dB below its best in all of the last third of the epochs.

    The last third is at least 3 epochs. Training PSNR must have risen since the best one:
    otherwise both fall, which has other causes.
    """
    count = max(FEWEST, math.ceil(len(val_psnr) / 3))
    best, last = best_epoch(val_psnr), val_psnr[-count:]
    if best is None or len(last) < count or not np.isfinite([*last, train_psnr[-1]]).all():
        return None
    if last.max() >= val_psnr[best] - FALLEN or not train_psnr[-1] > train_psnr[best]:
        return None
    return Finding(
        "falling",
        f"validation falls while training rises: since epoch {best} val_psnr went from "
        f"{val_psnr[best]:.2f} to {val_psnr[-1]:.2f} dB, train_psnr from {train_psnr[best]:.2f} "
        f"to {train_psnr[-1]:.2f} dB",
        _try([*_remedies(options), FEWER]),
    )


def below_baselines(val_psnr: np.ndarray, baselines: Any, options: Options) -> Finding | None:
    """The last epoch, or even the best, is worse than a prediction that needs no model."""
    best = best_epoch(val_psnr)
    if best is None or not isinstance(baselines, dict):
        return None
    known = {
        name: value
        for key, name in BASELINES.items()
        if isinstance(value := baselines.get(key), int | float) and math.isfinite(value)
    }
    for name, epoch in (("best", best), ("last", len(val_psnr) - 1)):
        above = {n: value for n, value in known.items() if val_psnr[epoch] < value}
        if not above:
            continue
        what = " and ".join(f"the {n} baseline ({value:.2f} dB)" for n, value in above.items())
        which = f"even the best epoch ({epoch})" if name == "best" else f"epoch {epoch}"
        remedies = _remedies(options)
        return Finding(
            f"{name} below baselines",
            f"{which}, {val_psnr[epoch]:.2f} dB, is below {what}",
            _try([CHECK, *remedies, "more epochs"] if name == "best" else [*remedies, FEWER]),
        )
    return None


def ends_below_best(val_psnr: np.ndarray) -> Finding | None:
    """The last epoch is more than 0.3 dB below the best: another checkpoint is better."""
    best = best_epoch(val_psnr)
    if best is None or not val_psnr[-1] < val_psnr[best] - BEHIND:
        return None
    return Finding(
        "ends below best",
        f"the last epoch, {val_psnr[-1]:.2f} dB, is below the best, {val_psnr[best]:.2f} dB in "
        f"epoch {best}",
        "best.ckpt holds the better one",
    )


def _remedies(options: Options) -> list[str]:
    """What the run does not use yet of REMEDIES and the reference frame."""
    unused = [text for name, text in REMEDIES.items() if not options.get(name)]
    return [*unused, *([] if options.get("reference", "none") != "none" else [REFERENCE])]


def _try(what: list[str]) -> str:
    """Advice in words."""
    *others, last = what
    return f"try {' or '.join(filter(None, (', '.join(others), last)))}"
