"""Every kind of clip, image and label file of docs/inputs.md: read upright and at its true speed.

A row of the table there names a row here by its id.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dataloader
from modules.datasets import blazepose
from modules.datasets import ffmpeg as reader
from modules.datasets.label_files import open_labels
from modules.datasets.pose import COCO_JOINTS, JOINTS, Detections
from modules.datasets.source import Clip, data_rate, open_clip, sampled
from modules.runtime.errors import UserError
from tests.support.clips import BODY_POINTS, write_openpose
from tests.support.data import make_dataset
from tests.support.kinds import (
    HEIGHT,
    WIDTH,
    constant,
    encode,
    ffmpeg,
    folder_of,
    is_upright,
    picture,
    time_of,
)
from tests.support.scripts import REPOSITORY, assert_refused, run_script

EVEN = constant(30)
PHONE = [i / 30 for i in range(30)] + [1 + i / 12 for i in range(12)]  # the light fails after 1 s
RECORDER = [0, 0.0167, 0.0333, 0.05, 0.8, 0.8167, 0.8333, 0.85, 0.8667, 1.5, 1.5167, 1.5333]
RECORDER += [1.55, 1.5667, 1.5833, 1.6]
X264 = ("-c:v", "libx264", "-qp", 0, "-pix_fmt", "yuv444p")


def turned(degrees: int, *more: str) -> Callable[[Path], Path]:
    """As a telephone does it: stored on its side, with a note to turn it."""

    def make(folder: Path) -> Path:
        stored = encode(folder / "a.mp4", EVEN, *X264)
        lying = folder / "lying.mp4"
        # The pixels are turned the other way first, so that upright is upright again.
        back = {90: "transpose=clock", 270: "transpose=cclock", 180: "hflip,vflip", 0: "null"}
        flip = [",hflip"] if "hflip" in more else []
        ffmpeg("-i", stored, "-vf", back[degrees] + "".join(flip), *X264, lying)
        out = folder / "turned.mp4"
        mirror = ["-display_hflip"] if "hflip" in more else []
        ffmpeg("-display_rotation", degrees, *mirror, "-i", lying, "-c", "copy", out)
        return out

    return make


def video(name: str, times: Sequence[float], *options: object, **more: Any) -> Callable:
    return lambda folder: encode(folder / name, times, *options, **more)


def edited(folder: Path) -> Path:
    """Cut without encoding again: the file still has the frames before, and a list that skips."""
    whole = encode(folder / "a.mp4", constant(30, 2.5), *X264, "-g", 60, "-bf", 0)
    ffmpeg("-ss", 1, "-i", whole, "-c", "copy", folder / "cut.mp4")
    return folder / "cut.mp4"


def with_sound(folder: Path) -> Path:
    silent = encode(folder / "a.mp4", EVEN, *X264)
    sine = ("-f", "lavfi", "-i", "sine=d=4")  # the sound is twice as long
    ffmpeg("-i", silent, *sine, "-c:v", "copy", folder / "b.mp4")
    return folder / "b.mp4"


def cover_first(folder: Path) -> Path:
    """A cover picture as well as the video."""
    silent = encode(folder / "a.mp4", EVEN, *X264)
    Image.new("RGB", (32, 32)).save(folder / "cover.png")
    maps = ("-map", 1, "-map", 0, "-c", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", silent, "-i", folder / "cover.png", *maps, folder / "b.mp4")
    return folder / "b.mp4"


def images(name: str, durations: Sequence[int], **save: Any) -> Callable[[Path], Path]:
    """A file of several images: GIF, PNG, WebP, TIFF."""

    def make(folder: Path) -> Path:
        times = np.concatenate([[0], np.cumsum(durations)[:-1]]) / 1000
        frames = [Image.fromarray(picture(t)) for t in times]
        if name.endswith(".gif"):
            frames = [frame.quantize(128) for frame in frames]
        options = {} if name.endswith(".tif") else {"duration": list(durations), "loop": 0}
        options |= save
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], **options)
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
    "mp4-10-bit": (video("a.mp4", EVEN, "-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=error"), 15, ""),
    "mp4-b-frames": (video("a.mp4", EVEN, "-bf", 3, "-g", 12), 15, ""),
    "mp4-23.976": (video("a.mp4", constant(24000 / 1001)), 15, ""),
    "mp4-50": (video("a.mp4", constant(50)), 15, ""),
    "mp4-59.94": (video("a.mp4", constant(60000 / 1001)), 15, ""),
    "mp4-10": (video("a.mp4", constant(10)), 10, ""),
    "mp4-sound-longer": (with_sound, 15, ""),
    "mp4-cover": (cover_first, 15, ""),
    "phone-low-light": (video("a.mp4", PHONE, *X264), 15, "variable"),
    "screen-recorder": (video("a.mp4", RECORDER, *X264), 15, "variable"),
    "recorder-mkv": (video("a.mkv", RECORDER, *X264), 15, "variable"),
    "edit-list": (edited, 15, ""),
    "turned-90": (turned(90), 15, ""),
    "turned-180": (turned(180), 15, ""),
    "turned-270": (turned(270), 15, ""),
    "mirrored": (turned(0, "hflip"), 15, ""),
    "interlaced": (video("a.mpg", constant(25), "-c:v", "mpeg2video", "-q:v", 2, "-flags", "+ilme+ildct", "-field_order", "tt", filters=("setfield=tff",)), 15, "progressive"),
    "anamorphic": (video("a.mp4", EVEN, *X264, filters=("setsar=2",)), 15, "made 192 x 64"),
    "hdr-pq": (video("a.mp4", EVEN, "-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"), 15, "high dynamic range (PQ)"),
    "hdr-hlg": (video("a.mp4", EVEN, "-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=error:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc"), 15, "high dynamic range (HLG)"),
    "mkv-ffv1-rgb": (video("a.mkv", EVEN, "-c:v", "ffv1", "-pix_fmt", "bgr0"), 15, ""),
    "mov-prores-alpha": (video("a.mov", EVEN, "-c:v", "prores_ks", "-pix_fmt", "yuva444p10le", "-profile:v", 4), 15, "made white"),
    "mov-rle-alpha": (video("a.mov", EVEN, "-c:v", "qtrle", "-pix_fmt", "argb"), 15, "made white"),
    "mov-mjpeg": (video("a.mov", EVEN, "-c:v", "mjpeg", "-q:v", 2), 15, ""),
    "webm-vp9": (video("a.webm", EVEN, "-c:v", "libvpx-vp9", "-b:v", 0, "-crf", 20), 15, ""),
    "avi-mpeg4": (video("a.avi", EVEN, "-c:v", "mpeg4", "-q:v", 2), 15, ""),
    "wmv": (video("a.wmv", EVEN, "-c:v", "wmv2", "-q:v", 2), 15, ""),
    "flv": (video("a.flv", EVEN, "-c:v", "flv", "-q:v", 2), 15, ""),
    "mpeg-ts": (video("a.ts", EVEN), 15, ""),  # its first time stamp is not 0
    "raw-h264": (video("a.h264", constant(25), "-bf", 0), 15, ""),  # without time stamps
    "y4m": (video("a.y4m", EVEN, "-pix_fmt", "yuv444p"), 15, ""),
    "name-with-colon": (video("a:b c.mp4", EVEN), 15, ""),
    "gif": (images("a.gif", [50] * 40), 15, ""),
    "gif-held": (images("a.gif", [50] * 20 + [1000] + [50] * 10), 15, "variable"),
    "gif-held-last": (images("a.gif", [50] * 20 + [1500]), 15, "variable"),
    "gif-transparent": (clear_gif, 15, "made white"),
    "apng": (images("a.png", [50] * 30), 15, ""),
    "webp-animated": (images("a.webp", [40] * 30, lossless=True), 15, ""),
    "tiff-pages": (images("a.tif", [67] * 30), 15, ""),
}  # fmt: skip
PILLOW = {
    "gif",
    "gif-held",
    "gif-held-last",
    "gif-transparent",
    "apng",
    "webp-animated",
    "tiff-pages",
}


def said(clip: Clip) -> str:
    return " ".join([*clip.notes, "variable" if clip.variable else ""])


@pytest.mark.parametrize("kind", CLIPS)
def test_clip_is_upright_and_at_its_true_speed(kind: str, tmp_path: Path) -> None:
    if kind not in PILLOW:
        pytest.importorskip("imageio_ffmpeg", reason="no such video without imageio-ffmpeg")
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
    instants = np.arange(len(frames)) / rate
    stored = clip.timing.starts if clip.timing else np.arange(clip.frames) / rate
    shown = stored[np.searchsorted(stored, instants + 1e-6, side="right") - 1]
    nearest = np.minimum(np.abs(times - shown), np.abs(times - instants))
    assert nearest.max() <= 0.05, (kind, times.round(3).tolist())


def test_a_clip_read_by_its_mean_rate_would_fail(tmp_path: Path) -> None:
    """The control: what the import did before it looked at time stamps."""
    pytest.importorskip("imageio_ffmpeg", reason="no mp4 without imageio-ffmpeg")
    import imageio.v3 as iio

    path = encode(tmp_path / "a.mp4", PHONE, *X264)
    clip = open_clip(path, None)
    assert clip.frames == len(PHONE)
    piped = list(iio.imiter(path, plugin="FFMPEG"))
    assert len(piped) > 1.3 * len(PHONE)  # frames repeated up to the base rate
    mean = clip.frames / 2.0
    times = np.array([time_of(frame) for frame in piped])
    assert np.abs(times - np.arange(len(piped)) / mean).max() > 0.4
    lying = turned(90)(tmp_path)
    assert is_upright(next(iter(sampled(open_clip(lying, None), 15)))[1])
    assert not is_upright(np.rot90(next(iter(sampled(open_clip(lying, None), 15)))[1]))


def test_source_fps_replaces_a_clip_s_own_rate(tmp_path: Path) -> None:
    gif = images("a.gif", [50] * 40)(tmp_path)
    assert data_rate(open_clip(gif, 60), 15) == 15
    assert len(list(sampled(open_clip(gif, 60), 15))) == 10
    pytest.importorskip("imageio_ffmpeg", reason="no mp4 without imageio-ffmpeg")
    clip = open_clip(encode(tmp_path / "a.mp4", PHONE, *X264), 30)
    assert len(list(sampled(clip, 15))) == len(PHONE) // 2
    assert "--source_fps 30 replaces its own" in said(clip)


# ----------------------------------------------------------------------------------------
# Clips that are refused


def audio_only(folder: Path) -> Path:
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", folder / "a.m4a")
    return folder / "a.m4a"


def audio_with_cover(folder: Path) -> Path:
    Image.new("RGB", (32, 32)).save(folder / "cover.png")
    sound = audio_only(folder)
    maps = ("-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", sound, "-i", folder / "cover.png", *maps, folder / "b.m4a")
    return folder / "b.m4a"


def truncated(name: str, part: float, *options: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = encode(folder / name, EVEN, *options)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        return path

    return make


def encrypted(folder: Path) -> Path:
    key = ("-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb")
    scheme = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_kid", "a7e61c373e219033c21091fa607bf3b8")  # fmt: skip
    return encode(folder / "a.mp4", EVEN, *scheme, *key)


def text(folder: Path) -> Path:
    (folder / "a.mp4").write_text("not a video\n" * 99)
    return folder / "a.mp4"


def empty(folder: Path) -> Path:
    (folder / "a.mp4").touch()
    return folder / "a.mp4"


def photo_with_copy(folder: Path) -> Path:
    """A photo of a telephone: two images in a file, the second a smaller copy."""
    first = Image.fromarray(picture(0))
    first.save(
        folder / "a.jpg", format="MPO", save_all=True, append_images=[first.resize((48, 32))]
    )
    return folder / "a.jpg"


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "audio-only": (audio_only, "has no video, only sound or a cover picture"),
    "audio-with-cover": (audio_with_cover, "has no video, only sound or a cover picture"),
    "one-frame": (video("a.mp4", [0.0, 0.04][:2], "-frames:v", 1), "has 1 frame"),
    "no-frames": (video("a.avi", EVEN, "-frames:v", 0), "is not a video|has no video"),
    "cut-off-mp4": (truncated("a.mp4", 0.9), "is not a video that ffmpeg can read, or is cut off"),
    "cut-off-faststart": (truncated("a.mp4", 0.8, "-movflags", "+faststart"), "is cut off after"),
    "cut-off-mkv": (truncated("a.mkv", 0.6), "is cut off after"),
    "encrypted": (encrypted, "encrypted, or corrupted"),
    "text": (text, "is not a video that ffmpeg can read"),
    "empty": (empty, "the file is empty"),
    "photo-with-copy": (photo_with_copy, "is a single image"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_clip_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="no such video without imageio-ffmpeg")
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
    clip = folder_of(tmp_path / "clip", constant(15))
    out = tmp_path / "out"

    def refused(source: Path, labels: Path, words: str) -> None:
        result = run_script("dataloader.py", "video", source, "--labels", labels, "--out", out)
        assert_refused(result, words)
        assert result.stderr.count("\n") == 1 and not out.exists()

    longer = write_openpose(tmp_path / "longer", 31)
    refused(clip, longer, "OpenPose JSON for 31 frames, but the clip has 30")
    larger = write_openpose(tmp_path / "larger", 30, scale=9)
    refused(clip, larger, "were they found in a video of another size?")
    nobody = write_openpose(tmp_path / "nobody", 30, missing=range(30))
    refused(clip, nobody, "no person in any frame")
    scattered = write_openpose(tmp_path / "few", 30, missing=[t for t in range(30) if t % 11])
    refused(clip, scattered, "no person in two neighbouring frames of 30")
    sound = write_openpose(tmp_path / "sound", 30)
    Image.new("RGB", (9, 9)).save(clip / "7.png")
    refused(clip, sound, "7.png: is 9 x 9 pixels")
    (clip / "7.png").write_bytes(b"\x89PNG")
    refused(clip, sound, "7.png")
    Image.fromarray(picture(7 / 15)).save(clip / "7.png")  # the control
    options = ("--labels", sound, "--out", out, "--pause", 0)
    assert run_script("dataloader.py", "video", clip, *map(str, options)).returncode == 0


def test_nobody_found_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 17, 3)))
    monkeypatch.setattr(blazepose, "why_missing", lambda: None)
    monkeypatch.setattr(blazepose, "load_blazepose", lambda: lambda frames, near: [empty])
    clip = folder_of(tmp_path / "clip", constant(15))
    result = run_script("dataloader.py", "video", clip, "--out", tmp_path / "out")
    assert_refused(result, "no person in two neighbouring frames of 30", "--detector rcnn")
    assert not (tmp_path / "out").exists()


FRAME_LINE = (
    "[Parsed_showinfo_0 @ 0x1] n:{:4} pts:  512 pts_time:{} duration: 512 duration_time:0.1"
    " fmt:yuv420p cl:left sar:1/1 s:96x64 i:P iskey:0 type:P "
)


def logged(*lines: str) -> reader.Log:
    log = reader.Log()
    for line in lines:
        log.add(line)
    return log


def test_two_messages_in_one_line_are_both_heard() -> None:
    frames = [FRAME_LINE.format(i, i / 10) for i in range(3)]
    torn = logged(frames[0], frames[1] + "stream 0, offset 0xd01: partial file", frames[2])
    assert torn.is_whole and (len(torn.frames), torn.cut_off) == (3, 1)
    whole = logged(*frames)  # the control
    assert whole.is_whole and whole.cut_off == 0
    assert not logged(frames[0], frames[1][:40], frames[1][40:], frames[2]).is_whole


def test_a_list_of_frames_with_gaps_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [FRAME_LINE.format(i, i / 10) for i in range(3)]
    logs = [logged(frames[0], frames[2]), logged(*frames)]
    monkeypatch.setattr(reader, "_log", lambda path: logs.pop(0))
    assert len(reader.probe(tmp_path).timing.starts) == 3
    logs += [logged(frames[0], frames[2])] * 3
    with pytest.raises(UserError, match="has gaps"):
        reader.probe(tmp_path)


# ----------------------------------------------------------------------------------------
# Images


def exif(orientation: int) -> Image.Exif:
    note = Image.Exif()
    note[0x0112] = orientation
    return note


UNDO = {  # what a camera's sensor sees of an upright scene, for each value of the tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def lying(path: Path, orientation: int, image: Image.Image, **save: Any) -> None:
    image.transpose(UNDO[orientation]).save(path, exif=exif(orientation), **save)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", UNDO)
def test_orientation_of_images(orientation: int, suffix: str, tmp_path: Path) -> None:
    """In a folder given as a clip, and in the layout: frames and labels."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for i in range(3):
        lying(folder / f"{i}{suffix}", orientation, Image.fromarray(picture(i / 15)))
    clip = open_clip(folder, None)
    assert clip.size == (WIDTH, HEIGHT)
    frames = [frame for _, frame in sampled(clip, 15)]
    assert all(is_upright(frame) for frame in frames)
    stored = np.asarray(Image.open(folder / f"0{suffix}").convert("RGB"))
    assert not is_upright(stored)  # the control: as it is stored, it lies

    root = make_dataset(tmp_path / "data", train=8, val=3, tests=())
    for kind in ("img", "label"):
        for i in range(3):
            path = root / f"val/val_{kind}/{i}.png"
            path.unlink()
            image = Image.fromarray(picture(i / 15))
            lying(path.with_suffix(suffix), orientation, image)
    data = dataloader.load_val(root, height=HEIGHT, width=WIDTH, val_vi_len=9)
    assert all(is_upright(f.numpy()) for f in (*data.frames, *data.labels))


