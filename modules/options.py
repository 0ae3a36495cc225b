"""Every option of the scripts, each with its default, its range and a line of help.

A field of a dataclass is an option: its name is what users type, its annotation the type. The
parser is made from the fields, so an option cannot exist in one place and be missing in another.
"""

import argparse
import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from modules.cvae import COLOURS, FOLDS, OUTPUTS, PRIORS, REFERENCES, ModelConfig
from modules.data import AUGMENTATIONS
from modules.runtime.errors import UserError, why
from modules.runtime.scripts import ArgumentParser, path_argument

T = TypeVar("T")

REQUIRED: Any = dataclasses.MISSING  # in place of a default
LARGEST = 2**63 - 1  # of every whole number: what seeds and sizes in PyTorch can hold

# The checkpoint that a run is resumed from, and the one before it.
LAST, PREVIOUS = "last.ckpt", "last.prev.ckpt"

PATHS = ("DR", "save_root", "ckpt_path", "export")  # options that name files or folders

DATA, MODEL, OPTIMISATION = "data", "model", "optimisation"
TEACHER_FORCING, KL_ANNEALING, SAVING, RUN = "teacher forcing", "KL annealing", "saving", "run"


class Need(NamedTuple):
    """What an option needs to have an effect."""

    idle: str  # when it has none, in words
    met: Callable[[Any], bool]  # of an object with the options as attributes


def option(
    default: Any,
    group: str,
    help: str,
    *,
    choices: Sequence[str] | Sequence[int] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    shown: str | None = None,
    bookkeeping: bool = False,
    resumable: bool = False,
    needs: Need | None = None,
    metavar: str | None = None,
    positional: bool = False,
    convert: Callable[[str], Any] | None = None,
) -> Any:
    """One option, and every fact about it.

    default:     REQUIRED if there is none
    shown:       what --help prints as the default when it is derived later
    bookkeeping: it changes no number, so a comparison of runs leaves it out
    resumable:   a resumed run may change it; bookkeeping always may
    needs:       what it needs to have an effect; None: nothing
    metavar:     what --help prints for the value; None: its type
    convert:     makes the value of what was typed; None: the annotation does
    """
    facts = {name: value for name, value in locals().items() if name != "default"}
    facts["resumable"] = resumable or bookkeeping
    return dataclasses.field(default=default, metadata=facts)


