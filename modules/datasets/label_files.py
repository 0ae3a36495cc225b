"""Labels of a clip from another tool: a folder of skeleton images, or of JSON files, one for each
frame, or a JSON file of all; the formats: label_formats.py.

Frames are matched by file name first, by number second. Of a clip whose frames are not evenly
spaced, labels may also count frames as a player shows them.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modules.datasets.canvas import Array, Pixels
from modules.datasets.images import BLACK, IMAGE_SUFFIXES, read_image
from modules.datasets.label_formats import KNOWN, Size, Table, read_table, refuse_other_kind
from modules.datasets.naming import deeper, frame_numbers, frames_in, list_folder
from modules.datasets.pose import JOINTS, Person, person_from
from modules.datasets.source import Clip, identity_of
from modules.ink import Ink, find_ink
from modules.runtime.errors import UserError, named

JOINT_CONFIDENCE = 0.05  # joints below it were not found; OpenPose draws from this value on
ROUNDING = 1.5  # pixels by which a scaled copy's sides may differ from the clip's aspect
SEVERAL = 64  # images that tell what all of a clip are drawn on
SHOWN_SLACK = 2  # frames by which a count of shown frames may differ: tools round at the ends
# What tools put before a frame's name, and append to it.
ADDED = re.compile(
    r"^(vis|results|pred|label)[_\-. ]|[_\-. ]"
    r"(keypoints?|rendered|pose|poses|label|skeleton|openpose|alphapose|landmarks|vis)$"
)


@dataclass(frozen=True)
class Labels:
    """The content of one --labels argument: images, or people, of a clip's stored frames."""

    path: Path
    kind: str  # "skeleton images", "OpenPose JSON" or "COCO JSON"
    matched: str  # by what they were matched to the frames, in words
    images: list[Path] = field(default_factory=list)  # one per stored frame
    people: dict[int, list[Person]] = field(default_factory=dict)  # by stored frame
    identity: str = ""  # of `identity_of`

    @cached_property
    def ink(self) -> Ink:
        """What the images are drawn on. Raises UserError: not on one plain colour."""
        some = [np.asarray(read_image(path, BLACK)) for path in _some(self.images)]
        ink = find_ink(some)
        if np.mean([ink.drawn(image).mean() for image in some]) > 0.5:
            raise UserError(
                f"--labels {self.path}: more than half of an image is drawn on; skeletons lie on"
                " one plain colour, not on the frames (OpenPose: --disable_blending)"
            )
        return ink


def open_labels(path: Path, clip: Clip) -> Labels:
    """Read one --labels argument and match it to the clip's frames. Raises UserError."""
    where = f"--labels {path}"
    if not path.exists():
        raise UserError(f"{where}: there is no such folder or file")
    files = [path]
    if path.is_dir():
        inside = list_folder(path)
        files = [entry for entry in inside if entry.suffix.lower() == ".json"]
        with_images = any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in inside)
        if with_images and files:
            raise UserError(f"{where}: holds images and JSON; keep only the labels")
        if with_images:
            images = list(frames_in(path).values())
            names = [image.name for image in images]
            places, matched = match(names, clip, f"{where}: skeleton images", every=True)
            by_frame = {frame: images[i] for i, at in enumerate(places) for frame in at}
            ordered = [by_frame[frame] for frame in sorted(by_frame)]
            for image in _some(ordered):
                _check_shape(where, read_image(image, BLACK).size, clip.size)
            return Labels(path, "skeleton images", matched, ordered, identity=identity_of(images))
        if not files:
            for entry in inside:
                refuse_other_kind(f"{where}: {entry.name}", [entry.suffix.lower()])
            there = named(entry.name for entry in inside) or "nothing"
            what = f"{where}: holds {there}, neither images nor .json files ({KNOWN})"
            raise UserError(what + deeper(inside))
    table = read_table(files)
    people = _people(where, table, clip.size)
    keys, what = list(table.frames), f"{where}: {table.kind}"
    places, matched = match(keys, clip, what, rows_missing=table.numbered)
    placed = {frame: people[key] for key, at in zip(keys, places, strict=True) for frame in at}
    return Labels(path, table.kind, matched, people=placed, identity=identity_of(files))