def test_a_damaged_note_on_orientation_is_no_fault(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "clip", [0, 0.1], "{}.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff\0\0")
    assert len(list(sampled(open_clip(folder, None), 15))) == 2


def test_frames_go_onto_white_and_labels_onto_black(tmp_path: Path) -> None:
    clear = Image.fromarray(picture(0)).convert("RGBA")
    clear.paste((77, 77, 77, 0), (30, 20, 60, 40))
    root = make_dataset(tmp_path / "data", train=8, val=3, tests=())
    for kind in ("img", "label"):
        for i in range(3):
            clear.save(root / f"val/val_{kind}/{i}.png")
    data = dataloader.load_val(root, height=HEIGHT, width=WIDTH, val_vi_len=9)
    assert data.frames[0, 30, 45].tolist() == [255, 255, 255]
    assert data.labels[0, 30, 45].tolist() == [0, 0, 0]
    assert data.frames[0, 50, 80].tolist() == data.labels[0, 50, 80].tolist() == [40, 40, 40]
    folder = tmp_path / "clip"
    folder.mkdir()
    for i in range(2):
        clear.save(folder / f"{i}.png")
    clip = open_clip(folder, None)
    assert next(iter(sampled(clip, 15)))[1][30, 45].tolist() == [255, 255, 255]
    assert said(clip).strip() == "transparent pixels were made white"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16", "CMYK", "1"])