@dataclasses.dataclass
class TrainerOptions:
    """What Trainer.py takes, in the order of its --help."""

    # fmt: off
    DR: str | None = option(None, DATA, "data set root, which holds train/, val/ and test/", shown="none: give it, or a --preset", bookkeeping=True)
    train_vi_len: int = option(16, DATA, "frames in a training clip, including the given first one", at_least=2)
    val_vi_len: int = option(630, DATA, "validation frames to use; a shorter video is used whole", at_least=2)
    frame_H: int = option(32, DATA, "frame height in pixels; images are resized once, on loading", at_least=4, at_most=8192)
    frame_W: int = option(64, DATA, "frame width in pixels", at_least=4, at_most=8192)
    partial: float = option(1.0, DATA, "fraction of the training frames to use, from the start, 0-1", above=0, at_most=1)
    fast_train: bool = option(False, DATA, "begin with short epochs: see the next two options")
    fast_partial: float = option(0.4, DATA, "fraction of the clips that a short epoch uses, drawn anew each epoch, 0-1", above=0, at_most=1, needs=Need("without --fast_train", lambda o: o.fast_train))
    fast_train_epoch: int = option(5, DATA, "number of short epochs with --fast_train", at_least=0, needs=Need("without --fast_train", lambda o: o.fast_train))
    augment: tuple[str, ...] = option((), DATA, "augmentation, the same for all frames of a clip: mirror half of the clips, shift by up to 1/16 of the frame, change contrast and brightness", choices=AUGMENTATIONS, shown="none")
    num_workers: int = option(2, DATA, "threads that decode the images at startup; results do not depend on it", at_least=1, bookkeeping=True)

    F_dim: int = option(128, MODEL, "channels of the frame features", at_least=8, at_most=65536)
    L_dim: int = option(32, MODEL, "channels of the label features", at_least=2, at_most=65536)
    N_dim: int = option(12, MODEL, "channels of the latent", at_least=4, at_most=65536)
    D_out_dim: int = option(192, MODEL, "channels of the fused features", at_least=8, at_most=65536)
    prior: str = option("standard", MODEL, "prior over the latent: N(0, I), or a network conditioned on the previous frame and the label", choices=PRIORS)
    reference: str = option("none", MODEL, "first: every step also sees the video's first frame and can copy the background from it; training uses a random frame of the same recording instead", choices=REFERENCES)
    fold: int = option(1, MODEL, "fold each n x n block of pixels into one with n² times the channels, for large frames; 1 = off", choices=FOLDS)
    auto_size: bool = option(False, MODEL, "choose F_dim, L_dim, N_dim, D_out_dim and num_epoch (with --reference also fold and frame size, which is the data set's own or half of it; and a preset's learning rate for Muon) unless given, from the device and the training frames: about ten minutes on a CPU, twenty on a GPU; the choice and the expected time are printed", bookkeeping=True)
    init: str = option("default", MODEL, "weight initialisation: PyTorch's, or one with which the untrained model copies the previous frame", choices=("default", "copy"), needs=Need("with --ckpt_path, which provides the weights", lambda o: o.ckpt_path is None))
    output: str = option("linear", MODEL, "output activation: none; clamped to [0, 1] with a straight-through gradient; or a sigmoid", choices=OUTPUTS)

    batch_size: int = option(2, OPTIMISATION, "clips per step, over all GPUs", at_least=1)
    num_epoch: int = option(70, OPTIMISATION, "total epochs of the run, including resumed parts", at_least=1, at_most=1_000_000, resumable=True)
    lr: float = option(0.001, OPTIMISATION, "learning rate at the start", above=0)
    optim: str = option("Adam", OPTIMISATION, "optimiser; AdamW: weight decay 0.01; Muon: orthogonalised updates for convolutions that mix channels, Adam for the rest, with a 20-step warm-up", choices=("Adam", "AdamW", "Muon"))
    lr_scheduler: str = option("constant", OPTIMISATION, "learning-rate schedule; cosine: per step, down to 0", choices=("constant", "multistep", "cosine"))
    lr_milestones: tuple[int, ...] | None = option(None, OPTIMISATION, "multistep: epochs at which the learning rate is multiplied by lr_gamma", at_least=0, shown="at 1/2 and 3/4 of num_epoch", needs=Need("without --lr_scheduler multistep", lambda o: o.lr_scheduler == "multistep"))
    lr_gamma: float = option(0.1, OPTIMISATION, "multistep: factor at each milestone", above=0, at_most=1, needs=Need("without --lr_scheduler multistep", lambda o: o.lr_scheduler == "multistep"))
    grad_clip: float = option(1.0, OPTIMISATION, "maximum gradient norm; 0 = no clipping", at_least=0)
    ema: float = option(0.0, OPTIMISATION, "validate and save an exponential moving average of the weights with this decay per step, e.g. 0.99; 0 = off", at_least=0, at_most=0.99999)

    tfr: float = option(1.0, TEACHER_FORCING, "initial teacher-forcing ratio: the probability that an epoch is teacher-forced, 0-1", at_least=0, at_most=1)
    tfr_sde: int = option(10, TEACHER_FORCING, "epoch at which the ratio starts to decay (start decay epoch)", at_least=0, needs=Need("without --tfr and --tfr_d_step", lambda o: o.tfr and o.tfr_d_step))
    tfr_d_step: float = option(0.1, TEACHER_FORCING, "decay of the ratio per epoch", at_least=0, at_most=1, needs=Need("without --tfr or --detector_patience", lambda o: o.tfr or o.detector_patience))
    detach: bool = option(False, TEACHER_FORCING, "free running: stop the gradient at each fed-back frame; faster", needs=Need("without free running (--tfr below 1 or --tfr_d_step, and no --rollout_every)", lambda o: (o.tfr < 1 or o.tfr_d_step > 0) and not o.rollout_every))
    frame_noise: float = option(0.0, TEACHER_FORCING, "Gaussian noise added in training to the previous frame, teacher-forced or fed back; each clip draws its standard deviation between 0 and this, for pixels in [0, 1]", at_least=0, at_most=1)
    jump: float = option(0.0, TEACHER_FORCING, "fraction of training steps whose previous frame is a random one of the same recording, which teaches the model to remove what no longer belongs there; 0-1", at_least=0, at_most=1)
    rollout_every: int = option(0, TEACHER_FORCING, "every this many epochs, generate the training set free-running and store the frames, half of them anew each time; teacher forcing is then drawn per step, and steps that are not forced start from the stored frames; 0 = off", at_least=0, needs=Need("without --tfr below 1 or --tfr_d_step", lambda o: o.tfr < 1 or o.tfr_d_step > 0))
    detector_patience: int = option(0, TEACHER_FORCING, "reset the ratio to 1 when validation has plateaued for this many epochs (2 or more); 0 = never", at_least=0)
    detector_threshold: float = option(0.1, TEACHER_FORCING, "plateau: PSNR and 10·log10 of the loss both vary by less than this many dB", above=0, needs=Need("without --detector_patience", lambda o: o.detector_patience))

    kl_anneal_type: str = option("Cyclical", KL_ANNEALING, "annealing of the KL weight β; None: constant", choices=("Cyclical", "Monotonic", "None"))
    kl_anneal_cycle: int = option(10, KL_ANNEALING, "Cyclical: number of cycles over the run; each starts with an epoch at β = 0", at_least=1, needs=Need("without --kl_anneal_type Cyclical", lambda o: o.kl_anneal_type == "Cyclical"))
    kl_anneal_ratio: float = option(1.0, KL_ANNEALING, "fraction of a cycle over which β rises, 0-1; it then stays at kl_beta", above=0, at_most=1, needs=Need("with --kl_anneal_type None", lambda o: o.kl_anneal_type != "None"))
    kl_beta: float = option(1.0, KL_ANNEALING, "maximum KL weight β (with None: its constant value); 0 switches the KL term off", at_least=0)

    save_root: str | None = option(None, SAVING, "folder of the run", shown="runs/NAME, named after the data set or preset", bookkeeping=True)
    per_save: int = option(3, SAVING, "save epoch=N.ckpt every this many epochs (not with --auto_save)", at_least=1, bookkeeping=True, needs=Need("with --auto_save", lambda o: not o.auto_save))
    auto_save: bool = option(False, SAVING, "besides best.ckpt, save best_loss.ckpt (lowest loss) and best_both.ckpt (both at once) instead of epoch=N.ckpt", bookkeeping=True)
    store_visualization: bool = option(False, SAVING, "write val.gif and val_sheet.png (label, truth, prediction) of the best validation so far", bookkeeping=True)
    tensorboard: bool = option(False, SAVING, "also log metrics.csv to TensorBoard (needs: pip install tensorboard)", bookkeeping=True)
    ckpt_path: str | None = option(None, SAVING, "weights to start from (fine-tuning; data, optimisation and schedules of its run apply too unless given), or the checkpoint to validate with --test", shown="none", bookkeeping=True)
    resume: bool = option(False, SAVING, "continue the run in save_root with its own options", bookkeeping=True)
    resume_if_any: bool = option(False, SAVING, "resume if save_root holds a run, else start one: for jobs that a scheduler restarts", bookkeeping=True)

    device: str = option("auto", RUN, "auto: CUDA if available, then an Apple GPU (mps), then the CPU", choices=("auto", "cuda", "mps", "cpu"), bookkeeping=True)
    gpu: int = option(1, RUN, "number of GPUs on this machine; leave it out under torchrun, which starts the processes itself", at_least=1, bookkeeping=True, needs=Need("with --test", lambda o: o.gpu == 1 or not o.test))
    seed: int = option(0, RUN, "seed of every random draw", at_least=0)
    precision: str = option("auto", RUN, "precision of the networks; auto: bfloat16 if the hardware supports it, float16 on CUDA cards without it (T4, V100), else float32. Loss and KL are always float32", choices=("auto", "float32", "bfloat16", "float16"))
    deterministic: bool = option(False, RUN, "CUDA: deterministic kernels only; slower. CPU runs are always deterministic")
    recompute: bool = option(False, RUN, "activation checkpointing: less memory, slower", bookkeeping=True)
    test: bool = option(False, RUN, "only validate the checkpoint given by --ckpt_path", bookkeeping=True)
    dry_run: bool = option(False, RUN, "check options and data, build the model, print the settings and stop; writes nothing", bookkeeping=True)
    preset: str | None = option(None, RUN, "a tested set of options; options given explicitly take precedence", choices=("demo", "best", "video"), shown="none", bookkeeping=True)
    # fmt: on


