"""The five networks' tensors, found in whatever a file holds.

Wrappers put names before, between and around those of the networks: `module.` (DataParallel),
`_orig_mod.` (torch.compile), `model.` (Lightning), dictionaries in dictionaries (`state_dict`,
`ema`). A tensor is recognised by the name of its network anywhere in its path, and what the path
has before that name tells the copies of one file apart.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modules.cvae import COLOURS, CVAE, OPTIONAL_PARTS, ModelConfig
from modules.runtime.errors import named
from modules.weight_files import StandIn

NETWORKS = (
    *("frame_transformation", "label_transformation"),
    *("Gaussian_Predictor", "Decoder_Fusion", "Generator"),
)
PARTS = frozenset((*NETWORKS, *OPTIONAL_PARTS))
# Segments that wrappers put between the names of modules.
WRAPPERS = frozenset(
    (
        *("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
        *("_forward_module", "_original_module", "_fpw_module", "_ddp_module"),
    )
)
# Of networks that only training has, in lower case: they may be left out.
ONLY_TRAINING = (
    *("disc", "critic", "lpips", "vgg", "percept", "loss", "criterion", "metric", "psnr", "ssim"),
    *("teacher", "ema", "averaged", "initted", "step", "updates", "decay", "epoch", "sigma"),
)
# Copies that are not the weights themselves, unless there are no others.
AVERAGED = ("ema", "averag", "shadow", "swa", "teacher")
OPTIMISERS = ("optim", "training", "callbacks")
MOST_DEPTH = 32  # of dictionaries in each other
COUNTER = "num_batches_tracked"


class Found(NamedTuple):
    """The networks' tensors as they stand in a file, by the model's names."""

    state: dict[str, Tensor]
    where: str  # the path of what they were in, e.g. "state_dict"; "" for the file itself
    removed: list[str]  # names of wrappers that were removed, e.g. "_orig_mod"
    others: list[str]  # networks beside the five in the same place
    left_out: list[str]  # what beside them is of other models, or only for training
    copies: list[str]  # paths of other copies of the networks


class NoNetworks(ValueError):
    """None of the five networks is where they were looked for; the text says what is."""


class _Bag(NamedTuple):
    """The tensors of one dictionary (or module) of a file."""

    path: tuple[str, ...]
    tensors: dict[str, Tensor]


def _module_state(module: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """The state_dict of a whole module that was read as plain values."""
    dropped = module.get("_non_persistent_buffers_set") or ()
    found = {
        f"{prefix}{name}": value
        for kind in ("_parameters", "_buffers")
        for name, value in (module.get(kind) or {}).items()
        if isinstance(value, Tensor) and not (kind == "_buffers" and name in dropped)
    }
    for name, child in (module.get("_modules") or {}).items():
        if (
            isinstance(child, StandIn)
            and isinstance(child.state, Mapping)
            and prefix.count(".") < MOST_DEPTH
        ):
            found |= _module_state(child.state, f"{prefix}{name}.")
    return found


def _bags(value: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[_Bag]:
    """Every dictionary, list and module with tensors in it, each once."""
    if id(value) in seen or len(path) > MOST_DEPTH:
        return
    if isinstance(value, StandIn):
        seen.add(id(value))
        state = value.state
        if isinstance(state, Mapping) and "_modules" in state:
            yield _Bag(path, _module_state(state))
        elif isinstance(state, Mapping):
            yield from _bags(state, path, seen)
    elif isinstance(value, Mapping | list | tuple):
        seen.add(id(value))
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        pairs = [(str(key), item) for key, item in items]
        if own := {key: item for key, item in pairs if isinstance(item, Tensor)}:
            yield _Bag(path, own)
        for key, item in pairs:
            yield from _bags(item, (*path, *key.split(".")), seen)


class _Copy(NamedTuple):
    """The networks' tensors that have one prefix, and what stands beside them."""

    state: dict[str, Tensor]
    removed: dict[str, None]  # names of wrappers, in order
    beside: dict[str, bool]  # name → whether it may be a part of the same model


