"""Joints: layouts, main person, gaps and jitter, skeleton images; all against cases by hand."""

import numpy as np
import pytest

from modules.datasets.pose import (
    COCO_JOINTS,
    JOINTS,
    LIMB_COLOURS,
    LIMBS,
    Person,
    draw_labels,
    fill_and_smooth,
    follow_main_person,
    person_from,
    roughness,
    switches,
    without_strays,
)

# The joints' names in the order in which COCO lists them, from its documentation.
PAIRS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
COCO_NAMES = ["nose", *(f"{side}_{joint}" for joint in PAIRS for side in ("left", "right"))]


def person(x: float, y: float = 0, size: float = 10, score: float = 1.0) -> Person:
    box = np.array([x, y, x + size, y + size], float)
    return Person(box, score, np.full((18, 2), x, float), np.ones(18, bool))


def test_joints_of_coco_land_where_their_names_say() -> None:
    rows = np.array([[i, 100 + i, 0.9] for i in range(17)], float)
    found = person_from(rows, COCO_JOINTS, 0.1)
    assert found is not None and found.known.all()
    for index, name in enumerate(COCO_NAMES):
        assert found.points[JOINTS.index(name)].tolist() == [index, 100 + index], name
    assert found.points[1].tolist() == [5.5, 105.5]  # the neck: the middle of the shoulders
    assert found.score == pytest.approx(0.9)


def test_joints_below_the_threshold_are_unknown_and_nobody_is_made_of_too_few() -> None:
    rows = np.array([[i, i, 0.9] for i in range(17)], float)
    rows[[5, 9], 2] = 0.1
    found = person_from(rows, COCO_JOINTS, 0.1)
    assert found is not None
    unknown = {JOINTS[i] for i in np.flatnonzero(~found.known)}
    assert unknown == {"left_shoulder", "left_wrist", "neck"}  # no neck without both shoulders
    assert found.box.tolist() == [0, 0, 16, 16]
    rows[3:, 2] = 0
    assert person_from(rows, COCO_JOINTS, 0.1) is None  # three joints
    rows[:, 2] = 0
    rows[[3, 4, 9, 10], 2] = 1  # four, but no limb between them
    assert person_from(rows, COCO_JOINTS, 0.1) is None


def test_the_main_person_is_kept_while_a_larger_one_passes() -> None:
    main = [person(20 + t) for t in range(20)]
    passer_by = person(25, size=14)
    people = [[main[t]] if t not in (9, 10) else [passer_by, main[t]] for t in range(20)]
    chosen = follow_main_person(people)
    assert all(a is b for a, b in zip(chosen, main, strict=True))
    # Nor does a bad first frame decide.
    bad = [[person(80, size=11), main[0]], *([a] for a in main[1:])]
    assert follow_main_person(bad)[0] is main[0]
    # Control: one who stays longer than the main person, and is larger, is the main person.
    other = [person(200, size=14) for _ in range(20)]
    both = [[a, b] for a, b in zip(main, other, strict=True)]
    assert all(a is b for a, b in zip(follow_main_person(both), other, strict=True))


def test_who_is_back_at_once_was_not_another_person() -> None:
    main = [person(20 + t) for t in range(12)]
    stray = [*main[:5], person(200), person(200, size=30), *main[7:]]
    assert without_strays(stray, 2) == [*main[:5], None, None, *main[7:]]
    assert without_strays(stray, 1) == stray  # one who stays longer is another
    assert without_strays(main, 2) == main