def test_images_of_all_modes(mode: str, tmp_path: Path) -> None:
    suffix = ".jpg" if mode == "CMYK" else ".png"
    for i in range(2):
        grey = Image.fromarray(picture(i / 15)).convert("L")
        if mode == "I;16":
            image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        else:
            image = grey.convert("RGB").convert(mode)
        image.save(tmp_path / f"{i}{suffix}")
    frames = [frame for _, frame in sampled(open_clip(tmp_path, None), 15)]
    assert frames[0].shape == (HEIGHT, WIDTH, 3)
    assert abs(int(frames[0][32, 48, 0]) - 40) < {"1": 300, "P": 30}.get(mode, 4)


# ----------------------------------------------------------------------------------------
# Labels of other tools

SIZE = (200, 200)
COUNT = 4


def places(t: int) -> np.ndarray:
    """The 18 joints of the person in frame t, pixels."""
    return BODY_POINTS * 3 + np.array([60 + 10 * t, 80.0])


def coco(t: int, joints: int = 17) -> list[float]:
    rows = np.zeros((joints, 3))
    rows[:17] = np.column_stack([places(t)[list(COCO_JOINTS)], np.full(17, 0.9)])
    rows[17:] = (1, 1, 0.9)  # hands, feet, face: not drawn
    return [float(v) for v in rows.ravel()]