@dataclasses.dataclass
class TesterOptions:
    """What Tester.py takes. Model and frame size come from the checkpoint."""

    __test__ = False  # pytest: not a class of tests, whatever its name

    # fmt: off
    ckpt_path: str | None = option(None, DATA, "checkpoint to generate from", shown="required")
    DR: str | None = option(None, DATA, "data set root", shown="the one the checkpoint was trained on")
    save_root: str | None = option(None, SAVING, "folder for the results", shown="a folder next to the checkpoint, named after the split")
    export: str | None = option(None, SAVING, "write the weights of the five networks to this new file, in the older format {state_dict, optimizer, lr, tfr, last_epoch}, and stop; needs no data set", shown="none")
    split: str = option("test", DATA, "test: the test sequences; val: the validation video, with PSNR", choices=("test", "val"))
    val_vi_len: int | None = option(None, DATA, "with --split val: validation frames to use; a shorter video is used whole", at_least=2, shown="the checkpoint's, else 630")
    num_workers: int = option(2, DATA, "threads that decode the images; results do not depend on it", at_least=1)
    frame_H: int | None = option(None, MODEL, "frame height, for checkpoints that do not store it", at_least=4, at_most=8192, shown="the checkpoint's, else 32")
    frame_W: int | None = option(None, MODEL, "frame width, for checkpoints that do not store it", at_least=4, at_most=8192, shown="the checkpoint's, else 64")
    n_samples: int = option(1, RUN, "with --split val: number of futures to sample; prints the best, mean and spread of their scores", at_least=1)
    st_lpips: bool = option(False, RUN, "with --split val: also the perceptual distance ST-LPIPS (needs: pip install -r requirements-metrics.txt)")
    latent_scale: float = option(1.0, RUN, "factor on the latent; 0 = the prior mean", at_least=0)
    batch_size: int = option(8, RUN, "sequences generated in parallel; results do not depend on it", at_least=1)
    seed: int = option(0, RUN, "seed of the latents", at_least=0)
    device: str = option("auto", RUN, "auto: CUDA if available, then an Apple GPU (mps), then the CPU", choices=("auto", "cuda", "mps", "cpu"))
    precision: str = option("auto", RUN, "precision of the networks; auto: as in Trainer.py", choices=("auto", "float32", "bfloat16", "float16"))
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
    "rollout_every": 1,
    "init": "copy",
    "optim": "Muon",
    "lr": 0.003,
    "lr_scheduler": "cosine",
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

