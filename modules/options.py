"""Every option of the scripts, each with its default, its range and a line of help.

A field of a dataclass is an option: its name is what users type, its annotation the type.
"""

import argparse
import contextlib
import dataclasses
import math
import os
import re
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from modules.cvae import FOLDS, OUTPUTS, PRIORS, REFERENCES, ModelConfig
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
    hidden: bool = False,
    convert: Callable[[str], Any] | None = None,
) -> Any:
    """One option, and every fact about it.

    default:     REQUIRED if there is none
    shown:       what --help prints as the default when it is derived later
    bookkeeping: it changes no number: comparisons of runs leave it out, a resumed run may change it
    resumable:   a resumed run may change it all the same
    hidden:      it is not on the command line
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
    partial: float = option(1.0, DATA, "fraction of the training frames to use, from the start", above=0, at_most=1)
    fast_train: bool = option(False, DATA, "begin with short epochs: see the next two options")
    fast_partial: float = option(0.4, DATA, "fraction of the clips used in a short epoch, resampled each epoch", above=0, at_most=1, needs=Need("without --fast_train", lambda o: o.fast_train))
    fast_train_epoch: int = option(5, DATA, "number of short epochs with --fast_train", at_least=0, needs=Need("without --fast_train", lambda o: o.fast_train))
    augment: tuple[str, ...] = option((), DATA, "augmentation, the same for all frames of a clip: mirror half of the clips, shift by up to 1/16 of the frame, change contrast and brightness", choices=AUGMENTATIONS, shown="none")
    num_workers: int = option(2, DATA, "threads that decode the images at startup; 0 means 1; results do not depend on it", at_least=0, bookkeeping=True)

    F_dim: int = option(128, MODEL, "channels of the frame features", at_least=8, at_most=65536)
    L_dim: int = option(32, MODEL, "channels of the label features", at_least=2, at_most=65536)
    N_dim: int = option(12, MODEL, "channels of the latent", at_least=4, at_most=65536)
    D_out_dim: int = option(192, MODEL, "channels of the fused features", at_least=8, at_most=65536)
    prior: str = option("standard", MODEL, "prior over the latent: N(0, I), or a network conditioned on the previous frame and the label", choices=PRIORS)
    reference: str = option("none", MODEL, "first: every step also sees the video's first frame and can copy the background from it; training uses a random frame of the same recording instead", choices=REFERENCES)
    fold: int = option(1, MODEL, "fold each n x n block of pixels into one with n² times the channels, for large frames; 1 = off", choices=FOLDS)
    output: str = option("linear", MODEL, "output activation: none, or a sigmoid", choices=OUTPUTS)

    batch_size: int = option(2, OPTIMISATION, "clips per step, over all GPUs", at_least=1)
    num_epoch: int = option(70, OPTIMISATION, "total epochs of the run, including resumed parts", at_least=1, at_most=1_000_000, resumable=True)
    lr: float = option(0.001, OPTIMISATION, "learning rate at the start", above=0)
    optim: str = option("Adam", OPTIMISATION, "optimiser; AdamW: weight decay 0.01; Muon: orthogonalised updates for convolutions that mix channels, Adam for the rest, with a 20-step warm-up and, if F_dim and D_out_dim are large enough, initial weights that copy the previous frame", choices=("Adam", "AdamW", "Muon"))
    lr_scheduler: str = option("constant", OPTIMISATION, "learning-rate schedule; cosine: per step, down to 0", choices=("constant", "multistep", "cosine"))
    lr_milestones: tuple[int, ...] | None = option(None, OPTIMISATION, "multistep: epochs at which the learning rate is multiplied by lr_gamma", at_least=0, shown="at 1/2 and 3/4 of num_epoch", needs=Need("without --lr_scheduler multistep", lambda o: o.lr_scheduler == "multistep"))
    lr_gamma: float = option(0.1, OPTIMISATION, "multistep: factor at each milestone", above=0, at_most=1, needs=Need("without --lr_scheduler multistep", lambda o: o.lr_scheduler == "multistep"))
    grad_clip: float = option(1.0, OPTIMISATION, "maximum gradient norm; 0 = no clipping", at_least=0)
    ema: float = option(0.0, OPTIMISATION, "validate and save an exponential moving average of the weights with this decay per step, e.g. 0.99; 0 = off", at_least=0, at_most=0.99999)

    tfr: float = option(1.0, TEACHER_FORCING, "initial teacher-forcing ratio: the probability that an epoch is teacher-forced", at_least=0, at_most=1)
    tfr_sde: int = option(10, TEACHER_FORCING, "epoch at which the ratio starts to decay (start decay epoch)", at_least=0, needs=Need("without --tfr and --tfr_d_step", lambda o: o.tfr and o.tfr_d_step))
    tfr_d_step: float = option(0.1, TEACHER_FORCING, "decay of the ratio per epoch", at_least=0, at_most=1, needs=Need("without --tfr or --detector_patience", lambda o: o.tfr or o.detector_patience))
    frame_noise: float = option(0.0, TEACHER_FORCING, "Gaussian noise added in training to the previous frame, teacher-forced or fed back; its standard deviation is drawn per clip from 0 to this, for pixels in [0, 1]", at_least=0, at_most=1)
    jump: float = option(0.0, TEACHER_FORCING, "fraction of training steps whose previous frame is a random one of the same recording, which teaches the model to remove what no longer belongs there", at_least=0, at_most=1)
    rollout_every: int = option(0, TEACHER_FORCING, "every this many epochs, roll the model out over the training set and store the frames, half of them regenerated each time; teacher forcing is then drawn per step, and steps that are not forced start from the stored frames; 0 = off", at_least=0, needs=Need("without --tfr below 1 or --tfr_d_step", lambda o: o.tfr < 1 or o.tfr_d_step > 0))
    detector_patience: int = option(0, TEACHER_FORCING, "reset the ratio to 1 when validation has plateaued for this many epochs (2 or more); 0 = never", at_least=0)
    detector_threshold: float = option(0.1, TEACHER_FORCING, "plateau: PSNR and 10·log10 of the loss both vary by less than this many dB", above=0, needs=Need("without --detector_patience", lambda o: o.detector_patience))

    kl_anneal_type: str = option("Cyclical", KL_ANNEALING, "annealing of the KL weight β; None: constant", choices=("Cyclical", "Monotonic", "None"))
    kl_anneal_cycle: int = option(10, KL_ANNEALING, "Cyclical: number of cycles over the run; each starts with an epoch at β = 0", at_least=1, needs=Need("without --kl_anneal_type Cyclical", lambda o: o.kl_anneal_type == "Cyclical"))
    kl_anneal_ratio: float = option(1.0, KL_ANNEALING, "fraction of a cycle over which β rises; it then stays at kl_beta", above=0, at_most=1, needs=Need("with --kl_anneal_type None", lambda o: o.kl_anneal_type != "None"))
    kl_beta: float = option(1.0, KL_ANNEALING, "maximum KL weight β (with None: its constant value); 0 switches the KL term off", at_least=0)

    save_root: str | None = option(None, SAVING, "folder of the run", shown="runs/NAME, named after the data set or preset", bookkeeping=True)
    per_save: int = option(3, SAVING, "save epoch=N.ckpt every this many epochs (not with --auto_save)", at_least=1, bookkeeping=True, needs=Need("with --auto_save", lambda o: not o.auto_save))
    auto_save: bool = option(False, SAVING, "besides best.ckpt, save best_loss.ckpt (lowest loss) and best_both.ckpt (a new best in both) instead of epoch=N.ckpt", bookkeeping=True)
    store_visualization: bool = option(False, SAVING, "write val.gif and val_sheet.png (label, truth, prediction) of the best validation so far", bookkeeping=True)
    ckpt_path: str | None = option(None, SAVING, "weights to start from (fine-tuning; data, optimisation and schedules of its run apply too unless given), or the checkpoint to validate with --test", shown="none", bookkeeping=True)
    resume: bool | str = option(False, SAVING, "continue the run in save_root with its own options; may be changed: num_epoch, DR and options that leave results alone (saving, run, num_workers); if_any: start the run if there is none yet, for jobs that a scheduler restarts", choices=("if_any",), bookkeeping=True)

    device: str = option("auto", RUN, "auto: CUDA if available, then an Apple GPU (mps), then the CPU; CUDA_VISIBLE_DEVICES chooses among GPUs", choices=("auto", "cuda", "mps", "cpu"), bookkeeping=True)
    gpu: int = option(1, RUN, "number of GPUs (CUDA_VISIBLE_DEVICES=2,3 chooses which); leave it out under torchrun, which starts the processes itself", at_least=1, bookkeeping=True, needs=Need("with --test", lambda o: o.gpu == 1 or not o.test))
    seed: int = option(0, RUN, "seed of every random draw", at_least=0)
    precision: str = option("auto", RUN, "precision of the networks; auto: bfloat16 if the hardware supports it, float16 on CUDA cards without it (T4, V100), else float32. Loss and KL are always float32", choices=("auto", "float32", "bfloat16", "float16"))
    test: bool = option(False, RUN, "only validate the checkpoint given by --ckpt_path", bookkeeping=True)
    dry_run: bool = option(False, RUN, "check options and data, build the model, print the settings and stop; writes nothing", bookkeeping=True)
    preset: str | None = option(None, RUN, "a tested set of options; options given explicitly take precedence. best and video also choose the model size, the number of epochs, the fold (video) and Muon's learning rate from the device and the data, to train about ten minutes on a CPU, twenty on a GPU", choices=("demo", "best", "video"), shown="none", bookkeeping=True)

    # Not on the command line: CVAE_DETERMINISTIC=1 and CVAE_RECOMPUTE=1 in the environment.
    deterministic: bool = option(False, RUN, "deterministic kernels on CUDA", hidden=True)
    recompute: bool = option(False, RUN, "activation checkpointing", hidden=True, bookkeeping=True)
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
    num_workers: int = option(2, DATA, "threads that decode the images; 0 means 1; results do not depend on it", at_least=0)
    frame_H: int | None = option(None, MODEL, "frame height, for checkpoints that do not store it", at_least=4, at_most=8192, shown="the checkpoint's, else 32")
    frame_W: int | None = option(None, MODEL, "frame width, for checkpoints that do not store it", at_least=4, at_most=8192, shown="the checkpoint's, else 64")
    n_samples: int = option(1, RUN, "with --split val: number of futures to sample; prints the best, mean and spread of their scores", at_least=1)
    st_lpips: bool = option(False, RUN, "with --split val: also the perceptual distance ST-LPIPS (needs: pip install -r requirements-metrics.txt)")
    latent_scale: float = option(1.0, RUN, "scale of the latent noise; 0 = the prior mean", at_least=0)
    batch_size: int = option(8, RUN, "sequences generated in parallel; results do not depend on it", at_least=1)
    seed: int = option(0, RUN, "seed of the latents", at_least=0)
    device: str = option("auto", RUN, "auto: CUDA if available, then an Apple GPU (mps), then the CPU; CUDA_VISIBLE_DEVICES chooses among GPUs", choices=("auto", "cuda", "mps", "cpu"))
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
    },
    "best": {**RECIPE, **SHOWN},  # the five networks as they are
    # Cameras that move, several rooms, larger frames, which are folded. The background comes from
    # the first frame, clean, so it does not have to survive the model's own frames. Shifts and
    # changes of light stand in for footage that is not there.
    "video": {**RECIPE, **SHOWN, "reference": "first", "augment": ("shift", "colour")},
}

AUTO_SIZED = ("best", "video")  # presets whose size, length and rate auto_size.py chooses


def help_line(entry: dataclasses.Field[Any]) -> str:
    """What --help says of an option: its meaning, range, default, and what it has no effect with."""
    facts, default = entry.metadata, entry.default
    bounds = ((">=", "at_least"), (">", "above"), ("<=", "at_most"))
    notes = [f"{sign} {facts[name]}" for sign, name in bounds if facts[name] is not None]
    if default is not REQUIRED and default is not False:
        notes.append(f"default: {facts['shown'] or default}")
    if facts["needs"]:
        notes.append(f"no effect {facts['needs'].idle}")
    return facts["help"] + (f" ({'; '.join(notes)})" if notes else "")


def build_parser(
    options_class: type, description: str, parser: argparse.ArgumentParser | None = None
) -> argparse.ArgumentParser:
    """The command line of a dataclass of options, grouped as they are; parser: to add them to."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = parser or ArgumentParser(description=description, formatter_class=shape)
    hints, groups = get_type_hints(options_class), {}
    for entry in dataclasses.fields(options_class):
        facts, hint = entry.metadata, hints[entry.name]
        if facts["hidden"]:
            continue
        if (group := facts["group"]) not in groups:
            groups[group] = parser.add_argument_group(group)
        if isinstance(hint, UnionType):
            hint = get_args(hint)[0]
        several = get_origin(hint) in (tuple, list) and not facts["convert"]
        scalar = get_args(hint)[0] if several else hint
        required = entry.default is REQUIRED
        how: dict[str, Any] = {"help": help_line(entry).replace("%", "%%")}
        if scalar is bool and facts["choices"]:
            how |= {"nargs": "?", "const": True, "choices": facts["choices"]}
        elif scalar is bool:
            how["action"] = "store_true"
        else:
            how["type"] = facts["convert"] or (path_argument if scalar is Path else scalar)
            how |= {"choices": facts["choices"], "nargs": "+" if several else None}
            how["metavar"] = facts["metavar"] or (
                None if facts["choices"] else scalar.__name__.upper()
            )
        if not facts["positional"]:
            how |= {"default": argparse.SUPPRESS, "required": required}
        groups[group].add_argument(entry.name if facts["positional"] else f"--{entry.name}", **how)
    if options_class is TrainerOptions:
        presets = (
            (name, map(as_text, values, values.values())) for name, values in PRESETS.items()
        )
        lines = (f"--preset {name}: {'  '.join(texts)}" for name, texts in presets)
        parser.epilog = "\n".join(textwrap.fill(line, subsequent_indent="  ") for line in lines)
    return parser


