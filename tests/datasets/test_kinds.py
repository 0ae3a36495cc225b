"""Every kind of clip, image and label file of docs/inputs.md: read upright and at its true speed.

A row of the table there names rows here by their ids.
"""

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dataloader
from modules.datasets import blazepose
from modules.datasets.label_files import open_labels
from modules.datasets.pose import COCO_JOINTS, Detections
from modules.datasets.source import Clip, data_rate, frames_at, open_clip, sampled
from modules.runtime.errors import UserError
from tests.support.clips import BODY_POINTS, draw, make_folder, write_openpose
from tests.support.data import make_dataset
from tests.support.kinds import (
    HEIGHT,
    WIDTH,
    constant,
    encode,
    folder_of,
    is_upright,
    picture,
    time_of,
    turn,
)
from tests.support.scripts import REPOSITORY, assert_refused, run_script

PAGE = (REPOSITORY / "docs/inputs.md").read_text("utf-8")
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


def turned(name: str) -> Callable[[Path], Path]:
    """As a telephone does it: stored on its side, with a note to turn it."""

    def make(folder: Path) -> Path:
        matrix, store = ON_ITS_SIDE[name]
        stored = [store(picture(t)) for t in EVEN]
        size = stored[0].shape[1::-1]
        return turn(encode(folder / "a.mp4", EVEN, *X264, size=size, pictures=stored), matrix)

    return make


def video(name: str, times: Sequence[float], *codec: str, **more: Any) -> Callable[[Path], Path]:
    return lambda folder: encode(folder / name, times, *codec, **more)


def edited(folder: Path) -> Path:
    """Cut without encoding again: the file still has the frames before, and a list that skips."""
    import av

    whole, path = (
        encode(folder / "a.mp4", constant(30, 2.5), *X264, g="60", bf="0"),
        folder / "b.mp4",
    )
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(whole)) as old, av.open(str(path), "w", options=options) as file:
        stream = file.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                second = round(1 / packet.time_base)
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - second,
                    packet.dts - second,
                    stream,
                )
                file.mux(packet)
    return path


def with_sound(seconds: float) -> Callable[[Any, Any], None]:
    def prepare(file: Any, _: Any) -> None:
        import av

        sound = file.add_stream("aac", 8000, layout="mono")
        file.start_encoding()
        for at in range(0, round(seconds * 8000), 1024):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 8000, at
            file.mux(sound.encode(frame))
        file.mux(sound.encode())

    return prepare


def cover(file: Any, _: Any) -> None:
    """A cover picture, marked as one."""
    import av

    stream = file.add_stream("png", 1)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
    stream.disposition = av.stream.Disposition.attached_pic
    file.start_encoding()
    file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(2, 32, 32))))


def tracks(*, marked: bool) -> Callable[[Path], Path]:
    """Two tracks in one file: a small upside-down one first, then a good one."""

    def make(folder: Path) -> Path:
        import av

        small = encode(
            folder / "b.mkv", EVEN, size=(48, 32), pictures=[picture(t, 48, 32)[::-1] for t in EVEN]
        )
        good, path = encode(folder / "a.mkv", EVEN), folder / "two.mkv"
        with av.open(str(path), "w") as file, av.open(str(small)) as one, av.open(str(good)) as two:
            pairs = [(c, file.add_stream_from_template(c.streams.video[0])) for c in (one, two)]
            flags = (0, av.stream.Disposition.default) if marked else (0, 0)
            for (_, stream), flag in zip(pairs, flags, strict=True):
                stream.disposition = flag
            for source, stream in pairs:
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        file.mux(packet)
        return path

    return make


def clear(name: str, codec: str, pix_fmt: str) -> Callable[[Path], Path]:
    """Transparent, but black below, in the strip between the lower corners."""

    def make(folder: Path) -> Path:
        pictures = [np.dstack([picture(t), np.full((HEIGHT, WIDTH), 255, np.uint8)]) for t in EVEN]
        for pixels in pictures:
            pixels[-12:, 24:72] = 0

        def mark(_: Any, stream: Any) -> None:
            if name.endswith(".webm"):
                stream.metadata["alpha_mode"] = "1"

        more = {"b": "1M", "auto-alt-ref": "0"} if name.endswith(".webm") else {}
        return encode(folder / name, EVEN, codec, pix_fmt, pictures=pictures, prepare=mark, **more)

    return make


