"""How numbers, names and settings are written in figures and tables."""

from typing import Any


def plain_number(value: float, _: Any = None) -> str:
    """0.001, 20, 1e-5: a number as a user would type it, also as the label of a tick."""
    mantissa, _, exponent = f"{value:.6g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def shorten(text: str, length: int) -> str:
    """The text, cut in the middle to at most `length` characters."""
    if len(text) <= length:
        return text
    return text[: length // 2] + "…" + text[len(text) - (length - 1) // 2 :]


def value_text(value: Any) -> str:
    """A setting's value as a user would type it."""
    if isinstance(value, list | tuple):
        return " ".join(map(value_text, value))
    return plain_number(value) if isinstance(value, float) else str(value)


def kl_text(options: dict[str, Any]) -> str:
    """The KL annealing of a run in words."""
    kind, beta = options.get("kl_anneal_type"), value_text(options.get("kl_beta", "?"))
    if kind == "None":
        return f"none, β = {beta}"
    cycles = f", {options.get('kl_anneal_cycle', '?')} cycles" if kind == "Cyclical" else ""
    ratio = value_text(options.get("kl_anneal_ratio", "?"))
    return f"{kind or '?'}{cycles}, ratio {ratio}" + ("" if beta == "1" else f", β to {beta}")


def forcing_text(options: dict[str, Any]) -> str:
    """The teacher forcing of a run in words."""
    ratio, step = (value_text(options.get(name, "?")) for name in ("tfr", "tfr_d_step"))
    if ratio == "0":
        text = "none"
    elif step == "0":
        text = f"{ratio} throughout"
    else:
        text = f"{ratio}, −{step} per epoch from {options.get('tfr_sde', '?')}"
    patience = options.get("detector_patience")
    return f"{text}, detector (patience {patience})" if patience else text
