"""A camera, and a canvas that draws shaded rods and balls, with anti-aliasing.

World axes: x to the right of the picture, y up, z towards the camera; lengths in statures (a
standing person is 1 high). Camera axes: column, row and nearness, all in pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]
TILT = np.deg2rad(7)  # of the camera, downwards
LIGHT = (-0.62, -0.5, 0.604)  # camera axes, length 1: from the upper left and the front
SHADE, KEY = np.array([0.44, 0.46, 0.52]), np.array([0.7, 0.67, 0.6])  # cool shade, warm light


@dataclass(frozen=True)
class Camera:
    """An orthographic camera that looks slightly down at the person."""

    height: int  # pixels
    width: int  # pixels

    @property
    def scale(self) -> float:
        """Pixels per stature: standing takes four fifths of the height, raised arms the rest."""
        return 0.8 * min(self.height, self.width)

    @property
    def fineness(self) -> int:
        """Samples per pixel and axis: small frames need more for smooth motion."""
        pixels = self.height * self.width
        return 4 if pixels <= 64 * 128 else 3 if pixels <= 128 * 256 else 2

    @property
    def axes(self) -> Array:
        """(3, 3): turns a world vector in statures into (column, row, nearness) in pixels."""
        sin, cos = np.sin(TILT), np.cos(TILT)
        return self.scale * np.array([[1, 0, 0], [0, -cos, sin], [0, sin, cos]])

    @property
    def origin(self) -> Array:
        """(3,): where the picture shows the middle of the floor, in pixels."""
        return np.array([self.width / 2, 0.955 * self.height, 0])

    def project(self, points: Array) -> Array:
        """Turn world points (..., 3) in statures into (column, row, nearness) in pixels."""
        return np.asarray(points @ self.axes.T + self.origin)


class Canvas:
    """A depth buffer over part of a frame, finer than it; the nearest surface is seen."""

    def __init__(self, points: Array, margin: float, camera: Camera) -> None:
        """Cover the whole pixels within `margin` of camera points (N, 2 or 3)."""
        size = (camera.width, camera.height)
        low, high = points[:, :2].min(axis=0) - margin, points[:, :2].max(axis=0) + margin
        self.left, self.top = (int(v) for v in np.clip(np.floor(low), 0, size))
        self.right, self.bottom = (int(v) for v in np.clip(np.ceil(high), 0, size))
        self.fineness = f = camera.fineness
        self.columns = self.left + (np.arange((self.right - self.left) * f) + 0.5) / f
        self.rows = self.top + (np.arange((self.bottom - self.top) * f) + 0.5) / f
        shape = (len(self.rows), len(self.columns))
        self.depth = np.full(shape, -np.inf)
        self.paint = np.full(shape, -1)
        self.lambert = np.zeros(shape)  # cosine between surface and light

    def _window(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[tuple[slice, slice], Array, Array]:
        """Return the samples in a box of the frame: slices, columns (1, w), rows (h, 1)."""
        f, height, width = self.fineness, len(self.rows), len(self.columns)
        x0, x1 = (min(max(round((v - self.left) * f), 0), width) for v in (left, right))
        y0, y1 = (min(max(round((v - self.top) * f), 0), height) for v in (top, bottom))
        return np.s_[y0:y1, x0:x1], self.columns[None, x0:x1], self.rows[y0:y1, None]

    def _put(
        self, at: tuple[slice, slice], inside: Array, depth: Array, lambert: Array, paint: int
    ) -> None:
        """Paint the samples whose `inside` is positive unless something nearer covers them."""
        seen = (inside > 0) & (depth > self.depth[at])
        self.depth[at][seen] = depth[seen]
        self.lambert[at][seen] = lambert[seen]
        self.paint[at][seen] = paint

    def rod(self, a: Array, b: Array, radius_a: float, radius_b: float, paint: int) -> None:
        """Paint a tapered capsule between two camera points (3,); radii in pixels.

        Its outline is the distance to the projected segment; its nearness is that of the axis
        plus the height of the round cross-section.
        """
        (ax, ay, az), (bx, by, bz), reach = a.tolist(), b.tolist(), max(radius_a, radius_b)
        at, x, y = self._window(
            min(ax, bx) - reach, min(ay, by) - reach, max(ax, bx) + reach, max(ay, by) + reach
        )
        dx, dy, dz = bx - ax, by - ay, bz - az
        flat = dx * dx + dy * dy + 1e-9
        along = np.minimum(np.maximum(((x - ax) * dx + (y - ay) * dy) / flat, 0), 1)
        radius = radius_a + (radius_b - radius_a) * along
        off_x, off_y = (x - ax - along * dx) / radius, (y - ay - along * dy) / radius
        inside = 1 - off_x * off_x - off_y * off_y
        height = np.sqrt(np.maximum(inside, 0))
        # The ridge of a tilted rod faces up or down, not the camera; less so at its round end.
        tilt = 0.8 * dz / (flat + dz * dz)
        ridge = (-tilt * dx, -tilt * dy, 1 - tilt * dz)
        facing = np.dot(ridge, LIGHT) / math.hypot(*ridge)
        lambert = off_x * LIGHT[0] + off_y * LIGHT[1] + height * facing
        self._put(at, inside, az + along * dz + radius * height, lambert, paint)

    def ball(self, centre: Array, half_axes: Array, paint: int) -> None:
        """Paint an ellipsoid; half_axes (3, 3): its half-axes as columns, in camera pixels.

        inv(half_axes) makes it the unit sphere, and a line of sight foot + s · sight.
        """
        reach = np.sqrt((half_axes * half_axes).sum(axis=1))
        at, x, y = self._window(*(centre - reach)[:2], *(centre + reach)[:2])
        inverse = np.linalg.inv(half_axes)
        across, down, sight = (inverse[:, i, None, None] for i in range(3))
        foot = across * (x - centre[0]) + down * (y - centre[1])  # (3, h, w)
        a, b = (sight * sight).sum(), (sight * foot).sum(axis=0)
        inside = b * b - a * ((foot * foot).sum(axis=0) - 1)
        s = (np.sqrt(np.maximum(inside, 0)) - b) / a
        normal = np.tensordot(inverse.T, foot + sight * s, axes=1)
        lambert = np.tensordot(LIGHT, normal, axes=1) / np.sqrt((normal * normal).sum(axis=0))
        self._put(at, inside, centre[2] + s, lambert, paint)

    def lay_over(self, picture: Array, palette: Array, *, lit: bool) -> None:
        """Average the samples of each pixel and lay them over a picture (H, W, 3), in place.

        palette: the colour of each paint, (P, 3) in [0, 1]; lit: whether light and shade act on it
        """
        samples = np.zeros((*self.depth.shape, 4))  # the last channel is coverage
        seen = self.paint >= 0
        samples[seen, :3] = palette[self.paint[seen]]
        samples[seen, 3] = 1
        if lit:
            samples[seen, :3] *= SHADE + KEY * np.maximum(self.lambert[seen], 0)[:, None]
        pixels = shrink(samples, self.fineness)
        part = picture[self.top : self.bottom, self.left : self.right]
        part *= 1 - pixels[..., 3:]
        part += pixels[..., :3]


def shrink(samples: Array, factor: int) -> Array:
    """Average blocks of factor × factor samples (H · factor, W · factor, C) to (H, W, C)."""
    rows, columns, channels = samples.shape
    blocks = samples.reshape(rows // factor, factor, columns // factor, factor, channels)
    return np.asarray(blocks.mean(axis=(1, 3)))


def to_bytes(picture: Array) -> Pixels:
    """Values in [0, 1], of any shape, as pixels 0-255."""
    return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