def joined(*sizes: tuple[int, int]) -> Callable[[Path], Path]:
    """Pictures of several sizes one after another, as calls send them when the line is bad."""

    def make(folder: Path) -> Path:
        times, path = constant(25, 1), folder / "c.h264"
        data = b""
        for i, size in enumerate(sizes):
            pictures = [picture(t + i, *size) for t in times]
            part = encode(folder / "a.h264", times, size=size, pictures=pictures, bf="0")
            data += part.read_bytes()
        path.write_bytes(data)
        return path

    return make


def images(name: str, durations: Sequence[int], **save: Any) -> Callable[[Path], Path]:
    """A file of several images: GIF, PNG, WebP, TIFF."""

    def make(folder: Path) -> Path:
        times = np.concatenate([[0], np.cumsum(durations)[:-1]]) / 1000
        frames = [Image.fromarray(picture(t)) for t in times]
        if name.endswith(".gif"):
            frames = [frame.quantize(128) for frame in frames]
        options = {} if name.endswith(".tif") else {"duration": list(durations), "loop": 0}
        options |= save
        hidden = [Image.fromarray(picture(2))] if "default_image" in save else []
        first, *rest = hidden + frames
        first.save(folder / name, save_all=True, append_images=rest, **options)
        return folder / name

    return make


def clear_gif(folder: Path) -> Path:
    frames = []
    for t in constant(20, 1):
        frame = Image.fromarray(picture(t)).convert("RGBA")
        frame.putpixel((40, 2), (9, 9, 9, 0))
        frames.append(frame)
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    return folder / "a.gif"


# id → how it is made, frames/s that it is taken with at --fps 15, words that must be said
CLIPS: dict[str, tuple[Callable[[Path], Path], float, str]] = {
    "mp4": (video("a.mp4", EVEN), 15, ""),
    "mp4-444": (video("a.mp4", EVEN, *X264), 15, ""),
    "mp4-odd-size": (video("a.mp4", EVEN, *X264, size=(95, 63)), 15, ""),
    "mp4-10-bit": (video("a.mp4", EVEN, *TEN_BITS, **{"x265-params": "log-level=error"}), 15, ""),
    "mp4-b-frames": (video("a.mp4", EVEN, bf="3", g="12"), 15, ""),
    "mp4-23.976": (video("a.mp4", constant(24000 / 1001)), 15, ""),
    "mp4-59.94": (video("a.mp4", constant(60000 / 1001)), 15, ""),
    "mp4-10": (video("a.mp4", constant(10)), 10, ""),
    "mp4-sound-longer": (video("a.mp4", EVEN, prepare=with_sound(4)), 15, ""),
    "mkv-starts-late": (video("a.mkv", [1 + t for t in EVEN], pictures=[picture(t) for t in EVEN]), 15, ""),
    "mp4-cover": (video("a.mp4", EVEN, prepare=cover), 15, ""),
    "tracks-default": (tracks(marked=True), 15, "track 2 is taken, the default"),
    "tracks-largest": (tracks(marked=False), 15, "track 2 is taken, the largest"),
    "size-changes": (joined((48, 32), (96, 64)), 15, "all frames are made 96 x 64"),
    "phone-low-light": (video("a.mp4", PHONE, *X264), 15, "variable"),
    "screen-recorder": (video("a.mp4", RECORDER, *X264), 15, "variable"),
    "recorder-mkv": (video("a.mkv", RECORDER, *X264), 15, "variable"),
    "edit-list": (edited, 15, ""),
    **{name: (turned(name), 15, "") for name in ON_ITS_SIDE},
    "interlaced": (video("a.mpg", constant(25), "mpeg2video", flags="+ilme+ildct", b="4M"), 15, "progressive"),
    "anamorphic": (video("a.mp4", EVEN, *X264, prepare=lambda _, s: setattr(s.codec_context, "sample_aspect_ratio", 2)), 15, "made 192 x 64"),
    "hdr-pq": (video("a.mp4", EVEN, *TEN_BITS, **{"x265-params": BT2020 + "smpte2084"}), 15, "high dynamic range (PQ)"),
    "hdr-hlg": (video("a.mp4", EVEN, *TEN_BITS, **{"x265-params": BT2020 + "arib-std-b67"}), 15, "high dynamic range (HLG)"),
    "mkv-ffv1-rgb": (video("a.mkv", EVEN, "ffv1", "bgr0"), 15, ""),
    "mov-prores-alpha": (clear("a.mov", "prores_ks", "yuva444p10le"), 15, "made white"),
    "mov-rle-alpha": (clear("a.mov", "qtrle", "argb"), 15, "made white"),
    "webm-vp8-alpha": (clear("a.webm", "libvpx", "yuva420p"), 15, "made white"),
    "webm-vp9-alpha": (clear("a.webm", "libvpx-vp9", "yuva420p"), 15, "made white"),
    "webm-vp9": (video("a.webm", EVEN, "libvpx-vp9", b="1M"), 15, ""),
    "avi-mpeg4": (video("a.avi", EVEN, "mpeg4", b="4M"), 15, ""),
    "mjpeg-raw": (video("a.mjpeg", constant(25), "mjpeg", "yuvj444p"), 15, ""),
    "wmv": (video("a.wmv", EVEN, "wmv2", b="4M"), 15, ""),
    "mpeg-ts": (video("a.ts", EVEN), 15, ""),  # its first time stamp is not 0
    "raw-h264": (video("a.h264", constant(25), bf="0"), 15, ""),  # without time stamps
    "name-with-colon": (video("a:b c.mp4", EVEN), 15, ""),
    "gif": (images("a.gif", [50] * 40), 15, ""),
    "gif-held": (images("a.gif", [50] * 20 + [1000] + [50] * 10), 15, "variable"),
    "gif-held-last": (images("a.gif", [50] * 20 + [1500]), 15, "variable"),
    "gif-transparent": (clear_gif, 15, "made white"),
    "apng": (images("a.png", [50] * 30), 15, ""),
    "apng-hidden-first": (images("a.png", [50] * 30, default_image=True), 15, ""),
    "webp-animated": (images("a.webp", [40] * 30, lossless=True), 15, ""),
    "tiff-pages": (images("a.tif", [67] * 30), 15, ""),
}  # fmt: skip
PILLOW = ("gif", "apng", "webp-animated", "tiff-pages")


