"""The factor of the loss with float16, whose smallest numbers are larger than most gradients.

Micikevicius et al. 2018, "Mixed Precision Training", section 3.2: the loss is multiplied before the
backward pass, so that small gradients do not become 0, and the gradient is divided again before it
is used. Where it overflows, that step is left out and the factor halved; after many sound steps it
is doubled. Like the step itself that is decided on the device.
"""

import torch
from torch import Tensor

START = 2.0**16
# A gradient that overflows with the smallest factor is beyond 1e9: no matter of float16.
SMALLEST, LARGEST = 2.0**-14, 2.0**32
SOUND_STEPS = 500  # from one doubling to the next


class LossScale:
    """A power of two, so that multiplying and dividing by it rounds nothing."""

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), START, device=device)
        self.sound = torch.zeros((), device=device)  # steps since the value was last changed

    def update(self, loss: Tensor, norm: Tensor, enabled: Tensor) -> Tensor:
        """After a backward pass; whether this step only served to lower the factor, a boolean.

        loss: without the factor; norm: of the gradient; enabled: False changes nothing. A loss that
        is not finite is no matter of the factor, nor is a gradient that overflows with the
        smallest one. All on the device, like the result.
        """
        sound = torch.isfinite(loss) & torch.isfinite(norm)
        overflowed = torch.isfinite(loss) & ~torch.isfinite(norm) & (self.value > SMALLEST)
        counted = torch.where(overflowed, 0.0, self.sound + sound)
        grows = counted >= SOUND_STEPS
        value = torch.where(overflowed, 0.5 * self.value, self.value)
        value = torch.where(grows, (2.0 * value).clamp(max=LARGEST), value)
        self.value.copy_(torch.where(enabled, value, self.value))
        self.sound.copy_(torch.where(enabled, torch.where(grows, 0.0, counted), self.sound))
        return overflowed

    def state_dict(self) -> dict[str, float]:
        """Plain values for the checkpoint. Waits for the device."""
        return {"value": self.value.item(), "sound": self.sound.item()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from saved values."""
        self.value.fill_(state["value"])
        self.sound.fill_(state["sound"])
