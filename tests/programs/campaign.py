"""Kill real runs at random moments, resume them, and compare them with uninterrupted ones.

    python tests/programs/campaign.py --kills 100    # about ten minutes on one core
    python tests/programs/campaign.py --kills 100 --workers 2
    python tests/programs/campaign.py --short        # under three minutes: what the tests run
    python tests/programs/campaign.py --epochs 2000  # a long run: memory, open files, figures

A run is Trainer.py's own command line on a small data set, a few epochs of several steps. Most are
forked from this process, which has imported PyTorch once; one in ten is a `python Trainer.py` of
its own. Forked ones write slowly (every fsync and rename waits a little), so that kills hit the
midst of saving, and write plain figures, which would otherwise take most of the time; the others
run unchanged. The disk of all of them refuses to sync folders, and one rename in ten. Each is
killed several times, by SIGKILL, SIGTERM, SIGINT, SIGHUP or SIGUSR1: at a random moment, while a
file is being saved, or just after a training step. (A `python Trainer.py` gets SIGINT only after
its first line of output: before that, Python itself prints a traceback of the imports.) Some
checkpoints are corrupted as well. Then the run is resumed as a user would, until it is done, and
every file is compared with that of an uninterrupted run.

Counted, all of which must be 0 but the first:
  survived    runs that came to their end and equal the uninterrupted one
  lost        runs that could not be continued although a checkpoint had been written
  differing   runs that came to their end with other content in some file
  statuses    ends with another exit status than the signal asks for
  lost steps  runs that a signal stopped with fewer steps saved than they had finished
  tracebacks  outputs with a traceback
  silent      corrupted checkpoints that were loaded with other content
"""

import os

# Before PyTorch is imported: one thread, in the uninterrupted runs as in the others.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import contextlib
import dataclasses
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from modules.runtime.errors import UserError
from tests.support import awkward
from tests.support.comparing import comparable, metrics_without_time, same
from tests.support.data import make_dataset
from tests.support.faults import contents, read_corrupted
from tests.support.scripts import TINY

EPOCHS = 3
# 40 frames in clips of 4: ten clips, five steps an epoch (four with batches of three).
FRAMES = {"train": 40, "val": 6, "tests": ()}
COMMON = [
    *(*TINY, "--train_vi_len", "4", "--frame_H", "16", "--frame_W", "16", "--device", "cpu"),
    *("--precision", "float32", "--num_epoch", str(EPOCHS)),
]
# Between them: all optimisers, stored rollouts, every schedule, the detector, both ways of saving.
VARIANTS = (
    ["--auto_save", "--tfr", "0.5", "--tfr_sde", "1"],
    [
        *("--auto_save", "--optim", "AdamW", "--lr_scheduler", "cosine", "--tfr", "0"),
        *("--detector_patience", "2", "--detector_threshold", "50"),
    ],
    [
        *("--per_save", "2", "--detach", "--tfr", "0", "--batch_size", "3"),
        *("--lr_scheduler", "multistep", "--kl_anneal_cycle", "2"),
    ],
    [
        *("--auto_save", "--optim", "Muon", "--ema", "0.9"),
        *("--rollout_every", "1", "--tfr", "0.5", "--frame_noise", "0.1"),
        *("--prior", "learned", "--augment", "shift"),
        *("--jump", "0.3", "--reference", "first"),
    ],
)
SIGNALS = tuple(
    signal.Signals(getattr(signal, name))
    for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)  # for the tests of this file's parts on systems without some
)
STATUSES = frozenset(128 + number for number in SIGNALS[1:])  # of runs that were stopped
STOPPING = "stopping after this step"  # what a run prints when it has noted a signal
HANG = 180.0  # seconds after which a run that has not ended is considered stuck


# ---------------------------------------------------------------- running


