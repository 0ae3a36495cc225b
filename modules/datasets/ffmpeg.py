"""Videos through ffmpeg: what a file holds, and all of its stored frames with their time stamps.

    about = probe(Path("dance.mp4"))       # decodes it once without keeping a pixel
    for frame in decode(Path("dance.mp4"), about): …

Frames are never repeated or dropped to even out the rate (`-fps_mode passthrough`). ffmpeg turns
them upright; here they also become progressive, square in their pixels, and of 8 bits. Transparent
pixels become white.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from modules.datasets.timing import Timing
from modules.runtime.errors import UserError

Pixels = NDArray[np.uint8]

# Of ffmpeg's filter showinfo, a line for each frame.
FRAME = re.compile(
    r"\[Parsed_showinfo_\d+ @ [^]]+\] n: *(?P<n>\d+) .*?pts_time:(?P<time>\S+)"
    r"(?:.*?duration_time:(?P<held>\S+))?.*? fmt:(?P<format>\S+) .*?sar:(?P<sar>\d+/\d+)"
    r" s:(?P<w>\d+)x(?P<h>\d+) i:(?P<order>\w)"
)
RATE = re.compile(r"config in time_base: \S+, frame_rate: (\d+)/(\d+)")
BASE_RATE = re.compile(r"Stream #.*Video:.*?([\d.]+)(k?) tbr")
# Matroska's tag of a track; a file that is cut off ends before it.
LENGTH = re.compile(r"^ +DURATION +: (\d+):(\d+):([\d.]+)")
TRANSFER = re.compile(r"color_trc:(\S+)")
CUT_OFF = re.compile(r"partial file|ended prematurely", re.IGNORECASE)
DAMAGED = re.compile(r"corrupt decoded frame|error while decoding|Decoding error|concealing")
ENCRYPTED = re.compile(r"encrypt|Protected", re.IGNORECASE)
# ffmpeg gives up where two thirds of the packets cannot be decoded. Of what is encrypted some may
# look like frames.
GIVEN_UP = re.compile(r"Decode error rate \S+ exceeds|error code: -1145393733")
ATTEMPTS = 3  # at reading a list of frames without a gap
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
ALPHA = re.compile(r"^(yuva|rgba|bgra|argb|abgr|gbrap|ya|pal8)")
TONE_MAP = (
    "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,"
    "zscale=t=bt709:m=bt709:r=limited,format=yuv420p"
)


@dataclass(frozen=True)
class About:
    """What `probe` found in a file."""

    timing: Timing
    size: tuple[int, int]  # width, height in pixels, upright and with square pixels
    base_rate: float  # frames/s to which ffmpeg would even the clip out by default
    filters: tuple[str, ...]
    alpha: bool
    notes: tuple[str, ...]  # what a user should know of it, in words


def executable() -> str:
    """The ffmpeg of the package imageio-ffmpeg."""
    import imageio_ffmpeg  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def _command(path: Path, filters: tuple[str, ...], output: list[str]) -> list[str]:
    # "file:" keeps ffmpeg from taking a name with a colon for a protocol. 0:V: no cover pictures.
    source = ["-nostdin", "-nostats", "-hide_banner", "-i", f"file:{path}", "-map", "0:V:0"]
    chain = ["-vf", ",".join(filters)] if filters else []
    return [executable(), *source, *chain, "-fps_mode", "passthrough", *output]


@dataclass
class Log:
    """What ffmpeg said of a file while it decoded it."""

    frames: list[re.Match[str]] = field(default_factory=list)  # of FRAME
    transfer: str = ""
    rate: float = 0.0  # frames/s of the stream; 0: not said, as with the next two
    base: float = 0.0
    length: float = 0.0  # seconds that the file promises
    damaged: int = 0  # lines that say so, as with the next three
    cut_off: int = 0
    locked: int = 0
    given_up: int = 0
    head: list[str] = field(default_factory=list)  # the last other lines

    def add(self, line: str) -> None:
        """Take in a line. Threads of ffmpeg may have written two messages into one."""
        if found := FRAME.search(line):
            self.frames.append(found)
        elif found := RATE.search(line):
            self.rate = self.rate or float(found[1]) / max(float(found[2]), 1)
        elif found := TRANSFER.search(line):
            self.transfer = self.transfer or found[1]
        elif found := BASE_RATE.search(line):
            self.base = self.base or float(found[1]) * (1000 if found[2] else 1)
        elif (found := LENGTH.search(line)) and self.base and not self.length:
            self.length = 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
        else:
            self.head = [*self.head[-20:], line.strip()]
        self.damaged += bool(DAMAGED.search(line))
        self.cut_off += bool(CUT_OFF.search(line))
        self.locked += bool(ENCRYPTED.search(line))
        self.given_up += bool(GIVEN_UP.search(line))

    @property
    def is_whole(self) -> bool:
        """Whether no frame's line was torn apart by a message of another thread."""
        return [int(found["n"]) for found in self.frames] == list(range(len(self.frames)))


def _log(path: Path) -> Log:
    log = Log()
    command = _command(path, ("showinfo=checksum=0",), ["-f", "null", "-"])
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                log.add(line)
        except BaseException:  # Ctrl-C: do not wait until it has read the whole file
            process.kill()
            raise
    return log


