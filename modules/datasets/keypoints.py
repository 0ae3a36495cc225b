"""Keypoint R-CNN of torchvision: finds people and their 17 COCO joints in frames.

He et al. 2017, "Mask R-CNN", section 5; ResNet-50 with a feature pyramid, trained on COCO.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.models.detection import KeypointRCNN, KeypointRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms.functional import to_tensor

from modules.datasets.canvas import Array, Pixels
from modules.datasets.pose import Detections, KeypointModel
from modules.runtime.errors import UserError
from modules.weights import read_weight_file

LEAST_SCORE = 0.5  # of a person, 0-1; lower ones are ignored


def build_network(short_side: int) -> KeypointRCNN:
    """The network in evaluation mode, as torchvision builds it for its trained weights; its own
    function, called without weights, uses another batch normalisation: they would not load.

    short_side: pixels to which the shorter side of a frame is scaled (the longer is at most 5/3)
    """
    network = KeypointRCNN(
        resnet_fpn_backbone(backbone_name="resnet50", weights=None),
        num_classes=2,
        num_keypoints=17,
        min_size=short_side,
        max_size=round(short_side * 5 / 3),
        box_score_thresh=LEAST_SCORE,  # joints of less certain people are not needed
    )
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0  # as it was when the published weights were trained
    return network.eval()


def load_keypoint_model(
    weights: Path | None, device: torch.device, *, short_side: int
) -> KeypointModel:
    """A function from frames (H, W, 3) uint8 RGB, of any sizes, to what is found in each.

    weights: file of a state dict; None: downloaded by torchvision into its own cache, once

    Raises UserError: the file is missing, corrupted or of another network, or the download fails.
    """
    published = KeypointRCNN_ResNet50_FPN_Weights.DEFAULT
    network = build_network(short_side)
    if weights is None:
        try:
            state = published.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"the weights of Keypoint R-CNN cannot be downloaded ({error}); download"
                f" {published.url} elsewhere for --weights, or give joints by --labels"
            ) from error
    else:
        state = read_weight_file(weights)
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        name = weights or published.url
        raise UserError(
            f"{name}: does not hold weights of torchvision's keypointrcnn_resnet50_fpn"
        ) from error
    network.to(device)

    @torch.inference_mode()
    def find(frames: Sequence[Pixels], _: Array | None = None) -> list[Detections]:
        images = [to_tensor(frame).to(device) for frame in frames]
        results = []
        for found in network(images):
            points, logits = found["keypoints"][..., :2], found["keypoints_scores"][..., None]
            joints = torch.cat([points, logits], dim=2)  # (K, 17, 3)
            values = (found["boxes"], found["scores"], joints)
            results.append(Detections(*(value.float().cpu().numpy() for value in values)))
        return results

    return find
