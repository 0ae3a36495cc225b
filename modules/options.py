"""Every option of Trainer.py and Tester.py, each with its default, its range and a line of help.

A field of a dataclass is an option: its name is what users type, its annotation the type. The
parser is made from the fields, so an option cannot exist in one place and be missing in another.
"""

import argparse
import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

from modules.augment import AUGMENTATIONS
from modules.checkpoint import LAST, PREVIOUS
from modules.cvae import COLOURS, FOLDS, OUTPUTS, PRIORS, REFERENCES, ModelConfig
from modules.initial import INITS
from modules.runtime.arguments import ArgumentParser
from modules.runtime.errors import UserError, why
from modules.runtime.patience import patiently

T = TypeVar("T")

# Of every whole number: what seeds and sizes in PyTorch can hold.
LARGEST = 2**63 - 1

PATHS = ("DR", "save_root", "ckpt_path", "export")  # options that name files or folders

DATA, MODEL, OPTIMISATION = "data", "model", "optimisation"
TEACHER_FORCING, KL_ANNEALING, SAVING, RUN = "teacher forcing", "KL annealing", "saving", "run"


class Need(NamedTuple):
    """What an option needs to have an effect."""

    idle: str  # when it has none, in words
    met: Callable[[Any], bool]  # of an object with the options as attributes


def _runs_freely(o: Any) -> bool:
    """Whether some epoch or step may run freely."""
    return o.tfr < 1 or o.tfr_d_step > 0


FAST = Need("without --fast_train", lambda o: o.fast_train)
MULTISTEP = Need("without --lr_scheduler multistep", lambda o: o.lr_scheduler == "multistep")
FRESH = Need("with --ckpt_path, which brings its weights", lambda o: o.ckpt_path is None)
GIVEN = Need("without --ckpt_path", lambda o: o.ckpt_path is not None)
DECAY = Need("without --tfr and --tfr_d_step", lambda o: o.tfr and o.tfr_d_step)
FALLING = Need("without --tfr or --detector_patience", lambda o: o.tfr or o.detector_patience)
MIXED = Need(
    "without a ratio between 0 and 1 (--tfr, --tfr_d_step)",
    lambda o: 0 < o.tfr < 1 or o.tfr * o.tfr_d_step > 0,
)
FREE = Need("without --tfr below 1 or --tfr_d_step", _runs_freely)
OWN_FREE = Need(
    "without free running (--tfr below 1 or --tfr_d_step, and no --rollout_every)",
    lambda o: _runs_freely(o) and not o.rollout_every,
)
ROLLOUTS = Need("without --rollout_every", lambda o: o.rollout_every)
DETECTOR = Need("without --detector_patience", lambda o: o.detector_patience)
CYCLES = Need("without --kl_anneal_type Cyclical", lambda o: o.kl_anneal_type == "Cyclical")
ANNEALING = Need("with --kl_anneal_type None", lambda o: o.kl_anneal_type != "None")
TRAINING = Need("with --test", lambda o: o.gpu == 1 or not o.test)
ANY_BITS = Need("with --deterministic", lambda o: not o.deterministic)
NO_AUTO_SAVE = Need("with --auto_save", lambda o: not o.auto_save)


def option(
    default: Any,
    group: str,
    help_text: str,
    *,
    choices: Sequence[str] | Sequence[int] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    shown: str | None = None,
    bookkeeping: bool = False,
    resumable: bool = False,
    needs: Need | None = None,
) -> Any:
    """One option, and every fact about it.

    shown:       what --help prints as the default when it is derived later
    bookkeeping: it changes no number, so a comparison of runs leaves it out
    resumable:   a resumed run may change it; bookkeeping always may
    needs:       what it needs to have an effect; None: nothing
    """
    meta: dict[str, Any] = {"group": group, "help": help_text, "choices": choices, "shown": shown}
    meta["needs"] = needs
    meta |= {"bounds": (at_least, above, at_most)}
    meta |= {"bookkeeping": bookkeeping, "resumable": resumable or bookkeeping}
    return dataclasses.field(default=default, metadata=meta)