class Child:
    """A process of a run, forked from this one or a Python of its own."""

    def __init__(self, pid: int, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.pid, self.popen = pid, popen
        self.status: int | None = None  # as subprocess gives it: minus the signal's number

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        if self.status is None:
            if self.popen is not None:
                self.status = self.popen.poll()
            else:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def send(self, number: signal.Signals) -> None:
        """Signal it unless it has ended (its number may then belong to another)."""
        if self.poll() is None:
            os.kill(self.pid, number)


def slow_writer(seed: int) -> None:
    """Make every fsync and rename wait a little before it is done, in this process."""
    rng = random.Random(seed)
    fsync, replace = os.fsync, os.replace

    def slowly(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            time.sleep(rng.uniform(0.0, 0.03))
            return call(*arguments, **options)

        return wrapper

    os.fsync, os.replace = slowly(fsync), slowly(replace)


def plain_figures() -> None:
    """Let the run write a line of text for a picture, through the same atomic writing."""
    from modules.figures import drawing
    from modules.runtime.files import write_atomically

    def plainly(real: Callable[..., Any]) -> Callable[..., Any]:
        def pictures(self: Any, root: Path) -> dict[str, Callable[[], object]]:
            return {
                name: partial(write_atomically, root / name, b"no figure here\n")
                if name.endswith(".png")
                else draw
                for name, draw in real(self, root).items()
            }

        return pictures

    drawing.Curves.pictures = plainly(drawing.Curves.pictures)  # type: ignore[method-assign]
    drawing.Validation.pictures = plainly(  # type: ignore[method-assign]
        drawing.Validation.pictures
    )


def count_steps(path: Path) -> None:
    """Let every finished step of an optimiser add a byte to a file."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    register_optimizer_step_post_hook(lambda *_: os.write(descriptor, b"."))


def as_from_a_terminal() -> None:
    """Give signals what they do in a program that a user starts, however this one was started."""
    for number in SIGNALS[1:]:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def fork(arguments: list[str], out: Path, prepare: Callable[[], None]) -> Child:
    """Run Trainer.py's command line in a fork of this process; output to out.out and out.err."""
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal that comes too early for the script must meet it, not this function.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS[1:])
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS[1:])
        return Child(pid)
    status = 1
    try:
        for descriptor, path in ((1, f"{out}.out"), (2, f"{out}.err")):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        prepare()
        sys.argv = ["Trainer.py", *arguments]
        as_from_a_terminal()
        import Trainer

        def main() -> int | None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS[1:])
            return Trainer.main()

        Trainer.run_as_script(main)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def start_python(arguments: list[str], out: Path, env: dict[str, str] | None = None) -> Child:
    """Run `python Trainer.py` as a user does; output to out.out and out.err.

    env: variables of the environment that it has besides
    """
    with Path(f"{out}.out").open("wb") as stdout, Path(f"{out}.err").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "Trainer.py"), *arguments],
            stdout=stdout,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            preexec_fn=as_from_a_terminal,
        )
    return Child(process.pid, process)


def awkward_python(work: Path, seed: int, log: Path) -> dict[str, str]:
    """What gives a Python the disk of awkward.install()."""
    site = work / "site"
    site.mkdir(exist_ok=True)
    end = 'install(int(os.environ["AWKWARD_SEED"]), os.environ["AWKWARD_LOG"])\n'
    source = Path(awkward.__file__).read_text(encoding="utf-8")
    (site / "sitecustomize.py").write_text(f"{source}\n\n{end}", encoding="utf-8")
    return {"PYTHONPATH": str(site), "AWKWARD_SEED": str(seed), "AWKWARD_LOG": str(log)}


# ---------------------------------------------------------------- looking at runs


def steps_saved(path: Path) -> int:
    """Steps that a checkpoint's optimiser has taken; 0 without a sound checkpoint."""

    def of(value: Any) -> Iterator[int]:
        if isinstance(value, dict):
            if "step" in value:
                yield int(value["step"])
            for part in value.values():
                yield from of(part)

    try:
        return max(of(contents(path)["optimizer"]), default=0)
    except UserError:
        return 0


def sound(run: Path) -> bool:
    """Whether a run has both checkpoints and the newest is good: damage then costs it one."""
    if not (run / "last.prev.ckpt").exists():
        return False
    try:
        return bool(contents(run / "last.ckpt"))
    except UserError:
        return False


def steps_to_resume_from(run: Path) -> int:
    """Steps of the checkpoint that --resume will take: the newest sound one."""
    # A corrupted one is still there if a resumed run was killed before it started.
    return steps_saved(run / "last.ckpt") or steps_saved(run / "last.prev.ckpt")


