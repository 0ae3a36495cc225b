"""What a run's metrics say that a user must not overlook, the likeliest cause, what to try first.

All of it follows from metrics.csv and config.json. A value that is not finite counts as missing.
"""

import math

import numpy as np

from modules.runlog import Run

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


def known_baselines(run: Run) -> dict[str, float]:
    """Those of config.json that are finite numbers, in dB."""
    given = run.config.get("baselines") or {}
    found = ((name, given.get(name)) for name in BASELINES)
    return {k: v for k, v in found if isinstance(v, int | float) and math.isfinite(v)}


def warnings_of(run: Run, *, latest: bool = False) -> list[str]:
    """What is found, a line each, and at the end the advice.

    latest: only what the last epoch has brought, without advice
    """
    known = diagnose(run.part(slice(-1))) if latest else {}
    lines = [f"warning: {fact}" for name, fact in diagnose(run).items() if name not in known]
    return [*lines, advice(run)] if lines and not latest else lines


def diagnose(run: Run) -> dict[str, str]:
    """What is found in the epochs so far, by name, the most important first.

    The option `num_epoch` tells whether the run has ended; without it, it has.
    """
    epochs = len(run.epochs)
    planned = run.options.get("num_epoch", epochs)
    found: dict[str, str] = {}
    if epochs >= planned / 5:  # the first epochs of a long run are no trend …
        found["falling"] = falls_while_training_rises(run)
    if epochs >= min(planned, max(FEWEST, planned / 2)):  # … and below any baseline
        found["below baselines"] = below_baselines(run)
    # A preset has chosen its epochs itself, and best.ckpt holds the best of them.
    if epochs >= planned and not any(found.values()) and not run.options.get("preset"):
        psnr, best = run.metrics["val_psnr"], run.best()
        if best is not None and psnr[-1] < psnr[best] - BEHIND:
            found["ends below best"] = f"the last epoch is worse: {_from_best(psnr, best)}"
    return {name: fact for name, fact in found.items() if fact}


def falls_while_training_rises(run: Run) -> str:
    """Validation more than 0.5 dB below its best in all of the last third of the epochs, or "".

    The last third is at least 3 epochs. Training PSNR must have risen since the best one:
    otherwise both fall, which has other causes.
    """
    psnr, train, best = run.metrics["val_psnr"], run.metrics["train_psnr"], run.best()
    count = max(FEWEST, math.ceil(len(psnr) / 3))
    last = psnr[-count:]
    if best is None or len(last) < count or not np.isfinite([*last, train[-1]]).all():
        return ""
    if last.max() >= psnr[best] - FALLEN or not train[-1] > train[best]:
        return ""
    return f"validation PSNR falls while training PSNR rises: {_from_best(psnr, best)}"


def below_baselines(run: Run) -> str:
    """The last epoch, or even the best, is worse than a prediction that needs no model. Or ""."""
    psnr, best = run.metrics["val_psnr"], run.best()
    if best is None:
        return ""
    last = len(psnr) - 1
    for which, epoch in ((f"even the best epoch ({best})", best), (f"epoch {last}", last)):
        above = {k: v for k, v in known_baselines(run).items() if psnr[epoch] < v}
        if above:
            *most, final = (f"{BASELINES[key]} ({v:.2f} dB)" for key, v in above.items())
            names = " and ".join([", ".join(most), final] if most else [final])
            s = "s" if most else ""
            return f"{which}, {psnr[epoch]:.2f} dB, is below the baseline{s} {names}"
    return ""


def _from_best(psnr: np.ndarray, best: int) -> str:
    return f"{psnr[best]:.2f} dB in epoch {best} (best.ckpt), {psnr[-1]:.2f} dB at the end"


# ---------------------------------------------------------------- why, and what to try


def advice(run: Run) -> str:
    """The likeliest cause of what `diagnose` finds and the one thing to try first, a sentence."""
    cause, remedy = _likeliest(run)
    return f"likeliest cause: {cause}; try {remedy} first (docs/theory.md, section 7, has more)"


def _likeliest(run: Run) -> tuple[str, str]:
    """The cause that the metrics support most, and what to try; docs/theory.md, section 7."""
    val, train, forced = (run.metrics[name] for name in ("val_psnr", "train_psnr", "tf_active"))
    best, count, options = run.best(), len(val), run.options
    baselines = known_baselines(run)
    more = f"`--num_epoch {2 * count}`"
    if best is None or not np.isfinite(train[-1]):
        rate = options.get("lr", 0.001)
        return "training diverged (non-finite loss or gradients)", f"`--lr {rate / 3:.1g}`"
    earlier = val[: count - max(1, count // 4)]
    if best == count - 1 and not np.nanmax(earlier, initial=-math.inf) > val[-1] - FALLEN:
        return "the run was too short (validation was still rising)", more
    if train[-1] < min(baselines.values(), default=-math.inf):
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
    first = baselines.get("first_frame", -math.inf)
    if val[best] < first and options.get("reference", "none") == "none":
        return "the background is lost over time", "`--reference first`"
    if val[best] < first or not train[-1] > val[-1]:
        return "labels and frames may not match", "`python dataloader.py check`"
    if options.get("preset") or best == 0:
        return "overfitting: too few or too similar training frames", "more data or `--augment`"
    return "overfitting: the later epochs only fit the training frames", f"`--num_epoch {best + 1}`"
