"""Every kind of clip and image of docs/inputs.md: read upright and at its true speed.

A row of the table there names tests, or rows here and in test_label_files.py by their ids.
"""

import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dataloader
from modules.datasets import blazepose
from modules.datasets.label_files import open_labels
from modules.datasets.pose import Detections
from modules.datasets.source import Clip, frames_at, open_clip, sampled
from modules.runtime.errors import UserError
from tests.datasets import test_label_files
from tests.support.clips import draw, make_folder, middle, write_openpose
from tests.support.data import make_dataset
from tests.support.kinds import HEIGHT, WIDTH, constant, encode, is_upright, picture, time_of
from tests.support.scripts import REPOSITORY, assert_refused, run_script

av = pytest.importorskip("av", reason="hardly a clip without PyAV")
EVEN = constant(30)
PHONE = [i / 30 for i in range(30)] + [1 + i / 12 for i in range(12)]  # the light fails after 1 s
RECORDER = [0, 0.0167, 0.0333, 0.05, 0.8, 0.8167, 0.8333, 0.85, 0.8667, 1.5, 1.5167, 1.5333]
RECORDER += [1.55, 1.5667, 1.5833, 1.6]
X264 = ("libx264", "yuv444p")
TEN_BITS = ("libx265", "yuv420p10le")
BT2020 = "log-level=error:colorprim=bt2020:colormatrix=bt2020nc:transfer="
ON_ITS_SIDE = {  # what turns a picture upright, and how it has to be stored
    "turned-90": ((0, 1, -1, 0), lambda p: np.rot90(p)),
    "turned-180": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "turned-270": ((0, -1, 1, 0), lambda p: np.rot90(p, 3)),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "mirrored-and-turned": ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
}

# ---------------------------------------------------------------- each makes a file in a folder


def video(folder: Path, name: str, times: Sequence[float], *codec: str, **more: Any) -> Path:
    return encode(folder / name, times, *codec, **more)


def turned(folder: Path, kind: str) -> Path:
    """As a telephone does it: stored on its side, with a matrix (x, y) → (ax + cy, bx + dy)."""
    matrix, store = ON_ITS_SIDE[kind]
    stored = [store(picture(t)) for t in EVEN]
    size = stored[0].shape[1::-1]
    path = encode(folder / "a.mp4", EVEN, *X264, size=size, pictures=stored)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # after version, dates, ids, duration, layer and volume
    a, b, c, d = (65536 * value for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(data)
    return path


def copied(path: Path, *sources: Path, later: int = 0, flag: int = 0, **options: str) -> Path:
    """The packets of videos as the tracks of one file; flag: of the last of them."""
    with av.open(str(path), "w", options=options) as file:
        opened = [av.open(str(source)) for source in sources]
        streams = [file.add_stream_from_template(old.streams.video[0]) for old in opened]
        for stream in streams:
            stream.disposition = flag if stream is streams[-1] else 0
        for old, stream in zip(opened, streams, strict=True):
            for packet in old.demux(video=0):
                if packet.size:
                    ticks = round(later / packet.time_base)
                    packet.pts += ticks
                    packet.dts = None if packet.dts is None else packet.dts + ticks
                    packet.stream = stream
                    file.mux(packet)
            old.close()
    return path


def edited(folder: Path) -> Path:
    """Cut without encoding again: the file still has the frames before, and a list that skips."""
    whole = encode(folder / "a.mp4", constant(30, 2.5), *X264, g="60", bf="0")
    return copied(folder / "cut.mp4", whole, later=-1, avoid_negative_ts="disabled")


def tracks(folder: Path, flag: int) -> Path:
    """Two tracks in one file: a small upside-down one first, then a good one."""
    small = [picture(t, 48, 32)[::-1] for t in EVEN]
    first = encode(folder / "b.mkv", EVEN, size=(48, 32), pictures=small)
    return copied(folder / "two.mkv", first, encode(folder / "a.mkv", EVEN), flag=flag)


def sound(file: Any, _: Any) -> None:
    """Four seconds of silence."""
    stream = file.add_stream("aac", 8000, layout="mono")
    file.start_encoding()
    for at in range(0, 32_000, 1024):
        silence = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, at
        file.mux(stream.encode(frame))
    file.mux(stream.encode())


def cover(file: Any, _: Any) -> None:
    """A cover picture, marked as one."""
    stream = file.add_stream("png", 1)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
    stream.disposition = av.stream.Disposition.attached_pic
    file.start_encoding()
    file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(2, 32, 32))))