def config_of(run: Path) -> dict[str, Any]:
    """config.json without what may differ."""
    config: dict[str, Any] = json.loads((run / "config.json").read_text())
    options = {k: v for k, v in config["options"].items() if k not in ("save_root", "resume")}
    options["DR"] = str(Path(options["DR"]).resolve())
    return {**config, "options": options, "resumed_at": None}


def curves(run: Path, resumed: bool) -> bytes:
    """curves.png of a run, drawn again; `resumed` as in its config.json, or as if it never was."""
    from modules.figures.curves import draw_curves

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / run.name  # which is the picture's title
        folder.mkdir()
        shutil.copy(run / "metrics.csv", folder)
        config = json.loads((run / "config.json").read_text())
        if not resumed:
            config["resumed_at"] = []
        (folder / "config.json").write_text(json.dumps(config))
        return draw_curves(folder).read_bytes()


def differences(reference: Path, run: Path, figures: bool) -> list[str]:
    """How the files of a finished run differ from those of an uninterrupted one.

    last.prev.ckpt is of whatever was saved before; it must only be sound.
    figures: whether the pictures are real in both
    """
    names = [{path.name for path in folder.iterdir()} for folder in (reference, run)]
    found = [f"{name} is missing" for name in sorted(names[0] - names[1])]
    found += [f"{name} is left over" for name in sorted(names[1] - names[0])]
    for name in sorted(names[0] & names[1]):
        one, two = reference / name, run / name
        if name == "last.prev.ckpt":
            equal = contents(two) is not None
        elif name.endswith(".ckpt"):
            equal = same(comparable(one), comparable(two))
        elif name == "metrics.csv":
            equal = metrics_without_time(one) == metrics_without_time(two)
        elif name == "config.json":
            equal = config_of(reference) == config_of(run)
        elif name == "curves.png":
            # It shows where a run was resumed: without that the two are the same, and with it the
            # picture is that of the run's last epoch.
            equal = not figures or (
                one.read_bytes() == curves(run, resumed=False)
                and two.read_bytes() == curves(run, resumed=True)
            )
        elif name.endswith(".png"):
            equal = not figures or one.read_bytes() == two.read_bytes()
        else:
            equal = one.read_bytes() == two.read_bytes()
        if not equal:
            found.append(f"{name} differs")
    return found


# ---------------------------------------------------------------- one run, killed and resumed


@dataclasses.dataclass
class Result:
    """What became of one run; lists of descriptions where something is not as promised."""

    survived: bool = False
    attempts: int = 0
    kills: Counter[str] = dataclasses.field(default_factory=Counter)  # by signal and moment
    notes: Counter[str] = dataclasses.field(default_factory=Counter)
    faults: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, kind: str, what: str) -> None:
        self.faults.setdefault(kind, []).append(what)