def openpose(t: int, joints: int = 18) -> list[float]:
    rows = np.column_stack([places(t), np.full(18, 0.9)])
    if joints == 25:
        rows = np.insert(rows, 8, (5, 5, 0.9), axis=0)
        rows = np.concatenate([rows, np.full((6, 3), 0.5)])
    if joints == 15:
        rows = np.concatenate([rows[:14], [[5, 5, 0.9]]])
    return [float(v) for v in rows.ravel()]


def landmarks(t: int) -> list[dict[str, float]]:
    from modules.datasets.pose import BLAZEPOSE_JOINTS

    found = []
    for place in BLAZEPOSE_JOINTS:
        x, y = places(t)[place or 0] / np.array(SIZE)
        found.append({"x": float(x), "y": float(y), "z": 0.1, "visibility": 0.9})
    return found


def per_frame(name: str, content: Callable[[int], Any]) -> Callable[[Path], Path]:
    """A folder with a JSON file for each frame."""

    def make(folder: Path) -> Path:
        out = folder / "labels"
        out.mkdir()
        for t in range(COUNT):
            (out / name.format(t)).write_text(json.dumps(content(t)))
        return out

    return make


def one_file(content: Any, name: str = "labels.json") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return make


def people(t: int, joints: int, key: str) -> dict[str, Any]:
    return {"version": 1.3, "people": [{key: openpose(t, joints)}]}


