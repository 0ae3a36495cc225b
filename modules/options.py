"""Every option of Trainer.py and Tester.py, each with its default, its range and a line of help.

A field of a dataclass is an option: its name is what users type, its annotation the type. The
parser is made from the fields, so an option cannot exist in one place and be missing in another.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from modules.augment import AUGMENTATIONS
from modules.cvae import OUTPUTS, PRIORS, ModelConfig
from modules.initial import COLOURS, INITS
from modules.runtime.arguments import ArgumentParser
from modules.runtime.errors import UserError
from modules.schedules import kl_weight

T = TypeVar("T")

# Of every whole number: what seeds and sizes in PyTorch can hold.
LARGEST = 2**63 - 1

DATA, MODEL, OPTIMISATION = "data", "model", "optimisation"
TEACHER_FORCING, KL_ANNEALING, SAVING, RUN = "teacher forcing", "KL annealing", "saving", "run"


def option(
    default: Any,
    group: str,
    help_text: str,
    *,
    choices: Sequence[str] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    shown: str | None = None,
) -> Any:
    """One option. shown: what --help prints as the default when it is derived later."""
    meta = {"group": group, "help": help_text, "choices": choices, "shown": shown}
    return dataclasses.field(
        default=default, metadata={**meta, "bounds": (at_least, above, at_most)}
    )


@dataclasses.dataclass
class TrainerOptions:
    """What Trainer.py takes, in the order of its --help."""

    # fmt: off
    DR: str | None = option(None, DATA, "data set root (train/, val/ and test/ in it)", shown="none: give it, or a --preset")
    train_vi_len: int = option(16, DATA, "frames in a training clip, the given first one included", at_least=2)
    val_vi_len: int = option(630, DATA, "frames of the validation video; a shorter one is used whole", at_least=2)
    frame_H: int = option(32, DATA, "frame height in pixels; images are resized once", at_least=4, at_most=8192)
    frame_W: int = option(64, DATA, "frame width in pixels", at_least=4, at_most=8192)
    partial: float = option(1.0, DATA, "use only this first part of the training frames, 0-1", above=0, at_most=1)
    fast_train: bool = option(False, DATA, "begin with short epochs: see the next two")
    fast_partial: float = option(0.4, DATA, "part of an epoch's clips that a short epoch visits, drawn anew each epoch, 0-1", above=0, at_most=1)
    fast_train_epoch: int = option(5, DATA, "number of short epochs with --fast_train", at_least=0)
    no_shuffle: bool = option(False, DATA, "the same consecutive clips in the same order every epoch, as older code did")
    augment: tuple[str, ...] = option((), DATA, "change training clips, each as a whole: mirror half of them, shift by up to 1/16, change contrast and brightness", choices=AUGMENTATIONS, shown="none")
    grow_from: int | None = option(None, DATA, "frames in the clips of epoch 0, which grow to train_vi_len by epoch grow_epochs", at_least=2, shown="train_vi_len: no growth")
    grow_epochs: int = option(10, DATA, "epochs over which clips grow with --grow_from", at_least=1)
    num_workers: int = option(2, DATA, "threads that decode the images, once, at the start; no result depends on it", at_least=1)

    F_dim: int = option(128, MODEL, "channels of a frame's feature", at_least=8, at_most=65536)
    L_dim: int = option(32, MODEL, "channels of a label's feature", at_least=2, at_most=65536)
    N_dim: int = option(12, MODEL, "channels of the latent", at_least=4, at_most=65536)
    D_out_dim: int = option(192, MODEL, "channels of the fused feature", at_least=8, at_most=65536)
    prior: str = option("standard", MODEL, "prior of the latent: N(0, I), or a network of its own that sees the previous frame and the label", choices=PRIORS)
    init: str = option("default", MODEL, "weights to begin with: PyTorch's, or such that the model repeats the frame before", choices=INITS)
    output: str = option("linear", MODEL, "how the generator's frame is bounded: not at all, cut off at 0 and 1, or by a sigmoid", choices=OUTPUTS)

    batch_size: int = option(2, OPTIMISATION, "clips in a step, over all GPUs", at_least=1)
    num_epoch: int = option(70, OPTIMISATION, "epochs of the whole run, resumed parts included", at_least=1, at_most=1_000_000)
    lr: float = option(0.001, OPTIMISATION, "learning rate at the start", above=0)
    optim: str = option("Adam", OPTIMISATION, "optimiser; AdamW: weight decay 0.01; Muon: orthogonalised steps for convolutions that mix channels, Adam for the rest", choices=("Adam", "AdamW", "Muon"))
    lr_scheduler: str = option("constant", OPTIMISATION, "how the learning rate falls: not at all, at lr_milestones, or step by step along a cosine to 0", choices=("constant", "multistep", "cosine"))
    lr_milestones: tuple[int, ...] | None = option(None, OPTIMISATION, "multistep: epochs from which the rate is multiplied by lr_gamma, once more each", at_least=0, shown="at 1/2 and 3/4 of num_epoch")
    lr_gamma: float = option(0.1, OPTIMISATION, "multistep: factor at each milestone", above=0, at_most=1)
    lr_warmup: int = option(0, OPTIMISATION, "steps over which the learning rate rises from 0 at the start of the run", at_least=0)
    recon: str = option("mse", OPTIMISATION, "reconstruction term: mean-square error, or the likelihood under the best σ of each frame, which makes β = 1 the evidence lower bound", choices=("mse", "sigma"))
    grad_clip: float = option(1.0, OPTIMISATION, "largest norm of the gradient; 0 = no clipping", at_least=0)
    ema: float = option(0.0, OPTIMISATION, "validate and save a running average of the weights with this decay per step, e.g. 0.99; 0 = the weights themselves", at_least=0, at_most=0.99999)

    tfr: float = option(1.0, TEACHER_FORCING, "teacher-forcing ratio at the start: the probability that an epoch is teacher-forced, 0-1", at_least=0, at_most=1)
    tfr_sde: int = option(10, TEACHER_FORCING, "epoch from which the ratio falls (start decay epoch)", at_least=0)
    tfr_d_step: float = option(0.1, TEACHER_FORCING, "how much the ratio falls per epoch", at_least=0, at_most=1)
    tf_draw: str = option("epoch", TEACHER_FORCING, "teacher forcing is drawn once for an epoch, or for each step of each clip (scheduled sampling)", choices=("epoch", "step"))
    detach: bool = option(False, TEACHER_FORCING, "free running: cut the gradient at each fed-back frame; faster, and steadier over long videos")
    frame_noise: float = option(0.0, TEACHER_FORCING, "noise added in training to the frame that the next is made from, forced or fed back: each clip has a standard deviation drawn from 0 to this, on the scale of [0, 1]", at_least=0, at_most=1)
    rollout_every: int = option(0, TEACHER_FORCING, "every so many epochs, run freely over the training set and store the frames; what is not teacher-forced then starts from those, all steps at once; 0 = off", at_least=0)
    detector_patience: int = option(0, TEACHER_FORCING, "raise the ratio to 1 again when this many validations are alike (2 or more); 0 = never", at_least=0)
    detector_threshold: float = option(0.1, TEACHER_FORCING, "alike: both loss and PSNR (dB) differ by less than this", above=0)

    kl_anneal_type: str = option("Cyclical", KL_ANNEALING, "how β rises; None: constant", choices=("Cyclical", "Monotonic", "None"))
    kl_anneal_cycle: int = option(10, KL_ANNEALING, "Cyclical: number of cycles in the whole run; β is 0 in a cycle's first epoch", at_least=1)
    kl_anneal_ratio: float = option(1.0, KL_ANNEALING, "part of a cycle in which β rises, 0-1; the rest is plateau", above=0, at_most=1)
    kl_beta: float = option(1.0, KL_ANNEALING, "plateau of β (None: the constant); 0 switches the KL term off", at_least=0)
    kl_norm: str = option("sum", KL_ANNEALING, "the KL term in the loss: summed over the latent's values, or their mean", choices=("sum", "mean"))

    save_root: str | None = option(None, SAVING, "folder of the run", shown="runs/NAME, after data set or preset")
    per_save: int = option(3, SAVING, "save epoch=N.ckpt every so many epochs (not with --auto_save)", at_least=1)
    auto_save: bool = option(False, SAVING, "save best.ckpt, best_psnr.ckpt and best_loss.ckpt by validation instead")
    store_visualization: bool = option(False, SAVING, "write val.gif and val_sheet.png (label, truth, prediction) after each validation")
    save_minutes: float = option(10.0, SAVING, "write last.ckpt in mid-epoch too when the last save is this many minutes old; 0 = at the end of epochs only", at_least=0)
    tensorboard: bool = option(False, SAVING, "log the columns of metrics.csv for TensorBoard too (needs its package: pip install tensorboard)")
    ckpt_path: str | None = option(None, SAVING, "start from these weights (fine-tuning), or the checkpoint of --test", shown="none")
    resume: bool = option(False, SAVING, "continue the run in save_root with its own options")

    device: str = option("auto", RUN, "auto takes CUDA where there is one", choices=("auto", "cuda", "cpu"))
    gpu: int = option(1, RUN, "GPUs of this machine to train on; leave it out under torchrun, which starts the processes", at_least=1)
    seed: int = option(0, RUN, "seed of every random draw", at_least=0)
    precision: str = option("auto", RUN, "arithmetic of the networks; auto: bfloat16 where the hardware has it. Loss and KL are always float32", choices=("auto", "float32", "bfloat16"))
    deterministic: bool = option(False, RUN, "CUDA: only kernels that give the same bits every time; slower. A CPU needs no such switch")
    no_graph: bool = option(False, RUN, "CUDA: no CUDA graphs, every kernel is started by itself; slower, for finding faults")
    recompute: bool = option(False, RUN, "save memory: make intermediate values again in the backward pass, one step at a time (8 frames with teacher forcing); slower")
    test: bool = option(False, RUN, "only validate the checkpoint of --ckpt_path")
    dry_run: bool = option(False, RUN, "check options and data, build the model, print them, stop; writes nothing")
    preset: str | None = option(None, RUN, "a ready set of options; options given beside it win", choices=("demo", "best"), shown="none")
    # fmt: on


@dataclasses.dataclass
class TesterOptions:
    """What Tester.py takes. Model and frame size come from the checkpoint."""

    __test__ = False  # pytest: no class of tests, whatever its name

    # fmt: off
    ckpt_path: str | None = option(None, DATA, "checkpoint to generate with", shown="required")
    DR: str | None = option(None, DATA, "data set root", shown="the one that the checkpoint was trained on")
    save_root: str | None = option(None, SAVING, "folder for the results", shown="the split's name, beside the checkpoint")
    split: str = option("test", DATA, "test: the test sequences; val: the validation video, with PSNR", choices=("test", "val"))
    num_workers: int = option(2, DATA, "threads that decode the images; no result depends on it", at_least=1)
    frame_H: int | None = option(None, MODEL, "frame height, for checkpoints that do not carry it", at_least=4, at_most=8192, shown="the checkpoint's, else 32")
    frame_W: int | None = option(None, MODEL, "frame width, likewise", at_least=4, at_most=8192, shown="the checkpoint's, else 64")
    n_samples: int = option(1, RUN, "with --split val: futures to sample; the best, the mean and the spread of their scores are printed", at_least=1)
    latent_scale: float = option(1.0, RUN, "multiplies the latent; 0 = the prior's mean", at_least=0)
    batch_size: int = option(8, RUN, "sequences generated side by side; no pixel depends on it", at_least=1)
    seed: int = option(0, RUN, "seed of the latents", at_least=0)
    device: str = option("auto", RUN, "auto takes CUDA where there is one", choices=("auto", "cuda", "cpu"))
    precision: str = option("auto", RUN, "arithmetic of the networks; auto: bfloat16 where the hardware has it", choices=("auto", "float32", "bfloat16"))
    # fmt: on


# What gives the highest validation PSNR at equal time; README has the comparison.
RECIPE: dict[str, Any] = {
    # Single steps of noisy true frames, from all over the data set: what the model learns to mend
    # in the frame before is what free running does to it, and nothing has to be made in sequence.
    # With less noise the model leans on the frame before, and its validation falls later on.
    "train_vi_len": 2,
    "batch_size": 8,
    "tfr_d_step": 0.0,
    "frame_noise": 1.0,
    "init": "copy",
    "optim": "Muon",
    "lr": 0.003,
    "lr_scheduler": "cosine",
    "lr_warmup": 20,
    "ema": 0.99,
    # Too weak a KL term lets training read the answer off the posterior's latent, which validation
    # does not have. From 0.001 to 1 it makes no difference (tests/ablation.py, row beta_1).
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
    "best": {**RECIPE, "num_epoch": 30, "auto_save": True, "store_visualization": True},
}

# What a resumed run may change without being another run.
MAY_CHANGE_ON_RESUME = frozenset(
    (
        *("num_epoch", "num_workers", "DR", "device", "gpu", "no_graph", "recompute"),
        *("save_root", "per_save", "auto_save", "store_visualization", "save_minutes"),
        *("tensorboard", "resume", "ckpt_path", "test", "dry_run", "preset"),
    )
)


# Options that do nothing unless another one has a certain value: that one, and the condition.
IDLE_UNLESS: dict[str, tuple[str, Callable[[dict[str, Any]], bool]]] = {
    "fast_partial": ("--fast_train", lambda o: bool(o.get("fast_train"))),
    "fast_train_epoch": ("--fast_train", lambda o: bool(o.get("fast_train"))),
    "lr_milestones": ("--lr_scheduler multistep", lambda o: o.get("lr_scheduler") == "multistep"),
    "init": ("fresh weights (no --ckpt_path)", lambda o: o.get("ckpt_path") is None),
    "grow_epochs": ("--grow_from", lambda o: o.get("grow_from") is not None),
    "lr_gamma": ("--lr_scheduler multistep", lambda o: o.get("lr_scheduler") == "multistep"),
    "tfr_sde": ("--tfr and --tfr_d_step", lambda o: bool(o.get("tfr") and o.get("tfr_d_step"))),
    "tfr_d_step": (
        "--tfr or --detector_patience",
        lambda o: bool(o.get("tfr") or o.get("detector_patience")),
    ),
    "rollout_every": (
        "--tfr below 1 or --tfr_d_step",
        lambda o: o.get("tfr", 1.0) < 1 or o.get("tfr_d_step", 0.1) > 0,
    ),
    "detach": (
        "free running (--tfr below 1 or --tfr_d_step, and no --rollout_every)",
        lambda o: (
            (o.get("tfr", 1.0) < 1 or o.get("tfr_d_step", 0.1) > 0) and not o.get("rollout_every")
        ),
    ),
    "detector_threshold": ("--detector_patience", lambda o: bool(o.get("detector_patience"))),
    "kl_anneal_cycle": (
        "--kl_anneal_type Cyclical",
        lambda o: o.get("kl_anneal_type") == "Cyclical",
    ),
    "kl_anneal_ratio": (
        "--kl_anneal_type Cyclical or Monotonic",
        lambda o: o.get("kl_anneal_type") != "None",
    ),
    "tf_draw": (
        "a ratio between 0 and 1 (--tfr, --tfr_d_step)",
        lambda o: 0 < o.get("tfr", 1.0) < 1 or o.get("tfr", 1.0) * o.get("tfr_d_step", 0.1) > 0,
    ),
    "gpu": ("training", lambda o: o.get("gpu") == 1 or not o.get("test")),
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
    """Trainer.py's options with what follows from others filled in. See parse()."""
    options, explicit = parse(TrainerOptions, description, argv)
    if options.resume and options.save_root is None and options.DR is None:
        raise UserError("--resume needs --save_root, the folder of the run to continue")
    check_combinations(options)
    if options.test and "save_root" not in explicit and options.ckpt_path is not None:
        # Beside the checkpoint: a folder named after the data set may hold a training run.
        options.save_root = str(Path(options.ckpt_path).parent / "validation")
    fill_in_derived(options)
    return options, explicit


