"""The commands of README.md and docs/ run as they are typed, page by page, in their order.

Only sizes are made small: options that are added at the end of a line win over those before.
"""

import importlib.util
import json
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from modules.datasets import synthetic
from modules.datasets.canvas import Camera
from modules.datasets.motion import perform
from modules.datasets.pose import JOINTS
from modules.datasets.synthetic import MARKER
from tests.datasets.test_video import draw, make_folder, write_openpose
from tests.support.data import make_dataset
from tests.support.documents import PAGES, command_lines, text_of
from tests.support.kinds import constant, encode
from tests.support.scripts import REPOSITORY, python, run_script

pytestmark = pytest.mark.usefixtures("no_figures")
# As small as a copying start allows.
SMALL = "--F_dim 24 --L_dim 4 --N_dim 4 --D_out_dim 24 --frame_H 16 --frame_W 16 --device cpu"
# Starts of commands that a test cannot run, or that another test runs in a shorter form.
NOT_RUN = {
    "python -m pytest": "this is it",
    "pip install -r ": "the environment is there",
    "python Trainer.py --DR ROOT --save_root runs/gpus --batch_size 8 --gpu 4": "needs four GPUs",
    "torchrun --nnodes 2 ": "needs two machines; on one it is the command before it",
    "python tests/programs/ablation.py --DR ": "test_ablation.py",
    "python tests/programs/batch_norm.py ": "test_programs.py",
    "python tests/programs/moving_camera.py ": "test_programs.py",
    "python tests/programs/leave_out.py ": "test_programs.py",
    "python -m modules.plots compare runs/ablation": "test_compare.py",
    "python tests/programs/benchmark.py ": "minutes",
    "python tests/programs/enlarged.py ": "test_programs.py",
    "python tests/programs/kernels.py": "test_cuda_path.py",
    "python tests/programs/gpu.py": "test_cuda_path.py",
    "python tests/programs/campaign.py --kills": "test_programs.py",
}
# How many commands of a page run at least, and files that they leave.
RUN = {
    "README.md": (12, {"submission.csv", "best.ckpt", "val.gif", "summary.md"}),
    "docs/training.md": (15, {"samples.csv", "schedules.png", "summary.md", "latent.png"}),
    "docs/own_video.md": (13, {"contact_sheet.png", "dance.png", "submission.csv"}),
    "docs/results.md": (4, {"metrics.csv"}),
    "docs/gpu.md": (2, {"best_both.ckpt"}),
    "docs/reliability.md": (2, {"last.prev.ckpt"}),
}


def made_small(line: str) -> list[str]:
    """The line's words with options added that keep it short."""
    words = shlex.split(line)
    if words[1] == "Tester.py":
        return [*words, "--device", "cpu"]
    if words[1:3] == ["dataloader.py", "demo"]:  # a picture of the size of openpose/'s
        few = "--train 150 --val 20 --test_length 20 --frame_H 48 --frame_W 96"
        return [*words, *few.split()]
    if words[1:3] == ["dataloader.py", "video"] and "--labels" not in words:
        # Finding joints fetches weights: test_keypoints.py.
        made, demo, _ = words[3].partition("/train/")
        return [*words, "--labels", f"{made}_joints" if demo else "openpose"]
    if words[1] != "Trainer.py" or "--dry_run" in words or "--test" in words:
        return words
    if "--resume" in words:
        return [*words, "--num_epoch", "2"] if "--num_epoch" in words else words
    short = "--num_epoch 1 --train_vi_len 4 --tfr_sde 0 --kl_anneal_cycle 1"
    if "--ckpt_path" in words:  # which brings the sizes
        return [*words, *short.split()]
    return [*words, *short.split(), *SMALL.split()]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run in the folder: the scripts in this process, all else in one of its own."""
    if words[1] in ("Trainer.py", "Tester.py", "dataloader.py"):
        return run_script(*words[1:], cwd=folder)
    if words[0] == "torchrun":  # two processes here in place of four
        start = words.index("Trainer.py")
        options = [*words[start + 1 :], *SMALL.split(), "--num_epoch", "1", "--train_vi_len", "4"]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        words = [*torchrun, "Trainer.py", *options]
    else:
        words = words[1:]
    command = [str(REPOSITORY / w) if w == "Trainer.py" else w for w in words]
    env = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PATH": ""}
    return python(*command, cwd=folder, env=env)


def write_joints(root: Path) -> None:
    """What OpenPose would find in the demo's training frames, beside its folder."""
    made = json.loads((root / MARKER).read_text())["arguments"]
    camera = Camera(made["height"], made["width"])
    figure = perform(np.random.default_rng([made["seed"], 1, 0]), made["train"], camera)
    places = camera.project(figure.joints)[:, [synthetic.JOINTS[name] for name in JOINTS]]
    folder = root.with_name(f"{root.name}_joints")
    folder.mkdir()
    for t, joints in enumerate(places):
        found = np.column_stack((joints[:, :2], np.ones(len(joints)))).ravel().tolist()
        text = json.dumps({"people": [{"pose_keypoints_2d": found}]})
        (folder / f"{t}_keypoints.json").write_text(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the examples take as given: ROOT, dance.mp4, openpose/, figure.mp4,
    and what leave_out.py writes."""
    for name, small in {"train": 150, "val": 20, "test_length": 20}.items():  # of --preset demo
        monkeypatch.setitem(synthetic.make_demo.__kwdefaults__, name, small)
    for name in ("", "mocap_course", "mocap_dance", "dance_white", "real_motion"):
        make_dataset(tmp_path / "ROOT" / name)
    make_dataset(tmp_path / "data/alone/0")
    if importlib.util.find_spec("av"):
        frames = [draw(t) for t in range(150)]  # five seconds
        encode(tmp_path / "dance.mp4", constant(30, 5), size=(96, 48), pictures=frames)
    else:
        make_folder(tmp_path / "dance.mp4", 150)  # the same frames, as images; both are clips
    (tmp_path / "figure.mp4").symlink_to(tmp_path / "dance.mp4")
    write_openpose(tmp_path / "openpose", 150)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_examples_run(page: str, folder: Path) -> None:
    least, files = RUN[page]
    ran = 0
    for line in command_lines(text_of(page)):
        if line.startswith(tuple(NOT_RUN)):
            continue
        result = run(made_small(line), folder)
        assert result.returncode == 0, f"{line}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
        assert "Traceback" not in result.stderr, line
        if "dataloader.py demo" in line:
            write_joints(folder / shlex.split(line)[3])
        ran += 1
    assert ran >= least
    assert files <= {path.name for path in folder.rglob("*") if path.is_file()}


def test_no_command_is_passed_over() -> None:
    """Every command of every page runs, or stands among those that do not."""
    typed = {page: command_lines(text_of(page)) for page in PAGES}
    for page, lines in typed.items():
        if page not in RUN:
            assert all(line.startswith(tuple(NOT_RUN)) for line in lines), page
    for start in NOT_RUN:
        assert any(line.startswith(start) for lines in typed.values() for line in lines), start