def said(clip: Clip) -> str:
    return " ".join([*clip.notes, "variable" if clip.variable else ""])


@pytest.mark.parametrize("kind", CLIPS)
def test_clip_is_upright_and_at_its_true_speed(kind: str, tmp_path: Path) -> None:
    if not kind.startswith(PILLOW):
        pytest.importorskip("av", reason="no such video without PyAV")
    make, rate, words = CLIPS[kind]
    clip = open_clip(make(tmp_path), None)
    frames = [frame for _, frame in sampled(clip, 15)]
    assert data_rate(clip, 15) == pytest.approx(rate, rel=0.01)
    assert all(is_upright(frame) for frame in frames)
    assert words in said(clip) and (not words) == (not said(clip).strip())
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


def test_a_clip_read_by_its_mean_rate_would_fail(tmp_path: Path) -> None:
    """The control: what the import did before it looked at time stamps."""
    pytest.importorskip("av", reason="no mp4 without PyAV")
    clip = open_clip(encode(tmp_path / "a.mp4", PHONE, *X264), None)
    assert clip.frames == len(PHONE)
    times = np.array([time_of(frame) for frame in frames_at(clip, range(clip.frames))])
    assert np.abs(times - PHONE).max() < 0.05
    assert np.abs(times - np.arange(len(PHONE)) * 2 / len(PHONE)).max() > 0.4


@pytest.mark.parametrize(
    ("width", "height", "space"), [(960, 720, 1), (1280, 544, 1), (480, 854, 1), (854, 480, 5)]
)
@pytest.mark.parametrize("tagged", [True, False])
def test_colours_of_films(
    width: int, height: int, space: int, tagged: bool, tmp_path: Path
) -> None:
    """HD without tags is BT.709, smaller pictures BT.601."""
    av = pytest.importorskip("av", reason="no mp4 without PyAV")
    colour = (200, 40, 90)
    frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), colour, np.uint8))
    frame = frame.reformat(format="yuv444p", dst_colorspace=space)
    path = tmp_path / "a.mkv"
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
    with av.open(str(path)) as file:  # the control
        other = next(file.decode(video=0)).reformat(format="rgb24", src_colorspace=6 - space)
    assert np.abs(other.to_ndarray()[9, 9].astype(int) - colour).max() > 8