def check_combinations(options: TrainerOptions) -> None:
    """Refuse combinations that make no sense (UserError)."""
    if options.DR is None and not (options.resume or options.ckpt_path):
        raise UserError(
            "no data set: give its root with --DR, or --preset demo for one that needs no download"
        )
    if options.test and options.ckpt_path is None:
        raise UserError("--test validates a checkpoint: name it with --ckpt_path")
    if options.test and options.resume:
        raise UserError("--test and --resume exclude each other: --test takes --ckpt_path")
    if options.resume and options.ckpt_path is not None:
        raise UserError(
            "--resume and --ckpt_path exclude each other: --resume continues the run in "
            "save_root, --ckpt_path starts a new run from given weights"
        )
    if options.grow_from is not None and options.grow_from > options.train_vi_len:
        raise UserError(
            f"--grow_from {options.grow_from}: clips grow, so it is at most --train_vi_len "
            f"{options.train_vi_len}"
        )
    if options.init == "copy" and min(options.F_dim, options.D_out_dim) < 8 * COLOURS:
        raise UserError(
            f"--init copy: needs --F_dim and --D_out_dim of at least {8 * COLOURS}, so that the "
            "colours find a way through the narrowest layers"
        )
    if options.init == "copy" and options.output == "sigmoid":
        raise UserError("--init copy: a sigmoid would bend what is copied; use another --output")
    if options.detector_patience == 1:
        raise UserError("--detector_patience 1: one validation is always like itself; 2 or more")


