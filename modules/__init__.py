"""Networks, model and the concepts around them. The five networks are importable from here."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.networks import (
        Decoder_Fusion,
        Gaussian_Predictor,
        Generator,
        Label_Encoder,
        RGB_Encoder,
    )

__all__ = ["Decoder_Fusion", "Gaussian_Predictor", "Generator", "Label_Encoder", "RGB_Encoder"]


def __getattr__(name: str) -> Any:
    """The five networks, imported when they are asked for: figures do without PyTorch."""
    if name in __all__:
        return getattr(import_module("modules.networks"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