def find_networks(content: Any, wanted: str | None = None) -> Found:
    """The networks' tensors in what a file holds, the likeliest copy where there are several.

    The copy with most of the networks' tensors, in this order: the weights themselves, averages of
    them, what an optimiser holds; or the one at the path `wanted`. Raises NoNetworks.
    """
    copies: dict[tuple[str, ...], _Copy] = {}
    strangers: list[str] = []
    for bag in _bags(content, (), set()):
        prefixes: set[tuple[str, ...]] = set()
        apart: list[tuple[str, ...]] = []
        keys: dict[tuple[str, ...], str] = {}
        for key, tensor in bag.tensors.items():
            segments = (*bag.path, *key.split("."))
            at = max((i for i, part in enumerate(segments) if part in PARTS), default=None)
            if at is None:
                apart.append(segments)
                keys[segments] = key
                continue
            prefix = tuple(part for part in segments[:at] if part not in WRAPPERS)
            rest = [part for part in segments[at:] if part not in WRAPPERS]
            copy = copies.setdefault(prefix, _Copy({}, {}, {}))
            copy.state[".".join(rest)] = tensor
            copy.removed.update(dict.fromkeys(part for part in segments if part in WRAPPERS))
            prefixes.add(prefix)
        strangers += [".".join(segments) for segments in apart]
        for prefix in prefixes:  # what stands in the same dictionary
            for segments in apart:
                plain = [part for part in segments if part not in WRAPPERS]
                inside = tuple(plain[: len(prefix)]) == prefix and len(plain) > len(prefix)
                outer = sum(part not in WRAPPERS for part in bag.path)
                place = len(prefix) if inside else min(outer, len(plain) - 1)
                # A number of its own (of steps, a metric) is no network.
                number = len(plain) == place + 1 and bag.tensors[keys[segments]].numel() == 1
                beside = copies[prefix].beside
                beside[plain[place]] = beside.get(plain[place], False) or (inside and not number)
    if not copies:
        raise NoNetworks(f"its tensors: {named(strangers)}" if strangers else "it has no tensors")
    if wanted is not None:
        there = {".".join(prefix): prefix for prefix in copies}
        if wanted not in there:
            raise NoNetworks(f"networks are in: {named(filter(None, there))}")
        copies = {there[wanted]: copies[there[wanted]]}
    for prefix, copy in copies.items():
        copies[prefix] = copy._replace(state=plain_form(copy.state))
    return _choose(copies)


def _choose(copies: dict[tuple[str, ...], _Copy]) -> Found:
    """The best of the copies; networks that are in several places count as one copy."""
    with torch.device("meta"):
        usual = CVAE(ModelConfig()).state_dict().keys()

    def kind(prefix: tuple[str, ...]) -> int:
        text = ".".join(prefix).lower()
        if any(word in text for word in OPTIMISERS):
            return 2
        return 1 if any(word in text for word in AVERAGED) else 0

    def count(state: dict[str, Tensor]) -> int:
        return len(usual & state.keys())

    most = max(count(copy.state) for copy in copies.values())
    # A size of a layer decides whether it has a skip: not all names are in every model.
    whole = [prefix for prefix, copy in copies.items() if count(copy.state) > 0.9 * len(usual)]
    if not whole:
        plain = {prefix: copy for prefix, copy in copies.items() if kind(prefix) == 0}
        together = {n: value for copy in plain.values() for n, value in copy.state.items()}
        if count(together) > most and sum(len(c.state) for c in plain.values()) == len(together):
            where = " and ".join(".".join(prefix) for prefix in plain if prefix)
            removed = [name for copy in plain.values() for name in copy.removed]
            return Found(together, where, list(dict.fromkeys(removed)), [], [], [])
        whole = [prefix for prefix, copy in copies.items() if count(copy.state) == most]
    best = min(whole, key=lambda prefix: (kind(prefix), len(prefix)))
    beside = copies[best].beside
    training = [
        name
        for name, part in beside.items()
        if not part or any(word in name.lower() for word in ONLY_TRAINING)
    ]
    return Found(
        state=copies[best].state,
        where=".".join(best),
        removed=list(copies[best].removed),
        others=[name for name in beside if name not in training],
        left_out=training,
        copies=[".".join(prefix) for prefix in whole if prefix != best and kind(prefix) < 2],
    )


