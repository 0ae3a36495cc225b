"""The figures of the documents show what today's code draws from the recorded runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.programs import document_figures as figures
from tests.support.documents import FIGURE, PAGES, text_of
from tests.support.scripts import done, train


def kept(path: Path) -> dict[str, Any]:
    """What a PNG says it shows."""
    with Image.open(path) as image:
        return dict(json.loads(image.info["shows"]))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The words and the curves that only one of two figures shows."""
    found = [str(word) for word in {*old["words"]} ^ {*new["words"]}]
    lines = [[str(line[0]) for line in each["lines"]] for each in (old, new)]
    if lines[0] != lines[1]:
        return [*found, f"{lines}"]
    for before, after in zip(old["lines"], new["lines"], strict=True):
        for one, other in zip(before[1:], after[1:], strict=True):
            if len(one) != len(other) or not np.allclose(one, other, rtol=1e-3, equal_nan=True):
                found.append(before[0])
    return found


def pictures(path: Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        return [np.asarray(f.convert("RGB"), int) for f in ImageSequence.Iterator(image)]


def test_every_figure_of_the_documents_can_be_redrawn() -> None:
    """And each one that can be is in a document, with nothing recorded for none."""
    used = {Path(link).name for page in PAGES for link in FIGURE.findall(text_of(page))}
    # Cut out of contact sheets that the import of two clips wrote; that takes a detector.
    imported = {"own_video_good.png", "own_video_bad.png"}
    assert used == {*figures.FIGURES, *figures.PICTURES, *imported}
    assert used == {f.name for f in figures.DOCS.iterdir() if f.suffix in (".png", ".gif")}


@pytest.mark.slow
@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_shows_what_is_recorded(name: str, tmp_path: Path) -> None:
    figures.save_figure(figures.FIGURES[name](), tmp_path / name)
    assert not differences(kept(figures.DOCS / name), kept(tmp_path / name))


@pytest.mark.slow
@pytest.mark.parametrize("name", figures.PICTURES)
def test_pictures_are_those_recorded(name: str, tmp_path: Path) -> None:
    figures.PICTURES[name](tmp_path / name)
    old, new = pictures(figures.DOCS / name), pictures(tmp_path / name)
    assert len(old) == len(new) and old[0].shape == new[0].shape
    assert all(np.abs(a - b).mean() < 2 for a, b in zip(old, new, strict=True))


@pytest.mark.slow
def test_what_is_recorded_of_a_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "moving_best"
    train(dataset, run, "--num_epoch", "1", "--kl_anneal_cycle", "1")
    done("Tester.py", "--ckpt_path", run / "best.ckpt", "--split", "val")
    monkeypatch.setattr(figures, "RECORDED", tmp_path / "recorded")
    figures.record(run)
    assert str(tmp_path) not in (tmp_path / "recorded/moving_best/config.json").read_text()
    made = figures.recorded_videos("moving_best", "sheet")["prediction"]
    with Image.open(run / f"val/frames/0/{len(made) - 1}.png") as last:
        np.testing.assert_array_equal(made[-1], np.asarray(last))
    figures.PICTURES["moving_best.png"](tmp_path / "sheet.png")
    curves = figures.curves.curves_figure(figures.recorded("moving_best"))
    assert "moving_best" in figures.shown_in(curves)["words"]


def test_other_values_and_words_are_noticed() -> None:
    """The control."""
    old = kept(figures.DOCS / "curves.png")
    assert not differences(old, old)
    new = json.loads(json.dumps(old))
    new["lines"][0][2][-1] *= 1.01
    new["words"].remove("demo")
    assert differences(old, new) == ["demo", old["lines"][0][0]]