def parse(
    options_class: type[T], description: str, argv: Sequence[str] | None = None
) -> tuple[T, frozenset[str]]:
    """Options from the command line (defaults, then the preset's, then what was typed), and the
    names of those that were typed. UserError: unknown options, values out of range."""
    return _made(options_class, vars(build_parser(options_class, description).parse_args(argv)))


def parse_command(
    commands: Mapping[str, type], description: str, argv: Sequence[str] | None = None
) -> tuple[Any, frozenset[str]]:
    """As parse(), of one of several commands; the help of each is its class's docstring."""
    parser = ArgumentParser(description=description)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, options_class in commands.items():
        text = options_class.__doc__
        build_parser(options_class, "", subparsers.add_parser(name, help=text, description=text))
    typed = vars(parser.parse_args(argv))
    return _made(commands[typed.pop("command")], typed)


def _made(options_class: type[T], typed: dict[str, Any]) -> tuple[T, frozenset[str]]:
    """The options with the values that were typed, which are checked. Raises UserError."""
    for name, value in typed.items():
        if isinstance(value, list):
            typed[name] = tuple(value)
        elif name in PATHS and value.startswith("~"):
            # As in --save_root=~/runs, or on Windows: shells expand it at the start of a word only.
            typed[name] = os.path.expanduser(value)  # noqa: PTH111, which leaves unknown users
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
    """Errors from inside that show a preset's or a checkpoint's value say whose it is."""
    try:
        yield
    except UserError as error:
        first, newline, rest = str(error).partition("\n")
        preset = getattr(options, "preset", None)
        sources = [(f"--preset {preset}", PRESETS.get(preset or "", {}))]
        if checkpoint:
            its = {**checkpoint.options, **checkpoint.config.to_dict(), "DR": checkpoint.data_root}
            sources.append((f"the checkpoint {checkpoint.path}", its))
        told: dict[str, str] = {}
        for source, values in sources:
            for name in sorted(values.keys() - typed):
                value = getattr(options, name, None)
                shown = rf"--{name} {re.escape(str(value))}(?![\w.])"
                if value == values[name] and (name == error.about or re.search(shown, first)):
                    told.setdefault(name, f"--{name} comes from {source}")
        text = f"{first} ({'; '.join(told.values())}){newline}{rest}" if told else str(error)
        raise UserError(text) from error


