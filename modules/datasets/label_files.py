"""Labels of a clip from another tool: skeleton images, joints as JSON, or joints as CSV.

    labels = open_labels(Path("openpose_output"), clip)
    labels.kind                    # "skeleton images", "OpenPose JSON", "COCO JSON", …
    labels.matched                 # how labels and frames were matched, in words

    a folder of images             one skeleton image per frame, of the frame's view
    a folder of JSON files         a file per frame
    a JSON or CSV file             all frames in one; the formats: label_formats.py, label_tables.py

Labels are matched to frames by file name first, by number second (naming.py). Of a clip whose
frames are not evenly spaced, labels may also count frames as a player shows them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modules.datasets import label_tables
from modules.datasets.images import BLACK, IMAGE_SUFFIXES, read_image
from modules.datasets.label_formats import KNOWN, Found, entries_of, people_of
from modules.datasets.naming import (
    bare,
    frame_numbers,
    frames_in,
    is_regular,
    list_files,
    match_files,
    match_indices,
    natural_order,
)
from modules.datasets.pose import Person
from modules.datasets.source import Clip
from modules.ink import Ink, find_ink
from modules.runtime.errors import UserError, named

SEVERAL = 64  # images that tell what all of a clip are drawn on
SHOWN_SLACK = 2  # frames by which a count of shown frames may differ: tools round at the ends


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
        """What the images are drawn on. Raises UserError."""
        some = self.images[:: -(-len(self.images) // SEVERAL)]
        return find_ink([np.asarray(read_image(path, BLACK)) for path in some])


def open_labels(path: Path, clip: Clip) -> Labels:
    """Read one --labels argument and match it to the clip's frames; images are only listed.

    Raises UserError that names the file: missing, malformed, of an unknown kind, of another clip.
    """
    if not path.exists():
        raise UserError(f"--labels {path}: there is no such folder or file")
    if path.is_dir():
        images, tables = list_files(path, IMAGE_SUFFIXES), list_files(path, (".json", ".csv"))
        if images and tables:
            raise UserError(f"--labels {path}: holds images and JSON; keep only the labels")
        if images:
            images = list(frames_in(path).values())
            places, matched = _place_files(path, images, clip, "skeleton images", every=True)
            whole = [images[place] for place in places]
            return Labels(path, "skeleton images", images=whole, matched=matched)
        if not tables:
            raise UserError(f"--labels {path}: the folder has neither images nor .json files")
    else:
        tables = [path]
    labels = _read_tables(path, tables, clip)
    _check_inside(labels, clip.size)
    return labels


def _read_tables(path: Path, tables: list[Path], clip: Clip) -> Labels:
    """Labels from JSON or CSV: a file for each frame, or one for all."""
    if tables[0].suffix.lower() == ".csv":
        if len(tables) > 1:
            raise UserError(f"--labels {path}: several tables; give one of them")
        found = label_tables.entries_of(f"--labels {tables[0]}", tables[0], clip.frames)
        return _place_rows(path, found, clip, f"--labels {path}: {found.kind}")
    first = _read_json(tables[0])
    single = people_of(f"--labels {tables[0]}", first, clip.size)
    if single is None and _is_list_of_frames(first) and len(tables) > 1:
        single = "MediaPipe JSON", []  # an empty list: a frame without people
    if single is None:
        if len(tables) > 1:
            names = f"{tables[0].name}, {tables[1].name}"
            if isinstance(first, dict) and "annotations" not in first:
                raise UserError(
                    f"--labels {tables[0]}: is of an unknown kind, not OpenPose output (it has no"
                    f' "people"); known are {KNOWN}'
                )
            raise UserError(f"--labels {path}: several COCO files ({names}, …); give one of them")
        where = f"--labels {tables[0]}"
        found = entries_of(where, first, clip.size)
        images = first.get("images") if isinstance(first, dict) else None
        if images:
            _name_images(where, found, images)
        return _place_rows(path, found, clip, where)
    kind, people = single
    by_file = [people]
    for table in tables[1:]:
        several = people_of(f"--labels {table}", content := _read_json(table), clip.size)
        if several is None and not (isinstance(content, list) and not content):
            raise UserError(f"--labels {table}: is not {kind}, as the files before it are")
        by_file.append(several[1] if several else [])
    places, matched = _place_files(path, tables, clip, kind, every=False)
    people_at = {frame: by_file[place] for frame, place in enumerate(places) if place is not None}
    return Labels(path, kind, people=people_at, matched=matched)


def _is_list_of_frames(content: Any) -> bool:
    return isinstance(content, list) and not content


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"--labels {path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--labels {path}: is not valid JSON ({error})") from error


# ----------------------------------------------------------------------------------------
# Matching to frames


def _place_files(
    path: Path, files: Sequence[Path], clip: Clip, kind: str, *, every: bool
) -> tuple[list[Any], str]:
    """For each stored frame the index of its file (None: no file), and how they were matched."""
    what = f"--labels {path}: {kind}"
    if clip.files:
        names = [file.name for file in files]
        match = match_files(names, [file.name for file in clip.files], every=every, what=what)
        places: list[int | None] = [None] * clip.frames
        for file, frame in enumerate(match.frames):
            places[frame] = file
        return places, f"matched to the frames by {match.by}"
    stored = _stored(len(files), clip)
    if stored is None:
        raise UserError(
            f"{what} for {len(files)} frames, but {clip.path} has {clip.frames}; there must be one"
            " for every frame of the clip"
        )
    numbers = frame_numbers([bare(file.name) for file in files])
    if numbers is not None and not is_regular(numbers):
        raise UserError(
            f"{what}: the numbers in their names have gaps or come twice, so frames of {clip.path}"
            " cannot be told; there must be one for every frame"
        )
    return list(stored[0]), stored[1]


def _stored(count: int, clip: Clip) -> tuple[list[int], str] | None:
    """Which of `count` labels each stored frame has, and what they count; None: they do not fit."""
    if count == clip.frames:
        return list(range(count)), "one for each stored frame"
    timing = clip.film.timing if clip.film else clip.timing
    if timing is None or timing.is_constant:
        return None
    rates = [timing.rate, *([clip.film.base_rate] if clip.film else [])]
    for rate in rates:
        if abs(count - timing.end * rate) <= SHOWN_SLACK and count > clip.frames:
            places = np.rint(timing.starts * rate).astype(int).clip(0, count - 1)
            what = f"they count frames as shown at {rate:.4g}/s, of which the clip stores"
            return places.tolist(), f"{what} {clip.frames}"
    return None


def _place_rows(path: Path, found: Found, clip: Clip, where: str) -> Labels:
    """Labels from the rows of a file that holds all frames."""
    ids = list(dict.fromkeys([*(found.ids or []), *(row[0] for row in found.rows)]))
    if not found.rows:
        raise UserError(f"--labels {path}: no person in any frame")
    index, matched = _place_ids(where, ids, found, clip)
    people: dict[int, list[Person]] = {}
    for key, person in found.rows:
        for frame in index[key]:
            people.setdefault(frame, [])
            if person:
                people[frame].append(person)
    return Labels(path, found.kind, people=people, matched=matched)


def _place_ids(
    where: str, ids: list[Any], found: Found, clip: Clip
) -> tuple[dict[Any, list[int]], str]:
    """For each id of a results file the stored frames that it labels, and how that was found."""
    names = [str(key) for key in ids]
    stems = [bare(file.name) for file in clip.files]
    known = {name: i for i, name in enumerate(stems)}
    written = any(isinstance(key, str) and not key.isdigit() for key in ids)
    if stems and written and len(known) == len(stems):
        inside = [bare(name) in known for name in names]
        if all(inside):
            return {k: [known[bare(n)]] for k, n in zip(ids, names, strict=True)}, (
                "matched to the frames by file name"
            )
        if any(inside):
            alone = [name for name, has in zip(names, inside, strict=True) if not has]
            raise UserError(f"{where}: no frame of {clip.path} has the name of {named(alone)}")
    numbers = frame_numbers([bare(name) for name in names])
    if numbers is None or len(set(numbers)) < len(numbers):
        raise UserError(
            f"{where}: image_id {names[0]!r:.40} is not a frame number, and no frame's name"
        )
    complete = found.ids is not None  # the file names every frame, those without people too
    stored = _stored(len(numbers), clip) if complete else None
    if stored:
        order = sorted(range(len(ids)), key=numbers.__getitem__)
        places: dict[Any, list[int]] = {key: [] for key in ids}
        for frame, place in enumerate(stored[0]):
            places[ids[order[place]]].append(frame)
        return places, stored[1]
    shown = _shown_ids(numbers, clip)
    if shown is not None:
        return {key: shown[0][n] for key, n in zip(ids, numbers, strict=True)}, shown[1]
    way = match_indices(numbers, clip.frames, stems, where)
    return {key: [way[n]] for key, n in zip(ids, numbers, strict=True)}, "matched by number"


def _shown_ids(numbers: list[int], clip: Clip) -> tuple[dict[int, list[int]], str] | None:
    """Ids beyond the stored frames of a variable clip: they count shown frames."""
    film = clip.film
    if film is None or film.timing.is_constant or max(numbers) <= clip.frames:
        return None
    shown = round(film.timing.end * film.base_rate)
    if max(numbers) >= shown + SHOWN_SLACK:
        return None
    base = 1 if min(numbers) > 0 and max(numbers) >= shown else 0
    places: dict[int, list[int]] = {number: [] for number in numbers}
    for frame, place in enumerate(np.rint(film.timing.starts * film.base_rate).astype(int)):
        places.get(int(place) + base, []).append(frame)
    what = f"they count frames as shown at {film.base_rate:.4g}/s, of which the clip stores"
    return places, f"{what} {clip.frames}"


def _name_images(where: str, found: Found, images: Any) -> None:
    """Replace COCO's image ids by file names, or by the images' order where names say nothing."""
    names: dict[Any, str] = {}
    for entry in images if isinstance(images, list) else [images]:
        about = entry if isinstance(entry, dict) else {}
        key, name = about.get("id"), about.get("file_name")
        if not isinstance(key, int | str) or not isinstance(name, str) or key in names:
            raise UserError(f"{where}: every image must have a unique id and a file_name")
        names[key] = Path(name.replace("\\", "/")).name
    for index, (key, _) in enumerate(found.rows):
        if key not in names:
            raise UserError(
                f"{where}: annotation {index}: image_id {key!r:.40} is not among the images"
            )
    found.ids = sorted(names.values(), key=lambda name: natural_order(Path(name)))
    found.rows = [(names[key], person) for key, person in found.rows]


def _check_inside(labels: Labels, frame_size: tuple[int, int]) -> None:
    """Raise UserError for joints that are not in the clip's pixels.

    They would be drawn as a dot, or not at all.
    """
    found = [person for people in labels.people.values() for person in people]
    if not found:
        raise UserError(f"--labels {labels.path}: no person in any frame")
    points = np.concatenate([person.points[person.known] for person in found])
    if (points <= 1).all() and min(frame_size) > 2:
        raise UserError(
            f"--labels {labels.path}: all joints lie between 0 and 1; they must be in pixels"
        )
    outside = ((points < 0) | (points > np.array(frame_size))).any(axis=1).mean()
    if outside > 0.5:
        width, height = frame_size
        raise UserError(
            f"--labels {labels.path}: {outside:.0%} of the joints lie outside of the clip's"
            f" {width} x {height} pixels; were they found in a video of another size?"
        )
