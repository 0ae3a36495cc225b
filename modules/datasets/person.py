"""The person of a data set that `video` made, and other people's motion made by that person.

After Chan et al. 2019, "Everybody Dance Now", section 4.4 (global pose normalisation): the line on
which a person stands, and its size there, are mapped from the source's range between far and near
to the target's. Limbs then get the target's proportions, one by one from the neck outwards.

Legend: T frames, J = 18 joints; points (T, J, 2) in pixels of the clip, y down; known (T, J).
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from modules.datasets import pose
from modules.datasets.canvas import Array, Pixels
from modules.datasets.images import BLACK, read_image
from modules.datasets.layout import background_of
from modules.datasets.naming import frames_in
from modules.datasets.tracks import Track
from modules.ink import Ink, find_ink
from modules.runtime.errors import UserError

MARKER = "import.json"  # tells what made the folder, and whether it is finished
MOST = 2000  # labels among which the nearest pose is looked for
WHOLE = 0.97  # of the contrast: a line covers the pixel whole
SHOWN = 200  # training frames from which the background is taken
REACH = 1 / 10  # of the height: a body reaches so far beyond its skeleton
NECK = pose.JOINTS.index("neck")
ANKLES = [pose.JOINTS.index("right_ankle"), pose.JOINTS.index("left_ankle")]
# Limbs of which the sum is the size of a body: neck to hip, thigh, lower leg, of both sides.
STATURE = [6, 7, 8, 9, 10, 11]
MIRRORED = [1, 0, 4, 5, 2, 3, 9, 10, 11, 6, 7, 8, 12, 15, 16, 13, 14]  # each limb's other side
LONGEST = 0.9  # quantile over time of a limb's length: limbs look shorter when they point at us
FAR, NEAR = 0.05, 0.95  # quantiles of the line on which a person stands
WINDOW = 0.5  # s to either side, within which the lowest foot is on the floor
LEAST_RANGE = 0.05  # of the body's size: a smaller range of the line is no depth


@dataclass(frozen=True)
class Build:
    """A person's body and the places where it was seen."""

    limbs: list[float]  # (17,) length of each limb, left and right averaged, pixels
    stature: float  # sum of STATURE, half of both sides, pixels
    far: float  # line on which it stands when it is far, y in pixels
    near: float  # the same when it is near: further down
    far_stature: float  # stature there
    near_stature: float
    left: float  # middle of the body, x in pixels, between which it was seen
    right: float


def _long(lengths: Array) -> Array:
    """(17,) usual full length of each limb, both sides averaged; NaN where it was never seen."""
    with pose.nothing_known():
        one = np.nanquantile(lengths, LONGEST, axis=0)
        return np.asarray(np.nanmean([one, one[MIRRORED]], axis=0))


def _lowest_foot(points: Array, known: pose.Mask) -> Array:
    """(T,) y of the lower ankle, minus infinity where none is seen."""
    return np.asarray(np.where(known[:, ANKLES], points[:, ANKLES, 1], -np.inf).max(axis=1))


def floor_line(points: Array, known: pose.Mask, fps: float) -> Array:
    """(T,) y of the line on which the person stands: the lowest foot of the second around."""
    feet = _lowest_foot(points, known)
    times = np.flatnonzero(np.isfinite(feet))
    if len(times) < 2:
        raise UserError("the ankles are never seen, so there is no floor line")
    feet = np.interp(np.arange(len(feet)), times, feet[times])
    reach = max(1, round(WINDOW * fps))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(feet, reach, "edge"), 2 * reach + 1)
    return np.asarray(np.quantile(windows, 0.9, axis=1))


def _middle(points: Array, known: pose.Mask) -> Array:
    """(T,) x of the neck, NaN where it is unknown."""
    return np.where(known[:, NECK], points[:, NECK, 0], np.nan)


