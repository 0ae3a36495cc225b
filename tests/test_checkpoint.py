"""Checkpoints: older ones load, a run's hold all of its state, a resumed run is the same run."""

import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modules import checkpoint
from modules.cvae import CVAE, OPTIONAL_PARTS, ModelConfig, prior_latents
from modules.options import TrainerOptions
from modules.runtime.errors import Stopped, UserError
from modules.runtime.signals import Watch
from modules.training import TrainingStep, train_epoch
from tests.support.comparing import comparable, same
from tests.support.small_run import at_step, new_run

CONFIG = ModelConfig(F_dim=16, L_dim=6, N_dim=8, D_out_dim=24, frame_H=8, frame_W=12)


def older_content(config: ModelConfig = CONFIG) -> dict[str, Any]:
    """What the older code saved: `optimizer` is the weights again."""
    torch.manual_seed(0)
    weights = CVAE(config).state_dict()
    return {"state_dict": weights, "optimizer": weights, "lr": 1e-2, "tfr": 0.5, "last_epoch": 7}


def new_content(config: ModelConfig = CONFIG) -> dict[str, Any]:
    return {**older_content(config), "config": config.to_dict(), "data_root": "somewhere"}


# ---------------------------------------------------------------- reading and exporting


@pytest.mark.parametrize("config", [ModelConfig(), ModelConfig(37, 11, 13, 21)])
def test_older_checkpoints_load_with_any_dimensions(tmp_path: Path, config: ModelConfig) -> None:
    content, path = older_content(config), tmp_path / "old.ckpt"
    torch.save(content, path)
    found = checkpoint.load_checkpoint(path)
    assert found.config == config and not found.has_frame_size  # it does not say its size
    assert (found.last_epoch, found.lr, found.tfr) == (7, 1e-2, 0.5)
    assert (found.optimizer, found.training, found.options) == ({}, {}, {})
    assert same(dict(found.build_model().state_dict()), dict(content["state_dict"]))