def parse_trainer(
    description: str, argv: Sequence[str] | None = None
) -> tuple[TrainerOptions, frozenset[str]]:
    """Trainer.py's options. See parse()."""
    options, explicit = parse(TrainerOptions, description, argv)
    options.deterministic = bool(os.environ.get("CVAE_DETERMINISTIC"))
    options.recompute = bool(os.environ.get("CVAE_RECOMPUTE"))
    if options.resume:
        if options.test:
            raise UserError("--test and --resume are mutually exclusive: --test takes --ckpt_path")
        if options.save_root is None and options.DR is None:
            raise UserError("--resume needs --save_root, the folder of the run")
        if options.resume == "if_any":
            options.resume = bool(checkpoints_to_resume(run_folder(options)))
            if options.resume:  # it has started from --ckpt_path, if that was typed
                options.ckpt_path, explicit = None, explicit - {"ckpt_path"}
    check_combinations(options)
    if options.test and "save_root" not in explicit:
        options.save_root = None  # a preset's is the folder of a training run
    return options, explicit


def checkpoints_to_resume(folder: Path) -> list[Path]:
    """last.ckpt and last.prev.ckpt, those that are there, sound or not. UserError: unreadable."""
    try:
        return [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    except OSError as error:
        raise UserError(f"--resume: {folder} cannot be read ({why(error)})") from error


def check_combinations(o: TrainerOptions) -> None:
    """Refuse combinations that make no sense (UserError)."""
    if o.DR is None and not (o.resume or o.ckpt_path):
        raise UserError(
            "no data set: give its root with --DR, or --preset demo for one that needs no download"
        )
    if o.test and o.ckpt_path is None:
        raise UserError("--test validates a checkpoint: name it with --ckpt_path")
    if o.resume and o.ckpt_path:
        raise UserError(
            "--resume and --ckpt_path are mutually exclusive: --resume continues the run in "
            "save_root, --ckpt_path starts a new run from given weights"
        )
    if o.detector_patience == 1:
        raise UserError("--detector_patience 1: a plateau takes at least two validations")


def run_folder(options: TrainerOptions) -> Path:
    """The folder of the run: --save_root, or what follows from the checkpoint or the data set."""
    if options.save_root is not None:
        return Path(options.save_root)
    if options.test and options.ckpt_path is not None:
        # A folder named after the data set may hold a training run.
        return Path(options.ckpt_path).parent / "validation"
    return Path("runs") / (Path(options.DR or "").resolve().name or "run")


def milestones(o: TrainerOptions) -> tuple[int, ...]:
    """The epochs of --lr_milestones; by default 1/2 and 3/4 of the run.

    Computed when needed and never stored: a resumed run may have another --num_epoch.
    """
    default = o.num_epoch // 2, o.num_epoch * 3 // 4
    return default if o.lr_milestones is None else o.lr_milestones


def resolved(options: TrainerOptions) -> TrainerOptions:
    """The options with the derived ones filled in, as they are printed and noted in config.json."""
    folder, epochs = str(run_folder(options)), milestones(options)
    return dataclasses.replace(options, save_root=folder, lr_milestones=epochs)


def inherited(
    options: TrainerOptions, typed: Collection[str], parent: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run on a checkpoint's weights takes from `parent`, the options of the run that wrote it.

    Fine-tuning: data, optimisation and schedules, unless typed or a preset's; --test: the length
    of the validation video.
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


def effective(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of a run that change its numbers: no bookkeeping, nothing idle.

    values: as config.json has them; of an earlier version, they may lack some, and have others.
    """
    fields = {entry.name: entry for entry in dataclasses.fields(TrainerOptions)}
    o = SimpleNamespace(**{**{name: entry.default for name, entry in fields.items()}, **values})

    def counts(facts: Mapping[str, Any]) -> bool:
        return not facts["bookkeeping"] and (facts["needs"] is None or facts["needs"].met(o))

    return {n: values[n] for n, entry in fields.items() if n in values and counts(entry.metadata)}


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
    """The options, a line for each group, as printed at the start of a run."""
    groups: dict[str, list[str]] = {}
    for entry in dataclasses.fields(options):
        text = as_text(entry.name, getattr(options, entry.name))
        groups.setdefault(entry.metadata["group"], []).append(text)
    return [f"{group + ':':<17} {'  '.join(items)}" for group, items in groups.items()]