def measure(points: Array, known: pose.Mask, fps: float) -> Build:
    """The build of a person. Raises UserError: neck, legs or feet were never seen."""
    lengths = pose.limb_lengths(points, known)
    limbs = _long(lengths)
    if not np.isfinite(limbs[STATURE]).all():
        raise UserError("the legs are never seen, so there is no size to compare")
    ground = floor_line(points, known, fps)
    far, near = np.quantile(ground, [FAR, NEAR])
    stature = float(limbs[STATURE].sum() / 2)
    sizes = [stature, stature]
    if near - far > LEAST_RANGE * stature:
        third = (near - far) / 3
        for i, at in enumerate((ground <= far + third, ground >= near - third)):
            part = _long(lengths[at])
            if np.isfinite(part[STATURE]).all():
                sizes[i] = float(part[STATURE].sum() / 2)
    left, right = np.nanquantile(_middle(points, known), [FAR, NEAR])
    # A limb that was never seen (a covered ear) gets no length; it stays unknown.
    plain = np.nan_to_num(limbs).tolist()
    return Build(
        plain, stature, float(far), float(near), sizes[0], sizes[1], float(left), float(right)
    )


def retarget(
    points: Array, known: pose.Mask, source: Build, target: Build, fps: float
) -> tuple[Array, pose.Mask]:
    """The source's motion made by the target's body, in the target's place.

    Returns points (T, J, 2) in pixels of the target's clip, and which are known. Directions of
    limbs are the source's; lengths are the target's times how much the source's limb is shortened.
    """
    ground = floor_line(points, known, fps)
    depth = source.near - source.far
    flat = depth <= LEAST_RANGE * source.stature
    share = np.full(len(points), 0.5) if flat else ((ground - source.far) / depth).clip(0, 1)
    size = source.far_stature + share * (source.near_stature - source.far_stature)
    wanted = target.far_stature + share * (target.near_stature - target.far_stature)
    scale = wanted / size  # (T,)

    made, have = np.zeros_like(points), np.zeros_like(known)
    have[:, NECK] = known[:, NECK]
    for limb, (a, b) in enumerate(pose.LIMBS):
        own, other = source.limbs[limb] / source.stature, target.limbs[limb] / target.stature
        ratio = other / own if own > 0 and other > 0 else 1.0
        both = have[:, a] & known[:, a] & known[:, b]
        step = (points[:, b] - points[:, a]) * (scale * ratio)[:, None]
        made[both, b], have[both, b] = made[both, a] + step[both], True

    # The lowest foot stands on the target's line, or is as far above it as it was above its own.
    feet, own_feet = _lowest_foot(made, have), _lowest_foot(points, known)
    stands = np.isfinite(feet) & np.isfinite(own_feet) & have[:, NECK]
    if not stands.any():
        raise UserError("neck and ankles are never seen together")
    line = target.far + share * (target.near - target.far)
    lifted = np.where(stands, (own_feet - ground) * scale, 0)
    down = np.interp(np.arange(len(points)), np.flatnonzero(stands), (line + lifted - feet)[stands])
    # Sideways: the same walk around the middle of where the target was seen, and not beyond it.
    middle = _middle(points, known)
    centre, own_centre = (target.left + target.right) / 2, (source.left + source.right) / 2
    across = centre + (np.nan_to_num(middle, nan=own_centre) - own_centre) * scale
    across = across.clip(target.left, target.right)
    made += np.stack([across, down], axis=1)[:, None]
    return np.where(have[..., None], made, 0), have


@dataclass(frozen=True)
class Like:
    """What a data set says of its person, for `--labels_only --like`."""

    fps: float  # frames/s
    size: tuple[int, int]  # width, height of its images
    box: pose.Box  # part of its clip that its images show
    build: Build  # in pixels of its clip
    root: Path


def about_the_person(
    shown: Sequence[tuple[Track, pose.Box]], size: tuple[int, int]
) -> dict[str, Any]:
    """What ROOT/import.json keeps: the frames/s, and the person of the longest clip.

    shown: each clip that is used, and the part of its picture that the frames show
    size: (width, height) of the frames. The person is None if labels are images or lack legs.
    """
    track, box = max(shown, key=lambda pair: len(pair[0].visible))
    about: dict[str, Any] = {"frames_per_second": track.fps, "size": size, "person": None}
    if track.joints:
        with contextlib.suppress(UserError):
            build = measure(*track.joints.at(track.visible), track.fps)
            about["person"] = {"box": box, "build": asdict(build)}
    return about