def mmpose(t: int, joints: int = 17) -> list[dict[str, Any]]:
    rows = np.array(coco(t, joints)).reshape(-1, 3)
    person = {"keypoints": rows[:, :2].tolist(), "keypoint_scores": rows[:, 2].tolist()}
    return [{**person, "bbox": [[0, 0, 9, 9]], "bbox_score": 0.9}]


def results(name: Callable[[int], Any], joints: int = 17) -> list[dict[str, Any]]:
    return [
        {"image_id": name(t), "category_id": 1, "keypoints": coco(t, joints), "score": 2.9}
        for t in range(COUNT)
    ]


def deeplabcut() -> str:
    names = [n for n in JOINTS if n != "neck"]
    heads = [["scorer", *["net"] * 51], ["bodyparts"], ["coords"]]
    for name in names:
        heads[1] += [name] * 3
        heads[2] += ["x", "y", "likelihood"]
    rows = [",".join(row) for row in heads]
    for t in range(COUNT):
        cells = [f"{x},{y},0.99" for name, (x, y) in zip(JOINTS, places(t), strict=True) if name != "neck"]  # fmt: skip
        rows.append(f"{t},{','.join(cells)}")
    return "\n".join(rows) + "\n"


def sleap() -> str:
    def camel(name: str) -> str:
        return "".join(word.capitalize() for word in name.split("_"))

    header = ["track", "frame_idx", "instance.score"]
    header += [f"{camel(n)}.{c}" for n in JOINTS for c in ("x", "y", "score")]
    rows = [",".join(header)]
    for t in range(COUNT):
        cells = [f"{x},{y},0.9" for x, y in places(t)]
        rows.append(f"track_0,{t},0.8,{','.join(cells)}")
    return "\n".join(rows) + "\n"


