"""An error says where a value came from that nobody typed."""

import shutil
from pathlib import Path

import pytest
import torch

from modules.checkpoint import load_checkpoint
from modules.cvae import CVAE, ModelConfig
from modules.options import TesterOptions, TrainerOptions, parse_trainer
from modules.origins import telling_origins, with_origins
from modules.runtime import distributed
from modules.runtime.errors import UserError
from tests.support.damage import remove
from tests.support.data import make_dataset
from tests.support.scripts import TINY_RUN, assert_refused, resume, run_script, train


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data set has moved from data/ to elsewhere/."""
    world = tmp_path_factory.mktemp("moved")
    make_dataset(world / "data")
    train(world / "data", world / "run", "--num_epoch", "1", "--auto_save")
    (world / "data").rename(world / "elsewhere")
    return world


class TestMovedData:
    def test_every_script_says_whose_path_it_is(self, moved: Path) -> None:
        ckpt = moved / "run/best.ckpt"
        origin = f"(--DR comes from the checkpoint {ckpt}; --DR replaces it)"
        for arguments in (
            ["Tester.py", "--ckpt_path", ckpt],
            ["Tester.py", "--ckpt_path", ckpt, "--split", "val"],
            ["Trainer.py", "--ckpt_path", ckpt, "--test"],
            ["Trainer.py", "--ckpt_path", ckpt, "--save_root", moved / "new"],
        ):
            result = run_script(*arguments)
            assert_refused(result, f"{moved / 'data'}: 1 fault", "folder is missing", origin)
        result = resume(moved / "run")
        assert_refused(
            result, f"--DR comes from the checkpoint {moved / 'run/last.ckpt'}; --DR rep"
        )

    def test_what_was_typed_is_not_explained(self, moved: Path) -> None:
        result = run_script(
            *("Tester.py", "--ckpt_path", moved / "run/best.ckpt", "--DR", moved / "none")
        )
        assert_refused(result, "none: 1 fault in the data set: the folder is missing\n")
        assert "--DR" not in result.stderr

    def test_what_it_says_to_do_works(self, moved: Path, tmp_path: Path) -> None:
        where = ["--DR", moved / "elsewhere"]
        ckpt = ["--ckpt_path", moved / "run/best.ckpt"]
        result = run_script("Tester.py", *ckpt, *where, "--save_root", tmp_path / "a")
        assert result.returncode == 0, result.stderr
        shutil.copytree(moved / "run", tmp_path / "run")
        result = resume(tmp_path / "run", *where, "--num_epoch", "2")
        assert result.returncode == 0, result.stderr

    def test_the_origin_stands_before_a_list_of_faults(self, moved: Path, tmp_path: Path) -> None:
        shutil.copytree(moved / "elsewhere", tmp_path / "data")
        remove("data/val/val_img/1.png", "data/train/train_img/1.png")(tmp_path)
        torch.save(
            {**torch.load(moved / "run/best.ckpt"), "data_root": str(tmp_path / "data")},
            tmp_path / "x.ckpt",
        )
        result = run_script("Trainer.py", "--ckpt_path", tmp_path / "x.ckpt", "--save_root", "new")
        assert_refused(result, "faults in the data set (--DR comes from the checkpoint ")
        assert all(line.startswith("  - ") for line in result.stderr.splitlines()[1:])


class TestOtherOrigins:
    def test_the_default(self, dataset: Path, tmp_path: Path) -> None:
        at = TINY_RUN.index("--train_vi_len")
        tiny = [*TINY_RUN[:at], *TINY_RUN[at + 2 :]]
        result = run_script(
            *("Trainer.py", "--DR", dataset, "--save_root", tmp_path, *tiny, "--partial", "0.5"),
        )
        assert_refused(
            result, "--train_vi_len 16 is longer", "(--train_vi_len has its default value; "
        )

    def test_a_preset(self, tmp_path: Path) -> None:
        (tmp_path / "runs/demo").mkdir(parents=True)
        (tmp_path / "runs/demo/last.ckpt").touch()
        result = run_script("Trainer.py", "--preset", "demo", cwd=tmp_path)
        text = "already holds a run: continue it with --resume, or give another --save_root"
        assert_refused(
            result, text, "(--save_root comes from --preset demo; --save_root replaces it)"
        )

    def test_a_folder_that_follows_from_another_option(self, dataset: Path, tmp_path: Path) -> None:
        (tmp_path / "runs").touch()
        result = run_script("Trainer.py", "--DR", dataset, *TINY_RUN, cwd=tmp_path)
        assert_refused(result, "(--save_root follows from --DR; --save_root replaces it)")

    def test_the_checkpoint_s_model(self, tmp_path: Path) -> None:
        torch.save(CVAE(ModelConfig(8, 4, 4, 8)).state_dict(), tmp_path / "x.pt")
        result = run_script(
            *("Trainer.py", "--ckpt_path", tmp_path / "x.pt", "--DR", "a", "--N_dim", "12")
        )
        assert_refused(result, "--N_dim 12: the weights of", "are for --N_dim 4; give that")

    def test_what_no_tensor_tells_may_be_typed(self, dataset: Path, tmp_path: Path) -> None:
        weights = CVAE(ModelConfig(8, 4, 4, 8)).state_dict()
        torch.save(weights, tmp_path / "bare.pt")
        torch.save(
            {"state_dict": weights, "config": ModelConfig(8, 4, 4, 8).to_dict()},
            tmp_path / "x.ckpt",
        )
        typed = ["--DR", dataset, "--output", "sigmoid", "--test", "--device", "cpu"]
        result = run_script("Trainer.py", "--ckpt_path", tmp_path / "bare.pt", *typed)
        assert result.returncode == 0, result.stderr
        assert "output=sigmoid" in result.stdout
        result = run_script("Trainer.py", "--ckpt_path", tmp_path / "x.ckpt", *typed)
        assert_refused(result, "are for --output linear; give that")

    def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        options = TrainerOptions(device="cuda")
        error = UserError("--device cuda: there is no CUDA device here; use --device cpu")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert with_origins(error, options, {"device"}, None) == str(error)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        said = with_origins(error, options, {"device"}, None)
        assert said == f"{error} (the environment has CUDA_VISIBLE_DEVICES='')"

    def test_numbers_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_RANK", "")
        assert distributed.local_rank() == 0  # the control: empty is unset
        monkeypatch.setenv("LOCAL_RANK", "first")
        with pytest.raises(UserError, match="LOCAL_RANK='first' in the environment"):
            distributed.local_rank()
        monkeypatch.delenv("LOCAL_RANK")
        result = run_script("Trainer.py", "--preset", "demo", env={"WORLD_SIZE": "two"})
        assert_refused(result, "WORLD_SIZE='two' in the environment", "unset WORLD_SIZE")


def test_only_values_that_are_meant(tmp_path: Path) -> None:
    options, typed = parse_trainer("", ["--DR", "a", "--seed", "3"])
    for message, told in (
        ("--seed 3: no", ""),  # typed
        ("--batch_size 2: no", " (--batch_size has its default value; --batch_size replaces it)"),
        ("--batch_size 20: no", ""),  # another value: a hint
        ("use --device cpu", ""),
        ("nothing is named", ""),
    ):
        with pytest.raises(UserError) as caught, telling_origins(options, typed):
            raise UserError(message)
        assert str(caught.value) == f"{message}{told}"
    with pytest.raises(ValueError, match="as it was"), telling_origins(TesterOptions(), set()):
        raise ValueError("as it was")


def test_a_fixed_option_of_a_resumed_run_is_not_offered(moved: Path) -> None:
    checkpoint = moved / "run/last.ckpt"
    options = TrainerOptions(resume=True, batch_size=2, save_root="x")
    said = with_origins(
        UserError("--batch_size 2: no"), options, {"save_root"}, load_checkpoint(checkpoint)
    )
    assert said == f"--batch_size 2: no (--batch_size comes from the checkpoint {checkpoint})"