@dataclasses.dataclass
class TrainerOptions:
    """What Trainer.py takes, in the order of its --help."""

    # fmt: off
    DR: str | None = option(None, DATA, "data set root (train/, val/ and test/ in it)", shown="none: give it, or a --preset", bookkeeping=True)
    train_vi_len: int = option(16, DATA, "frames in a training clip, the given first one included", at_least=2)
    val_vi_len: int = option(630, DATA, "frames of the validation video; a shorter one is used whole", at_least=2)
    frame_H: int = option(32, DATA, "frame height in pixels; images are resized once", at_least=4, at_most=8192)
    frame_W: int = option(64, DATA, "frame width in pixels", at_least=4, at_most=8192)
    partial: float = option(1.0, DATA, "use only this first part of the training frames, 0-1", above=0, at_most=1)
    fast_train: bool = option(False, DATA, "start with short epochs: see the next two")
    fast_partial: float = option(0.4, DATA, "fraction of an epoch's clips that a short epoch visits, drawn again for each epoch, 0-1", above=0, at_most=1, needs=FAST)
    fast_train_epoch: int = option(5, DATA, "number of short epochs with --fast_train", at_least=0, needs=FAST)
    no_shuffle: bool = option(False, DATA, "the same consecutive clips in the same order every epoch, as older code did")
    augment: tuple[str, ...] = option((), DATA, "augment training clips, each as a whole: mirror half of them, shift by up to 1/16, change contrast and brightness", choices=AUGMENTATIONS, shown="none")
    num_workers: int = option(2, DATA, "threads that decode the images, once, at the start; no result depends on it", at_least=1, bookkeeping=True)

    F_dim: int = option(128, MODEL, "channels of a frame's feature", at_least=8, at_most=65536)
    L_dim: int = option(32, MODEL, "channels of a label's feature", at_least=2, at_most=65536)
    N_dim: int = option(12, MODEL, "channels of the latent", at_least=4, at_most=65536)
    D_out_dim: int = option(192, MODEL, "channels of the fused feature", at_least=8, at_most=65536)
    prior: str = option("standard", MODEL, "prior of the latent: N(0, I), or a network of its own that sees the previous frame and the label", choices=PRIORS)
    reference: str = option("none", MODEL, "first: every step also sees the video's first frame, and may take the background from it; in training a random frame of the same recording stands for it", choices=REFERENCES)
    fold: int = option(1, MODEL, "n: the networks see n x n pixels as one with n² as many channels, for large frames; 1: the five networks as they are", choices=FOLDS)
    auto_size: bool = option(False, MODEL, "choose F_dim, L_dim, N_dim, D_out_dim, num_epoch, with --reference the fold, and a preset's rate of Muon, where they are not typed, by the machine, the number of training frames and the width: some ten minutes on a CPU, twenty on a GPU; the run prints what it chose and expects", bookkeeping=True)
    init: str = option("default", MODEL, "initialisation: PyTorch's, or one with which the model copies the previous frame", choices=INITS, needs=FRESH)
    output: str = option("linear", MODEL, "how the generator's frame is bounded in training: not at all; clamped to [0, 1], with the gradient of the value as it was; or by a sigmoid", choices=OUTPUTS)

    batch_size: int = option(2, OPTIMISATION, "clips in a step, over all GPUs", at_least=1)
    num_epoch: int = option(70, OPTIMISATION, "epochs of the whole run, resumed parts included", at_least=1, at_most=1_000_000, resumable=True)
    lr: float = option(0.001, OPTIMISATION, "learning rate at the start", above=0)
    optim: str = option("Adam", OPTIMISATION, "optimiser; AdamW: weight decay 0.01; Muon: orthogonalised steps for convolutions that mix channels, Adam for the rest", choices=("Adam", "AdamW", "Muon"))
    lr_scheduler: str = option("constant", OPTIMISATION, "how the learning rate falls: not at all, at lr_milestones, or step by step along a cosine to 0", choices=("constant", "multistep", "cosine"))
    lr_milestones: tuple[int, ...] | None = option(None, OPTIMISATION, "multistep: epochs from which the rate is multiplied by lr_gamma, once more each", at_least=0, shown="at 1/2 and 3/4 of num_epoch", needs=MULTISTEP)
    lr_gamma: float = option(0.1, OPTIMISATION, "multistep: factor at each milestone", above=0, at_most=1, needs=MULTISTEP)
    lr_warmup: int = option(0, OPTIMISATION, "steps over which the learning rate rises from 0 at the start of the run", at_least=0)
    recon: str = option("mse", OPTIMISATION, "reconstruction term: mean-square error, or the likelihood under the best σ of each frame, which makes β = 1 the evidence lower bound", choices=("mse", "sigma"))
    grad_clip: float = option(1.0, OPTIMISATION, "largest norm of the gradient; 0 = no clipping", at_least=0)
    ema: float = option(0.0, OPTIMISATION, "validate and save a running average of the weights with this decay per step, e.g. 0.99; 0 = the weights themselves", at_least=0, at_most=0.99999)

    tfr: float = option(1.0, TEACHER_FORCING, "teacher-forcing ratio at the start: the probability that an epoch is teacher-forced, 0-1", at_least=0, at_most=1)
    tfr_sde: int = option(10, TEACHER_FORCING, "epoch from which the ratio falls (start decay epoch)", at_least=0, needs=DECAY)
    tfr_d_step: float = option(0.1, TEACHER_FORCING, "how much the ratio falls per epoch", at_least=0, at_most=1, needs=FALLING)
    tf_draw: str = option("epoch", TEACHER_FORCING, "teacher forcing is drawn once for an epoch, or for each step of each clip (scheduled sampling)", choices=("epoch", "step"), needs=MIXED)
    detach: bool = option(False, TEACHER_FORCING, "free running: stop the gradient at each fed-back frame; faster, and more stable over long videos", needs=OWN_FREE)
    frame_noise: float = option(0.0, TEACHER_FORCING, "noise added in training to the frame that the next is made from, forced or fed back: each clip has a standard deviation drawn from 0 to this, on the scale of [0, 1]", at_least=0, at_most=1)
    jump: float = option(0.0, TEACHER_FORCING, "share of training steps that start from a random frame of the same recording in place of frame t-1, so that the model learns to remove what no longer belongs there; 0-1", at_least=0, at_most=1)
    rollout_every: int = option(0, TEACHER_FORCING, "every so many epochs, run freely over the training set and store the frames; what is not teacher-forced then starts from those, all steps at once; 0 = off", at_least=0, needs=FREE)
    rollout_share: float = option(1.0, TEACHER_FORCING, "share of the stored frames that is made again each time; the others stay as earlier weights made them, so that no epoch trains on the errors of one model alone; the first time all are made", above=0, at_most=1, needs=ROLLOUTS)
    detector_patience: int = option(0, TEACHER_FORCING, "raise the ratio to 1 again when validation has plateaued for this many epochs (2 or more); 0 = never", at_least=0)
    detector_threshold: float = option(0.1, TEACHER_FORCING, "plateaued: both loss and PSNR (dB) differ by less than this", above=0, needs=DETECTOR)

    kl_anneal_type: str = option("Cyclical", KL_ANNEALING, "how β rises; None: constant", choices=("Cyclical", "Monotonic", "None"))
    kl_anneal_cycle: int = option(10, KL_ANNEALING, "Cyclical: number of cycles in the whole run; β is 0 in a cycle's first epoch", at_least=1, needs=CYCLES)
    kl_anneal_ratio: float = option(1.0, KL_ANNEALING, "part of a cycle in which β rises, 0-1; the rest is plateau", above=0, at_most=1, needs=ANNEALING)
    kl_beta: float = option(1.0, KL_ANNEALING, "plateau of β (None: the constant); 0 switches the KL term off", at_least=0)

    save_root: str | None = option(None, SAVING, "folder of the run", shown="runs/NAME, after data set or preset", bookkeeping=True)
    per_save: int = option(3, SAVING, "save epoch=N.ckpt every so many epochs (not with --auto_save)", at_least=1, bookkeeping=True, needs=NO_AUTO_SAVE)
    auto_save: bool = option(False, SAVING, "save best.ckpt, best_psnr.ckpt and best_loss.ckpt by validation instead", bookkeeping=True)
    store_visualization: bool = option(False, SAVING, "write val.gif and val_sheet.png (label, truth, prediction) of the best validation so far", bookkeeping=True)
    save_minutes: float = option(10.0, SAVING, "write last.ckpt in mid-epoch too when the last save is this many minutes old; 0 = at the end of epochs only", at_least=0, bookkeeping=True)
    tensorboard: bool = option(False, SAVING, "log the columns of metrics.csv for TensorBoard too (needs its package: pip install tensorboard)", bookkeeping=True)
    ckpt_path: str | None = option(None, SAVING, "start from these weights (fine-tuning), or the checkpoint of --test", shown="none", bookkeeping=True)
    weights: str | None = option(None, SAVING, "of a checkpoint that holds several copies of the networks, the one to take, as the run names it (for example ema)", shown="the one that was trained, not an average of it", bookkeeping=True, needs=GIVEN)
    resume: bool = option(False, SAVING, "continue the run in save_root with its own options", bookkeeping=True)
    resume_if_any: bool = option(False, SAVING, "--resume where save_root holds a run, else start one there: for jobs that a scheduler starts again", bookkeeping=True)

    device: str = option("auto", RUN, "auto takes CUDA where there is one, then an Apple GPU (mps), then the CPU", choices=("auto", "cuda", "mps", "cpu"), bookkeeping=True)
    gpu: int = option(1, RUN, "GPUs of this machine to train on; leave it out under torchrun, which starts the processes", at_least=1, bookkeeping=True, needs=TRAINING)
    seed: int = option(0, RUN, "seed of every random draw", at_least=0)
    precision: str = option("auto", RUN, "arithmetic of the networks; auto: bfloat16 where the hardware has it, float16 on CUDA cards that are fast with that alone (T4, V100), else float32. Loss and KL are always float32", choices=("auto", "float32", "bfloat16", "float16"))
    deterministic: bool = option(False, RUN, "CUDA: only kernels that give the same bits every time; slower. A CPU needs no such switch")
    autotune: bool = option(False, RUN, "CUDA: let cuDNN try its kernels for every layer before the first step; a step is then up to 1.4 times as fast, but a run starts a minute or two later", bookkeeping=True, needs=ANY_BITS)
    no_graph: bool = option(False, RUN, "disable CUDA graphs (for debugging); slower", bookkeeping=True)
    recompute: bool = option(False, RUN, "activation checkpointing: recompute activations in the backward pass, one step at a time (8 frames with teacher forcing); less memory, slower", bookkeeping=True)
    test: bool = option(False, RUN, "only validate the checkpoint of --ckpt_path", bookkeeping=True)
    dry_run: bool = option(False, RUN, "check options and data, build the model, print them, stop; writes nothing", bookkeeping=True)
    preset: str | None = option(None, RUN, "a set of options that works; options typed as well override it", choices=("demo", "best", "video"), shown="none", bookkeeping=True)
    # fmt: on