# What a run by a recipe also wants: its best checkpoints, and pictures of them.
SHOWN: dict[str, Any] = {"auto_save": True, "store_visualization": True}

# A preset's options lie between the defaults and what is typed.
PRESETS: dict[str, dict[str, Any]] = {
    # The procedural data set, small enough to be learnt on two cores in minutes.
    "demo": {
        **RECIPE,
        **SHOWN,
        **{"DR": "runs/demo_data", "save_root": "runs/demo", "num_epoch": 10},
        **{"F_dim": 16, "L_dim": 16, "N_dim": 4, "D_out_dim": 32},
        "init": "default",  # too narrow for copying
    },
    # The five networks as they are. Frames are clamped wherever they are used, so it changes no
    # frame that they are clamped in training as well; unbounded, single steps had losses of 1e7.
    "best": {**RECIPE, **SHOWN, "output": "clamp", "auto_size": True},
    # Cameras that move, several rooms, larger frames, which --auto_size folds. The background comes
    # from the first frame, clean, so it does not have to survive the model's own frames. Shifts and
    # changes of light stand in for footage that is not there.
    "video": {
        **RECIPE,
        **SHOWN,
        **{"reference": "first", "augment": ("shift", "colour"), "auto_size": True},
    },
}


def _add_options(parser: argparse.ArgumentParser, options_class: type) -> None:
    """Declare the fields of a dataclass of options, grouped as they are."""
    hints, groups = get_type_hints(options_class), {}
    for entry in dataclasses.fields(options_class):
        facts, hint = entry.metadata, hints[entry.name]
        if (group := facts["group"]) not in groups:
            groups[group] = parser.add_argument_group(group)
        if isinstance(hint, UnionType):
            hint = next(kind for kind in get_args(hint) if kind is not type(None))
        several = get_origin(hint) in (tuple, list) and not facts["convert"]
        scalar = get_args(hint)[0] if several else hint
        text, required = facts["help"], entry.default is REQUIRED
        if scalar is not bool and not required:
            text += f" ({facts['shown'] or entry.default})"
        how: dict[str, Any] = {"help": text.replace("%", "%%")}
        if scalar is bool:
            how |= {"action": "store_true", "default": argparse.SUPPRESS}
        else:
            how["type"] = facts["convert"] or (path_argument if scalar is Path else scalar)
            how |= {"choices": facts["choices"], "nargs": "+" if several else None}
            how["metavar"] = facts["metavar"] or (
                None if facts["choices"] else scalar.__name__.upper()
            )
        if not facts["positional"]:
            how |= {"default": argparse.SUPPRESS, "required": required}
        groups[group].add_argument(entry.name if facts["positional"] else f"--{entry.name}", **how)