def _some(paths: list[Path]) -> list[Path]:
    return paths[:: -(-len(paths) // SEVERAL)]


def _check_shape(where: str, size: Size, picture: tuple[int, int]) -> None:
    """Raise UserError for labels of this size if the clip's picture has another aspect."""
    apart = size[0] * picture[1] / picture[0] - size[1]
    if abs(apart) > ROUNDING * max(1, size[0] / picture[0]):
        raise UserError(
            f"{where}: labels of {size[0]:g} x {size[1]:g} pixels, but the clip's {picture[0]} x"
            f" {picture[1]} have another shape (cropped, padded or turned); make them from the clip"
            " itself"
        )


def _people(where: str, table: Table, picture: tuple[int, int]) -> dict[str | int, list[Person]]:
    """The people of each frame of a table, in the clip's pixels. Raises UserError."""
    empty = np.zeros((0, len(JOINTS), 3))
    values = np.concatenate([empty, *(row.joints[None] for row in table.rows)])  # (N, J, 3)
    if np.isnan(values[..., 2]).all():
        values[..., 2] = 1  # of no joint it is said how certain it is
    points = values[..., :2]
    sure = np.isfinite(values).all(axis=2) & (values[..., 2] > JOINT_CONFIDENCE)
    found = sure & (points >= 0).all(axis=2) & (points > 0).any(axis=2)
    if not found.any():
        raise UserError(f"{where}: no person in any frame")
    in_parts = (points[found] <= 1).all(axis=1).mean() > 0.5 and min(picture) > 2
    if in_parts and ((points[sure] < 0) & (points[sure] > -1)).any(axis=1).mean() > 0.05:
        raise UserError(
            f"{where}: joints lie between -1 and 1; write them in pixels (OpenPose:"
            " --keypoint_scale 0)"
        )
    whole: Size = (1, 1) if in_parts else picture
    sizes = [whole if in_parts else row.size or whole for row in table.rows]
    for size in set(sizes) - {whole}:
        _check_shape(where, size, picture)
    points *= (np.array(picture) / sizes)[:, None]
    outside = (points[found] > picture).any(axis=1).mean()
    if outside > 0.5:
        raise UserError(
            f"{where}: {outside:.0%} of the joints lie outside of the clip's {picture[0]} x"
            f" {picture[1]} pixels; were they found in a video of another size?"
        )
    values[~found] = 0
    people: dict[str | int, list[tuple[Any, Person]]] = {key: [] for key in table.frames}
    worth: defaultdict[int | str, float] = defaultdict(float)
    for row, joints in zip(table.rows, values, strict=True):
        if person := person_from(joints[row.layout], row.layout, JOINT_CONFIDENCE, score=row.score):
            people[row.frame].append((row.track, person))
            if row.track is not None:
                side = math.sqrt(math.prod(person.box[2:] - person.box[:2]))
                worth[row.track] += side * person.score
    # Where the file says who is who, the main person is the same throughout.
    main = max(worth, key=worth.__getitem__) if worth else ""
    return {
        key: [person for track, person in seen if track == main][:1] or [p for _, p in seen]
        for key, seen in people.items()
    }


def bare(name: str) -> str:
    """A label's or image's name without folder, suffix and what tools append, in lower case."""
    stem = Path(name.replace("\\", "/")).name.casefold()
    while Path(stem).suffix in (*IMAGE_SUFFIXES, ".json"):
        stem = Path(stem).stem
    return ADDED.sub("", stem)


def match(
    keys: Sequence[str | int],
    clip: Clip,
    what: str,
    *,
    every: bool = False,
    rows_missing: bool = False,
) -> tuple[list[list[int]], str]:
    """For each label, named by a file or by a number, its stored frames; and how it was found.

    every: each frame must have a label; rows_missing: frames without a person may have none

    Raises UserError, starting with `what`: they do not fit, or it is not clear how.
    """
    counts = f"{what} for {len(keys)} frames, but {clip.path} has {clip.frames}"
    names, stems = [bare(str(key)) for key in keys], [bare(file.name) for file in clip.files]
    at = {stem: frame for frame, stem in enumerate(stems)}
    written = any(not str(key).isdecimal() for key in keys)
    numbers = [at[name] for name in names if name in at]
    by_name = written and bool(numbers) and len(at) == len(stems)
    if by_name and len(numbers) < len(keys) == len(at) and all(map(str.isdecimal, (*names, *at))):
        by_name = False  # one counts from 0, the other from 1
    if by_name and len(numbers) < len(keys):
        alone = named(str(key) for key, name in zip(keys, names, strict=True) if name not in at)
        raise UserError(f"{counts}; no frame has the name of {alone}")
    if not by_name:
        numbers = [key for key in keys if isinstance(key, int)]
        if len(numbers) < len(keys):
            numbers = frame_numbers(names) or [-1]
        if min(numbers) < 0:
            raise UserError(
                f"{what}: {named(keys[:2])} … are neither frame numbers nor names of the clip's"
                f" frames ({named([f.name for f in clip.files[:2]]) or 'it has none'} …)"
            )
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{what}: several labels are of the same frame or have the same number")
    if by_name and every and (missing := sorted(set(range(len(stems))) - set(numbers))):
        raise UserError(f"{counts}; without a label: {named(clip.files[i].name for i in missing)}")
    if by_name:
        return [[frame] for frame in numbers], "matched to the frames by file name"
    low, high = min(numbers), max(numbers)
    of_frames = frame_numbers(stems) or []
    own = {number: frame for frame, number in enumerate(of_frames)}
    named_so = len(own) == len(of_frames) and own.keys() >= set(numbers)
    if named_so and (written or len(numbers) == len(own)):
        return [[own[number]] for number in numbers], "matched to the frames by number"
    ranks = np.argsort(np.argsort(numbers)).tolist()
    if len(numbers) == clip.frames and len(set(np.diff(sorted(numbers)))) == 1:
        return [[rank] for rank in ranks], "matched to the frames by order"
    timing = clip.film.timing if clip.film else clip.timing
    if timing and not timing.is_constant and len(numbers) > clip.frames:
        rate = clip.film.base_rate if clip.film else timing.rate
        if abs(len(numbers) - timing.end * rate) <= SHOWN_SLACK:
            starts = np.rint(timing.starts * rate).clip(0, len(numbers) - 1)
            how = f"as shown at {rate:.4g}/s, of which the clip stores {clip.frames}"
            places = [np.flatnonzero(starts == rank).tolist() for rank in ranks]
            return places, f"matched to the frames {how}"
    ways = {}  # that are left, in words
    # Where none is missing, and yet there are more frames or fewer, there is none.
    if rows_missing or high - low >= len(numbers):
        if high < clip.frames:
            ways["counted from 0"] = [[number] for number in numbers]
        if low >= 1 and high <= clip.frames:
            ways["counted from 1"] = [[number - 1] for number in numbers]
        if named_so:
            ways["numbered as their names are"] = [[own[number]] for number in numbers]
    if not ways:
        there = f"; it has frame {high}" if high > clip.frames else ""
        raise UserError(f"{counts}{there}; there must be one for every frame of the clip")
    (how, places), *others = ways.items()
    if any(other != places for _, other in others):
        # Labels off by one frame would train and look almost right, so do not guess.
        raise UserError(
            f"{what}: frames {low} to {high} of {clip.frames} may be {' or '.join(ways)}; count"
            " from 0, with a row for frame 0 (empty keypoints where nobody is in it)"
        )
    return places, f"matched to the frames {how}"


def _shrink_strokes(
    image: Image.Image, part: Array, size: tuple[int, int], ink: Ink
) -> tuple[Array, Array]:
    """Colour of the strokes, (H, W, 3), and the part of each pixel that they cover, (H, W), 0-1."""
    pixels = np.asarray(image)
    drawn = ink.drawn(pixels)[..., None]
    strokes = (drawn * np.concatenate([pixels, np.ones_like(drawn)], axis=2)).astype(np.float32)
    box = part * np.array([*image.size, *image.size])
    box = (*np.maximum(box[:2], 0), *np.minimum(box[2:], image.size))
    shrunk = [
        np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BOX, box), np.float64)
        for channel in np.moveaxis(strokes, 2, 0)
    ]
    return np.stack(shrunk[:3], axis=2) / np.maximum(shrunk[3], 1e-6)[..., None], shrunk[3]