@dataclasses.dataclass
class TesterOptions:
    """What Tester.py takes. Model and frame size come from the checkpoint."""

    __test__ = False  # pytest: not a class of tests, whatever its name

    # fmt: off
    ckpt_path: str | None = option(None, DATA, "checkpoint to generate with", shown="required")
    weights: str | None = option(None, DATA, "of a checkpoint that holds several copies of the networks, the one to take, as the run names it (for example ema)", shown="the one that was trained, not an average of it")
    DR: str | None = option(None, DATA, "data set root", shown="the one that the checkpoint was trained on")
    save_root: str | None = option(None, SAVING, "folder for the results", shown="a folder named after the split, next to the checkpoint")
    export: str | None = option(None, SAVING, "write the five networks' weights to this new file in the older form {state_dict, optimizer, lr, tfr, last_epoch}, for use elsewhere, and stop; needs no data set", shown="none")
    split: str = option("test", DATA, "test: the test sequences; val: the validation video, with PSNR", choices=("test", "val"))
    num_workers: int = option(2, DATA, "threads that decode the images; no result depends on it", at_least=1)
    frame_H: int | None = option(None, MODEL, "frame height, for checkpoints that do not carry it", at_least=4, at_most=8192, shown="the checkpoint's, else 32")
    frame_W: int | None = option(None, MODEL, "frame width, likewise", at_least=4, at_most=8192, shown="the checkpoint's, else 64")
    n_samples: int = option(1, RUN, "with --split val: futures to sample; the best, the mean and the spread of their scores are printed", at_least=1)
    st_lpips: bool = option(False, RUN, "with --split val: the perceptual distance ST-LPIPS too (needs its package: pip install -r requirements-metrics.txt)")
    latent_scale: float = option(1.0, RUN, "multiplies the latent; 0 = the prior's mean", at_least=0)
    batch_size: int = option(8, RUN, "sequences generated side by side; no pixel depends on it", at_least=1)
    seed: int = option(0, RUN, "seed of the latents", at_least=0)
    device: str = option("auto", RUN, "auto takes CUDA where there is one, then an Apple GPU (mps), then the CPU", choices=("auto", "cuda", "mps", "cpu"))
    precision: str = option("auto", RUN, "arithmetic of the networks; auto: as Trainer.py", choices=("auto", "float32", "bfloat16", "float16"))
    # fmt: on


