"""The schedules that options stand for, as a table and as a figure."""

import numpy as np

from modules.figures.schedules import fu_figure, schedule_table, schedules_figure
from modules.options import TrainerOptions
from modules.schedules import teacher_forcing_drawn
from tests.support.drawn import (
    check_layout,
    line,
    lines,
    texts,
)


def test_schedules_of_fu_et_al() -> None:
    options = TrainerOptions(num_epoch=40_000, kl_anneal_type="Monotonic", kl_anneal_ratio=0.25)
    beta = schedule_table(options)["beta"]
    assert beta[[0, 2_500, 5_000, 10_000, 25_000, 39_999]].tolist() == [0, 0.25, 0.5, 1, 1, 1]
    cyclical = TrainerOptions(num_epoch=40_000, kl_anneal_cycle=4, kl_anneal_ratio=0.5)
    beta = schedule_table(cyclical)["beta"]
    at = [0, 2_500, 5_000, 9_999, 10_000, 12_500, 20_000, 39_999]
    assert beta[at].tolist() == [0, 0.5, 1, 1, 0, 0.5, 0, 1]
    figure = fu_figure()
    check_layout(figure)
    first, second = lines(figure, "beta")
    assert first.get_ydata()[5_000] == 0.5
    np.testing.assert_array_equal(second.get_ydata(), beta)
    assert figure.axes[1].get_xlabel() == "iteration"
    assert {"Monotonic, ratio 0.25", "Cyclical, 4 cycles, ratio 0.5"} <= set(texts(figure))


def test_schedules_of_any_options() -> None:
    options = TrainerOptions(
        num_epoch=12, tfr=0.9, tfr_sde=3, tfr_d_step=0.2, lr_scheduler="multistep", seed=5
    )
    options.lr_milestones = (4, 8)
    table = schedule_table(options)
    assert table["tfr"].tolist() == [0.9, 0.9, 0.9, 0.7, 0.5, 0.3, 0.1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(table["lr"], [1e-3] * 4 + [1e-4] * 4 + [1e-5] * 4)
    drawn = [teacher_forcing_drawn(5, e, ratio) for e, ratio in enumerate(table["tfr"])]
    assert table["tf_active"].astype(bool).tolist() == drawn
    figure = schedules_figure(options)
    check_layout(figure)
    assert f"TF on, drawn with seed 5: {sum(drawn)} of 12" in texts(figure)
    for name in ("beta", "tfr", "lr"):
        np.testing.assert_array_equal(line(figure, name).get_ydata(), table[name])
