"""The canvas: what is nearer hides what is farther, and light comes from one side."""

import numpy as np
import pytest

from modules.datasets.canvas import Camera, Canvas


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearer_surface_hides_the_farther(order: int) -> None:
    camera = Camera(16, 16)
    rods = [
        (np.array([2.0, 8, -5]), np.array([14.0, 8, -5]), 0),
        (np.array([8.0, 2, 5]), np.array([8.0, 14, 5]), 1),
    ]
    canvas = Canvas(np.array([[0, 0], [16, 16]]), 0, camera)
    for a, b, paint in rods[::order]:
        canvas.rod(a, b, 2, 2, paint)
    picture = np.zeros((16, 16, 3))
    canvas.lay_over(picture, np.eye(3), lit=False)
    np.testing.assert_allclose(picture[8, 8], [0, 1, 0])
    np.testing.assert_allclose(picture[8, 3], [1, 0, 0])