class Campaign:
    """What all runs of a campaign share: the data, the uninterrupted runs and their duration."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.seed = work, seed
        self.data = make_dataset(work / "data", **FRAMES)
        self.references: dict[int, Path] = {}
        self.seconds = {"forked": 0.0, "python": 0.0}  # of an uninterrupted run

    def command(self, variant: int, run: Path) -> list[str]:
        """The command line of a run."""
        return ["--DR", str(self.data), "--save_root", str(run), *COMMON, *VARIANTS[variant]]

    def make_references(self) -> None:
        """An uninterrupted `python Trainer.py` of each variant; then one forked, to be timed."""
        for variant in range(len(VARIANTS)):
            run = self.work / f"reference{variant}" / "run"
            run.parent.mkdir()
            began = time.monotonic()
            self._finish(start_python(self.command(variant, run), run.parent / "log"), run)
            self.seconds["python"] = time.monotonic() - began
            self.references[variant] = run
        run = self.work / "forked" / "run"
        run.parent.mkdir()
        began = time.monotonic()
        self._finish(fork(self.command(0, run), run.parent / "log", plain_figures), run)
        self.seconds["forked"] = time.monotonic() - began
        # A campaign in which the forked runs differed from real ones would prove little.
        if found := differences(self.references[0], run, figures=False):
            raise SystemExit(f"a forked run differs from python Trainer.py: {'; '.join(found)}")

    def _finish(self, child: Child, run: Path) -> None:
        while child.poll() is None:
            time.sleep(0.01)
        if child.status != 0:
            text = (run.parent / "log.err").read_text()
            raise SystemExit(f"an uninterrupted run ended with {child.status}: {text}")

    def one_run(self, number: int, kills: int) -> Result:
        """A run that is killed so many times, then left to end; all that came of it."""
        rng = random.Random(f"{self.seed} {number}")
        result = Result()
        variant, real = number % len(VARIANTS), number % 10 == 9
        place = self.work / f"run{number}"
        place.mkdir()
        run = place / "run"
        command = self.command(variant, run)
        resume = ["--save_root", str(run), "--resume"]
        arguments = command
        while result.attempts < 3 * kills + 10:
            log = place / f"log{result.attempts}"
            kill = sum(result.kills.values()) < kills
            before = steps_to_resume_from(run)
            corrupted = ""
            if arguments is resume and rng.random() < 0.25 and sound(run):
                corrupted = damage(run / "last.ckpt", rng)
                before = steps_to_resume_from(run)
                result.notes["newest checkpoint corrupted"] += 1
            counter = place / "steps"
            counter.write_bytes(b"")
            disk = Path(f"{log}.disk")
            writer = rng.randrange(2**32)
            if real:
                child = start_python(arguments, log, awkward_python(place, writer, disk))
            else:
                child = fork(
                    arguments, log, lambda w=writer, c=counter, d=disk: prepare_fork(w, c, d)
                )
            result.attempts += 1
            seconds_before = result.notes["second signals"]
            sent, saved = self._attend(child, run, log, counter, rng, kill, real, result)
            twice = result.notes["second signals"] > seconds_before
            out, err = (Path(f"{log}.{end}").read_text(encoding="utf-8") for end in ("out", "err"))
            judge(result, child.status, out, err, sent, saved, log)
            refused = disk.read_bytes() if disk.exists() else b""
            result.notes["folder syncs refused"] += refused.count(awkward.FOLDER)
            result.notes["renames refused"] += refused.count(awkward.RENAME)
            if corrupted and "last.ckpt" not in out + err and len(out) > 0:
                result.add("lost", f"{log}: no warning of a last.ckpt that was {corrupted}")
            stopped = child.status in STATUSES and STOPPING in err
            if stopped and not real and not twice:  # a second signal stops before the save
                done, kept = counter.stat().st_size, steps_saved(run / "last.ckpt")
                result.notes["stopped runs whose steps were counted"] += 1
                if kept != before + done:
                    what = f"{before} + {done} steps finished, {kept} saved"
                    result.add("lost steps", f"{log}: {what}")
            if child.status == 0:
                found = differences(self.references[variant], run, figures=real)
                for difference in found:
                    result.add("differing", f"{run}: {difference}")
                result.survived = not found
                return result
            if child.status == 2:
                if arguments is command and "continue it with --resume" in err:
                    arguments = resume
                elif arguments is resume and "no run to continue" in err:
                    arguments = command
                    result.notes["killed before anything was saved"] += 1
                else:
                    result.add("lost", f"{log}: {err.strip()}")
                    return result
            elif sent is None:
                result.add("lost", f"{log}: ended by itself with {child.status}")
                return result
            else:
                # As a user does: resume what was started.
                arguments = resume
        result.add("lost", f"{place}: still not done after {result.attempts} starts")
        return result

    def _attend(
        self,
        child: Child,
        run: Path,
        log: Path,
        counter: Path,
        rng: random.Random,
        kill: bool,
        real: bool,
        result: Result,
    ) -> tuple[signal.Signals | None, bool]:
        """Wait for a process and kill it at a moment drawn; (signal, whether it had saved)."""
        began = time.monotonic()
        length = self.seconds["python" if real else "forked"]
        moment = rng.choice(("any", "any", "any") if real else ("any", "saving", "saving", "step"))
        number = rng.choice(SIGNALS)
        at = began + rng.uniform(0.0, 0.8 * length)
        pass_by, delay = rng.randrange(6), rng.uniform(0.0, 0.06)
        step = rng.randrange(1, 12)
        second = began + HANG
        sent: signal.Signals | None = None
        # A resumed run may put last.prev.ckpt in place of a corrupted last.ckpt before it starts.
        first_mtimes = [mtime(run / name) for name in ("last.ckpt", "last.prev.ckpt")]
        saved = seen = False
        while child.poll() is None:
            now = time.monotonic()
            if now - began > HANG:
                child.send(signal.SIGKILL)
                result.add("lost", f"{run}: stuck")
                break
            if kill and sent is None:
                due = now >= at
                if moment == "saving":
                    writing = any(p.name.endswith(".tmp") for p in listing(run))
                    if writing and not seen:
                        pass_by -= 1
                        due = pass_by < 0
                    else:
                        due = now >= began + 3 * length
                    seen = writing
                elif moment == "step":
                    due = counter.stat().st_size >= step or now >= began + 3 * length
                if real and number == signal.SIGINT:
                    due = due and Path(f"{log}.out").stat().st_size > 0  # its imports are done
                if due:
                    if moment != "any":
                        time.sleep(delay)
                    saved = mtime(run / "last.ckpt") not in first_mtimes
                    if child.poll() is None:
                        child.send(number)
                        sent = number
                        result.kills[f"{number.name} {moment}"] += 1
                        if number != signal.SIGKILL and rng.random() < 0.15:
                            second = time.monotonic() + rng.uniform(0.0, 1.2)
            if sent is not None and now > second:
                child.send(rng.choice(SIGNALS[1:]))
                second = began + HANG
                result.notes["second signals"] += 1
            time.sleep(0.002)
        while child.poll() is None:
            time.sleep(0.002)
        return sent, saved


def prepare_fork(writer: int, counter: Path, disk: Path) -> None:
    """What makes a forked run differ from a real one, and its disk."""
    awkward.install(writer, str(disk))
    slow_writer(writer)
    plain_figures()
    count_steps(counter)


def listing(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, if there is one."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def mtime(path: Path) -> int:
    """When a file was written, in ns; 0 without one."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def damage(path: Path, rng: random.Random) -> str:
    """Damage a checkpoint so that it cannot be loaded; how, in words."""
    data = path.read_bytes()
    if not data:  # emptied before, and the run was killed again before it could save
        return "emptied"
    while True:
        how = rng.choice(("emptied", "cut", "overwritten", "flipped"))
        if how == "emptied":
            changed = b""
        elif how == "cut":
            changed = data[: rng.randrange(len(data))]
        elif how == "overwritten":
            changed = bytes(len(data))
        else:
            place = rng.randrange(len(data))
            changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        path.unlink()  # it may share its content with last.prev.ckpt
        path.write_bytes(changed)
        try:
            contents(path)
        except UserError:
            return how


