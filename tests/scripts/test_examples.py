"""README's commands, and those of docs/report.md, run as they are typed, one after the other.

Only sizes are made small: options that are added at the end of a line win over those before.
"""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from tests.datasets.test_video import draw, make_folder, write_openpose
from tests.support.data import make_dataset
from tests.support.scripts import REPOSITORY, run_script

# As small as --init copy allows.
SMALL = "--F_dim 24 --L_dim 4 --N_dim 4 --D_out_dim 24 --frame_H 16 --frame_W 16 --device cpu"
# Commands that a test cannot run, or another test does.
NOT_RUN = {
    "pip install -r requirements.txt": "the environment is there",
    "python -m pytest": "this is it",
    "python Trainer.py --DR ROOT --save_root runs/gpus --batch_size 8 --gpu 4": "needs four GPUs",
    "python dataloader.py video dance.mp4 --out data/dance": "fetches weights; test_detector.py",
}
# Minutes long: test_ablation.py and test_report.py run shorter ones.
LONG = (
    "python tests/programs/ablation.py --DR ",
    "python -m modules.plots compare --by_name runs/ablation",
)


def lines(name: str) -> list[str]:
    """The command lines of a document's code blocks, comments left out, each once."""
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ").splitlines()
    typed = [shlex.join(shlex.split(line, comments=True)) for line in joined]
    return [line for line in dict.fromkeys(typed) if re.match(r"(python|pip|torchrun) ", line)]


def made_small(line: str) -> list[str]:
    """The line's words with options added that keep it short."""
    words = shlex.split(line)
    if words[1] == "Tester.py":
        return [*words, "--device", "cpu"]
    if words[1] != "Trainer.py" or "--dry_run" in words or "--test" in words:
        return words
    if "--resume" in words:
        return [*words, "--num_epoch", "2"] if "--num_epoch" in words else words
    short = "--num_epoch 1 --train_vi_len 4 --tfr_sde 0 --kl_anneal_cycle 1"
    if "--ckpt_path" in words:  # which brings the sizes
        return [*words, *short.split()]
    sizes = SMALL + (" --partial 0.05" if "demo" in words else "")
    return [*words, *short.split(), *sizes.split()]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run in the folder: the scripts in this process, all else in one of its own."""
    if words[1] in ("Trainer.py", "Tester.py", "dataloader.py"):
        return run_script(*words[1:], cwd=folder)
    if words[0] == "torchrun":  # two processes here in place of eight on two machines
        start = words.index("Trainer.py")
        options = [*words[start + 1 :], *SMALL.split(), "--num_epoch", "1", "--train_vi_len", "4"]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        words = [*torchrun, "Trainer.py", *options]
    else:
        words = words[1:]
    command = [str(REPOSITORY / w) if w == "Trainer.py" else w for w in words]
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the examples take as given: ROOT, dance.mp4, openpose/."""
    root = tmp_path_factory.mktemp("examples")
    for name in ("ROOT", "ROOT/mocap_dance", "ROOT/real_motion"):
        make_dataset(root / name)
    if importlib.util.find_spec("imageio_ffmpeg"):
        frames = np.stack([draw(t) for t in range(150)])  # five seconds
        iio.imwrite(root / "dance.mp4", frames, plugin="FFMPEG", fps=30, macro_block_size=1)
    else:
        make_folder(root / "dance.mp4", 150)  # the same frames, as images; both are clips
    write_openpose(root / "openpose", 150)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/report.md"])
def test_examples_run(name: str, folder: Path) -> None:
    ran = 0
    for line in lines(name):
        if line in NOT_RUN or line.startswith(LONG):
            continue
        result = run(made_small(line), folder)
        assert result.returncode == 0, f"{line}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
        assert "Traceback" not in result.stderr, line
        ran += 1
    assert ran >= {"README.md": 20, "docs/report.md": 9}[name]
    made = {path.name for path in folder.rglob("*") if path.is_file()}
    assert (
        made
        >= {
            "README.md": {"submission.csv", "samples.csv", "best_psnr.ckpt", "dance.png"},
            "docs/report.md": {"summary.md", "overview.png", "psnr_per_frame_curve.png"},
        }[name]
    )


def test_what_is_not_run_stands_there() -> None:
    """A line that was changed must not go on being passed over."""
    typed = lines("README.md")
    assert set(NOT_RUN) <= set(typed)
    assert all(any(line.startswith(start) for line in typed) for start in LONG)


@pytest.mark.slow
def test_an_example_with_a_slip_fails(folder: Path) -> None:
    """The control."""
    assert (
        run(made_small("python Trainer.py --DR ROOTS --save_root runs/x"), folder).returncode == 2
    )
    assert run(["python", "-m", "modules.plots", "compare", "runs/none"], folder).returncode != 0
