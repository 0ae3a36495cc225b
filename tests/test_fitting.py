"""What is said of a training step that does not fit into a GPU's memory."""

import pytest
from modules.fitting import GIB, what_fits

from modules.options import TrainerOptions
from modules.runtime import distributed


def said(o: TrainerOptions, free: float, per_clip: dict[bool, float], fixed: float = 1.0) -> str:
    """free, per_clip (without and with --recompute), fixed: GiB, as if a step took just that."""

    def peak(clips: int, recompute: bool) -> int | None:
        needed = fixed + clips * per_clip[recompute]
        return int(needed * GIB) if needed <= free else None

    return what_fits(o, o.batch_size, int(free * GIB), peak)


def test_the_largest_batch_that_fits_and_what_recompute_takes() -> None:
    o = TrainerOptions(batch_size=16, train_vi_len=16)
    text = said(o, 10.0, {False: 2.0, True: 0.25})
    assert "--batch_size 16 with --train_vi_len 16: a step takes about 33.00 GiB" in text
    assert "10.00 GiB of free GPU memory" in text
    assert "--batch_size 4 takes about 9.00 GiB" in text
    assert "--recompute takes about 5.00 GiB" in text
    text = said(o, 10.0, {False: 2.0, True: 1.0})
    assert "--recompute --batch_size 9 takes about 10.00 GiB" in text


def test_only_what_fits_is_proposed() -> None:
    o = TrainerOptions(batch_size=16, train_vi_len=16)
    text = said(o, 10.0, {False: 12.0, True: 1.0})  # not even one clip
    assert "--batch_size 1 " not in text
    assert "--recompute --batch_size 9 takes" in text
    text = said(o, 10.0, {False: 12.0, True: 12.0})
    assert "takes about" not in text
    assert "smaller frames" in text
    text = said(o, 10.0, {False: 6.0, True: 1.0})  # one clip and no second
    assert "--batch_size 1 takes about 7.00 GiB" in text
    o.recompute = True
    text = said(o, 10.0, {False: 2.0, True: 1.0})
    assert text.count("takes about") == 2
    assert "--recompute" not in text
    assert "--batch_size 9 takes about 10.00 GiB" in text


def test_ranks_try_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step needs all of them."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    text = what_fits(TrainerOptions(), 1, GIB, lambda clips, recompute: 1 // 0)
    assert "--recompute" in text
