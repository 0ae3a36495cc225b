"""The signals that ask a run to stop, on this system.

SIGTERM: a cluster takes its machine back. SIGINT: Ctrl-C. SIGHUP: the terminal is gone (lost ssh).
SIGUSR1: a warning before the time limit (Slurm's --signal). SIGBREAK: Ctrl-Break on Windows,
which has none of the last two.
"""

import signal

# By name, since no system has them all.
STOPPING = tuple(
    signal.Signals(getattr(signal, name))
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGBREAK")
    if hasattr(signal, name)
)


def heeded() -> tuple[signal.Signals, ...]:
    """Those of them that stop this process: not a SIGHUP that it was started to ignore (nohup)."""
    return tuple(
        number
        for number in STOPPING
        if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
    )


def ignore() -> None:
    """Let none of them stop this process any more."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