# What gives the highest validation PSNR at equal time, from the first epoch on; docs/results.md has
# the comparison.
RECIPE: dict[str, Any] = {
    # Single steps, from all over the data set: what the model learns to correct in the frame before
    # is what free running does to it, and nothing has to be made in sequence.
    "train_vi_len": 2,
    "batch_size": 8,
    # From single steps of true frames a model learns that the person is almost where it is to be,
    # and never to remove anybody: jumps teach that. Half of the other steps start from stored
    # frames of the model's own, those of several epochs side by side, and all from noisy ones.
    "jump": 0.3,
    "frame_noise": 0.3,
    "tfr": 0.5,
    "tfr_d_step": 0.0,
    "tf_draw": "step",
    "rollout_every": 1,
    "rollout_share": 0.5,
    "init": "copy",
    "optim": "Muon",
    "lr": 0.003,
    "lr_scheduler": "cosine",
    "lr_warmup": 20,
    # So low that all steps' gradients have one norm. Muon's steps have one size whatever the
    # gradient, so a single step that goes astray, whose gradient is a hundred times as large as the
    # others', would be followed for twenty. With 1 a rate of 0.005 diverged.
    "grad_clip": 0.01,
    "ema": 0.99,
    # Too weak a KL term lets training read the answer off the posterior's latent, which validation
    # does not have. From 0.001 to 1 it makes no difference (tests/programs/ablation.py, row beta_1).
    "kl_anneal_type": "None",
    "kl_beta": 0.001,
}

