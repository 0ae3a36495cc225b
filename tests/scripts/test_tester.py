"""Tester.py through its command line, tiny."""

import csv
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from modules import runlog
from Tester import submitted_psnr
from tests.support.data import make_dataset
from tests.support.scripts import assert_refused, run_script, train

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def tested(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tested")
    result = run_script(
        *("Tester.py", "--ckpt_path", trained / "best.ckpt", "--save_root", out / "a")
    )
    assert result.returncode == 0, result.stderr
    return out / "a"


class TestTester:
    def test_outputs(self, tested: Path, dataset: Path) -> None:
        assert {p.name for p in tested.iterdir()} == {
            *("frames", "submission.csv", "pred_seq0.gif", "pred_seq1.gif"),
            *("film_seq0.gif", "film_seq1.gif"),
            *(("film_seq0.mp4", "film_seq1.mp4") if find_spec("av") else ()),
        }
        assert len(list((tested / "frames/0").iterdir())) == 6
        assert len(list((tested / "frames/1").iterdir())) == 9
        for i in (0, 1):
            given = np.asarray(Image.open(dataset / f"test/test_img/{i}/0.png"))
            assert np.array_equal(np.asarray(Image.open(tested / f"frames/{i}/0.png")), given)

    def test_films_show_the_truth_where_all_of_it_is_given(
        self, tested: Path, trained: Path, dataset: Path, tmp_path: Path
    ) -> None:
        data = Path(shutil.copytree(dataset, tmp_path / "data"))
        for t in range(1, 6):
            truth = np.full((16, 16, 3), 40 * t, np.uint8)
            Image.fromarray(truth).save(data / f"test/test_img/0/{t}.png")
        ckpt = ("--ckpt_path", trained / "best.ckpt", "--save_root", tmp_path / "out")
        result = run_script("Tester.py", *ckpt, "--DR", data)
        assert result.returncode == 0, result.stderr
        submitted = (tmp_path / "out/submission.csv").read_bytes()
        assert submitted == (tested / "submission.csv").read_bytes()  # it is shown to no network
        for folder, widths in ((tmp_path / "out", (1544, 1028)), (tested, (1028, 1028))):
            for name, width in zip("01", widths, strict=True):
                with Image.open(folder / f"film_seq{name}.gif") as film:
                    assert film.size == (width, 512)
        with Image.open(tmp_path / "out/film_seq0.gif") as film:
            film.seek(3)
            shown = np.asarray(film.convert("RGB"))
        assert np.abs(shown[:, 516:1028].astype(int) - 120).max() <= 6
        made = np.asarray(Image.open(tmp_path / "out/frames/0/3.png")).astype(float)
        assert np.abs(shown[16::32, 1032 + 16 :: 32] - made).mean() < 12

    def test_submission_is_the_frames(self, tested: Path) -> None:
        with (tested / "submission.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["id", *map(str, range(3 * 16 * 16))]
        assert [row[0] for row in rows] == [str(i) for i in range(6 + 9)]
        order = [(i, t) for i, count in ((0, 6), (1, 9)) for t in range(count)]
        for (i, t), row in zip(order, rows, strict=True):
            frame = np.asarray(Image.open(tested / f"frames/{i}/{t}.png"))
            assert [int(v) for v in row[1:]] == frame.transpose(2, 0, 1).ravel().tolist()

    def test_identical_whatever_the_batch_but_not_the_seed(
        self, tested: Path, trained: Path, tmp_path: Path
    ) -> None:
        def submission(*more: str) -> bytes:
            out = tmp_path / "-".join(more)
            result = run_script(
                *("Tester.py", "--ckpt_path", trained / "best.ckpt", "--save_root", out, *more)
            )
            assert result.returncode == 0, result.stderr
            for made in out.glob("*_seq*"):
                if more[0] != "--seed":
                    assert made.read_bytes() == (tested / made.name).read_bytes()
            return (out / "submission.csv").read_bytes()

        reference = (tested / "submission.csv").read_bytes()
        assert submission("--batch_size", "1") == reference
        assert submission("--batch_size", "2", "--num_workers", "1") == reference
        assert submission("--seed", "5") != reference

    def test_a_sequence_alone_has_the_frames_that_it_has_among_others(
        self, tested: Path, trained: Path, dataset: Path, tmp_path: Path
    ) -> None:
        """Its latents follow the number of its folder, not its place."""
        data = Path(shutil.copytree(dataset, tmp_path / "data"))
        for kind in ("img", "label"):
            shutil.rmtree(data / f"test/test_{kind}/0")
        ckpt = ("--ckpt_path", trained / "best.ckpt", "--save_root", tmp_path / "out")
        result = run_script("Tester.py", *ckpt, "--DR", data)
        assert result.returncode == 0, result.stderr
        for path in (tested / "frames/1").iterdir():
            assert (tmp_path / "out/frames/1" / path.name).read_bytes() == path.read_bytes()

    def test_val_split_agrees_with_the_trainer(self, trained: Path, tmp_path: Path) -> None:
        result = run_script(
            *("Tester.py", "--ckpt_path", trained / "best.ckpt", "--split", "val"),
            *("--save_root", tmp_path),
        )
        assert result.returncode == 0, result.stderr
        table = runlog.read_psnr_per_frame(tmp_path / "psnr_per_frame.csv")
        expected = runlog.read_psnr_per_frame(trained / "psnr_per_frame.csv")
        for found, column in zip(table, expected, strict=True):
            np.testing.assert_array_equal(found, column)
        assert f"PSNR {table.psnr.mean():.4f} dB" in result.stdout
        assert f"near the skeleton {table.inside.mean():.2f} dB" in result.stdout
        assert f"elsewhere {table.outside.mean():.2f} dB" in result.stdout
        metrics = runlog.read_metrics(trained / "metrics.csv")
        best = int(np.nanargmax(metrics["val_psnr"]))
        drift, flicker = metrics["val_drift"][best], metrics["val_flicker"][best]
        assert f"drift {drift:+.2f} dB per 100 frames" in result.stdout
        assert f"flicker of the background {flicker:+.2f} of 255" in result.stdout
        assert (tmp_path / "psnr_per_frame.png").exists()
        assert "rounded to integers" in result.stdout
        assert table.frame[0] == 1

    def test_several_futures(self, trained: Path, tmp_path: Path) -> None:
        def table(*more: str) -> tuple[str, list[list[float]]]:
            out = tmp_path / "-".join(more)
            result = run_script(
                *("Tester.py", "--ckpt_path", trained / "last.ckpt", "--split", "val"),
                *("--save_root", out, *more),
            )
            assert result.returncode == 0, result.stderr
            header, *lines = (out / "samples.csv").read_text().splitlines()
            assert header == "sample,psnr,ssim"
            return result.stdout, [[float(cell) for cell in line.split(",")] for line in lines]

        said, rows = table("--n_samples", "5")
        assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
        scores = np.array([row[1] for row in rows])
        assert f"PSNR {scores[0]:.4f} dB" in said  # the first is the one that is written
        assert len(set(scores)) == 5
        assert (
            f"5 samples, PSNR: best {scores.max():.4f} dB, mean {scores.mean():.4f} dB, "
            f"standard deviation {scores.std(ddof=1):.4f} dB"
        ) in said
        assert table("--n_samples", "5", "--batch_size", "2")[1] == rows
        still = np.array(table("--n_samples", "3", "--latent_scale", "0")[1])
        assert (still[:, 1:] == still[0, 1:]).all()  # the control: the prior's mean, three times

    def test_st_lpips(self, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = tmp_path / "run"
        train(dataset, run, "--num_epoch", "1", "--frame_H", "24", "--frame_W", "24")
        command = ("Tester.py", "--ckpt_path", run / "last.ckpt", "--split", "val", "--st_lpips")
        monkeypatch.setitem(sys.modules, "stlpips_pytorch", None)
        assert_refused(run_script(*command), "--st_lpips", "requirements-metrics.txt")

        class LPIPS(torch.nn.Module):
            def __init__(self, **settings: object) -> None:
                super().__init__()

            def forward(self, a: torch.Tensor, b: torch.Tensor, normalize: bool) -> torch.Tensor:
                return (a - b).square().mean(dim=(1, 2, 3), keepdim=True)

        module = ModuleType("stlpips_pytorch.stlpips")
        module.LPIPS = LPIPS  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "stlpips_pytorch", ModuleType("stlpips_pytorch"))
        monkeypatch.setitem(sys.modules, "stlpips_pytorch.stlpips", module)
        result = run_script(*command)
        assert result.returncode == 0, result.stderr
        lines = (run / "val/st_lpips.csv").read_text().splitlines()
        distances = np.array([float(line.split(",")[1]) for line in lines[1:]])
        psnr = runlog.read_psnr_per_frame(run / "val/psnr_per_frame.csv").psnr
        np.testing.assert_allclose(-10 * np.log10(distances), psnr, rtol=1e-5)
        assert f"ST-LPIPS {distances.mean():.4f}, average over frames 1-9" in result.stdout

    def test_what_an_earlier_longer_run_left_goes_and_nothing_else(
        self, trained: Path, dataset: Path, tmp_path: Path
    ) -> None:
        def generate(data: Path) -> dict[str, bytes]:
            ckpt = ("--ckpt_path", trained / "best.ckpt", "--save_root", tmp_path / "out")
            result = run_script("Tester.py", *ckpt, "--DR", data)
            assert result.returncode == 0, result.stderr
            files = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
            return {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in files}

        short = make_dataset(tmp_path / "short", tests=(4,))
        fresh = generate(short)
        long = generate(make_dataset(tmp_path / "long", tests=(9, 4, 3)))
        assert {"pred_seq2.gif", "frames/0/8.png", "frames/2/2.png"} <= long.keys()
        mine = ("notes.txt", "frames/0/mine.png", "frames/1/mine.png", "frames/7/0.png")
        mine += ("pred_seq_mine.gif", "psnr_per_frame.csv")
        for name in mine:
            (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "out" / name).write_bytes(b"mine")
        (tmp_path / "out/samples.csv").write_bytes(b"of a validation, with --n_samples")
        assert generate(short) == {**fresh, **dict.fromkeys(mine, b"mine")}
        assert not (tmp_path / "out/frames/2").exists()


def test_submissions_are_scored_on_frames_1_to_600_as_integers() -> None:
    truth = np.zeros((700, 2, 2, 3), np.uint8)
    made = np.full_like(truth, 51)  # 0.2: 10·log10(1 / 0.04) = 13.979… dB
    made[0], made[601:] = 255, 255  # neither counts
    made[600] = 102  # 0.4: 6.02 dB less
    psnr = submitted_psnr(made, truth)
    assert len(psnr) == 600
    assert psnr[0] == pytest.approx(10 * np.log10(25), abs=1e-5)
    assert psnr.mean() == pytest.approx(10 * np.log10(25) - 20 * np.log10(2) / 600, abs=1e-5)
    assert len(submitted_psnr(made[:3], truth[:3])) == 2  # a shorter video


def test_a_model_of_another_kind_from_training_to_frames(dataset: Path, tmp_path: Path) -> None:
    """All that it is comes from its checkpoint; results go next to it."""
    run = tmp_path / "run"
    kind = ("--prior", "learned", "--reference", "first", "--output", "sigmoid")
    train(dataset, run, "--num_epoch", "1", *kind, "--optim", "Muon", "--ema", "0.9")
    for split, more in (("test", ()), ("val", ("--n_samples", "2"))):
        found = []
        for batch in ("1", "4"):
            given = ("--ckpt_path", run / "last.ckpt", "--split", split, *more)
            result = run_script("Tester.py", *given, "--batch_size", batch)
            assert result.returncode == 0, result.stderr
            found.append((run / split / "submission.csv").read_bytes())
        assert found[0] == found[1]
    psnr = runlog.read_psnr_per_frame(run / "val/psnr_per_frame.csv").psnr
    assert psnr.tolist() == runlog.read_psnr_per_frame(run / "psnr_per_frame.csv").psnr.tolist()
    wrong = ("--ckpt_path", run / "last.ckpt", "--prior", "standard", "--DR", dataset)
    assert_refused(run_script("Trainer.py", *wrong), "--prior standard", "learned")


def test_fine_tuning_may_add_a_reference(trained: Path, tmp_path: Path) -> None:
    short = ("--train_vi_len", "4", "--device", "cpu", "--num_epoch", "1")
    start = ("Trainer.py", "--ckpt_path", trained / "last.ckpt", *short)
    result = run_script(*start, "--save_root", tmp_path / "more", "--reference", "first")
    assert result.returncode == 0, result.stderr
    more = torch.load(tmp_path / "more/last.ckpt", weights_only=True)
    assert more["config"]["reference"] == "first"
    assert any(name.startswith("Background_Mask") for name in more["state_dict"])


def test_export_needs_no_data_and_gives_the_same_frames(trained: Path, tmp_path: Path) -> None:
    ckpt, exported = trained / "best.ckpt", tmp_path / "best.pth"
    gone = run_script("Tester.py", "--ckpt_path", ckpt, "--export", exported, "--DR", "/nothing")
    assert gone.returncode == 0, gone.stderr
    assert f"wrote {exported}" in gone.stdout
    data = torch.load(ckpt, weights_only=True)["data_root"]
    again = ["--DR", data, "--frame_H", "16", "--frame_W", "16"]
    for path, folder, more in ((ckpt, "a", []), (exported, "b", again)):
        place = ["--save_root", tmp_path / folder, "--device", "cpu"]
        result = run_script("Tester.py", "--ckpt_path", path, *place, *more)
        assert result.returncode == 0, result.stderr
    tables = [(tmp_path / folder / "submission.csv").read_bytes() for folder in "ab"]
    assert tables[0] == tables[1]
    refused = run_script("Tester.py", "--ckpt_path", ckpt, "--export", exported)
    assert_refused(refused, f"--export {exported}: already exists")