def judge(
    result: Result,
    status: int | None,
    out: str,
    err: str,
    sent: signal.Signals | None,
    saved: bool,
    log: Path,
) -> None:
    """Add to the result what is wrong with how a process ended after a signal (or without)."""
    if "Traceback" in out + err:
        result.add("tracebacks", f"{log}: {err.strip().splitlines()[-1]}")
    if sent is None or sent is signal.SIGKILL:
        return  # a wrong status of its own is dealt with by the caller
    noted = STOPPING in err
    expected = {128 + int(sent)}
    if not noted:
        expected |= {0, -int(sent)}  # it was about to end, or had not started yet
    # A second signal ends it with its own number.
    expected |= STATUSES if noted else set()
    if status not in expected:
        result.add("statuses", f"{log}: {sent.name} gave {status}, not one of {sorted(expected)}")
    finished = "results in" in out
    if saved and not noted and status != 0 and not finished:
        result.add("statuses", f"{log}: {sent.name} was ignored after a checkpoint was saved")


# ---------------------------------------------------------------- the campaign


def work_on(campaign: Campaign, numbers: Iterator[int], kills: int, target: Path) -> None:
    """Do a worker's runs until so many kills are done, and write their results.

    A run may end before the moment that was drawn for its kill has come.
    """
    results = []
    while kills > 0:
        number = next(numbers)
        result = campaign.one_run(number, min(kills, random.Random(number).randint(2, 7)))
        results.append(vars(result))
        done = result.kills.total()
        kills -= done
        state = "survived" if result.survived else "NOT SURVIVED"
        print(f"  run {number}: {done} kills, {result.attempts} starts, {state}", flush=True)
        for kind, faults in result.faults.items():
            print("".join(f"    {kind}: {fault}\n" for fault in faults), end="", flush=True)
        if result.survived:
            shutil.rmtree(campaign.work / f"run{number}")
    target.write_text(json.dumps(results), encoding="utf-8")