def without_video(folder: Path, prepare: Callable[[Any, Any], None]) -> Path:
    with av.open(str(folder / "a.m4a"), "w", format="mp4") as file:
        prepare(file, None)
    return folder / "a.m4a"


def clear(folder: Path, name: str, codec: str, pix_fmt: str, **options: str) -> Path:
    """Transparent, but black below, in the strip between the lower corners."""
    pictures = [np.dstack([picture(t), np.full((HEIGHT, WIDTH), 255, np.uint8)]) for t in EVEN]
    for pixels in pictures:
        pixels[-12:, 24:72] = 0

    def mark(_: Any, stream: Any) -> None:
        stream.metadata["alpha_mode"] = "1"

    return encode(folder / name, EVEN, codec, pix_fmt, pictures=pictures, prepare=mark, **options)


def joined(folder: Path, *sizes: tuple[int, int]) -> Path:
    """Pictures of several sizes one after another, as calls send them when the line is bad."""
    times, path = constant(25, 1), folder / "c.h264"
    with path.open("wb") as file:
        for i, size in enumerate(sizes):
            pictures = [picture(t + i, *size) for t in times]
            part = encode(folder / "a.h264", times, size=size, pictures=pictures, bf="0")
            file.write(part.read_bytes())
    return path


def images(folder: Path, name: str, durations: Sequence[int], **save: Any) -> Path:
    """A file of several images: GIF, PNG, WebP, TIFF."""
    times = np.concatenate([[0], np.cumsum(durations)[:-1]]) / 1000
    frames = [Image.fromarray(picture(t)) for t in times]
    if name == "a.gif":
        frames = [frame.quantize(128) for frame in frames]
    if name == "clear.gif":
        frames = [frame.convert("RGBA") for frame in frames]
        for frame in frames:
            frame.putpixel((40, 2), (9, 9, 9, 0))
    if name != "a.tif":
        save |= {"duration": list(durations), "loop": 0}
    hidden = [Image.fromarray(picture(2))] if "default_image" in save else []
    first, *rest = hidden + frames
    first.save(folder / name, save_all=True, append_images=rest, **save)
    return folder / name


