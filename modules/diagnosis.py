"""What a run's metrics say that a user must not overlook, the likeliest cause, what to try first.

Pure functions of the columns of metrics.csv, each (epochs,), and of config.json's entries. A value
that is not finite counts as missing.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

FALLEN = 0.5  # dB below the best from which validation has fallen, not just varied
BEHIND = 1.0  # dB below the best that a run's last epoch should not be
GAP = 3.0  # dB from training to validation that free running alone does not explain
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
    "jump": "--jump 0.3",
    "frame_noise": "--frame_noise 0.3",
    "rollout_every": "--rollout_every 1 --tfr 0.5",
}


Metrics = Mapping[str, np.ndarray]
Options = Mapping[str, Any]


def diagnose(metrics: Metrics, baselines: Any, options: Options) -> dict[str, str]:
    """What is found in the epochs so far, by name, the most important first.

    baselines: config.json's, in dB; anything else gives no comparison
    options:   the run's; `num_epoch` tells whether it has ended
    """
    psnr = metrics["val_psnr"]
    planned = options.get("num_epoch")
    planned = planned if isinstance(planned, int) else len(psnr)
    found: dict[str, str] = {}
    if len(psnr) >= planned / 5:  # the first epochs of a long run are no trend …
        found["falling"] = falls_while_training_rises(psnr, metrics["train_psnr"])
    if len(psnr) >= min(planned, max(FEWEST, planned / 2)):  # … and below any baseline
        found |= below_baselines(psnr, baselines)
    # A preset has chosen its epochs itself, and best.ckpt holds the best of them.
    if len(psnr) >= planned and not any(found.values()) and not options.get("preset"):
        found["ends below best"] = ends_below_best(psnr)
    return {name: fact for name, fact in found.items() if fact}


def news(metrics: Metrics, baselines: Any, options: Options) -> dict[str, str]:
    """What is found since the last epoch, and was not before it."""
    earlier = {name: column[:-1] for name, column in metrics.items()}
    known = diagnose(earlier, baselines, options)
    now = diagnose(metrics, baselines, options)
    return {name: fact for name, fact in now.items() if name not in known}


def best_epoch(psnr: np.ndarray) -> int | None:
    """The first epoch with the highest value; None if there is none."""
    known = np.isfinite(psnr)
    return int(np.where(known, psnr, -np.inf).argmax()) if known.any() else None


def falls_while_training_rises(val_psnr: np.ndarray, train_psnr: np.ndarray) -> str:
    """Validation more than 0.5 dB below its best in all of the last third of the epochs, or "".

    The last third is at least 3 epochs. Training PSNR must have risen since the best one:
    otherwise both fall, which has other causes.
    """
    count = max(FEWEST, math.ceil(len(val_psnr) / 3))
    best, last = best_epoch(val_psnr), val_psnr[-count:]
    if best is None or len(last) < count or not np.isfinite([*last, train_psnr[-1]]).all():
        return ""
    if last.max() >= val_psnr[best] - FALLEN or not train_psnr[-1] > train_psnr[best]:
        return ""
    return f"validation PSNR falls while training PSNR rises: {_from_best(val_psnr, best)}"


def below_baselines(val_psnr: np.ndarray, baselines: Any) -> dict[str, str]:
    """The last epoch, or even the best, is worse than a prediction that needs no model."""
    best = best_epoch(val_psnr)
    if best is None:
        return {}
    for name, epoch in (("best", best), ("last", len(val_psnr) - 1)):
        above = {k: v for k, v in known_baselines(baselines).items() if val_psnr[epoch] < v}
        if above:
            what = "s" * (len(above) > 1) + " "
            *most, last = (f"{BASELINES[key]} ({v:.2f} dB)" for key, v in above.items())
            what += " and ".join([", ".join(most), last] if most else [last])
            which = f"even the best epoch ({epoch})" if name == "best" else f"epoch {epoch}"
            fact = f"{which}, {val_psnr[epoch]:.2f} dB, is below the baseline{what}"
            return {f"{name} below baselines": fact}
    return {}


def ends_below_best(val_psnr: np.ndarray) -> str:
    """The last epoch is more than 1 dB below the best: another checkpoint is better. Or ""."""
    best = best_epoch(val_psnr)
    if best is None or not val_psnr[-1] < val_psnr[best] - BEHIND:
        return ""
    return f"the last epoch is worse: {_from_best(val_psnr, best)}"


def known_baselines(baselines: Any) -> dict[str, float]:
    """Those of config.json that are finite numbers."""
    found = ((k, baselines.get(k)) for k in BASELINES) if isinstance(baselines, dict) else ()
    return {k: v for k, v in found if isinstance(v, int | float) and math.isfinite(v)}


def _from_best(val_psnr: np.ndarray, best: int) -> str:
    return f"{val_psnr[best]:.2f} dB in epoch {best} (best.ckpt), {val_psnr[-1]:.2f} dB at the end"


# ---------------------------------------------------------------- why, and what to try


def advice(metrics: Metrics, baselines: Any, options: Options) -> str:
    """The likeliest cause of what `diagnose` finds and the one thing to try first, a sentence.

    "" where nothing is found.
    """
    if not diagnose(metrics, baselines, options):
        return ""
    cause, remedy = _likeliest(metrics, baselines, options)
    where = "docs/theory.md, section 7, has more"
    return f"likeliest cause: {cause}; try {remedy} first ({where})"


def _likeliest(metrics: Metrics, baselines: Any, options: Options) -> tuple[str, str]:
    """The cause that the metrics support most, and what to try; docs/theory.md, section 7."""
    val, train, forced = (metrics[name] for name in ("val_psnr", "train_psnr", "tf_active"))
    best, count = best_epoch(val), len(val)
    more = f"`--num_epoch {2 * count}`"
    if best is None or not np.isfinite(train[-1]):
        rate = options.get("lr", 0.001)
        return "training diverged (non-finite loss or gradients)", f"`--lr {rate / 3:.1g}`"
    earlier = val[: count - max(1, count // 4)]
    rising = best == count - 1 and not np.nanmax(earlier, initial=-math.inf) > val[-1] - FALLEN
    if rising:
        return "the run was too short (validation was still rising)", more
    if train[-1] < min(known_baselines(baselines).values(), default=-math.inf):
        return "the run was too short, even training is below the baselines", more
    if options.get("kl_beta") == 0 and train[-1] - val[-1] > GAP:
        cause = "without the KL term the target leaks through the posterior in training"
        return cause, "`--kl_beta 0.001`"
    unused = [text for name, text in REMEDIES.items() if not options.get(name)]
    after = forced[best + 1 :]
    if unused and len(after) and forced[: best + 1].mean() > 0.5 > after.mean():
        return "teacher forcing ended before the model could run freely", f"`{unused[-1]}`"
    if unused:
        return "training rarely starts from the model's own predictions", f"`{unused[0]}`"
    first = known_baselines(baselines).get("first_frame", -math.inf)
    if val[best] < first and options.get("reference", "none") == "none":
        return "the background is lost over time", "`--reference first`"
    if val[best] < first or not train[-1] > val[-1]:
        return "labels and frames may not match", "`python dataloader.py check`"
    if options.get("preset") or best == 0:
        return "overfitting: too few or too similar training frames", "more data or `--augment`"
    return "overfitting: the later epochs only fit the training frames", f"`--num_epoch {best + 1}`"