def probe(path: Path) -> About:
    """Read a file's time stamps and properties. Raises UserError that names it."""
    for _ in range(ATTEMPTS):
        log = _log(path)
        if log.is_whole:
            break
    else:
        raise UserError(f"{path}: ffmpeg's list of its frames has gaps; try again, or convert it")
    if not log.frames or log.given_up:
        raise UserError(f"{path}: {_why_nothing(log)}")
    about = _about(log.frames, log.rate, log.base, log.transfer, log.damaged)
    if log.cut_off or log.length > 1.05 * about.timing.end + 0.5:
        raise UserError(
            f"{path}: the file is cut off after {len(log.frames)} frames; copy it again from where"
            " it came from"
        )
    return about


def _why_nothing(log: Log) -> str:
    said = " ".join(log.head)
    if "fps_mode" in said or "checksum" in said:
        return f"cannot be read: {executable()} is too old; ffmpeg 5.1 or later is needed"
    if log.cut_off:
        return "the video is cut off or corrupted; copy it again from where it came from"
    if log.locked or log.given_up:
        return "its frames cannot be decoded; the video is encrypted, or corrupted"
    if "Stream map" in said or "matches no streams" in said or "'0:V:0'" in said:
        return "has no video, only sound or a cover picture"
    return "is not a video that ffmpeg can read, or is cut off or corrupted"


def _about(
    frames: list[re.Match[str]], rate: float, base: float, transfer: str, damaged: int
) -> About:
    first, notes, filters = frames[0], [], []
    sizes = {(found["w"], found["h"]) for found in frames}
    width, height = int(first["w"]), int(first["h"])
    if len(sizes) > 1:
        notes.append(f"the picture changes its size; all frames are made {width} x {height}")
        filters.append(f"scale={width}:{height}")
    if any(found["order"] in "TB" for found in frames):
        notes.append("interlaced frames were made progressive")
        filters.append("yadif=mode=send_frame:deint=interlaced")
    over, under = map(int, first["sar"].split("/"))
    aspect = over / under if over and under else 1.0
    if abs(aspect - 1) > 0.02:
        size = (round(width * aspect), height)
        notes.append(f"pixels are not square; {width} x {height} was made {size[0]} x {size[1]}")
        width, height = size
        filters += [f"scale={width}:{height}", "setsar=1"]
    if transfer in HDR:
        mapped = "zscale" in _filters()
        notes.append(
            f"high dynamic range ({HDR[transfer]}) was "
            + ("mapped to standard range" if mapped else "not mapped: colours look pale")
        )
        filters += [TONE_MAP] if mapped else []
    if alpha := bool(ALPHA.match(first["format"])) and first["format"] != "pal8":
        notes.append("transparent pixels were made white")  # as in source.CLEAR
    if damaged:
        notes.append(f"ffmpeg reports {damaged} corrupted frames or more; their pixels are guesses")
    timing = _timing(frames, rate)
    return About(timing, (width, height), base or rate, tuple(filters), alpha, tuple(notes))


def _timing(frames: list[re.Match[str]], rate: float) -> Timing:
    stamps = [found["time"] for found in frames]
    usual = rate if 0 < rate < 1e4 else 25.0  # 25: what ffmpeg assumes of streams without a rate
    try:
        starts = np.array(stamps, np.float64)
    except ValueError:  # NOPTS: the format has no time stamps
        return Timing.constant(len(frames), usual)
    starts = np.maximum.accumulate(starts - starts[0])
    if len(starts) > 1 and starts[-1] <= 0:
        return Timing.constant(len(frames), usual)
    interval = float(np.median(np.diff(starts))) if len(starts) > 1 else 1 / usual
    try:
        held = float(frames[-1]["held"])
    except (TypeError, ValueError):
        held = 0.0
    return Timing(starts, float(starts[-1]) + (held if held > 0 else interval))


def _filters() -> str:
    command = [executable(), "-hide_banner", "-filters"]
    run = subprocess.run(command, capture_output=True, check=False)
    return run.stdout.decode(errors="replace")


def decode(path: Path, about: About) -> Iterator[Pixels]:
    """Yield every stored frame, (H, W, 3) uint8 RGB. Raises UserError that names the file."""
    width, height = about.size
    channels = 4 if about.alpha else 3
    pixels = ["-f", "rawvideo", "-pix_fmt", "rgba" if about.alpha else "rgb24", "pipe:1"]
    command = _command(path, about.filters, pixels)
    expected = len(about.timing.starts)
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, bufsize=0
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for index in range(expected):
                data = _read_exactly(process.stdout, width * height * channels)
                if data is None:
                    lacks = f"frame {index} of {expected} is missing"
                    raise UserError(f"{path}: cannot be read to its end ({lacks})")
                frame = np.frombuffer(data, np.uint8).reshape(height, width, channels)
                yield on_white(frame) if about.alpha else frame
        finally:
            if process.poll() is None:
                process.kill()


def _read_exactly(stream: IO[bytes], size: int) -> bytearray | None:
    """So many bytes, or None if the stream ends before."""
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = stream.readinto(view[got:])  # type: ignore[attr-defined]
        if not count:
            return None
        got += count
    return data


def on_white(frame: Pixels) -> Pixels:
    """Pixels (H, W, 4) RGBA laid over white, (H, W, 3)."""
    alpha = frame[..., 3:].astype(np.uint16)
    return ((frame[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