def stroke_gain(
    images: Sequence[Image.Image], part: Array, size: tuple[int, int], ink: Ink
) -> float:
    """Factor on the strokes' coverage so that most of their pixels are covered whole, 1-6.

    Lines of a large image are a fraction of a pixel wide in a small one: averaging would blend them
    into the background. One value serves all labels of a clip, so that they do not flicker.
    """
    covers = [_shrink_strokes(image, part, size, ink)[1] for image in images]
    values = np.concatenate([np.zeros(0), *(cover[cover > 0] for cover in covers)])
    return float(np.clip(1 / np.quantile(values, 0.75), 1, 6)) if len(values) else 1.0


def shrink_label(
    image: Image.Image, part: Array, size: tuple[int, int], gain: float, ink: Ink
) -> Pixels:
    """A skeleton image cropped and resized so that its limbs keep their colours, (H, W, 3) uint8.

    part: box (4,) as parts of the image's width and height; size: (width, height)
    """
    if image.size == size and np.allclose(part, (0, 0, 1, 1)):
        return np.asarray(image)  # unchanged, bit for bit
    colour, cover = _shrink_strokes(image, part, size, ink)
    ground = np.array(ink.background, np.float64)
    label = ground + np.minimum(cover * gain, 1)[..., None] * (colour - ground)
    return np.rint(label).clip(0, 255).astype(np.uint8)