def test_short_gaps_are_filled_in_a_straight_line() -> None:
    points = np.zeros((8, 18, 2))
    known = np.zeros((8, 18), bool)
    for t, value in ((0, 0), (1, 2), (4, 11), (7, 20)):  # one gap of two frames, then another
        points[t, 3], known[t, 3] = (value, -value), True
    filled, have = fill_and_smooth(points, known, [(0, 8)], max_gap=2, sigma=0)
    assert filled[:, 3, 0].tolist() == [0, 2, 5, 8, 11, 14, 17, 20]
    assert filled[:, 3, 1].tolist() == [0, -2, -5, -8, -11, -14, -17, -20]
    assert have[:, 3].all()
    assert not have[:, [0, 4]].any()
    _, have = fill_and_smooth(points, known, [(0, 8)], max_gap=1, sigma=0)
    assert np.flatnonzero(have[:, 3]).tolist() == [0, 1, 4, 7]  # gaps too long stay
    _, have = fill_and_smooth(points, known, [(0, 3), (3, 8)], max_gap=2, sigma=0)
    assert np.flatnonzero(have[:, 3]).tolist() == [0, 1, 4, 5, 6, 7]  # nothing crosses a span


def test_smoothing_by_hand() -> None:
    points = np.zeros((7, 18, 2))
    points[3, 5] = (1, 2)
    known = np.zeros((7, 18), bool)
    known[:, 5] = True
    smooth, _ = fill_and_smooth(points, known, [(0, 7)], max_gap=1, sigma=0.5)
    w = np.exp(-2 * np.arange(4) ** 2.0)  # exp(-d²/2σ²)
    assert smooth[3, 5, 0] == pytest.approx(w[0] / (w[0] + 2 * w[1] + 2 * w[2]), abs=2e-4)
    assert smooth[2, 5, 1] == pytest.approx(2 * w[1] / (w[0] + 2 * w[1] + 2 * w[2]), abs=2e-4)


def test_limbs_have_openpose_s_colours_and_places() -> None:
    # Two of the values in OpenPose's own table (COCO): right forearm yellow, neck to nose blue.
    assert LIMBS[3] == (3, 4)
    assert (255 * LIMB_COLOURS[3]).round().tolist() == [255, 255, 0]
    assert LIMBS[12] == (1, 0)
    assert (255 * LIMB_COLOURS[12]).round().tolist() == [0, 0, 255]
    for index, (a, b) in enumerate(LIMBS):
        points, known = np.zeros((1, 18, 2)), np.zeros((1, 18), bool)
        points[0, a], points[0, b], known[0, [a, b]] = (8.5, 16.5), (50.5, 16.5), True
        (label,) = draw_labels(points, known, height=32, width=64)
        assert label.shape == (32, 64, 3)
        assert label.dtype == np.uint8
        assert np.abs(label[16, 10:49] - 255 * LIMB_COLOURS[index]).max() <= 40  # thin, yet bright
        assert (
            label[:14].max() == label[19:].max() == label[:, :6].max() == label[:, 53:].max() == 0
        )


def test_roughness_by_hand() -> None:
    """Noise of a known size on a fast movement; the movement itself is none."""
    t = np.arange(400.0)
    path = np.stack([60 * np.sin(t / 8), 0.02 * (t - 200) ** 2], axis=1)[:, None]
    path, known = path + np.zeros((1, 18, 1)), np.ones((400, 18), bool)
    assert np.nanmean(roughness(path, known, [(0, 400)])) < 0.02
    noise = np.random.default_rng(0).normal(0, 1.5, path.shape)
    found = np.nanmean(roughness(path + noise, known, [(0, 400)]))
    assert found == pytest.approx(1.5 * np.sqrt(np.pi / 2), rel=0.03)  # mean of a Rayleigh
    assert np.isnan(roughness(path, known, [(0, 4)])).all()


@pytest.mark.parametrize(
    ("after", "another"),
    [
        ((106, 56, 17), False),  # turned away from the light
        ((60, 110, 190), True),
        ((20, 12, 4), True),  # no shade makes this of it
    ],
)
def test_clothes_tell_people_apart_and_shade_does_not(
    after: tuple[int, int, int], another: bool
) -> None:
    colours = np.full((40, 2, 3), np.nan)
    colours[:20, 0], colours[20:, 0] = (191, 117, 41), after
    assert switches([(0, 20), (25, 40)], [0], colours, [], 7) == [25] * another
