"""The program that measures found joints against those of the renderer."""

import re
from pathlib import Path

import numpy as np
import pytest

from modules.datasets import blazepose, synthetic
from tests.support.scripts import assert_refused, run_script

PROGRAM = "tests/programs/joint_error.py"


@pytest.mark.skipif(
    blazepose.why_missing() is not None, reason=f"no BlazePose here: {blazepose.why_missing()}"
)
def test_distances_of_the_figure(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="no mp4 without PyAV")
    clip, root = tmp_path / "a.mp4", tmp_path / "root"
    made = run_script(PROGRAM, "clip", clip, "--seconds", "2")
    assert made.returncode == 0, made.stderr
    assert_refused(run_script(PROGRAM, "figure", clip, root), "holds no joints", "import it first")
    result = run_script(PROGRAM, "sizes", clip, "16x8", "512x256", "--every", "30")
    assert result.returncode == 0, result.stderr
    small, large = re.findall(r"a person in (\d) of 2 frames", result.stdout)
    assert small < large == "2"
    assert "205 pixels high; median" in result.stdout
    split = ("--val_frames", "5", "--test", "0")
    assert run_script("dataloader.py", "video", clip, "--out", root, *split).returncode == 0

    def medians() -> list[float]:
        result = run_script(PROGRAM, "figure", clip, root)
        assert result.returncode == 0, result.stderr
        assert "a person in 30 of 30 frames" in result.stdout
        return [float(value) for value in re.findall(r"median ([\d.]+)%", result.stdout)]

    assert len(medians()) == 2 and max(medians()) < 2
    joints = np.load(clip.with_suffix(".npy"))
    assert joints.shape == (60, 18, 2)
    height = synthetic.make_scene(0, 256, 512).camera.scale
    np.save(clip.with_suffix(".npy"), joints + np.array([0.1 * height, 0]))  # the control
    assert all(9 < median < 11 for median in medians())