def named_images() -> dict[str, Any]:
    listed = [{"id": 100 + t, "file_name": f"x/{t}.png"} for t in reversed(range(COUNT))]
    return {"images": listed, "annotations": results(lambda t: 100 + t)}


# id → how it is made, its kind as printed
LABELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "openpose-1.3-body25": (per_frame("d_{:012}_keypoints.json", lambda t: people(t, 25, "pose_keypoints_2d")), "OpenPose JSON"),
    "openpose-1.2-coco18": (per_frame("d_{}_keypoints.json", lambda t: people(t, 18, "pose_keypoints_2d")), "OpenPose JSON"),
    "openpose-1.0": (per_frame("d_{}_keypoints.json", lambda t: people(t, 18, "pose_keypoints")), "OpenPose JSON"),
    "openpose-0.1": (per_frame("d_{}_pose.json", lambda t: people(t, 18, "body_parts")), "OpenPose JSON"),
    "openpose-mpi15": (per_frame("{}.json", lambda t: people(t, 15, "pose_keypoints_2d")), "OpenPose JSON"),
    "alphapose-list": (one_file(results(lambda t: f"{t}.jpg")), "COCO JSON"),
    "alphapose-halpe26": (one_file(results(lambda t: f"{t}.jpg", 26)), "Halpe-26 JSON"),
    "alphapose-halpe136": (one_file(results(lambda t: f"{t}.jpg", 136)), "Halpe-136 JSON"),
    "alphapose-dict-cmu": (one_file({f"{t}.jpg": {"version": "AlphaPose v0.3", "bodies": [{"joints": openpose(t)}]} for t in range(COUNT)}), "AlphaPose JSON"),
    "alphapose-dict-open": (one_file({f"{t}.jpg": {"version": "AlphaPose v0.3", "people": [{"pose_keypoints_2d": openpose(t)}]} for t in range(COUNT)}), "AlphaPose JSON"),
    "alphapose-separate": (per_frame("{}.json", lambda t: {"version": "AlphaPose v0.3", "bodies": [{"joints": openpose(t)}]}), "AlphaPose JSON"),
    "coco-annotations": (one_file(named_images()), "COCO JSON"),
    "coco-results": (one_file(results(lambda t: t)), "COCO JSON"),
    "coco-wholebody-133": (one_file(results(lambda t: t, 133)), "COCO-WholeBody JSON"),
    "mmpose-video": (one_file({"meta_info": {}, "instance_info": [{"frame_id": t + 1, "instances": mmpose(t)} for t in range(COUNT)]}), "MMPose JSON"),
    "mmpose-list": (one_file([{"frame_id": t, "instances": mmpose(t, 133)} for t in range(COUNT)]), "MMPose JSON"),
    "mmpose-per-image": (per_frame("{:03}.json", mmpose), "MMPose JSON"),
    "mediapipe-list": (one_file([landmarks(t) for t in range(COUNT)]), "MediaPipe JSON"),
    "mediapipe-tasks": (one_file([{"pose_landmarks": [landmarks(t)]} for t in range(COUNT)]), "MediaPipe JSON"),
    "mediapipe-per-frame": (per_frame("{}.json", landmarks), "MediaPipe JSON"),
    "deeplabcut-csv": (one_file(deeplabcut(), "a.csv"), "DeepLabCut CSV"),
    "sleap-csv": (one_file(sleap(), "a.csv"), "SLEAP CSV"),
}  # fmt: skip