def test_source_fps_replaces_a_clip_s_own_rate(tmp_path: Path) -> None:
    gif = images("a.gif", [50] * 40)(tmp_path)
    assert data_rate(open_clip(gif, 60), 15) == 15
    assert len(list(sampled(open_clip(gif, 60), 15))) == 10
    pytest.importorskip("av", reason="no mp4 without PyAV")
    clip = open_clip(encode(tmp_path / "a.mp4", PHONE, *X264), 30)
    assert len(list(sampled(clip, 15))) == len(PHONE) // 2
    assert "--source_fps 30 replaces its own" in said(clip)


# ----------------------------------------------------------------------------------------
# Clips that are refused


def audio(*prepared: Callable[[Any, Any], None]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import av

        with av.open(str(folder / "a.m4a"), "w", format="mp4") as file:
            for prepare in prepared:
                prepare(file, None)
        return folder / "a.m4a"

    return make


def truncated(name: str, part: float, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = encode(folder / name, EVEN, **options)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        return path

    return make


LOCKED = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
    "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
}


def holding(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def arrays(folder: Path) -> Path:
    np.savez(folder / "a.npz", np.zeros(3))
    return folder / "a.npz"


def photo_with_copy(folder: Path) -> Path:
    """A photo of a telephone: two images in a file, the second a smaller copy."""
    first = Image.fromarray(picture(0))
    first.save(
        folder / "a.jpg", format="MPO", save_all=True, append_images=[first.resize((48, 32))]
    )
    return folder / "a.jpg"


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "audio-only": (audio(with_sound(1)), "has no video, only sound or a cover picture"),
    "audio-with-cover": (audio(cover), "has no video, only sound or a cover picture"),
    "one-frame": (video("a.mp4", [0.0, 0.04][:1]), "has 1 frame"),
    "shape-changes": (joined((96, 64), (64, 96)), "from 96 x 64 to 64 x 96 at frame 25"),
    "cut-off-mp4": (truncated("a.mp4", 0.9), "is not a video that can be read, or is cut off"),
    "cut-off-faststart": (truncated("a.mp4", 0.8, container={"movflags": "+faststart"}), "is cut off after"),
    "cut-off-mkv": (truncated("a.mkv", 0.6), "is cut off after"),
    "encrypted": (video("a.mp4", EVEN, container=LOCKED), "the video is encrypted, corrupted"),
    "text": (holding("a.mp4", b"0.png 1.png " * 99), "is not a video; it is a text file; give the pictures"),
    "empty": (holding("a.mp4", b""), "the file is empty"),
    "photo-with-copy": (photo_with_copy, "is a single image, not a video; give the folder"),
    "zip": (holding("a.zip", b"PK\3\4" + bytes(99)), "is not a video; it is an archive; unpack it"),
    "npz": (arrays, "is not a video; it is an array of numpy; save it as 0.png"),
    "pickle": (holding("a.pkl", pickle.dumps([1])), "is not a video; it is a pickle; save its pictures"),
    "pattern": (lambda folder: folder / "%04d.png", "a pattern of names: give the folder"),
    "address": (lambda _: Path("https://example.org/a.mp4"), "an address on the web: download the film first"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_clip_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="no such video without PyAV")
    make, words = REFUSED[kind]
    path = make(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        open_clip(path, None)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    result = run_script("dataloader.py", "video", path, "--out", tmp_path / "out")
    assert_refused(result, str(path))
    assert result.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


def test_labels_that_do_not_fit_leave_nothing_behind(tmp_path: Path) -> None:
    """A label folder of another clip, one without anybody, images of mixed sizes."""
    clip, sound, out = make_folder(tmp_path / "clip", 30), tmp_path / "sound", tmp_path / "out"
    command = ("dataloader.py", "video", clip, "--out", out, "--labels")
    for words, options in {
        "OpenPose JSON for 31 frames, but": {"frames": 31},
        "were they found in a video of another size?": {"scale": 9},
        "no person in any frame": {"missing": range(30)},
        "no person in five frames in a row, of 30": {"missing": [t for t in range(30) if t % 11]},
    }.items():
        labels = write_openpose(tmp_path / words, **{"frames": 30, **options})  # type: ignore[arg-type]
        result = run_script(*command, labels)
        assert_refused(result, words)
        assert result.stderr.count("\n") == 1 and not out.exists()
    write_openpose(sound, 30)
    Image.new("RGB", (9, 9)).save(clip / "7.png")
    assert_refused(run_script(*command, sound), "7.png: is 9 x 9 pixels")
    (clip / "7.png").write_bytes(b"\x89PNG")
    assert_refused(run_script(*command, sound), "7.png")
    assert not out.exists()
    Image.fromarray(draw(7)).save(clip / "7.png")  # the control
    assert run_script(*command, sound).returncode == 0


def test_nobody_found_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 17, 3)))
    monkeypatch.setattr(blazepose, "why_missing", lambda *_: None)
    monkeypatch.setattr(blazepose, "load_blazepose", lambda *_: lambda frames, near: [empty])
    clip = folder_of(tmp_path / "clip", constant(15))
    result = run_script("dataloader.py", "video", clip, "--out", tmp_path / "out")
    assert_refused(result, "no person in five frames in a row, of 30", "--detector rcnn")
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------
# Images


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
    for path in (*root.glob("val/*/*.png"),):
        path.unlink()
        lying = Image.fromarray(picture(int(path.stem) / 15)).transpose(UNDO[orientation])
        lying.save(path.with_suffix(suffix), exif=note)
    clip = open_clip(root / "val/val_img", None)
    assert clip.size == (WIDTH, HEIGHT)
    assert all(is_upright(frame) for _, frame in sampled(clip, 15))
    data = dataloader.load_val(root, height=HEIGHT, width=WIDTH, val_vi_len=9)
    assert all(is_upright(f.numpy()) for f in (*data.frames, *data.labels))
    if suffix != ".tif":  # which Pillow turns
        stored = np.asarray(Image.open(clip.files[0]).convert("RGB"))
        assert not is_upright(stored)  # the control: as it is stored, it lies


