"""What to say of a training step that does not fit into a GPU's memory."""

from collections.abc import Callable

from modules.options import TrainerOptions
from modules.runtime import distributed

GIB = 2**30


def what_fits(
    o: TrainerOptions, clips: int, free: int, peak: Callable[[int, bool], int | None]
) -> str:
    """That a step of so many clips does not fit, and what would, with figures.

    clips: of this process's part of the batch
    free:  bytes of memory that a step may take
    peak:  bytes that a step with so many clips takes at most, without and with --recompute, tried
           out; None: more than there are. Steps of one and two clips tell what larger ones take.
    """
    asked = f"--batch_size {o.batch_size} with --train_vi_len {o.train_vi_len}"
    general = "a smaller model, smaller frames or a shorter --train_vi_len need less"
    if distributed.world_size() > 1:  # a step needs all ranks, and the others know of nothing
        return f"{asked}: a step does not fit into a GPU's memory; --recompute, or {general}"
    fitting, figure = [], ""
    for recompute in dict.fromkeys((o.recompute, True)):
        one, two = peak(1, recompute), peak(2, recompute)
        if one is None:
            continue
        more = two - one if two is not None else one
        if recompute == o.recompute:
            figure = f" takes about {_gib(one + (clips - 1) * more)}; it"
        most = min(clips, 1 + (free - one) // more if two is not None else 1)
        options = ["--recompute"] * (recompute and not o.recompute)
        options += [f"--batch_size {most}"] * (most < o.batch_size)
        if options:
            fitting.append(f"{' '.join(options)} takes about {_gib(one + (most - 1) * more)}")
    fits = f"{', '.join(fitting)}; " if fitting else ""
    memory = f"{_gib(free)} of free GPU memory"
    return f"{asked}: a step{figure} does not fit into {memory}; {fits}{general}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