# A preset's options lie between the defaults and what is typed.
PRESETS: dict[str, dict[str, Any]] = {
    # The procedural data set, small enough to be learnt on two cores in minutes.
    "demo": {
        "DR": "runs/demo_data",
        "save_root": "runs/demo",
        "auto_save": True,
        "store_visualization": True,
        "F_dim": 16,
        "L_dim": 16,
        "N_dim": 4,
        "D_out_dim": 32,
        **RECIPE,
        "init": "default",  # too narrow for copying
        "num_epoch": 10,
    },
    # The five networks as they are. Frames are clamped wherever they are used, so it changes no
    # frame that they are clamped in training as well; unbounded, single steps had losses of 1e7.
    "best": {
        **RECIPE,
        "output": "clamp",
        "auto_size": True,
        "auto_save": True,
        "store_visualization": True,
    },
    # Cameras that move, several rooms, larger frames, which --auto_size folds. The background comes
    # from the first frame, clean, so it does not have to survive the model's own frames. Shifts and
    # changes of light stand in for footage that is not there.
    "video": {
        **RECIPE,
        "reference": "first",
        "augment": ("shift", "colour"),
        "auto_size": True,
        "auto_save": True,
        "store_visualization": True,
    },
}


def _argument_type(hint: Any) -> tuple[type, bool]:
    """(scalar type, takes several values) of a field's annotation."""
    if isinstance(hint, UnionType):
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
    if get_args(hint):
        return get_args(hint)[0], True
    return hint, False


def build_parser(options_class: type, description: str) -> argparse.ArgumentParser:
    """The command line of a dataclass of options, grouped as its fields are."""
    parser = ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    hints = get_type_hints(options_class)
    groups: dict[str, Any] = {}
    for entry in dataclasses.fields(options_class):
        meta = entry.metadata
        group = groups.setdefault(meta["group"], None) or parser.add_argument_group(meta["group"])
        groups[meta["group"]] = group
        scalar, several = _argument_type(hints[entry.name])
        text = meta["help"]
        if scalar is not bool:
            text += f" ({meta['shown'] or entry.default})"
        text = text.replace("%", "%%")
        flag = f"--{entry.name}"
        if scalar is bool:
            group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
        else:
            group.add_argument(
                flag,
                type=scalar,
                nargs="+" if several else None,
                choices=meta["choices"],
                default=argparse.SUPPRESS,
                metavar=None if meta["choices"] else scalar.__name__.upper(),
                help=text,
            )
    return parser