def truncated(folder: Path, name: str, part: float, **options: Any) -> Path:
    path = encode(folder / name, EVEN, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    return path


def holding(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def arrays(folder: Path) -> Path:
    np.savez(folder / "a.npz", np.zeros(3))
    return folder / "a.npz"


def photo_with_copy(folder: Path) -> Path:
    """A photo of a telephone: two images in a file, the second a smaller copy."""
    photo, path = Image.fromarray(picture(0)), folder / "a.jpg"
    photo.save(path, format="MPO", save_all=True, append_images=[photo.resize((48, 32))])
    return path


# id → how it is made, frames/s that it is taken with at --fps 15, words that must be said
CLIPS: dict[str, tuple[Callable[[Path], Path], float, str]] = {
    "mp4": (lambda f: video(f, "a.mp4", EVEN), 15, ""),
    "mp4-444": (lambda f: video(f, "a.mp4", EVEN, *X264), 15, ""),
    "mp4-odd-size": (lambda f: video(f, "a.mp4", EVEN, *X264, size=(95, 63)), 15, ""),
    "mp4-10-bit": (lambda f: video(f, "a.mp4", EVEN, *TEN_BITS, **{"x265-params": "log-level=error"}), 15, ""),
    "mp4-b-frames": (lambda f: video(f, "a.mp4", EVEN, bf="3", g="12"), 15, ""),
    "mp4-23.976": (lambda f: video(f, "a.mp4", constant(24000 / 1001)), 15, ""),
    "mp4-59.94": (lambda f: video(f, "a.mp4", constant(60000 / 1001)), 15, ""),
    "mp4-10": (lambda f: video(f, "a.mp4", constant(10)), 10, ""),
    "mp4-sound-longer": (lambda f: video(f, "a.mp4", EVEN, prepare=sound), 15, ""),
    "mkv-starts-late": (lambda f: copied(f / "late.mkv", video(f, "a.mp4", EVEN), later=1), 15, ""),
    "mp4-cover": (lambda f: video(f, "a.mp4", EVEN, prepare=cover), 15, ""),
    "tracks-default": (lambda f: tracks(f, av.stream.Disposition.default), 15, "track 2 is taken, the default"),
    "tracks-largest": (lambda f: tracks(f, 0), 15, "track 2 is taken, the largest"),
    "size-changes": (lambda f: joined(f, (48, 32), (96, 64)), 15, "all frames are made 96 x 64"),
    "phone-low-light": (lambda f: video(f, "a.mp4", PHONE, *X264), 15, "variable"),
    "screen-recorder": (lambda f: video(f, "a.mp4", RECORDER, *X264), 15, "variable"),
    "recorder-mkv": (lambda f: video(f, "a.mkv", RECORDER, *X264), 15, "variable"),
    "edit-list": (edited, 15, ""),
    **{kind: (partial(turned, kind=kind), 15, "") for kind in ON_ITS_SIDE},
    "interlaced": (lambda f: video(f, "a.mpg", constant(25), "mpeg2video", flags="+ilme+ildct", b="4M"), 15, "progressive"),
    "anamorphic": (lambda f: video(f, "a.mp4", EVEN, *X264, prepare=lambda _, s: setattr(s.codec_context, "sample_aspect_ratio", 2)), 15, "made 192 x 64"),
    "hdr-pq": (lambda f: video(f, "a.mp4", EVEN, *TEN_BITS, **{"x265-params": BT2020 + "smpte2084"}), 15, "high dynamic range (PQ)"),
    "hdr-hlg": (lambda f: video(f, "a.mp4", EVEN, *TEN_BITS, **{"x265-params": BT2020 + "arib-std-b67"}), 15, "high dynamic range (HLG)"),
    "mkv-ffv1-rgb": (lambda f: video(f, "a.mkv", EVEN, "ffv1", "bgr0"), 15, ""),
    "mov-prores-alpha": (lambda f: clear(f, "a.mov", "prores_ks", "yuva444p10le"), 15, "made white"),
    "mov-rle-alpha": (lambda f: clear(f, "a.mov", "qtrle", "argb"), 15, "made white"),
    "webm-vp8-alpha": (lambda f: clear(f, "a.webm", "libvpx", "yuva420p", b="1M", **{"auto-alt-ref": "0"}), 15, "made white"),
    "webm-vp9-alpha": (lambda f: clear(f, "a.webm", "libvpx-vp9", "yuva420p", b="1M", **{"auto-alt-ref": "0"}), 15, "made white"),
    "webm-vp9": (lambda f: video(f, "a.webm", EVEN, "libvpx-vp9", b="1M"), 15, ""),
    "avi-mpeg4": (lambda f: video(f, "a.avi", EVEN, "mpeg4", b="4M"), 15, ""),
    "mjpeg-raw": (lambda f: video(f, "a.mjpeg", constant(25), "mjpeg", "yuvj444p"), 15, ""),
    "wmv": (lambda f: video(f, "a.wmv", EVEN, "wmv2", b="4M"), 15, ""),
    "mpeg-ts": (lambda f: video(f, "a.ts", EVEN), 15, ""),  # its first time stamp is not 0
    "raw-h264": (lambda f: video(f, "a.h264", constant(25), bf="0"), 15, ""),  # without time stamps
    "name-with-colon": (lambda f: video(f, "a:b c.mp4", EVEN), 15, ""),
    "gif": (lambda f: images(f, "a.gif", [50] * 40), 15, ""),
    "gif-held": (lambda f: images(f, "a.gif", [50] * 20 + [1000] + [50] * 10), 15, "variable"),
    "gif-held-last": (lambda f: images(f, "a.gif", [50] * 20 + [1500]), 15, "variable"),
    "gif-transparent": (lambda f: images(f, "clear.gif", [50] * 20), 15, "made white"),
    "apng": (lambda f: images(f, "a.png", [50] * 30), 15, ""),
    "apng-hidden-first": (lambda f: images(f, "a.png", [50] * 30, default_image=True), 15, ""),
    "webp-animated": (lambda f: images(f, "a.webp", [40] * 30, lossless=True), 15, ""),
    "tiff-pages": (lambda f: images(f, "a.tif", [67] * 30), 15, ""),
}  # fmt: skip
LOCKED = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}
# id → how it is made, why it is refused
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "audio-only": (lambda f: without_video(f, sound), "has no video, only sound or a cover picture"),
    "audio-with-cover": (lambda f: without_video(f, cover), "has no video, only sound or a cover picture"),
    "one-frame": (lambda f: video(f, "a.mp4", [0.0]), "has 1 frame"),
    "shape-changes": (lambda f: joined(f, (96, 64), (64, 96)), "from 96 x 64 to 64 x 96 at frame 25"),
    "cut-off-mp4": (lambda f: truncated(f, "a.mp4", 0.9), "is not a video that can be read, or is cut off"),
    "cut-off-faststart": (lambda f: truncated(f, "a.mp4", 0.8, container={"movflags": "+faststart"}), "is cut off after"),
    "cut-off-mkv": (lambda f: truncated(f, "a.mkv", 0.6), "is cut off after"),
    "encrypted": (lambda f: video(f, "a.mp4", EVEN, container=LOCKED), "the video is encrypted, corrupted"),
    "text": (lambda f: holding(f, "a.mp4", b"0.png 1.png " * 99), "is not a video; it is a text file; give the pictures"),
    "empty": (lambda f: holding(f, "a.mp4", b""), "the file is empty"),
    "photo-with-copy": (photo_with_copy, "is a single image, not a video; give the folder"),
    "zip": (lambda f: holding(f, "a.zip", b"PK\3\4" + bytes(99)), "is not a video; it is an archive; unpack it"),
    "npz": (arrays, "is not a video; it is an array of numpy; save it as 0.png"),
    "pickle": (lambda f: holding(f, "a.pkl", pickle.dumps([1])), "is not a video; it is a pickle; save its pictures"),
    "pattern": (lambda f: f / "%04d.png", "a pattern of names: give the folder"),
    "address": (lambda _: Path("https://example.org/a.mp4"), "an address on the web: download the film first"),
}  # fmt: skip