def fill_in_derived(options: TrainerOptions) -> None:
    """Defaults that follow from other options."""
    if options.lr_milestones is None:
        options.lr_milestones = (options.num_epoch // 2, options.num_epoch * 3 // 4)
    if options.save_root is None and options.DR is not None:
        options.save_root = str(Path("runs") / (Path(options.DR).resolve().name or "run"))


def kl_weight_of(options: TrainerOptions, epoch: int) -> float:
    """β of an epoch, counted from 0; see schedules.kl_weight."""
    return kl_weight(
        epoch,
        num_epoch=options.num_epoch,
        anneal_type=options.kl_anneal_type,
        cycles=options.kl_anneal_cycle,
        ratio=options.kl_anneal_ratio,
        beta=options.kl_beta,
    )


def without_effect(options: TrainerOptions, explicit: frozenset[str]) -> list[str]:
    """A line for each typed option that another one makes meaningless, so that none is silent."""
    values = vars(options)
    lines = [
        f"note: --{name} has no effect without {other}"
        for name, (other, has_effect) in IDLE_UNLESS.items()
        if name in explicit and not has_effect(values)
    ]
    if options.auto_save and "per_save" in explicit:
        lines.append("note: --per_save is ignored with --auto_save")
    rises = any(kl_weight_of(options, epoch) > 0 for epoch in range(options.num_epoch))
    if options.kl_beta > 0 and not (rises or options.test):
        lines.append(
            "note: β is 0 in every epoch, as each is the first of a cycle: fewer --kl_anneal_cycle "
            "or more --num_epoch would let it rise"
        )
    return lines


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