def campaign(kills: int, seed: int, workers: int, flips: int, cuts: int, work: Path) -> bool:
    """The whole campaign; prints its counts. Returns whether all is as promised."""
    began = time.monotonic()
    shared = Campaign(work, seed)
    shared.make_references()
    took = ", ".join(f"{kind} {value:.1f} s" for kind, value in shared.seconds.items())
    print(f"uninterrupted runs: {took}", flush=True)
    children = []
    for worker in range(workers):
        target = work / f"results{worker}.json"
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                share = kills // workers + (worker < kills % workers)
                # From 8 on, so that even a short campaign has a `python Trainer.py`, number 9.
                work_on(shared, itertools.count(8 + worker, workers), share, target)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append((pid, target))
    results: list[dict[str, Any]] = []
    for pid, target in children:
        _, status = os.waitpid(pid, 0)
        if status:
            raise SystemExit("a worker of the campaign itself failed")
        results += json.loads(target.read_text())

    counts, bad = read_corrupted(
        shared.references[0] / "last.ckpt",
        work / "corrupted.ckpt",
        flips=flips,
        cuts=cuts,
        seed=seed,
    )
    faults: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for result in results:
        kinds.update(result["kills"])
        notes.update(result["notes"])
        faults.update({kind: len(listed) for kind, listed in result["faults"].items()})
    survived = sum(result["survived"] for result in results)
    print(f"\nkills: {kinds.total()} of {len(results)} runs, which were started "
          f"{sum(result['attempts'] for result in results)} times")  # fmt: skip
    for kind, count in sorted(kinds.items()):
        print(f"  {kind:<16} {count}")
    for note, count in sorted(notes.items()):
        print(f"  {note}: {count}")
    print(f"survived {survived} of {len(results)} runs")
    for kind in ("lost", "differing", "statuses", "lost steps", "tracebacks"):
        print(f"{kind:<11} {faults[kind]}")
    print(f"corrupted checkpoints: {counts.total()}, refused {counts['refused']}, loaded with the "
          f"very same content {counts['identical']} (the byte had no meaning)")  # fmt: skip
    print(f"silent      {counts['silent']}")
    for line in bad:
        print(f"  {line}")
    print(f"{time.monotonic() - began:.0f} s")
    return survived == len(results) and not faults and not bad and kinds.total() == kills


# ---------------------------------------------------------------- long runs


def sample() -> dict[str, float]:
    """What this process holds now: MB of memory, open files, threads, objects, figures."""
    import gc

    from matplotlib.figure import Figure

    gc.collect()
    objects = gc.get_objects()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return {
        "MB": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        "open files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "objects": len(objects),
        "figures": sum(isinstance(thing, Figure) for thing in objects),
    }


def sample_epochs(target: Path, every: int, draw_every: int = 1) -> None:
    """Add a line of sample() to a file after every so many epochs of a run in this process.

    draw_every: figures are drawn in every so many epochs only
    """
    from modules.figures import drawing, records

    records.worth_a_process = lambda *_, **__: False  # drawn here, where it is counted
    draw, epochs = drawing.Artist.draw, 0

    def wrapper(self: drawing.Artist, *jobs: Any) -> dict[str, str]:
        nonlocal epochs
        faults = draw(self, *jobs) if epochs % draw_every == 0 else {}
        if epochs % every == 0:
            with target.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"epoch": epochs, **sample()}) + "\n")
        epochs += 1
        return faults

    drawing.Artist.draw = wrapper  # type: ignore[method-assign]


# Growth from the first fifth of a run to its end that counts as none. Memory: allocators keep some
# pages more or less; the table of metrics that the figure is drawn from grows by 112 bytes per
# epoch. Objects: a few caches fill up.
MAY_GROW = {"MB": 8.0, "open files": 0, "threads": 0, "objects": 1000, "figures": 0}


