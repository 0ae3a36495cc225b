"""Networks, model and the concepts around them. The five networks are importable from here."""

from modules.networks import (
    Decoder_Fusion,
    Gaussian_Predictor,
    Generator,
    Label_Encoder,
    RGB_Encoder,
)

__all__ = ["Decoder_Fusion", "Gaussian_Predictor", "Generator", "Label_Encoder", "RGB_Encoder"]