def build_parser(options_class: type, description: str) -> argparse.ArgumentParser:
    """The command line of a dataclass of options."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = ArgumentParser(description=description, formatter_class=shape)
    _add_options(parser, options_class)
    return parser


def parse(
    options_class: type[T], description: str, argv: Sequence[str] | None = None
) -> tuple[T, frozenset[str]]:
    """Options from the command line: defaults, then the preset's, then what was typed.

    Returns the options and the names of those that were typed. Raises UserError on unknown options
    and on values out of range.
    """
    return _made(options_class, vars(build_parser(options_class, description).parse_args(argv)))


def parse_command(
    commands: Mapping[str, type], description: str, argv: Sequence[str] | None = None
) -> tuple[Any, frozenset[str]]:
    """As parse(), of one of several commands; the help of each is its class's docstring."""
    parser = ArgumentParser(description=description)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, options_class in commands.items():
        text = options_class.__doc__
        _add_options(subparsers.add_parser(name, help=text, description=text), options_class)
    typed = vars(parser.parse_args(argv))
    return _made(commands[typed.pop("command")], typed)


def _made(options_class: type[T], typed: dict[str, Any]) -> tuple[T, frozenset[str]]:
    """The options with the values that were typed, which are checked. Raises UserError."""
    for name, value in typed.items():
        if isinstance(value, list):
            typed[name] = tuple(value)
        elif name in PATHS and isinstance(value, str) and value.startswith("~"):
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
        at_least, above, at_most = (entry.metadata[k] for k in ("at_least", "above", "at_most"))
        value = getattr(options, entry.name)
        if value == "":  # as of "$ROOT" with a variable that was never set
            raise UserError(f"--{entry.name}: is empty; give a value, or leave the option out")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            most = LARGEST if at_most is None and isinstance(number, int) else at_most
            for holds, what in (
                (isinstance(number, int) or math.isfinite(number), "a finite number"),
                (at_least is None or number >= at_least, f"at least {at_least}"),
                (above is None or number > above, f"above {above}"),
                (most is None or number <= most, f"at most {most}"),
            ):
                if not holds:
                    raise UserError(f"--{entry.name} {number}: must be {what}")