def parse(
    options_class: type[T], description: str, argv: Sequence[str] | None = None
) -> tuple[T, frozenset[str]]:
    """Options from the command line: defaults, then the preset's, then what was typed.

    Returns the options and the names of those that were typed. Raises UserError on unknown options
    and on values out of range.
    """
    typed = vars(build_parser(options_class, description).parse_args(argv))
    for name, value in typed.items():
        if isinstance(value, list):
            typed[name] = tuple(value)
        elif name in PATHS and value.startswith("~"):
            # As in --save_root=~/runs, or on Windows: shells expand it at the start of a word only.
            with contextlib.suppress(RuntimeError):  # no such user
                typed[name] = str(Path(value).expanduser())
    preset = PRESETS[typed["preset"]] if typed.get("preset") else {}
    options = options_class(**{**preset, **typed})
    check_ranges(options)
    return options, frozenset(typed)


def check_ranges(options: Any) -> None:
    """Raise UserError for the first option that is outside its range or not finite."""
    for entry in dataclasses.fields(options):
        at_least, above, at_most = entry.metadata["bounds"]
        value = getattr(options, entry.name)
        if value == "":  # as of "$ROOT" with a variable that was never set
            raise UserError(f"--{entry.name}: is empty; give a value, or leave the option out")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"--{entry.name} {number}: must be a finite number")
            if at_least is not None and number < at_least:
                raise UserError(f"--{entry.name} {number}: must be at least {at_least}")
            if above is not None and number <= above:
                raise UserError(f"--{entry.name} {number}: must be above {above}")
            if at_most is None and isinstance(number, int):
                at_most = LARGEST
            if at_most is not None and number > at_most:
                raise UserError(f"--{entry.name} {number}: must be at most {at_most}")


def parse_trainer(
    description: str, argv: Sequence[str] | None = None
) -> tuple[TrainerOptions, frozenset[str]]:
    """Trainer.py's options. See parse()."""
    options, explicit = parse(TrainerOptions, description, argv)
    if options.resume_if_any and not options.resume and _holds_run(options):
        # The run has started from --ckpt_path, if that was typed.
        options, explicit = (
            dataclasses.replace(options, resume=True, ckpt_path=None),
            explicit - {"ckpt_path"},
        )
    if options.resume and options.save_root is None and options.DR is None:
        raise UserError("--resume needs --save_root, the folder of the run to continue")
    check_combinations(options, explicit)
    if options.test and "save_root" not in explicit:
        options.save_root = None  # a preset's is the folder of a training run
    return options, explicit


def _holds_run(options: TrainerOptions) -> bool:
    """Whether the folder of the run has a checkpoint to resume, sound or not. Raises UserError."""
    if options.save_root is None and options.DR is None:
        raise UserError("--resume_if_any needs --save_root, the folder of the run")
    folder = run_folder(options)
    try:
        return any(patiently((folder / name).exists) for name in (LAST, PREVIOUS))
    except OSError as error:
        raise UserError(
            f"--resume_if_any: {folder} cannot be read ({why(error, folder)})"
        ) from error


def check_combinations(options: TrainerOptions, explicit: frozenset[str] = frozenset()) -> None:
    """Refuse combinations that make no sense (UserError). explicit: names of typed options."""
    if options.DR is None and not (options.resume or options.ckpt_path):
        raise UserError(
            "no data set: give its root with --DR, or --preset demo for one that needs no download"
        )
    if options.test and options.ckpt_path is None:
        raise UserError("--test validates a checkpoint: name it with --ckpt_path")
    for name in ("resume", "resume_if_any"):
        if options.test and getattr(options, name):
            raise UserError(f"--test and --{name} are mutually exclusive: --test takes --ckpt_path")
    if options.resume and options.ckpt_path is not None:
        raise UserError(
            "--resume and --ckpt_path are mutually exclusive: --resume continues the run in "
            "save_root, --ckpt_path starts a new run from given weights"
        )
    needed = COLOURS * (8 if options.fold == 1 else options.fold**2)
    widths = {name: getattr(options, name) for name in ("F_dim", "D_out_dim")}
    if options.auto_size:  # which makes the others as wide as they must be
        widths = {name: value for name, value in widths.items() if name in explicit}
    if options.init == "copy" and min(widths.values(), default=needed) < needed:
        raise UserError(
            f"--init copy: needs --F_dim and --D_out_dim of at least {needed}, so that the "
            "colours find a way through the narrowest layers"
        )
    if options.init == "copy" and options.output == "sigmoid":
        raise UserError("--init copy: a sigmoid would bend what is copied; use another --output")
    if options.detector_patience == 1:
        raise UserError(
            "--detector_patience 1: a plateau takes at least two validations; 2 or more"
        )