@pytest.mark.parametrize("source", ["video", "folder"])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_give_the_joints_of_each_frame(kind: str, source: str, tmp_path: Path) -> None:
    make, printed = LABELS[kind]
    files = [Path(f"{t}.jpg") for t in range(COUNT)] if source == "folder" else []
    clip = Clip(Path("clip"), source, files, None, SIZE, COUNT, "")
    labels = open_labels(make(tmp_path), clip)
    assert labels.kind == printed and labels.matched
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
    pytest.importorskip("imageio_ffmpeg", reason="no mp4 without imageio-ffmpeg")
    clip = open_clip(encode(tmp_path / "a.mp4", PHONE, *X264), None)
    assert clip.video is not None
    shown = round(clip.video.timing.end * clip.video.base_rate)
    assert shown > clip.frames + 10

    def labels(count: int, time_of_label: Callable[[int], float]) -> Path:
        folder = tmp_path / f"labels{count}"
        folder.mkdir()
        for i in range(count):
            rows = np.column_stack(
                [BODY_POINTS + np.array([20 + 30 * time_of_label(i), 30]), np.ones(18)]
            )
            person = {"pose_keypoints_2d": rows.ravel().tolist()}
            (folder / f"{i}.json").write_text(json.dumps({"people": [person]}))
        return folder

    rate = clip.video.base_rate
    stored = open_labels(labels(clip.frames, lambda i: PHONE[i]), clip)
    assert stored.matched == "one for each stored frame"
    as_shown = open_labels(labels(shown, lambda i: i / rate), clip)
    assert f"as shown at {rate:.4g}/s" in as_shown.matched
    for found in (stored, as_shown):
        for i, t in enumerate(PHONE):
            x = found.people[i][0].points[0, 0]
            assert x == pytest.approx(20 + 30 * t, abs=30 / rate)  # within a shown frame
    with pytest.raises(UserError, match="there must be one for every frame"):
        open_labels(labels(clip.frames + 3, lambda i: 0), clip)


