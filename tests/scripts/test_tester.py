"""Tester.py through its command line, tiny."""

import csv
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modules import runlog
from Tester import submitted_psnr
from tests.support.data import make_dataset
from tests.support.scripts import assert_refused, done, run_script, train
from tests.test_st_lpips import install

pytestmark = pytest.mark.usefixtures("no_figures")


def generate(ckpt: Path, out: Path, *more: str | Path) -> str:
    """Run the Tester; what it printed."""
    return done("Tester.py", "--ckpt_path", ckpt, "--save_root", out, *more)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def tested(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tested") / "a"
    generate(trained / "best.ckpt", out)
    return out


def test_outputs(tested: Path, dataset: Path) -> None:
    ends = ("gif", "mp4") if find_spec("av") else ("gif",)
    films = [f"film_seq{i}.{end}" for i in "01" for end in ends]
    named = {"frames", "submission.csv", "pred_seq0.gif", "pred_seq1.gif", *films}
    assert {path.name for path in tested.iterdir()} == named
    with (tested / "submission.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", *map(str, range(3 * 16 * 16))]
    assert [row[0] for row in rows] == [str(i) for i in range(6 + 9)]
    order = [(i, t) for i, count in ((0, 6), (1, 9)) for t in range(count)]
    assert len([*tested.glob("frames/*/*")]) == len(order)
    for (i, t), row in zip(order, rows, strict=True):
        frame = np.asarray(Image.open(tested / f"frames/{i}/{t}.png"))
        assert [int(v) for v in row[1:]] == frame.transpose(2, 0, 1).ravel().tolist()
        if not t:
            given = np.asarray(Image.open(dataset / f"test/test_img/{i}/0.png"))
            assert np.array_equal(frame, given)


def test_identical_whatever_the_batch_but_not_the_seed(
    tested: Path, trained: Path, tmp_path: Path
) -> None:
    generate(trained / "best.ckpt", tmp_path / "a", "--batch_size", "1", "--num_workers", "1")
    assert contents(tmp_path / "a") == contents(tested)
    generate(trained / "best.ckpt", tmp_path / "b", "--seed", "5")
    assert contents(tmp_path / "b")["submission.csv"] != contents(tested)["submission.csv"]


def test_a_sequence_alone_with_all_of_its_truth(
    tested: Path, trained: Path, dataset: Path, tmp_path: Path
) -> None:
    """Its latents follow its folder's number, not its place; the truth is for the film alone."""
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    for kind in ("img", "label"):
        shutil.rmtree(data / f"test/test_{kind}/0")
    for t in range(1, 9):
        truth = np.full((16, 16, 3), 28 * t, np.uint8)
        Image.fromarray(truth).save(data / f"test/test_img/1/{t}.png")
    (data / "import.json").write_text('{"frames_per_second": 10}')
    generate(trained / "best.ckpt", tmp_path / "out", "--DR", data)
    for name in ("pred", "film"):
        with Image.open(tmp_path / f"out/{name}_seq1.gif") as shown:
            assert shown.info["duration"] % 100 == 0  # ms
    assert contents(tmp_path / "out/frames/1") == contents(tested / "frames/1")
    for folder, width in ((tmp_path / "out", 1544), (tested, 1028)):
        with Image.open(folder / "film_seq1.gif") as film:
            assert film.size == (width, 512)


def test_val_split_agrees_with_the_trainer(trained: Path, dataset: Path, tmp_path: Path) -> None:
    said = generate(trained / "best.ckpt", tmp_path, "--split", "val")
    table = runlog.read_psnr_per_frame(tmp_path / "psnr_per_frame.csv")
    expected = runlog.read_psnr_per_frame(trained / "psnr_per_frame.csv")
    for found, column in zip(table, expected, strict=True):
        np.testing.assert_array_equal(found, column)
    run = runlog.load_run(trained)
    drift, flicker = (run.metrics[name][run.best()] for name in ("val_drift", "val_flicker"))
    made, truth = (
        np.stack([np.asarray(Image.open(folder / f"{t}.png")) for t in range(10)])
        for folder in (tmp_path / "frames/0", dataset / "val/val_img")
    )
    submitted = submitted_psnr(made, truth).mean()
    for words in (
        f"PSNR {table.psnr.mean():.4f} dB",
        f"PSNR {submitted:.4f} dB, average over frames 1-9 rounded to integers",
        f"near the skeleton {table.inside.mean():.2f} dB",
        f"elsewhere {table.outside.mean():.2f} dB",
        f"drift {drift:+.2f} dB per 100 frames",
        f"flicker of the background {flicker:+.2f} of 255",
    ):
        assert words in said
    assert (tmp_path / "psnr_per_frame.png").exists()


def samples(out: Path) -> list[list[float]]:
    header, *lines = (out / "samples.csv").read_text().splitlines()
    assert header == "sample,psnr,ssim"
    return [[float(cell) for cell in line.split(",")] for line in lines]


def test_several_futures(trained: Path, tmp_path: Path) -> None:
    said = generate(trained / "last.ckpt", tmp_path, "--split", "val", "--n_samples", "5")
    rows = samples(tmp_path)
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
    scores = np.array([row[1] for row in rows])
    assert f"PSNR {scores[0]:.4f} dB" in said  # the first is the one that is written
    assert len(set(scores)) == 5
    assert (
        f"5 samples, PSNR: best {scores.max():.4f} dB, mean {scores.mean():.4f} dB, "
        f"standard deviation {scores.std(ddof=1):.4f} dB"
    ) in said
    ssim = [row[2] for row in rows]
    assert f"5 samples, SSIM: best {max(ssim):.4f}, mean {np.mean(ssim):.4f}, " in said
    still = ("--split", "val", "--n_samples", "2", "--latent_scale", "0")
    generate(trained / "last.ckpt", tmp_path, *still)
    first, second = samples(tmp_path)
    assert first[1:] == second[1:]  # the control: the prior's mean, twice


def test_what_an_earlier_longer_run_left_goes_and_nothing_else(
    trained: Path, tmp_path: Path
) -> None:
    def made(data: Path) -> dict[str, bytes]:
        generate(trained / "best.ckpt", tmp_path / "out", "--DR", data)
        return contents(tmp_path / "out")

    short = make_dataset(tmp_path / "short", tests=(4,))
    fresh = made(short)
    long = made(make_dataset(tmp_path / "long", tests=(9, 4, 3)))
    assert {"pred_seq2.gif", "frames/0/8.png", "frames/2/2.png"} <= long.keys()
    mine = ("notes.txt", "frames/0/mine.png", "frames/1/mine.png", "frames/7/0.png")
    mine += ("pred_seq_mine.gif", "psnr_per_frame.csv")
    for name in mine:
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes(b"mine")
    (tmp_path / "out/samples.csv").write_bytes(b"of a validation, with --n_samples")
    assert made(short) == {**fresh, **dict.fromkeys(mine, b"mine")}
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


def test_a_model_of_another_kind_from_training_to_frames(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that it is comes from its checkpoint. The frames are large enough for ST-LPIPS."""
    kind = ("--prior", "learned", "--reference", "first", "--fold", "2", "--output", "sigmoid")
    more = ("--optim", "Muon", "--ema", "0.9", "--frame_H", "24", "--frame_W", "24")
    train(dataset, tmp_path, "--num_epoch", "1", *kind, *more)
    ckpt = tmp_path / "last.ckpt"
    install(monkeypatch)
    for split, more in (("test", ()), ("val", ("--n_samples", "2", "--st_lpips"))):
        found = []
        for batch in ("1", "4"):
            said = generate(ckpt, tmp_path / split, "--split", split, "--batch_size", batch, *more)
            found.append(contents(tmp_path / split))
        assert found[0] == found[1]
    table = tmp_path / "psnr_per_frame.csv"
    assert (tmp_path / "val/psnr_per_frame.csv").read_bytes() == table.read_bytes()
    psnr = runlog.read_psnr_per_frame(table).psnr
    lines = (tmp_path / "val/st_lpips.csv").read_text().splitlines()
    distances = np.array([float(line.split(",")[1]) for line in lines[1:]])
    assert len(lines) == 10 and np.corrcoef(distances, psnr)[0, 1] < 0
    assert f"ST-LPIPS {distances.mean():.4f}, average over frames 1-9" in said
    wrong = ("--ckpt_path", ckpt, "--prior", "standard", "--DR", dataset)
    assert_refused(run_script("Trainer.py", *wrong), "--prior standard", "learned")


def test_fine_tuning_may_add_a_reference(trained: Path, tmp_path: Path) -> None:
    start = ("Trainer.py", "--ckpt_path", trained / "last.ckpt", "--save_root", tmp_path / "more")
    short = ("--train_vi_len", "4", "--device", "cpu", "--num_epoch", "1")
    folded = run_script(*start, *short, "--fold", "2")
    assert_refused(folded, "--fold 2: the weights of", "are for --fold 1")
    done(*start, *short, "--reference", "first")
    more = torch.load(tmp_path / "more/last.ckpt", weights_only=True)
    assert more["config"]["reference"] == "first"


def test_an_export_needs_no_data_and_both_scripts_take_it(
    tested: Path, trained: Path, tmp_path: Path
) -> None:
    ckpt, exported = trained / "best.ckpt", tmp_path / "best.pth"
    said = done("Tester.py", "--ckpt_path", ckpt, "--export", exported, "--DR", "/nothing")
    assert f"wrote {exported}" in said
    data = torch.load(ckpt, weights_only=True)["data_root"]
    given = ("--DR", data, "--frame_H", "16", "--frame_W", "16")
    generate(exported, tmp_path / "b", *given)
    assert contents(tmp_path / "b") == contents(tested)
    run = ("--save_root", tmp_path / "c", "--train_vi_len", "4", "--num_epoch", "1")
    done("Trainer.py", "--ckpt_path", exported, *given, *run, "--device", "cpu")
    assert torch.load(tmp_path / "c/last.ckpt", weights_only=True)["config"]["D_out_dim"] == 8