def test_a_damaged_note_on_orientation_is_no_fault(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "clip", [0, 0.1], "{}.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff\0\0")
    assert len(list(sampled(open_clip(folder, None), 15))) == 2


def test_frames_go_onto_white_and_labels_onto_black(tmp_path: Path) -> None:
    clear = Image.fromarray(picture(0)).convert("RGBA")
    clear.paste((77, 77, 77, 0), (30, 20, 60, 40))
    root = make_dataset(tmp_path / "data", train=8, val=3, tests=())
    for path in root.glob("val/*/*.png"):
        clear.save(path)
    data = dataloader.load_val(root, height=HEIGHT, width=WIDTH, val_vi_len=9)
    assert data.frames[0, 30, 45].tolist() == [255, 255, 255]
    assert data.labels[0, 30, 45].tolist() == [0, 0, 0]
    assert data.frames[0, 50, 80].tolist() == data.labels[0, 50, 80].tolist() == [40, 40, 40]
    clip = open_clip(root / "val/val_img", None)
    assert next(iter(sampled(clip, 15)))[1][30, 45].tolist() == [255, 255, 255]
    assert said(clip).strip() == "transparent pixels were made white"


# ----------------------------------------------------------------------------------------
# Labels of other tools

COUNT = 4
REST = (None, (200, 200), COUNT, "")  # of a Clip: its rate, size, frames and identity


def places(t: int) -> np.ndarray:
    """The 18 joints of the person in frame t, pixels."""
    return BODY_POINTS * 3 + np.array([60 + 10 * t, 80.0])


def coco(t: int, joints: int = 17) -> list[float]:
    rows = np.ones((joints, 3))  # hands, feet, face: not drawn
    rows[:17] = np.column_stack([places(t)[list(COCO_JOINTS)], np.full(17, 0.9)])
    return rows.ravel().tolist()


def openpose(t: int, joints: int = 18, key: str = "pose_keypoints_2d") -> dict[str, Any]:
    rows = np.column_stack([places(t), np.full(18, 0.9)])
    if joints == 25:
        rows = np.concatenate([rows[:8], np.ones((1, 3)), rows[8:], np.ones((6, 3))])
    if joints == 15:
        rows = np.concatenate([rows[:14], np.ones((1, 3))])
    return {"version": 1.3, "people": [{key: rows.ravel().tolist()}]}


def per_frame(name: str, content: Callable[[int], Any]) -> Callable[[Path], Path]:
    """A folder with a JSON file for each frame."""

    def make(folder: Path) -> Path:
        for t in range(COUNT):
            (folder / name.format(t)).write_text(json.dumps(content(t)))
        return folder

    return make


def one_file(content: Any, name: str = "labels.json") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return folder / name

    return make


