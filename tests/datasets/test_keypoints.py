"""Keypoint R-CNN: the real loading code, with random weights of the same architecture."""

from pathlib import Path
from unittest import mock
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.models.detection import (
    KeypointRCNN,
    KeypointRCNN_ResNet50_FPN_Weights,
    keypointrcnn_resnet50_fpn,
)
from torchvision.ops import FrozenBatchNorm2d

from modules.datasets import keypoints
from modules.runtime.errors import UserError

CPU = torch.device("cpu")
PUBLISHED = KeypointRCNN_ResNet50_FPN_Weights.DEFAULT


def sees_people_everywhere(network: KeypointRCNN) -> None:
    """Make the random heads of boxes say person, with a score of 0.73, to every anchor."""
    with torch.no_grad():
        for layer in (network.rpn.head.bbox_pred, network.roi_heads.box_predictor.bbox_pred):
            layer.weight.zero_()
        predictor = network.roi_heads.box_predictor.cls_score
        predictor.weight.zero_()
        predictor.bias.copy_(torch.tensor([0.0, 1.0]))


def test_weights_load_and_people_come_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = keypoints.build_network(64)
    # The architecture of the published weights: their number of parameters, torchvision's names.
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED.meta["num_params"]
    with torch.device("meta"):
        theirs = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    names = {name for name in theirs if not name.endswith("num_batches_tracked")}
    assert names == set(network.state_dict())
    assert all(m.eps == 0 for m in network.modules() if isinstance(m, FrozenBatchNorm2d))

    assert network.roi_heads.score_thresh == 0.5
    sees_people_everywhere(network)
    network.roi_heads.detections_per_img = 2  # a hundred by default, which take minutes
    path = tmp_path / "weights.pth"
    state = {name: value.clone() for name, value in network.state_dict().items()}
    torch.save(state, path)
    images = [np.random.default_rng(i).integers(0, 256, (64, 80, 3), np.uint8) for i in (0, 1)]
    with torch.inference_mode():  # as torchvision says
        (expected,) = network([torch.from_numpy(images[0]).permute(2, 0, 1) / 255])
        for value in network.state_dict().values():
            value.zero_()  # what is found below comes from the file
    monkeypatch.setattr(keypoints, "build_network", lambda short_side: network)
    first, second = keypoints.load_keypoint_model(path, CPU, short_side=64)(images)
    for found in (first, second):
        assert found.boxes.shape == (2, 4) and found.joints.shape == (2, 17, 3)
        assert found.boxes.dtype == found.joints.dtype == np.float32
    assert np.allclose(first.boxes, expected["boxes"].numpy(), atol=1e-3)
    assert np.allclose(first.joints[..., :2], expected["keypoints"][..., :2].numpy(), atol=1e-2)
    assert np.allclose(first.joints[..., 2], expected["keypoints_scores"].numpy(), atol=1e-3)
    assert first.scores == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-5)


def test_weights_of_another_network_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keypoints, "build_network", lambda short_side: torch.nn.Linear(2, 2))
    for content in ([torch.zeros(3)], {"a.weight": torch.zeros(3)}):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(UserError, match=r"w\.pth: does not hold weights of torchvision's key"):
            keypoints.load_keypoint_model(tmp_path / "w.pth", CPU, short_side=64)


def test_without_network_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keypoints, "build_network", lambda short_side: torch.nn.Linear(2, 2))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", mock.Mock(side_effect=URLError("no route"))
    )
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "nowhere-to-be-found")
    monkeypatch.setattr("os.makedirs", lambda *_, **__: None)
    with pytest.raises(UserError) as caught:
        keypoints.load_keypoint_model(None, CPU, short_side=64)
    for words in ("no route", PUBLISHED.url, "--weights", "--labels"):
        assert words in str(caught.value)