@contextlib.contextmanager
def telling_origins(options: Any, typed: Collection[str], checkpoint: Any = None) -> Iterator[None]:
    """Errors from inside that are about a preset's or a checkpoint's value say whose it is."""
    try:
        yield
    except UserError as error:
        first, newline, rest = str(error).partition("\n")
        preset = PRESETS.get(getattr(options, "preset", None) or "", {})
        kept = set(checkpoint.config.to_dict()) if checkpoint else set()
        if checkpoint and isinstance(options, TrainerOptions):
            kept |= inherited(options, typed, checkpoint.options).keys()
        if checkpoint:
            kept |= {"DR"} - preset.keys()
        resumed, told = bool(getattr(options, "resume", False)), []
        for entry in dataclasses.fields(options):
            name, value = entry.name, re.escape(str(getattr(options, entry.name)))
            if name in typed or not (
                name == error.about or re.search(rf"--{name} {value}(?![\w.])", first)
            ):
                continue
            if checkpoint and (resumed or name in kept):
                origin = f"--{name} comes from the checkpoint {checkpoint.path}"
            elif name in preset:
                origin = f"--{name} comes from --preset {options.preset}"
            else:  # a default, which --help tells
                continue
            fixed = resumed and not entry.metadata["resumable"]
            told.append(origin if fixed else f"{origin}; --{name} replaces it")
        said = f"{first} ({'; '.join(told)}){newline}{rest}" if told else str(error)
        raise UserError(said) from error


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
        return any((folder / name).exists() for name in (LAST, PREVIOUS))
    except OSError as error:
        raise UserError(f"--resume_if_any: {folder} cannot be read ({why(error)})") from error


def check_combinations(o: TrainerOptions, explicit: frozenset[str] = frozenset()) -> None:
    """Refuse combinations that make no sense (UserError). explicit: names of typed options."""
    needed = COLOURS * (8 if o.fold == 1 else o.fold**2)
    widths = {"F_dim": o.F_dim, "D_out_dim": o.D_out_dim}
    if o.auto_size:  # which makes the others as wide as they must be
        widths = {name: value for name, value in widths.items() if name in explicit}
    copying = o.init == "copy"
    wrong = {
        "no data set: give its root with --DR, or --preset demo for one that needs no download": (
            o.DR is None and not (o.resume or o.ckpt_path)
        ),
        "--test validates a checkpoint: name it with --ckpt_path": o.test and o.ckpt_path is None,
        "--test and --resume are mutually exclusive: --test takes --ckpt_path": o.test and o.resume,
        "--test and --resume_if_any are mutually exclusive: --test takes --ckpt_path": (
            o.test and o.resume_if_any
        ),
        "--resume and --ckpt_path are mutually exclusive: --resume continues the run in "
        "save_root, --ckpt_path starts a new run from given weights": o.resume and o.ckpt_path,
        f"--init copy: needs --F_dim and --D_out_dim of at least {needed}, so that the colours "
        "find a way through the narrowest layers": (
            copying and min(widths.values(), default=needed) < needed
        ),
        "--init copy: a sigmoid would bend what is copied; use another --output": (
            copying and o.output == "sigmoid"
        ),
        "--detector_patience 1: a plateau takes at least two validations; 2 or more": (
            o.detector_patience == 1
        ),
    }
    for message, applies in wrong.items():
        if applies:
            raise UserError(message)


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
    folder, epochs = str(run_folder(options)), milestones(options)
    return dataclasses.replace(options, save_root=folder, lr_milestones=epochs)