def results(name: Callable[[int], Any], joints: int = 17) -> list[dict[str, Any]]:
    return [
        {"image_id": name(t), "category_id": 1, "keypoints": coco(t, joints), "score": 2.9}
        for t in range(COUNT)
    ]


IMAGES = [{"id": 100 + t, "file_name": f"x/{t}.png"} for t in reversed(range(COUNT))]
# id → how it is made
LABELS: dict[str, Callable[[Path], Path]] = {
    "openpose-1.3-body25": per_frame("d_{:012}_keypoints.json", lambda t: openpose(t, 25)),
    "openpose-1.2-coco18": per_frame("d_{}_keypoints.json", openpose),
    "openpose-1.0": per_frame("d_{}_keypoints.json", lambda t: openpose(t, key="pose_keypoints")),
    "openpose-0.1": per_frame("d_{}_pose.json", lambda t: openpose(t, key="body_parts")),
    "openpose-mpi15": per_frame("{}.json", lambda t: openpose(t, 15)),
    "openpose-list": one_file([{**openpose(t), "canvas_width": 200, "canvas_height": 200} for t in range(COUNT)]),
    "alphapose-list": one_file(results(lambda t: f"{t}.jpg")),
    "alphapose-halpe26": one_file(results(lambda t: f"{t}.jpg", 26)),
    "alphapose-halpe136": one_file(results(lambda t: f"{t}.jpg", 136)),
    "coco-annotations": one_file({"images": IMAGES, "annotations": results(lambda t: 100 + t)}),
    "coco-results": one_file(results(lambda t: t)),
    "coco-wholebody-133": one_file(results(lambda t: t, 133)),
}  # fmt: skip


@pytest.mark.parametrize("source", ["video", "folder"])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_give_the_joints_of_each_frame(kind: str, source: str, tmp_path: Path) -> None:
    files = [Path(f"{t}.jpg") for t in range(COUNT)] if source == "folder" else []
    labels = open_labels(LABELS[kind](tmp_path), Clip(Path("clip"), source, files, *REST))
    assert labels.kind == ("OpenPose JSON" if "openpose" in kind else "COCO JSON")
    for t in range(COUNT):
        (person,) = labels.people[t]
        assert person.known.sum() >= 13
        known = person.known.copy()
        known[1] = False  # the neck may be the middle of the shoulders
        np.testing.assert_allclose(person.points[known], places(t)[known], atol=0.01)
        # The control: those of the next frame are elsewhere.
        assert np.abs(person.points[known] - places(t + 1)[known]).max() > 5


def test_labels_may_count_shown_frames(tmp_path: Path) -> None:
    """Of a clip that is not constant, tools that read a pipe label each frame as shown."""
    pytest.importorskip("av", reason="no mp4 without PyAV")
    clip = open_clip(encode(tmp_path / "a.mp4", PHONE, *X264), None)
    assert clip.film is not None
    shown = round(clip.film.timing.end * clip.film.base_rate)
    assert shown > clip.frames + 10

    def labels(count: int, time_of_label: Callable[[int], float]) -> Path:
        (folder := tmp_path / f"labels{count}").mkdir()
        for i in range(count):
            points = BODY_POINTS + np.array([20 + 30 * time_of_label(i), 30])
            person = {"pose_keypoints_2d": np.column_stack([points, np.ones(18)]).ravel().tolist()}
            (folder / f"{i}.json").write_text(json.dumps({"people": [person]}))
        return folder

    rate = clip.film.base_rate
    stored = open_labels(labels(clip.frames, lambda i: PHONE[i]), clip)
    assert stored.matched == "matched to the frames by order"
    as_shown = open_labels(labels(shown, lambda i: i / rate), clip)
    assert f"as shown at {rate:.4g}/s" in as_shown.matched
    for found in (stored, as_shown):
        for i, t in enumerate(PHONE):
            x = found.people[i][0].points[0, 0]
            assert x == pytest.approx(20 + 30 * t, abs=30 / rate)  # within a shown frame
    with pytest.raises(UserError, match="there must be one for every frame"):
        open_labels(labels(clip.frames + 3, lambda i: 0), clip)