def said(clip: Clip) -> str:
    return " ".join([*clip.notes, "variable" if clip.variable else ""]).strip()


@pytest.mark.parametrize("kind", CLIPS)
def test_clip_is_upright_and_at_its_true_speed(kind: str, tmp_path: Path) -> None:
    make, rate, words = CLIPS[kind]
    clip = open_clip(make(tmp_path), None)
    frames = [frame for _, frame in sampled(clip, 15)]
    assert clip.timing_for(15).data_rate(15) == pytest.approx(rate, rel=0.01)
    assert all(is_upright(frame) for frame in frames)
    assert words in said(clip) and bool(words) == bool(said(clip))
    # Each shows its instant, or what was shown at it; compressed greys are not exact.
    times = np.array([time_of(frame) for frame in frames])
    if "hdr" in kind:  # grey is not linear in what it was
        assert (np.diff(times) > -0.02).all() and len(frames) == 30
        return
    if kind == "edit-list":  # starts after one second
        times -= 1
        assert len(frames) == pytest.approx(22, abs=1)
    if "alpha" in kind:
        assert min(frame[-5:, 40:56].min() for frame in frames) > 235
    instants = np.arange(len(frames)) / rate
    stored = clip.timing.starts if clip.timing else np.arange(clip.frames) / rate
    shown = stored[np.searchsorted(stored, instants + 1e-6, side="right") - 1]
    nearest = np.minimum(np.abs(times - shown), np.abs(times - instants))
    assert nearest.max() <= 0.05, (kind, times.round(3).tolist())