def test_alphapose_by_file_name_with_a_gap_in_the_numbering(tmp_path: Path) -> None:
    """The last number in a name is not the frame's index."""
    names = [f"{i:03}.jpg" for i in (1, 2, 13, 14)]
    path = one_file([{"image_id": n, "keypoints": coco(t)} for t, n in enumerate(names)])(tmp_path)
    clip = Clip(Path("clip"), "folder", [Path(n) for n in names], None, SIZE, COUNT, "")
    labels = open_labels(path, clip)
    for t in range(COUNT):
        np.testing.assert_allclose(labels.people[t][0].points[0], places(t)[0])
    other = Clip(
        Path("clip"), "folder", [Path(f"{i}.jpg") for i in range(20, 24)], None, SIZE, 4, ""
    )
    with pytest.raises(UserError, match="has frame 14"):
        open_labels(path, other)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"skeletons": [], "fps": 30}, "unknown kind of labels (a dictionary of skeletons, fps)"),
        ("plain", "unknown kind of labels (str)"),
        ({}, "unknown kind"),
        ([{"frame_id": 0, "instances": [{"keypoints": [[1, 2]] * 21}]}], "has 21 keypoints"),
        ([[{"x": 0.1, "y": 0.2}] * 21], "21 landmarks; MediaPipe's pose has 33"),
        ([[{"u": 0.1}] * 33], "a landmark has no x and y"),
    ],
)
def test_unknown_kinds_of_labels_are_named(content: Any, words: str, tmp_path: Path) -> None:
    clip = Clip(Path("clip"), "video", [], None, SIZE, COUNT, "")
    content = json.dumps(content)
    with pytest.raises(UserError) as caught:
        open_labels(one_file(content)(tmp_path), clip)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("a,b\n1,2\n", "is a table of an unknown kind"),
        ("scorer,x\nbodyparts,nose\nfoo,bar\n0,1\n", "has no header rows bodyparts and coords"),
        (deeplabcut().replace("_", "q"), "are not those of a person"),
        (sleap() + "track_0,1\n", "row [0-9]+ has 2 cells"),
        (deeplabcut() + "1,2,3\n", "row [0-9]+ has 3 cells"),
    ],
)
def test_unknown_tables_are_named(table: str, words: str, tmp_path: Path) -> None:
    clip = Clip(Path("clip"), "video", [], None, SIZE, COUNT, "")
    with pytest.raises(UserError, match=words):
        open_labels(one_file(table, "a.csv")(tmp_path), clip)


@pytest.mark.parametrize("page", ["docs/inputs.md"])
def test_the_page_has_every_kind(page: str) -> None:
    """Each of its rows names a test, and no kind that is tested is missing."""
    rows = re.findall(r"^\| `([^`]+)` \|", (REPOSITORY / page).read_text("utf-8"), re.MULTILINE)
    kinds = [*CLIPS, *REFUSED, *LABELS]
    assert len(rows) == len(set(rows)) >= 40
    assert [row for row in rows if not row.startswith("test_")] == kinds
    assert all(row in globals() for row in rows if row.startswith("test_"))