def growth(samples: list[dict[str, float]]) -> dict[str, float]:
    """How much each number grew from a fifth of the samples on: last less first."""
    settled = samples[len(samples) // 5 :]
    return {name: round(settled[-1][name] - settled[0][name], 1) for name in MAY_GROW}


def grown(samples: list[dict[str, float]]) -> list[str]:
    """What grew more than it may; empty for a run that could continue for ever."""
    return [
        f"{name} grew by {value} from epoch {samples[len(samples) // 5]['epoch']} on"
        for name, value in growth(samples).items()
        if value > MAY_GROW[name]
    ]


def long_run(epochs: int, draw_every: int, work: Path) -> bool:
    """A run of many epochs on one clip; prints what it held on the way, and whether it grew."""
    began = time.monotonic()
    data = make_dataset(work / "clip", train=4, val=2, tests=())
    run, samples_file, every = work / "run", work / "samples", max(1, epochs // 20)
    arguments = ["--DR", str(data), "--save_root", str(run), *COMMON, "--num_epoch", str(epochs)]
    arguments += ["--auto_save", "--tfr", "0.5"]
    child = fork(arguments, work / "log", lambda: sample_epochs(samples_file, every, draw_every))
    while child.poll() is None:
        time.sleep(0.1)
    samples = [json.loads(line) for line in samples_file.read_text().splitlines()]
    print("  ".join(f"{name:>10}" for name in samples[0]))
    for one in samples:
        print("  ".join(f"{value:>10}" for value in one.values()))
    bad = grown(samples)
    if child.status != 0:
        bad.append(f"ended with {child.status}: {(work / 'log.err').read_text().strip()}")
    table = (run / "metrics.csv").read_text()
    # One epoch more, in a new process: the table is continued, not rewritten.
    more = fork(
        ["--save_root", str(run), "--resume", "--num_epoch", str(epochs + 1)],
        work / "more",
        lambda: None,
    )
    while more.poll() is None:
        time.sleep(0.1)
    after = (run / "metrics.csv").read_text()
    numbers = [line.split(",")[0] for line in after.splitlines()[1:]]
    if numbers != [str(i) for i in range(epochs + 1)] or not after.startswith(table):
        bad.append("metrics.csv was not continued by just one row an epoch")
    print(f"growth from epoch {samples[len(samples) // 5]['epoch']} on: {growth(samples)}")
    drawn = f" (figures drawn in every {draw_every}th)" if draw_every > 1 else ""
    good = f"nothing grew in {epochs} epochs{drawn}, and metrics.csv was continued"
    print("\n".join(bad) or good)
    print(f"{time.monotonic() - began:.0f} s")
    return not bad


# ---------------------------------------------------------------- command line


def main() -> int:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="signals to send in all (100)")
    parser.add_argument("--seed", type=int, default=0, help="of moments, signals and damage (0)")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side (1)")
    parser.add_argument("--short", action="store_true", help="8 kills, fewer corrupted files")
    parser.add_argument("--epochs", type=int, help="a long run of so many epochs instead")
    parser.add_argument(
        "--draw_every", type=int, default=1, help="--epochs: draw figures this often only (1)"
    )
    parser.add_argument("--keep", type=Path, help="work in this new folder, and leave it")
    o = parser.parse_args()
    if not hasattr(os, "fork"):
        parser.error("this system has no fork(): the campaign runs on Linux and macOS")
    # A fork of this process then has all that a run imports; PyTorch's optimisers import the
    # second when they are first used, which takes longer than such a run.
    import torch._dynamo

    import Trainer  # noqa: F401

    torch.set_num_threads(1)
    if o.keep:
        o.keep.mkdir(parents=True)
    with contextlib.nullcontext(o.keep) if o.keep else tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        if o.epochs:
            good = long_run(o.epochs, o.draw_every, work)
        elif o.short:
            good = campaign(8, o.seed, o.workers, flips=40, cuts=10, work=work)
        else:
            good = campaign(o.kills, o.seed, o.workers, flips=200, cuts=50, work=work)
    print("all as promised" if good else "NOT as promised")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