@pytest.mark.parametrize(("width", "height", "space"), [(480, 854, 1), (854, 480, 5)])
@pytest.mark.parametrize("tagged", [True, False])
def test_colours_of_films(
    width: int, height: int, space: int, tagged: bool, tmp_path: Path
) -> None:
    """HD without tags is BT.709, smaller pictures BT.601."""
    colour, path = (200, 40, 90), tmp_path / "a.mkv"
    frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), colour, np.uint8))
    frame = frame.reformat(format="yuv444p", dst_colorspace=space)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", 30, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        stream.codec_context.colorspace = frame.colorspace = space if tagged else 2
        for pts in range(3):
            frame.pts = pts
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    (read,) = frames_at(open_clip(path, None), [1])
    assert np.abs(read[9, 9].astype(int) - colour).max() <= 3


def test_source_fps_replaces_a_clip_s_own_rate(tmp_path: Path) -> None:
    gif = images(tmp_path, "a.gif", [50] * 40)
    assert open_clip(gif, 60).timing_for(15).data_rate(15) == 15
    assert len(list(sampled(open_clip(gif, 60), 15))) == 10
    clip = open_clip(video(tmp_path, "a.mp4", PHONE, *X264), 30)
    assert len(list(sampled(clip, 15))) == len(PHONE) // 2
    assert "--source_fps 30 replaces its own" in said(clip)


# ---------------------------------------------------------------- what is refused leaves nothing behind


@pytest.mark.parametrize("kind", REFUSED)
def test_clip_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    make, words = REFUSED[kind]
    path, out = make(tmp_path), tmp_path / "out"
    result = run_script("dataloader.py", "video", path, "--out", out)
    assert_refused(result, f"error: {path}: ", words)
    assert result.stderr.count("\n") == 1 and not out.exists()


def test_labels_that_do_not_fit_leave_nothing_behind(tmp_path: Path) -> None:
    """A folder of labels of hardly anybody; frames of mixed sizes."""
    clip, out = make_folder(tmp_path / "clip", 30), tmp_path / "out"
    good = write_openpose(tmp_path / "good", 30)

    def refused(labels: Path, words: str) -> None:
        result = run_script("dataloader.py", "video", clip, "--labels", labels, "--out", out)
        assert_refused(result, words)
        assert result.stderr.count("\n") == 1 and not out.exists()

    few = write_openpose(tmp_path / "few", 30, missing=[t for t in range(30) if t % 11])
    refused(few, "no person in five frames in a row, of 30")
    Image.new("RGB", (9, 9)).save(clip / "7.png")
    refused(good, "7.png: is 9 x 9 pixels")
    Image.fromarray(draw(7)).save(clip / "7.png")  # the control
    done = run_script("dataloader.py", "video", clip, "--labels", good, "--out", out)
    assert done.returncode == 0


def test_nobody_found_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 17, 3)))
    monkeypatch.setattr(blazepose, "why_missing", lambda *_: None)
    monkeypatch.setattr(blazepose, "load_blazepose", lambda *_: lambda frames, near: [empty])
    clip, out = make_folder(tmp_path / "clip", 30), tmp_path / "out"
    result = run_script("dataloader.py", "video", clip, "--out", out)
    assert_refused(result, "no person in five frames in a row, of 30", "--detector rcnn")
    assert not out.exists()


# ---------------------------------------------------------------- images