# ---------------------------------------------------------------- layers in another form


def plain_form(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that reparametrised layers compute, in evaluation mode, under their plain names.

    Weight normalisation, w = g·v/‖v‖ over all but the first dimension (Salimans & Kingma 2016,
    eq. 2); spectral normalisation, w = W/(uᵀWv) (Miyato et al. 2018, eq. 8); pruning, w·mask.
    Each in PyTorch's older and newer names.
    """
    found = dict(state)
    for name, value in state.items():
        for old, new, others, compute in _FORMS:
            if not name.endswith(old):
                continue
            stem = name.removesuffix(old)
            parts = [state.get(stem + other) for other in others]
            if all(part is not None for part in parts):
                for other in (old, *others):
                    found.pop(stem + other, None)
                found[stem + new] = compute(
                    value.float(), *(p.float() for p in parts if p is not None)
                )
                break
    return found


def _weight_norm(v: Tensor, g: Tensor) -> Tensor:
    return v * (g / v.flatten(1).norm(dim=1).reshape(-1, *[1] * (v.dim() - 1)))


def _spectral_norm(w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return w / torch.dot(u, w.flatten(1) @ v)


_PARAMETRIZED = "parametrizations.weight."
# Name, plain name, the other tensors, what they compute.
_FORMS: tuple[tuple[str, str, tuple[str, ...], Any], ...] = (
    ("weight_v", "weight", ("weight_g",), _weight_norm),
    (f"{_PARAMETRIZED}original1", "weight", (f"{_PARAMETRIZED}original0",), _weight_norm),
    ("weight_orig", "weight", ("weight_u", "weight_v"), _spectral_norm),
    (
        f"{_PARAMETRIZED}original",
        "weight",
        (f"{_PARAMETRIZED}0._u", f"{_PARAMETRIZED}0._v"),
        _spectral_norm,
    ),
    ("weight_orig", "weight", ("weight_mask",), torch.mul),
    ("bias_orig", "bias", ("bias_mask",), torch.mul),
)


# ---------------------------------------------------------------- numbers


def as_float32(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors as the model has them, and what their kind was; "" if it was the model's own.

    ValueError: a tensor that cannot be taken (integers, complex, sparse, without values).
    """
    kinds: dict[str, int] = {}
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        value = value.detach()
        if value.is_quantized or value.layout != torch.strided or value.device.type == "meta":
            kind = "quantised" if value.is_quantized else "empty" if value.is_meta else "sparse"
            raise ValueError(f"{name} is {kind}; save the weights as float32")
        if name.endswith(COUNTER):
            found[name] = value.to(torch.int64)
        elif value.dtype == torch.float32:
            found[name] = value
        elif value.is_floating_point():
            kinds[str(value.dtype).removeprefix("torch.")] = 1
            found[name] = value.to(torch.float32)
        else:
            kind = str(value.dtype).removeprefix("torch.")
            raise ValueError(f"{name} is {kind}; save the weights as float32")
    return found, ", ".join(kinds)


def with_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with the batch-norm counters that PyTorch before 0.4.1 did not have."""
    counters = {
        f"{stem}.{COUNTER}": torch.tensor(0)
        for name in state
        if name.endswith("running_mean") and (stem := name.rpartition(".")[0])
    }
    return {**state, **{name: zero for name, zero in counters.items() if name not in state}}


# ---------------------------------------------------------------- dimensions

# The tensors whose shapes tell the dimensions: (option, tensor, axis, divisor).
DIMENSION_OF = (
    ("F_dim", "frame_transformation.6.weight", 0, 1),
    ("L_dim", "label_transformation.4.conv1.weight", 0, 1),
    ("N_dim", "Gaussian_Predictor.6.weight", 0, 2),
    ("D_out_dim", "Decoder_Fusion.5.weight", 0, 1),
)
# What the inputs of the networks must be, as (network, tensor, axis, the options that add up).
INPUTS = (
    ("Gaussian_Predictor", "Gaussian_Predictor.0.conv1.weight", 1, ("F_dim", "L_dim")),
    (
        "Decoder_Fusion",
        "Decoder_Fusion.0.block.0.depth_conv.weight",
        0,
        ("F_dim", "L_dim", "N_dim"),
    ),
    ("Generator", "Generator.0.block.0.depth_conv.weight", 0, ("D_out_dim",)),
)


def dimensions(state: dict[str, Tensor]) -> dict[str, Any]:
    """The model's settings that the tensors tell: dimensions and optional parts.

    ValueError: a tensor that is needed for it is missing.
    """
    values: dict[str, Any] = {}
    for name, tensor, axis, divisor in DIMENSION_OF:
        if tensor not in state or state[tensor].dim() <= axis:
            raise ValueError(f"it has no tensor {tensor}")
        values[name] = state[tensor].shape[axis] // divisor
    first = state.get("frame_transformation.0.conv1.weight")
    if first is not None and first.dim() > 1:
        values["fold"] = max(1, math.isqrt(first.shape[1] // COLOURS))
    present = {name.partition(".")[0] for name in state}
    if "Prior_Predictor" in present:
        values["prior"] = "learned"
    if "Reference_Fusion" in present:
        values["reference"] = "first"
    return values


def missing_networks(state: dict[str, Tensor]) -> list[str]:
    """Which of the five networks have no tensor at all."""
    present = {name.partition(".")[0] for name in state}
    return [name for name in NETWORKS if name not in present]


def faults(state: dict[str, Tensor], config: ModelConfig, others: list[str]) -> str:
    """Why the tensors are not just those of the model, in words; "" if they are.

    others: networks beside the five that stand in the same place.
    """
    if others:
        return f"networks that this model lacks: {named(others)}"
    with torch.device("meta"):
        model = CVAE(config).state_dict()
    expected = {name: tuple(value.shape) for name, value in model.items()}
    optional = {name for name in expected if name.partition(".")[0] in OPTIONAL_PARTS}
    found = {name: tuple(value.shape) for name, value in state.items()}
    absent = [name for name in expected if name not in found and name not in optional]
    unknown = [name for name in found if name not in expected]
    wrong = [name for name in expected if name in found and found[name] != expected[name]]
    if not (absent or unknown or wrong):
        return ""
    listed = [
        *(f"{name} is missing" for name in absent),
        *(f"{name} is unknown" for name in unknown),
        *(f"{name} is {_size(found[name])}, not {_size(expected[name])}" for name in wrong),
    ]
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    text = f"{'; '.join(listed[:3])}{more}"
    if not wrong:
        return text
    return f"wrong sizes: {text}{_what_fits(state, config)}"


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _what_fits(state: dict[str, Tensor], config: ModelConfig) -> str:
    """Which options the networks of a file would fit, where they disagree with the config."""
    hints = []
    for name, tensor, axis, divisor in DIMENSION_OF:
        value = (
            state[tensor].shape[axis] // divisor if tensor in state and state[tensor].dim() else 0
        )
        if value and value != getattr(config, name):
            network = tensor.partition(".")[0]
            hints.append(f"{network} fits --{name} {value}, not {getattr(config, name)}")
    for network, tensor, axis, options in INPUTS:
        size = state[tensor].shape[axis] if tensor in state and state[tensor].dim() > axis else 0
        wanted = sum(getattr(config, name) for name in options)
        if size and size != wanted and not hints:
            flags = " + ".join(f"--{name}" for name in options)
            hints.append(f"the input of {network} fits {flags} = {size}, not {wanted}")
    return f"; {'; '.join(hints)}" if hints else ""