def frames_per_second(root: Path) -> float | None:
    """The frames/s of a data set that `video` made; None: unknown."""
    try:
        return float(json.loads((root / MARKER).read_bytes())["frames_per_second"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_like(root: Path) -> Like:
    """The person of a data set. Raises UserError: it says nothing of one."""
    try:
        state = json.loads((root / MARKER).read_bytes())
        fps, (width, height) = float(state["frames_per_second"]), state["size"]
        left, top, right, bottom = state["person"]["box"]
        build = Build(**state["person"]["build"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--like {root}: must be a data set that `dataloader.py video` has finished, with"
            f" joints of legs and feet (not in its {MARKER})"
        ) from error
    return Like(fps, (width, height), (left, top, right, bottom), build, root)


def style_of(labels: Pixels, ink: Ink) -> pose.Style:
    """In which colours labels (N, H, W, 3) are drawn."""
    lines = np.concatenate([label[ink.cover(label) > WHOLE] for label in labels])
    low, high = (float(np.median(values(lines, axis=1))) for values in (np.min, np.max))
    return pose.Style(ink.background, low, high)


def without_the_person(
    frames: Pixels, labels: Pixels, ink: Ink, frame: Pixels, label: Pixels
) -> Pixels:
    """A frame (H, W, 3) with the person taken away: there, the median of those of the frames
    (N, H, W, 3) in which nobody stands at that place, or of all where there is none.
    """
    reach = max(1, round(REACH * frame.shape[0]))
    covered = torch.from_numpy(ink.drawn(np.concatenate([labels, label[None]]))).float()[:, None]
    for size in ((2 * reach + 1, 1), (1, 2 * reach + 1)):
        covered = F.max_pool2d(covered, size, 1, (size[0] // 2, size[1] // 2))
    *others, here = covered[:, 0].bool().numpy()
    shown = frames[:, here].astype(np.float32)  # (N, pixels, 3)
    free = ~np.stack(others)[:, here]
    free |= ~free.any(axis=0)
    shown[~free] = np.nan
    empty = frame.copy()
    empty[here] = np.nanmedian(shown, axis=0).round()
    return empty


def write_driven(root: Path, tracks: Sequence[Track], like: Like) -> None:
    """Write test sequences below `root`: these people's motion, made by the person of `like`.

    A sequence starts with the training frame whose pose is nearest to the first one made, and with
    that frame's own label: another one would leave there what it does not cover. Its background,
    without the person, is written too. Raises UserError that names the clip.
    """
    width, height = like.size
    left, top, right, bottom = like.box
    scale = np.array([width / (right - left), height / (bottom - top)])
    folder = like.root / "train"
    train = list(frames_in(folder / "train_label").values())
    train = train[:: max(1, len(train) // MOST)]
    usual = np.stack([np.asarray(read_image(path, BLACK)) for path in train])
    some, ink = slice(None, None, max(1, len(train) // SHOWN)), find_ink(usual)
    rooms = np.stack([np.asarray(read_image(folder / "train_img" / p.name)) for p in train[some]])
    style, number, short = style_of(usual, ink), 0, 0
    for track in tracks:
        clip, fps = track.clip, track.fps
        try:
            if not track.joints:
                raise UserError("--labels_only needs joints; skeleton images have none to move")
            own = measure(*track.joints.at(track.visible), fps)
            for start, stop in track.spans:
                if stop - start < fps:
                    short += 1
                    continue
                joints = track.joints.at(slice(start, stop))
                points, known = retarget(*joints, own, like.build, fps)
                points = (points - np.array([left, top])) * scale
                labels = pose.draw_labels(points, known, height=height, width=width, style=style)
                made = list(labels)
                apart = [np.abs(label.astype(np.int16) - made[0]).mean() for label in usual]
                best = int(np.argmin(apart))  # the nearest pose
                made[0] = usual[best]
                first = np.asarray(read_image(folder / "train_img" / train[best].name))
                behind = without_the_person(rooms, usual[some], ink, first, usual[best])
                pictures = {
                    root / f"test/test_label/{number}/{t}.png": x for t, x in enumerate(made)
                }
                pictures[root / f"test/test_img/{number}/0.png"] = first
                pictures[background_of(root, str(number))] = behind
                for path, picture in pictures.items():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(path)
                print(
                    f"{clip.path}: {stop - start} frames → test sequence {number}; its first frame"
                    f" is training frame {train[best].stem}, whose pose is nearest"
                )
                number += 1
        except UserError as error:
            raise UserError(f"{clip.path}: {error}") from error
    if short:
        print(f"left out: {short} piece(s) of motion that last less than a second")
    if not number:
        raise UserError(f"{tracks[0].clip.path}: nobody was found in it for a second, so no motion")