UNDO = {  # what a camera's sensor sees of an upright scene, for each value of the tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", UNDO)
def test_orientation_of_images(orientation: int, suffix: str, tmp_path: Path) -> None:
    """In a folder given as a clip, and in the layout: frames and labels."""
    note = Image.Exif()
    note[0x0112] = orientation
    root = make_dataset(tmp_path / "data", train=8, val=3, tests=())
    for path in list(root.glob("val/*/*.png")):
        path.unlink()
        lying = Image.fromarray(picture(int(path.stem) / 15)).transpose(UNDO[orientation])
        lying.save(path.with_suffix(suffix), exif=note)
    clip = open_clip(root / "val/val_img", None)
    assert clip.size == (WIDTH, HEIGHT)
    assert all(is_upright(frame) for _, frame in sampled(clip, 15))
    data = dataloader.load_val(root, height=HEIGHT, width=WIDTH, val_vi_len=9)
    assert all(is_upright(f.numpy()) for f in (*data.frames, *data.labels))


def test_a_damaged_note_on_orientation_is_no_fault(tmp_path: Path) -> None:
    for t in range(2):
        note = b"Exif\0\0MM\0*\0\0\xff\xff\0\0"
        Image.fromarray(picture(t / 10)).save(tmp_path / f"{t}.jpg", exif=note)
    assert len(list(sampled(open_clip(tmp_path, None), 15))) == 2


def test_frames_go_onto_white_and_labels_onto_black(tmp_path: Path) -> None:
    transparent = Image.fromarray(picture(0)).convert("RGBA")
    transparent.paste((77, 77, 77, 0), (30, 20, 60, 40))
    root = make_dataset(tmp_path / "data", train=8, val=3, tests=())
    for path in root.glob("val/*/*.png"):
        transparent.save(path)
    data = dataloader.load_val(root, height=HEIGHT, width=WIDTH, val_vi_len=9)
    assert data.frames[0, 30, 45].tolist() == [255, 255, 255]
    assert data.labels[0, 30, 45].tolist() == [0, 0, 0]
    assert data.frames[0, 50, 80].tolist() == data.labels[0, 50, 80].tolist() == [40, 40, 40]
    clip = open_clip(root / "val/val_img", None)
    assert next(iter(sampled(clip, 15)))[1][30, 45].tolist() == [255, 255, 255]
    assert said(clip) == "transparent pixels were made white"


# ---------------------------------------------------------------- labels and the page


def test_labels_may_count_shown_frames(tmp_path: Path) -> None:
    """Of a clip that is not constant, tools that read a pipe label each frame as shown."""
    clip = open_clip(video(tmp_path, "a.mp4", PHONE, *X264), None)
    assert clip.film is not None
    rate = clip.film.base_rate
    shown = round(clip.film.timing.end * rate)
    assert shown > clip.frames + 10
    folder = write_openpose(tmp_path / "labels", clip.frames)
    assert open_labels(folder, clip).matched == "matched to the frames by order"
    every = open_labels(write_openpose(tmp_path / "shown", shown), clip)
    assert f"as shown at {rate:.4g}/s" in every.matched
    for i, t in enumerate(PHONE):
        near = [middle(round(t * rate) + d)[0] for d in (-1, 0, 1)]
        assert min(near) - 0.1 < every.people[i][0].points[0, 0] < max(near) + 0.1
    with pytest.raises(UserError, match="there must be one for every frame"):
        open_labels(write_openpose(tmp_path / "other", clip.frames + 3), clip)


PAGE = (REPOSITORY / "docs/inputs.md").read_text("utf-8")


def test_the_page_s_conversion_gives_labels_that_are_read(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    rows = np.stack([test_label_files.joints(t) for t in range(4)])
    np.save(tmp_path / "joints.npy", rows)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    labels = test_label_files.read(tmp_path / "joints.json", frames=4)
    assert test_label_files.off(labels, 2) < 0.01


def test_the_page_has_every_kind() -> None:
    """Each of its rows names tests, and no kind that is tested is missing."""
    cells = re.findall(r"^\| (`[^|]+`) \|", PAGE, re.MULTILINE)
    ids = [name for cell in cells for name in cell.strip("`").split("` `")]
    tests = [name for name in ids if name.startswith("test_")]
    kinds = [*CLIPS, *REFUSED, *test_label_files.KINDS, *test_label_files.REFUSED]
    assert sorted(ids) == sorted([*kinds, *tests])
    assert tests and all(name in globals() for name in tests)