def inherited(
    options: TrainerOptions, typed: Collection[str], parent: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run on a checkpoint's weights takes from the options of the run that wrote it.

    Fine-tuning: data, optimisation and schedules, unless typed or a preset's; --test: the length
    of the validation video. parent: empty for checkpoints of other code
    """
    groups = (DATA, OPTIMISATION, TEACHER_FORCING, KL_ANNEALING)
    own = {*typed, *PRESETS.get(options.preset or "", {})}
    names = {
        entry.name
        for entry in dataclasses.fields(options)
        if entry.metadata["group"] in groups and not entry.metadata["bookkeeping"]
    }
    names &= {"val_vi_len"} if options.test else names
    return {name: value for name, value in parent.items() if name in names - own}


# Options that no longer exist, with the value that a run may have had for one of the same numbers
# now; ...: any. Functions of its other options.
RETIRED: dict[str, Callable[[Any], Any]] = {
    "grow_from": lambda o: None,
    "grow_epochs": lambda o: ...,
    "kl_norm": lambda o: "sum",
    "no_shuffle": lambda o: False,
    "recon": lambda o: "mse",
    "tf_draw": lambda o: "step" if o.rollout_every else "epoch",
    "rollout_share": lambda o: 0.5 if o.rollout_every else ...,
    "lr_warmup": lambda o: 20 if o.optim == "Muon" else 0,
    **dict.fromkeys(("save_minutes", "autotune", "no_graph", "weights"), lambda o: ...),
}


def saved_options(values: dict[str, Any]) -> TrainerOptions:
    """The options of a run as its checkpoint holds them, of this version or an earlier one.

    Raises UserError if one of them no longer exists, TypeError if one is unknown.
    """
    options = TrainerOptions(**{name: v for name, v in values.items() if name not in RETIRED})
    for name in RETIRED.keys() & values.keys():
        if RETIRED[name](options) not in (values[name], ...):
            raise UserError(f"it was trained with --{name} {values[name]}, which no longer exists")
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
            return name not in RETIRED or RETIRED[name](o) not in (values[name], ...)
        meta = fields[name].metadata
        return not meta["bookkeeping"] and (meta["needs"] is None or meta["needs"].met(o))

    return {name: value for name, value in values.items() if counts(name)}


def without_effect(options: TrainerOptions, explicit: frozenset[str]) -> list[str]:
    """A line for each typed option that another one makes meaningless, so that none is silent."""
    return [
        f"note: --{entry.name} has no effect {need.idle}"
        for entry in dataclasses.fields(options)
        if entry.name in explicit and (need := entry.metadata["needs"]) and not need.met(options)
    ]


def model_config(options: TrainerOptions) -> ModelConfig:
    """The model's settings among the options."""
    names = [entry.name for entry in dataclasses.fields(ModelConfig)]
    return ModelConfig(**{name: getattr(options, name) for name in names})


def as_text(name: str, value: Any) -> str:
    """An option as it is printed: `name=value`."""
    return f"{name}={' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def as_lines(options: Any) -> list[str]:
    """The resolved options, a line for each group, as printed at the start of a run."""
    groups: dict[str, list[str]] = {}
    for entry in dataclasses.fields(options):
        text = as_text(entry.name, getattr(options, entry.name))
        groups.setdefault(entry.metadata["group"], []).append(text)
    return [f"{group + ':':<17} {'  '.join(items)}" for group, items in groups.items()]