@pytest.mark.parametrize(
    ("parts", "content"),
    [(("learned", "none"), older_content), (("learned", "first"), new_content)],
)
def test_the_five_networks_load_into_a_model_with_more_parts(
    tmp_path: Path, parts: tuple[str, str], content: Callable[[], dict[str, Any]]
) -> None:
    path, wanted = tmp_path / "five.ckpt", ("prior", "reference")
    torch.save(content(), path)
    five = checkpoint.load_checkpoint(path)
    more = five.with_options(TrainerOptions(prior=parts[0], reference=parts[1]), (), wanted)
    assert (more.config.prior, more.config.reference) == parts
    frames, labels = torch.rand(2, 5, 2, 3, 8, 12, generator=torch.Generator().manual_seed(0))

    def frames_of(model: CVAE) -> torch.Tensor:
        latents = prior_latents(CONFIG, 0, [0, 1])
        return torch.stack(list(model.eval().rollout(frames[0], labels, latents)))

    model, expected = more.build_model(), frames_of(five.build_model())
    torch.testing.assert_close(frames_of(model), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():  # the control: the parts are there, and could do something
        for name, p in model.named_parameters():
            if name.endswith("bias") and name.split(".")[0] in OPTIONAL_PARTS:
                p += 0.5
    assert not torch.allclose(frames_of(model), expected, atol=1e-3)
    torch.save({"state_dict": model.state_dict(), "config": more.config.to_dict()}, path)
    again = checkpoint.load_checkpoint(path)  # what has been trained with them keeps them
    assert again.with_options(TrainerOptions(), (), wanted) == again
    assert torch.equal(frames_of(again.build_model()), frames_of(model))


def test_options_say_what_a_checkpoint_leaves_open_and_contradict_nothing(tmp_path: Path) -> None:
    torch.save(older_content(), tmp_path / "old.ckpt")
    torch.save(new_content(), tmp_path / "new.ckpt")
    old, new = (checkpoint.load_checkpoint(tmp_path / f"{name}.ckpt") for name in ("old", "new"))
    typed = TrainerOptions(frame_H=20, frame_W=24, output="sigmoid", F_dim=16)
    sized = old.with_options(typed, ("frame_H", "output", "F_dim")).config
    assert (sized.frame_H, sized.frame_W, sized.output) == (20, 64, "sigmoid")  # not the untyped
    assert new.with_options(typed, ("F_dim",)) == new
    for name, found in (("frame_H", new), ("output", new), ("L_dim", new), ("L_dim", old)):
        with pytest.raises(UserError, match=rf"--{name} .* are for --{name} .*leave --{name} out"):
            found.with_options(typed, (name,))


def test_export_writes_the_older_form(tmp_path: Path) -> None:
    """The five networks alone; test_networks.py has their names and shapes."""
    config = replace(ModelConfig(), frame_H=8, prior="learned", output="sigmoid")
    torch.save(new_content(config), tmp_path / "a.ckpt")
    made, path = checkpoint.load_checkpoint(tmp_path / "a.ckpt"), tmp_path / "best.pth"
    told = (f"wrote {path}", "prior learned", "output sigmoid", "--frame_H 8 --frame_W 64")
    for words, note in zip(told, checkpoint.export(made, path), strict=True):
        assert words in note
    content = torch.load(path, weights_only=True)
    assert list(content) == ["state_dict", "optimizer", "lr", "tfr", "last_epoch"]
    assert [content[key] for key in ("lr", "tfr", "last_epoch")] == [1e-2, 0.5, 7]
    state = content["state_dict"]
    assert list(state) == list(CVAE(ModelConfig()).state_dict())
    assert same({name: made.state_dict[name] for name in state}, dict(state))
    assert same(content["optimizer"], state)
    assert path.stat().st_size < 1.2 * sum(v.nbytes for v in state.values())  # there once
    assert checkpoint.load_checkpoint(path).config == ModelConfig()
    torch.save(new_content(replace(config, fold=2, reference="first")), tmp_path / "b.ckpt")
    notes = checkpoint.export(checkpoint.load_checkpoint(tmp_path / "b.ckpt"), tmp_path / "b.pth")
    assert all(words in "".join(notes) for words in ("fold 2", "reference first"))
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.export(made, tmp_path / "none/a.pth")


# ---------------------------------------------------------------- the best


def test_which_validation_earns_which_name() -> None:
    best, all_names = checkpoint.Best(), ["best.ckpt", "best_loss.ckpt", "best_both.ckpt"]
    for epoch, (loss, psnr, *earned) in enumerate(
        (
            (math.nan, 30.0),  # what is not finite is never best
            (0.001, math.inf),
            (0.010, 20.0, *all_names),  # the first saves all
            (0.009, 19.9, "best_loss.ckpt"),
            (0.0095, 25.0, "best.ckpt"),
            (0.0095, 25.0),  # equal is no better
            (0.008, 26.0, *all_names),
        )
    ):
        assert best.update(epoch, psnr=psnr, loss=loss) == earned
    assert vars(best) == {"psnr": 26.0, "loss": 0.008, "epoch": 6}


# ---------------------------------------------------------------- a run's state

OPTIONS = (
    "--num_epoch 3 --ema 0.9 --rollout_every 1 --tfr 0.5 --tfr_sde 1 --tfr_d_step 0.2 --optim Muon "
    "--lr_scheduler cosine --detector_patience 2 --detector_threshold 50 --frame_noise 0.1 "
    "--auto_save"
)
STEPS = 3  # of an epoch
VALIDATIONS = ((0.010, 20.0), (0.009, 19.9), (0.0095, 25.0))  # loss, PSNR


def new_state(root: Path) -> checkpoint.RunState:
    return new_run(OPTIONS, root)[0]


def go_on(state: checkpoint.RunState, watch: Watch | None = None) -> list[Any]:
    """Train to the end; what each epoch came to."""
    assert state.stored is not None
    step, found = TrainingStep(state, state.stored.data), []
    while state.position.epoch < state.o.num_epoch:
        plan = state.begin_epoch()
        averages = train_epoch(state, step.data, step, watch or Watch())
        seconds, (loss, psnr) = state.position.seconds, VALIDATIONS[state.position.epoch]
        state.save(*state.finish_epoch(loss=loss, psnr=psnr))
        found.append((plan, averages, seconds))
    return found


def resumed(root: Path) -> checkpoint.RunState:
    state, last = new_state(root), checkpoint.load_last(root)
    state.model.load_state_dict(last.state_dict)
    state.resume_from(last)
    return state


def results(root: Path, epochs: list[Any]) -> dict[str, Any]:
    """What must not depend on interruptions."""
    files = {p.name: comparable(p) for p in root.glob("*.ckpt") if p.name != checkpoint.PREVIOUS}
    return {**files, "epochs": [(list(plan), list(averages)) for plan, averages, _ in epochs[-2:]]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("whole")
    found = results(root, go_on(new_state(root)))
    assert {name: found[name]["last_epoch"] for name in found if name != "epochs"} == {
        **{"best.ckpt": 2, "best_loss.ckpt": 1, "best_both.ckpt": 0, checkpoint.LAST: 2}
    }
    assert "rollouts" not in found["best.ckpt"]["training"]  # as large as the data set
    return found


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was asked to stop in its second epoch; not to be changed."""
    root = tmp_path_factory.mktemp("stopped")
    watch = Watch()
    with at_step(STEPS, lambda: watch._note(signal.SIGTERM, None)), pytest.raises(Stopped):
        go_on(new_state(root), watch)
    position = checkpoint.load_last(root).training["position"]
    assert (position["epoch"], position["step"]) == (1, 1)
    return root


# Parts of the state that a resumed run could lack, as controls.
LOST: dict[str, Callable[[dict[str, Any]], object]] = {
    "nothing": lambda c: None,
    "the posterior's sums": lambda c: c["training"]["position"].update(moments=None),
    "the average's age": lambda c: c["training"].update(average_steps=0.0),
    "the detector": lambda c: c["training"]["detector"].update(history=[]),
}


@pytest.mark.parametrize("lost", LOST)
def test_resumed_in_mid_epoch_equals_uninterrupted_unless_something_is_lost(
    lost: str, stopped: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    for path in stopped.glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        if path.name == checkpoint.LAST:
            LOST[lost](content)
            content["training"]["position"]["seconds"] += 1000.0
        torch.save(content, tmp_path / path.name)
    state = resumed(tmp_path)
    assert state.last_epoch == 0  # which metrics.csv is cut to
    last = checkpoint.load_checkpoint(tmp_path / checkpoint.LAST)
    assert (last.lr, last.tfr) == (pytest.approx(0.75 * state.o.lr), 0.3)  # of this epoch
    epochs = go_on(state)
    assert same(results(tmp_path, epochs), whole) == (lost == "nothing")
    assert epochs[0][2] > 1000 > epochs[1][2]  # seconds before the interruption count


@pytest.mark.parametrize("written", [0, 1])
def test_a_run_killed_while_it_saves_loses_nothing(
    written: int, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the epoch whose best.ckpt is the last: before it is written, and before last.ckpt is."""
    state, write = new_state(tmp_path), checkpoint.write_atomically
    count: Iterator[int] = iter(range(99))

    def killed(*arguments: Any, **options: Any) -> None:
        if state.last_epoch == 2 and next(count) == written:
            raise SystemExit
        write(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(checkpoint, "write_atomically", killed)
        go_on(state)
    assert same(results(tmp_path, go_on(resumed(tmp_path))) | {"epochs": 0}, whole | {"epochs": 0})


def test_every_option_is_saved_and_comes_back(tmp_path: Path) -> None:
    def other(name: str, value: Any) -> Any:
        if name in ("augment", "lr_milestones"):
            return ("mirror",) if name == "augment" else (1, 2)
        if isinstance(value, bool):
            return not value
        return f"{value}x" if isinstance(value, str | None) else value + 1

    state = new_state(tmp_path)
    others = {name: other(name, value) for name, value in vars(state.o).items()}
    others["preset"] = "demo"
    state.o = TrainerOptions(**others)
    state.save()
    content = torch.load(tmp_path / checkpoint.LAST, weights_only=True)
    content["options"] |= {"resume_if_any": True}  # of an earlier version
    torch.save(content, tmp_path / checkpoint.LAST)
    o = TrainerOptions(save_root=str(tmp_path), resume=True, preset="demo", num_epoch=99)
    came, _ = checkpoint.take_from_checkpoint(o, frozenset({"preset", "num_epoch"}))
    # By where the run is now, and typed.
    given = {"DR": "", "save_root": str(tmp_path), "resume": True, "recompute": False}
    assert vars(came) == {**others, **given, "num_epoch": 99}
    o.preset = "video"
    with pytest.raises(UserError, match=r"this would change: --preset demo → video$"):
        checkpoint.take_from_checkpoint(o, frozenset({"preset"}))


def test_a_corrupted_last_checkpoint_never_becomes_the_previous_one(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        (tmp_path / name).write_bytes((stopped / name).read_bytes())
    (tmp_path / checkpoint.LAST).write_bytes(b"half")
    state = resumed(tmp_path)
    assert f"resuming from {checkpoint.PREVIOUS} instead" in capsys.readouterr().out
    assert same(comparable(tmp_path / checkpoint.LAST), comparable(stopped / checkpoint.PREVIOUS))
    state.unwritten = [{"epoch": 0.0, "val_psnr": 20.0}]  # a spreadsheet held metrics.csv
    state.save()
    assert checkpoint.load_checkpoint(tmp_path / checkpoint.PREVIOUS).training
    assert resumed(tmp_path).unwritten == state.unwritten
    for name in (checkpoint.LAST, checkpoint.PREVIOUS):
        (tmp_path / name).write_bytes(b"half")
    with pytest.raises(UserError, match=r"last\.prev\.ckpt: corrupted"):
        checkpoint.load_last(tmp_path)