# What follows from other options is computed where it is needed and never stored in place of None:
# a resumed run with another --num_epoch would otherwise keep what followed from the old one.


def run_folder(options: TrainerOptions) -> Path:
    """The folder of the run: --save_root, or what follows from the checkpoint or the data set."""
    if options.save_root is not None:
        return Path(options.save_root)
    if options.test and options.ckpt_path is not None:
        # A folder named after the data set may hold a training run.
        return Path(options.ckpt_path).parent / "validation"
    return Path("runs") / (Path(options.DR or "").resolve().name or "run")


def milestones(options: TrainerOptions) -> tuple[int, ...]:
    """The epochs of --lr_milestones; by default 1/2 and 3/4 of the run."""
    if options.lr_milestones is not None:
        return options.lr_milestones
    return (options.num_epoch // 2, options.num_epoch * 3 // 4)


def resolved(options: TrainerOptions) -> TrainerOptions:
    """The options with the derived ones filled in, as they are printed and noted in config.json."""
    derived: dict[str, Any] = {
        "save_root": str(run_folder(options)),
        "lr_milestones": milestones(options),
    }
    return dataclasses.replace(options, **derived)


# Options of earlier versions, with the value that changes nothing.
RETIRED: dict[str, Any] = {"grow_from": None, "grow_epochs": ..., "kl_norm": "sum"}


def saved_options(values: dict[str, Any]) -> TrainerOptions:
    """The options of a run as its checkpoint holds them, of this version or an earlier one.

    Raises UserError if one of them no longer exists, TypeError if one is unknown.
    """
    current = {name: value for name, value in values.items() if name not in RETIRED}
    retired = {name: value for name, value in values.items() if name in RETIRED}
    for name, value in retired.items():
        if RETIRED[name] not in (value, ...):
            raise UserError(f"it was trained with --{name} {value}, which no longer exists")
    options = TrainerOptions(**current)
    derived = (options.num_epoch // 2, options.num_epoch * 3 // 4)
    if retired and tuple(options.lr_milestones or ()) == derived:
        options.lr_milestones = None  # these versions stored what they had derived
    return options


def effective(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of a run that change its numbers: no bookkeeping, nothing idle.

    values: as config.json has them; of an earlier version, they may lack some, and have others.
    """
    fields = {entry.name: entry for entry in dataclasses.fields(TrainerOptions)}
    defaults = {name: entry.default for name, entry in fields.items()}
    o = SimpleNamespace(**{**defaults, **values})

    def counts(name: str) -> bool:
        if name not in fields:
            return name not in RETIRED or RETIRED[name] not in (values[name], ...)
        meta = fields[name].metadata
        return not meta["bookkeeping"] and (meta["needs"] is None or meta["needs"].met(o))

    return {name: value for name, value in values.items() if counts(name)}


def without_effect(
    options: TrainerOptions, explicit: frozenset[str], device: str = "cuda"
) -> list[str]:
    """A line for each typed option that another one, or the device, makes meaningless.

    So that none is silent. device: the kind that was chosen, as "cpu"
    """
    for_cuda = {"autotune", "no_graph"} & explicit if device != "cuda" else set()
    return [f"note: --{name} has no effect without CUDA" for name in sorted(for_cuda)] + [
        f"note: --{entry.name} has no effect {need.idle}"
        for entry in dataclasses.fields(options)
        if entry.name in explicit and (need := entry.metadata["needs"]) and not need.met(options)
    ]


def model_config(options: TrainerOptions) -> ModelConfig:
    """The model's settings among the options."""
    names = [entry.name for entry in dataclasses.fields(ModelConfig)]
    return ModelConfig(**{name: getattr(options, name) for name in names})


def as_lines(options: Any) -> list[str]:
    """The resolved options, a line for each group, as printed at the start of a run."""
    groups: dict[str, list[str]] = {}
    for entry in dataclasses.fields(options):
        value = getattr(options, entry.name)
        text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        groups.setdefault(entry.metadata["group"], []).append(f"{entry.name}={text}")
    return [f"{group + ':':<17} {'  '.join(items)}" for group, items in groups.items()]