LANDMARK = {"x": 0.1, "y": 0.2, "z": 0.1, "visibility": 0.9}
MMPOSE = [{"keypoints": [[1, 2]] * 17, "keypoint_scores": [0.9] * 17}]
CONVERT = "convert it to COCO results"
# id → how it is made, what is said that it is, and the next step
REFUSED_LABELS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "yolo-txt": (per_frame("{}.txt", lambda t: 0), "0.txt: is a text file, as YOLO writes it", CONVERT),
    "yolo-json": (one_file([{"name": "person", "box": {}, "keypoints": {"x": [1], "y": [1]}}]), "is YOLO's JSON", CONVERT),
    "mmpose-video": (one_file({"meta_info": {}, "instance_info": [{"frame_id": 1, "instances": MMPOSE}]}), "is a file of MMPose's own", CONVERT),
    "mmpose-list": (one_file([{"frame_id": 1, "instances": MMPOSE}]), "is a file of MMPose's own", CONVERT),
    "mmpose-per-image": (per_frame("{:03}.json", lambda t: MMPOSE), "is a file of MMPose's own", CONVERT),
    "alphapose-dict-cmu": (one_file({"0.jpg": {"version": "AlphaPose v0.3", "bodies": [{"joints": []}]}}), "a form of AlphaPose's --format", "leave that out"),
    "alphapose-dict-open": (one_file({"0.jpg": openpose(0)}), "a form of AlphaPose's --format", "leave that out"),
    "alphapose-separate": (per_frame("{}.json", lambda t: {"bodies": []}), "a form of AlphaPose's --format", "leave that out"),
    "mediapipe": (one_file([{"pose_landmarks": [[LANDMARK] * 33]}]), "is a file of MediaPipe's landmarks", "leave --labels out"),
    "mediapipe-list": (one_file([[LANDMARK] * 33]), "is a file of MediaPipe's landmarks", "leave --labels out"),
    "csv": (one_file("scorer,net", "a.csv"), "is a table, as DeepLabCut and SLEAP write it", CONVERT),
    "hdf5": (one_file("", "a.h5"), "is an HDF5 file, as DeepLabCut and SLEAP write it", CONVERT),
    "labels-npz": (one_file("", "a.npz"), "is an array of numpy", CONVERT),
    "labels-pickle": (one_file("", "a.pkl"), "is a pickle, which may run code", CONVERT),
    "tensors": (one_file("", "a.pt"), "is a file of tensors", CONVERT),
    "motion-capture": (one_file("", "a.bvh"), "is motion capture in space", CONVERT),
    "labelme": (per_frame("{}.json", lambda t: {"shapes": []}), "is labelme's JSON", CONVERT),
    "other-json": (one_file({"fps": 30, "skeletons": []}), "is of an unknown kind (a dictionary of fps, skeletons)", CONVERT),
    "json-lines": (one_file("", "a.jsonl"), "is a file of JSON lines", "make it one JSON list"),
    "xml": (per_frame("{}.xml", lambda t: 0), "is a file of XML or YAML", "let OpenPose write JSON (--write_json)"),
    "archive": (one_file("", "a.zip"), "is an archive", "unpack it"),
    "film-of-skeletons": (one_file("", "a.mp4"), "is a film", "ffmpeg -i FILM skeletons/%d.png"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED_LABELS)
def test_labels_are_refused_with_the_next_step(kind: str, tmp_path: Path) -> None:
    make, *words = REFUSED_LABELS[kind]
    with pytest.raises(UserError) as caught:
        open_labels(make(tmp_path), Clip(Path("clip"), "video", [], *REST))
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------
# The page


def test_the_page_s_conversion_gives_labels_that_are_read(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    rows = np.array([coco(t) for t in range(COUNT)]).reshape(COUNT, 17, 3)
    np.save(tmp_path / "joints.npy", rows)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    labels = open_labels(tmp_path / "joints.json", Clip(Path("clip"), "video", [], *REST))
    np.testing.assert_allclose(labels.people[2][0].points[0], places(2)[0])


def test_the_page_has_every_kind() -> None:
    """Each of its rows names tests, and no kind that is tested is missing."""
    ids = [
        name
        for cell in re.findall(r"^\| (`[^|]+`) \|", PAGE, re.MULTILINE)
        for name in cell.strip("`").split("` `")
    ]
    tests = [name for name in ids if name.startswith("test_")]
    kinds = [*CLIPS, *REFUSED, *LABELS, *REFUSED_LABELS]
    assert sorted(ids) == sorted([*kinds, *tests])
    assert tests and all(name in globals() for name in tests)
