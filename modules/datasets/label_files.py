"""Labels of a clip from another tool: skeleton images, or joints.

    labels = open_labels(Path("openpose_output"), clip)
    labels.kind                    # "skeleton images", "OpenPose JSON", …
    labels.matched                 # how labels and frames were matched, in words

    a folder of images             one skeleton image for each frame, of the frame's view
    a folder of JSON files         a file for each frame
    a JSON file                    all frames in one; the formats: label_formats.py

Joints of every kind become one table, and what is checked is checked there. Frames are matched by
file name first, by number second. Of a clip whose frames are not evenly spaced, labels may also
count frames as a player shows them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from modules.datasets.images import BLACK, IMAGE_SUFFIXES, read_image
from modules.datasets.label_formats import KNOWN, Size, Table, read_table, refuse_other_kind
from modules.datasets.naming import frame_numbers, frames_in, list_files
from modules.datasets.pose import Person, person_from
from modules.datasets.source import Clip
from modules.ink import Ink, find_ink
from modules.runtime.errors import UserError, named

JOINT_CONFIDENCE = 0.05  # joints below it were not found; OpenPose draws from this value on
ROUNDING = 1.5  # pixels by which a scaled copy's sides may differ from the clip's aspect
SEVERAL = 64  # images that tell what all of a clip are drawn on
SHOWN_SLACK = 2  # frames by which a count of shown frames may differ: tools round at the ends
# What tools append to a frame's name, and put before it.
ADDED = re.compile(
    r"[_\-. ](keypoints?|rendered|pose|poses|label|skeleton|openpose|alphapose|landmarks|vis)$"
)
ADDED_BEFORE = re.compile(r"^(vis|results|pred|label)[_\-. ]")


@dataclass(frozen=True)
class Labels:
    """The content of one --labels argument: images, or people, of a clip's stored frames."""

    path: Path
    kind: str
    images: list[Path] = field(default_factory=list)  # one per stored frame
    people: dict[int, list[Person]] = field(default_factory=dict)  # by stored frame
    matched: str = ""  # by what they were matched to the frames

    @cached_property
    def ink(self) -> Ink:
        """What the images are drawn on. Raises UserError: not on one plain colour."""
        paths = self.images[:: -(-len(self.images) // SEVERAL)]
        some = [np.asarray(read_image(path, BLACK)) for path in paths]
        ink = find_ink(some)
        if np.mean([ink.drawn(image).mean() for image in some]) > 0.5:
            raise UserError(
                f"--labels {self.path}: more than half of an image is drawn on; skeletons lie on"
                " one plain colour, not on the frames (OpenPose: --disable_blending)"
            )
        return ink


def open_labels(path: Path, clip: Clip) -> Labels:
    """Read one --labels argument and match it to the clip's frames; images are only listed.

    Raises UserError that names the file: missing, malformed, of an unknown kind, of another clip.
    """
    where = f"--labels {path}"
    if not path.exists():
        raise UserError(f"{where}: there is no such folder or file")
    files = [path]
    if path.is_dir():
        images, files = list_files(path, IMAGE_SUFFIXES), list_files(path, (".json",))
        if images and files:
            raise UserError(f"{where}: holds images and JSON; keep only the labels")
        if images:
            images = list(frames_in(path).values())
            names = [image.name for image in images]
            places, matched = match(names, clip, f"{where}: skeleton images", every=True)
            by_frame = {frame: images[i] for i, at in enumerate(places) for frame in at}
            ordered = [by_frame[frame] for frame in sorted(by_frame)]
            for image in ordered[:: -(-len(ordered) // SEVERAL)]:
                _check_shape(where, read_image(image, BLACK).size, clip.size)
            return Labels(path, "skeleton images", images=ordered, matched=matched)
        if not files:
            _refuse_folder(where, path)
    table = read_table(files)
    people = _people(where, table, clip.size)
    keys, what = list(table.frames), f"{where}: {table.kind}"
    places, matched = match(keys, clip, what, rows_missing=table.numbered)
    placed = {frame: people[key] for key, at in zip(keys, places, strict=True) for frame in at}
    if table.named:
        matched += "; joints by their names"
    return Labels(path, table.kind, people=placed, matched=matched)


def _refuse_folder(where: str, path: Path) -> None:
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    for entry in inside:
        refuse_other_kind(f"{where}: {entry.name}", entry)
    folders = [entry.name for entry in inside if entry.is_dir()]
    deeper = f"; give one of the folders in it: {named(folders)}" if folders else ""
    raise UserError(f"{where}: the folder has neither images nor .json files{deeper} ({KNOWN})")


def _check_shape(where: str, size: Size, picture: tuple[int, int]) -> None:
    """Raise UserError for labels of this size if the clip's picture has another aspect."""
    apart = size[0] * picture[1] / picture[0] - size[1]
    if abs(apart) > ROUNDING * max(1, size[0] / picture[0]):
        raise UserError(
            f"{where}: labels of {size[0]:g} x {size[1]:g} pixels, but the clip's {picture[0]} x"
            f" {picture[1]} have another shape (cropped, padded or turned); make them from the clip"
            " itself"
        )


# ----------------------------------------------------------------------------------------
# Joints


def _people(where: str, table: Table, picture: tuple[int, int]) -> dict[str | int, list[Person]]:
    """The people of each frame of a table, in the clip's pixels.

    Joints at (0, 0) and with a negative coordinate were not found, whatever their confidence.
    Raises UserError: nobody in any frame, joints of a picture of another shape or size.
    """
    people: dict[str | int, list[Person]] = {key: [] for key in table.frames}
    values = np.concatenate([np.zeros((0, 3)), *(row.joints for row in table.rows)])
    if np.isnan(values[:, 2]).all():
        values[:, 2] = 1  # of no joint it is said how certain it is
    points = values[:, :2]
    sure = np.isfinite(values).all(axis=1) & (values[:, 2] > JOINT_CONFIDENCE)
    found = sure & (points >= 0).all(axis=1) & (points > 0).any(axis=1)
    if not found.any():
        raise UserError(f"{where}: no person in any frame")
    in_parts = (points[found] <= 1).all(axis=1).mean() > 0.5 and min(picture) > 2
    if in_parts and ((points[sure] < 0) & (points[sure] > -1)).any(axis=1).mean() > 0.05:
        raise UserError(
            f"{where}: joints lie between -1 and 1; write them in pixels (OpenPose:"
            " --keypoint_scale 0)"
        )
    scale = np.ones((len(values), 2))
    ends = np.cumsum([0, *(len(row.joints) for row in table.rows)]).tolist()
    for row, (start, stop) in zip(table.rows, pairwise(ends), strict=True):
        if in_parts:
            scale[start:stop] = picture
        elif row.size:
            scale[start:stop] = np.array(picture) / row.size
            _check_shape(where, row.size, picture)
    values[:, :2] *= scale
    outside = (points[found] > picture).any(axis=1).mean()
    if outside > 0.5:
        raise UserError(
            f"{where}: {outside:.0%} of the joints lie outside of the clip's {picture[0]} x"
            f" {picture[1]} pixels; were they found in a video of another size?"
        )
    values[~found] = 0
    worth: dict[Any, float] = {}
    tracks: dict[str | int, list[Any]] = {key: [] for key in table.frames}
    for row, (start, stop) in zip(table.rows, pairwise(ends), strict=True):
        joints = values[start:stop]
        if person := person_from(joints, row.layout, JOINT_CONFIDENCE, score=row.score):
            people[row.frame].append(person)
            tracks[row.frame].append(row.track)
            size = float(np.sqrt((person.box[2:] - person.box[:2]).prod()))
            worth[row.track] = worth.get(row.track, 0) + size * person.score
    worth.pop(None, None)
    if worth:  # where the file says who is who, the main person is the same throughout
        main = max(worth, key=lambda track: worth[track])
        for key, of in tracks.items():
            if main in of:
                people[key] = [people[key][of.index(main)]]
    return people


# ----------------------------------------------------------------------------------------
# Matching to frames


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

    every:        whether every frame must have a label
    rows_missing: whether frames without a person may have no label

    Raises UserError, starting with `what`: they do not fit, or it is not clear how.
    """
    counts = f"{what} for {len(keys)} frames, but {clip.path} has {clip.frames}"
    names, stems = [bare(str(key)) for key in keys], [bare(file.name) for file in clip.files]
    at = {stem: frame for frame, stem in enumerate(stems)}
    written = any(not str(key).isdecimal() for key in keys)
    if not any(name in at for name in names):
        names = [ADDED_BEFORE.sub("", name) for name in names]
    found = [at[name] for name in names if name in at]
    if written and found and len(at) == len(stems):
        if len(found) < len(keys):
            alone = named(str(key) for key, name in zip(keys, names, strict=True) if name not in at)
            raise UserError(f"{counts}; no frame has the name of {alone}")
        if len(set(found)) < len(found):
            raise UserError(f"{what}: several labels have the name of the same frame")
        if every and (missing := sorted(set(range(len(stems))) - set(found))):
            without = named(clip.files[frame].name for frame in missing)
            raise UserError(f"{counts}; without a label: {without}")
        return [[frame] for frame in found], "matched to the frames by file name"
    numbers = [key for key in keys if isinstance(key, int)]
    if len(numbers) < len(keys):
        numbers = frame_numbers(names) or [-1]
    if any(number < 0 or number % 1 for number in numbers):
        few = named([str(key) for key in keys[:2]])
        raise UserError(
            f"{what}: {few} … are neither frame numbers nor names of the clip's frames"
            f" ({named([f.name for f in clip.files[:2]]) or 'it has none'} …)"
        )
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{what}: several labels have the same frame number")
    ways = _ways(numbers, clip, stems, written, rows_missing=rows_missing and not every)
    if len({str(places) for places in ways.values()}) > 1:
        # Labels off by one frame would train and look almost right, so do not guess.
        raise UserError(
            f"{what}: frames {min(numbers)} to {max(numbers)} of {clip.frames} may be"
            f" {' or '.join(ways)}; count from 0, with a row for frame 0 (empty keypoints where"
            " nobody is in it)"
        )
    if not ways:
        high = f"; it has frame {max(numbers)}" if max(numbers) > clip.frames else ""
        raise UserError(f"{counts}{high}; there must be one for every frame of the clip")
    how, places = next(iter(ways.items()))
    return places, f"matched to the frames {how}"


def _ways(
    numbers: Sequence[int],
    clip: Clip,
    stems: Sequence[str],
    written: bool,
    *,
    rows_missing: bool,
) -> dict[str, list[list[int]]]:
    """The ways, in words, in which distinct numbers of labels may mean a clip's frames."""
    ranks, ordered = np.argsort(np.argsort(numbers)).tolist(), sorted(numbers)
    of_frames = frame_numbers(stems) or []
    own = {number: frame for frame, number in enumerate(of_frames)}
    named_so = len(own) == len(of_frames) and own.keys() >= set(numbers)
    if named_so and (written or len(numbers) == len(own)):
        return {"by number": [[own[number]] for number in numbers]}
    if len(numbers) == clip.frames and len({b - a for a, b in pairwise(ordered)}) == 1:
        return {"by order": [[rank] for rank in ranks]}
    timing = clip.film.timing if clip.film else clip.timing
    if timing and not timing.is_constant:
        for rate in (timing.rate, *([clip.film.base_rate] if clip.film else ())):
            shown, starts = round(timing.end * rate), np.rint(timing.starts * rate)
            which, fits = ranks, abs(len(numbers) - timing.end * rate) <= SHOWN_SLACK
            if rows_missing:
                base = min(ordered[0], int(ordered[-1] >= shown), 1)
                which, fits = [n - base for n in numbers], ordered[-1] < shown + SHOWN_SLACK
            if fits and max(len(numbers), rows_missing * ordered[-1]) > clip.frames:
                starts = starts if rows_missing else starts.clip(0, len(numbers) - 1)
                how = f"as shown at {rate:.4g}/s, of which the clip stores {clip.frames}"
                return {how: [np.flatnonzero(starts == number).tolist() for number in which]}
    if not rows_missing and ordered[-1] - ordered[0] == len(ordered) - 1:
        return {}  # none is missing, and yet there are more frames or fewer
    ways = {}
    if ordered[-1] < clip.frames:
        ways["counted from 0"] = [[number] for number in numbers]
    if ordered[0] >= 1 and ordered[-1] <= clip.frames:
        ways["counted from 1"] = [[number - 1] for number in numbers]
    if named_so:
        ways["numbered as their names are"] = [[own[number]] for number in numbers]
    return ways
