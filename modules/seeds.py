"""Seeds: every random draw is a pure function of (seed, what it is for, where in the run)."""

import numpy as np

# Streams of random numbers: one number for each purpose, so that no two share draws.
STREAM_CLIPS, STREAM_TEACHER_FORCING, STREAM_LATENT, STREAM_ROLLOUT, STREAM_STORED = range(5)


def derived_seed(*path: int) -> int:
    """A 63-bit seed that is a pure function of non-negative integers such as (seed, epoch, step).

    numpy's SeedSequence hashes them, so that neighbouring numbers give unrelated streams.
    """
    return int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0] >> np.uint64(1))
