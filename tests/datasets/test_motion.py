"""How the demo's person moves: bones, floor, frame and curves; and what hides what."""

import numpy as np
import pytest

from modules.datasets import motion
from modules.datasets.canvas import Camera, Canvas
from modules.datasets.motion import JOINTS, SIDES, SKELETON


def pose_of(seed: int, frames: int, camera: Camera) -> motion.Pose:
    return motion.perform(np.random.default_rng([seed, 1, 0]), frames, camera)


def test_limbs_keep_their_lengths_and_feet_stand_on_the_floor() -> None:
    pose = pose_of(1, 600, Camera(32, 64))
    for name, (parent, offset) in list(SKELETON.items())[1:]:
        bones = pose.joints[:, JOINTS[name]] - pose.joints[:, JOINTS[parent]]
        lengths = np.linalg.norm(bones, axis=1)
        np.testing.assert_allclose(lengths, np.linalg.norm(offset), atol=1e-12)
    hands = pose.joints[:, [JOINTS[f"{side}_fingers"] for side in SIDES]]
    assert np.ptp(hands[..., 1], axis=0).min() > 0.5  # but they do move, by half a stature
    speed = np.linalg.norm(np.diff(pose.joints, axis=0), axis=2)  # statures per frame
    assert speed.max() < 0.25
    feet = [JOINTS[f"{side}_{part}"] for side in SIDES for part in ("heel", "toe")]
    np.testing.assert_allclose(pose.joints[:, feet, 1].min(axis=1), 0, atol=1e-12)
    lowest = pose.joints[:, feet, 1].argmin(axis=1)[:-1]
    slip = speed[:, feet][np.arange(len(lowest)), lowest]
    assert np.median(slip) < 0.003


@pytest.mark.parametrize("size", [(32, 64), (64, 32)])
def test_joints_stay_inside_the_frame(size: tuple[int, int]) -> None:
    camera = Camera(*size)
    for seed in range(6):
        points = camera.project(pose_of(seed, 600, camera).joints)
        assert points[..., :2].min() > 0
        assert points[..., 0].max() < camera.width
        assert points[..., 1].max() < camera.height
    standing = np.ptp(points[0, :, 1]) / min(size)
    assert 0.75 < standing < 0.85


def test_smooth_curve_meets_its_keys_and_does_not_overshoot() -> None:
    times, values = np.array([0.0, 4, 5, 9]), np.array([0.0, 10, 12, 3])
    np.testing.assert_allclose(motion.smooth_curve(times, values, times), values)
    between = motion.smooth_curve(times, values, np.linspace(-2, 12, 500))
    assert between.min() == 0 and between.max() <= 12
    # By hand: slopes 2.5 and 2 give 2·2.5·2/4.5 at t = 4; Hermite's cubic over [0, 4] at its half.
    tangent = 2 * 2.5 * 2 / 4.5
    expected = 0.5 * 10 - 4 * tangent / 8
    np.testing.assert_allclose(motion.smooth_curve(times, values, np.array([2.0])), expected)


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearer_surface_hides_the_farther(order: int) -> None:
    camera = Camera(16, 16)
    rods = [
        (np.array([2.0, 8, -5]), np.array([14.0, 8, -5]), 0),
        (np.array([8.0, 2, 5]), np.array([8.0, 14, 5]), 1),
    ]
    canvas = Canvas(np.array([[0, 0], [16, 16]]), 0, camera)
    for a, b, paint in rods[::order]:
        canvas.rod(a, b, 2, 2, paint)
    picture = np.zeros((16, 16, 3))
    canvas.lay_over(picture, np.eye(3), lit=False)
    np.testing.assert_allclose(picture[8, 8], [0, 1, 0])
    np.testing.assert_allclose(picture[8, 3], [1, 0, 0])
