"""How far found joints lie from those that the renderer of the demo's figure knows.

    python tests/programs/joint_error.py clip OUT.mp4                  # one minute, 512 x 256
    python tests/programs/joint_error.py figure OUT.mp4 ROOT           # after `video OUT.mp4`
    python tests/programs/joint_error.py sizes OUT.mp4 64x32 128x64 256x128 512x256

`clip` writes a clip of the figure and, beside it, OUT.npy with its joints. `figure` compares them
with what the import found, as found and as smoothed. `sizes` does so for some of the clip's frames
at other sizes, and counts in how many of them a person is found.
"""

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.datasets import blazepose, motion, synthetic, video, video_options
from modules.datasets.canvas import Camera
from modules.datasets.pose import COCO_JOINTS, JOINTS, joints_over_time, person_from
from modules.datasets.source import frames_at, open_clip, sampled_indices
from modules.datasets.tracks import JointFinder, read_track
from modules.options import parse
from modules.runtime.errors import UserError
from modules.runtime.scripts import ArgumentParser, path_argument, run_as_script

FPS = 30


def write_clip(out: Path, seconds: float) -> None:
    """Write the clip, and OUT.npy: (T, 18, 2) joints in pixels, in the order of JOINTS."""
    scene = synthetic.make_scene(0, 256, 512)
    pose = motion.perform(np.random.default_rng([0, 1, 0]), round(seconds * FPS), scene.camera)
    places = scene.camera.project(pose.joints)[..., :2]
    np.save(out.with_suffix(".npy"), places[:, [synthetic.JOINTS[name] for name in JOINTS]])
    with av.open(str(out), "w") as file:
        stream = file.add_stream("libx264", FPS, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = 512, 256, "yuv420p"
        for frame in synthetic.render_frames(pose, scene):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def distances(
    points: np.ndarray, true: np.ndarray, known: np.ndarray, width: int, height: int
) -> np.ndarray:
    """Of the known joints, in parts of the figure's height in a picture of this size."""
    return np.hypot(*np.moveaxis(points - true, -1, 0))[known] / Camera(height, width).scale


def compare(clip_path: Path, root: Path) -> None:
    """Print the distances, in parts of the figure's height."""
    o, _ = parse(video_options.VideoOptions, "", [str(clip_path), "--out", str(root)])
    clip = open_clip(clip_path, None)
    true = np.load(clip_path.with_suffix(".npy"))[sampled_indices(clip, o.fps)]
    detector = video.choose_detector(o)
    assert detector is not None
    finder = JointFinder(o, clip, detector)
    if not finder.known:
        raise UserError(f"{root}: holds no joints of {clip_path}; import it first")
    track = read_track(clip, o, None, finder)
    assert track.joints
    first = [people[0] if people else None for people in finder.people]
    found, known = joints_over_time(first)
    print(f"a person in {sum(p is not None for p in first)} of {len(first)} frames")
    for name, points, mask in (("found", found, known), ("smoothed", *track.joints)):
        middle, most = np.quantile(distances(points, true, mask, *clip.size), [0.5, 0.9])
        print(f"{name:<9} median {middle:.2%} of the height, 90 % below {most:.2%}")


def by_size(path: Path, sizes: list[tuple[int, int]], every: int) -> None:
    """Print in how many frames a person is found at each size (width, height), and how well."""
    clip, true = open_clip(path, None), np.load(path.with_suffix(".npy"))[::every]
    find = blazepose.load_blazepose()
    frames = [Image.fromarray(frame) for frame in frames_at(clip, range(0, clip.frames, every))]
    for width, height in sizes:
        seen, errors = 0, []
        for t, frame in enumerate(frames):
            (found,) = find([np.asarray(frame.resize((width, height)))])
            seen += len(found.boxes) > 0
            for joints in found.joints[:1]:
                if person := person_from(joints, COCO_JOINTS, blazepose.VISIBLE):
                    places = true[t] * [width / frame.width, height / frame.height]
                    errors += [*distances(person.points, places, person.known, width, height)]
        line = f"{width} x {height}: a person in {seen} of {len(frames)} frames"
        if errors:
            line += f", {Camera(height, width).scale:.0f} pixels high"
            line += f"; median {np.median(errors):.2%} of the height"
        print(line)


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    clip = commands.add_parser("clip")
    clip.add_argument("out", type=path_argument, metavar="OUT.mp4")
    clip.add_argument("--seconds", type=float, default=60)
    figure = commands.add_parser("figure")
    figure.add_argument("clip", type=path_argument, metavar="OUT.mp4")
    figure.add_argument("root", type=path_argument, metavar="ROOT")
    sizes = commands.add_parser("sizes")
    sizes.add_argument("clip", type=path_argument, metavar="OUT.mp4")
    sizes.add_argument("sizes", type=video_options.parse_size, nargs="+", metavar="WxH")
    sizes.add_argument("--every", type=int, default=1, help="look at each n-th frame (1)")
    given = parser.parse_args()
    if given.command == "clip":
        write_clip(given.out, given.seconds)
    elif given.command == "figure":
        compare(given.clip, given.root)
    else:
        by_size(given.clip, given.sizes, given.every)


if __name__ == "__main__":
    run_as_script(main)
