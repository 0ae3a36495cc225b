"""Checkpoints: old and new ones load, corrupted and hostile ones never; no file is half written."""

import ast
import io
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modules.checkpoint import (
    Best,
    _ink,
    export,
    load_checkpoint,
    save_checkpoints,
    with_frame_size,
    with_parts,
)
from modules.cvae import CVAE, OPTIONAL_PARTS, ModelConfig, prior_latents
from modules.ink import Ink
from modules.runtime.errors import UserError
from tests.support.comparing import same
from tests.support.scripts import REPOSITORY

CONFIG = ModelConfig(F_dim=16, L_dim=6, N_dim=8, D_out_dim=24, frame_H=8, frame_W=12)


def older_content(config: ModelConfig = CONFIG) -> dict:
    """What the older code saved: `optimizer` is the weights again."""
    weights = CVAE(config).state_dict()
    return {"state_dict": weights, "optimizer": weights, "lr": 1e-3, "tfr": 0.5, "last_epoch": 7}


def new_content() -> dict:
    model = CVAE(CONFIG)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step()
    return {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr": 1e-3,
        "tfr": 0.5,
        "last_epoch": 7,
        "config": CONFIG.to_dict(),
        "options": {"DR": "somewhere", "lr_milestones": (1, 2)},
        "data_root": "somewhere",
        "training": {"best": {"psnr": -math.inf}},
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    save_checkpoints([path], new_content())
    return path


@pytest.mark.parametrize(
    "config", [CONFIG, ModelConfig(), ModelConfig(8, 2, 4, 8), ModelConfig(37, 11, 13, 21)]
)
def test_older_checkpoints_load_with_any_dimensions(tmp_path: Path, config: ModelConfig) -> None:
    content, path = older_content(config), tmp_path / "old.ckpt"
    torch.save(content, path)
    found = load_checkpoint(path)
    dimensions = ("F_dim", "L_dim", "N_dim", "D_out_dim")
    assert [getattr(found.config, n) for n in dimensions] == [
        getattr(config, n) for n in dimensions
    ]
    assert (found.config.frame_H, found.config.frame_W, found.has_frame_size) == (32, 64, False)
    assert (found.last_epoch, found.optimizer, found.training) == (7, {}, {})
    for name, value in found.build_model().state_dict().items():
        assert torch.equal(value, content["state_dict"][name])


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize(
    "parts", [("learned", "none"), ("standard", "first"), ("learned", "first")]
)
def test_the_five_networks_load_into_a_model_with_more_parts(
    tmp_path: Path, parts: tuple[str, str], older: bool
) -> None:
    path = tmp_path / "five.ckpt"
    torch.save(older_content() if older else new_content(), path)
    plain = load_checkpoint(path)
    more = with_parts(plain, *parts)
    assert (more.config.prior, more.config.reference) == parts
    frames, labels = torch.rand(2, 5, 2, 3, 8, 12, generator=torch.Generator())

    def frames_of(model: CVAE) -> torch.Tensor:
        latents = prior_latents(CONFIG, 0, [0, 1])
        return torch.stack(list(model.eval().rollout(frames[0], labels, latents)))

    model = more.build_model()
    expected = frames_of(plain.build_model())
    torch.testing.assert_close(frames_of(model), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():  # the control: the parts are there, and could do something
        for name, p in model.named_parameters():
            if name.endswith("bias") and name.split(".")[0] in OPTIONAL_PARTS:
                p += 0.5
    assert not torch.allclose(frames_of(model), expected, atol=1e-3)
    content = {"state_dict": model.state_dict(), "config": more.config.to_dict()}
    torch.save(content, path)
    again = load_checkpoint(path)  # what has been trained with them keeps them
    assert with_parts(again, "standard", "none").config == more.config
    assert torch.equal(frames_of(again.build_model()), frames_of(model))


def test_older_formats_and_prefixes(tmp_path: Path) -> None:
    content = older_content()
    prefixed = {
        **content,
        "state_dict": {f"module.{k}": v for k, v in content["state_dict"].items()},
    }
    torch.save(prefixed, tmp_path / "parallel.ckpt")
    torch.save(content, tmp_path / "tar.ckpt", _use_new_zipfile_serialization=False)
    for name in ("parallel.ckpt", "tar.ckpt"):
        state = load_checkpoint(tmp_path / name).state_dict
        assert all(torch.equal(v, content["state_dict"][k]) for k, v in state.items())


def test_new_checkpoint_round_trip(saved: Path) -> None:
    found = load_checkpoint(saved)
    assert found.config == CONFIG
    assert found.has_frame_size
    assert found.options["lr_milestones"] == (1, 2)
    assert found.data_root == "somewhere"
    assert found.training["best"]["psnr"] == -math.inf
    optimizer = torch.optim.Adam(found.build_model().parameters(), fused=True)
    optimizer.load_state_dict(found.optimizer)
    assert len(optimizer.state) == len(list(CVAE(CONFIG).parameters()))


def test_ours_has_the_older_keys(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert {"state_dict", "optimizer", "lr", "tfr", "last_epoch"} <= set(content)
    CVAE(CONFIG).load_state_dict(content["state_dict"])  # weights move the other way too


def test_frame_size(saved: Path, tmp_path: Path) -> None:
    torch.save(older_content(), tmp_path / "old.ckpt")
    old = with_frame_size(load_checkpoint(tmp_path / "old.ckpt"), 8, 20)
    assert (old.config.frame_H, old.config.frame_W) == (8, 20)
    ours = load_checkpoint(saved)
    assert with_frame_size(ours, 8, None).config == CONFIG
    with pytest.raises(UserError, match=r"--frame_W 20.*12"):
        with_frame_size(ours, None, 20)


class Hostile:
    """Unpickling it would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.target),))


def test_loading_never_runs_code(tmp_path: Path) -> None:
    target = tmp_path / "was_run"
    torch.save({**older_content(), "extra": Hostile(target)}, tmp_path / "hostile.ckpt")
    with pytest.raises(UserError, match=r"hostile\.ckpt.*Python object \((posix|os)\.mkdir\)"):
        load_checkpoint(tmp_path / "hostile.ckpt")
    assert not target.exists()
    torch.load(tmp_path / "hostile.ckpt", weights_only=False)  # the control: it would have run
    assert target.exists()


def corrupted(path: Path, kind: str) -> None:
    data = path.read_bytes()
    contents = {
        "empty": b"",
        "text": b"epoch,loss\n0,1\n" * 20,
        "zeros": bytes(len(data)),
        "truncated": data[: len(data) // 2],
        "without its end": data[:-30],
        "flipped": data[: len(data) // 2]
        + bytes([data[len(data) // 2] ^ 16])
        + data[len(data) // 2 + 1 :],
    }
    path.write_bytes(contents[kind])


@pytest.mark.parametrize(
    "kind", ["empty", "text", "zeros", "truncated", "without its end", "flipped"]
)
def test_corrupted_files_are_errors_that_name_the_path(saved: Path, kind: str) -> None:
    load_checkpoint(saved)  # the control
    corrupted(saved, kind)
    with pytest.raises(UserError, match=r"last\.ckpt: corrupted"):
        load_checkpoint(saved)


def test_flipped_byte_would_load_without_the_checksums(saved: Path) -> None:
    corrupted(saved, "flipped")
    torch.load(saved, weights_only=True)  # silently


def test_missing_folder_and_other_content(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="not a checkpoint file"):
        load_checkpoint(tmp_path)
    for content in ([1, 2], {"weights": 1}, {"state_dict": {"a": 1}}, torch.zeros(3)):
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(UserError, match=r"other\.ckpt: not a checkpoint of this model"):
            load_checkpoint(tmp_path / "other.ckpt")


def test_another_architecture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    for change, words in (
        (lambda s: s.pop("Generator.7.bias"), r"Generator\.7\.bias is missing"),
        (lambda s: s.update(head=torch.zeros(2)), "this model lacks: head"),
        (lambda s: s.update({"Generator.7.bias": torch.zeros(4)}), "Generator.7.bias is 4, not 3"),
        (lambda s: s.pop("Decoder_Fusion.5.weight"), "no tensor Decoder_Fusion.5.weight"),
    ):
        content = older_content()
        change(content["state_dict"])
        torch.save(content, path)
        with pytest.raises(UserError, match=f"x.ckpt: another architecture.*{words}"):
            load_checkpoint(path)


class TestExport:
    def test_the_older_form_to_the_same_bits(self, saved: Path, tmp_path: Path) -> None:
        checkpoint, path = load_checkpoint(saved), tmp_path / "best.pth"
        notes = export(checkpoint, path)
        assert "--frame_H 8 --frame_W 12" in notes[1]
        content = torch.load(path, weights_only=True)
        assert list(content) == ["state_dict", "optimizer", "lr", "tfr", "last_epoch"]
        assert (content["lr"], content["tfr"], content["last_epoch"]) == (1e-3, 0.5, 7)
        assert same(content["state_dict"], dict(torch.load(saved)["state_dict"]))
        assert same(content["optimizer"], content["state_dict"])
        again = load_checkpoint(path)
        assert same(again.state_dict, checkpoint.state_dict)
        assert (again.last_epoch, again.lr, again.tfr) == (7, 1e-3, 0.5)
        # The weights are in the file once.
        assert path.stat().st_size < 1.5 * sum(v.nbytes for v in again.state_dict.values()) + 1e5

    def test_names_and_shapes_are_those_of_the_older_code(
        self, shared: Path, tmp_path: Path
    ) -> None:
        torch.save(CVAE(ModelConfig()).state_dict(), tmp_path / "a.pt")
        export(load_checkpoint(tmp_path / "a.pt"), tmp_path / "b.pth")
        state = torch.load(tmp_path / "b.pth", weights_only=True)["state_dict"]
        lines = [f"{n} {'x'.join(map(str, v.shape))}" for n, v in state.items()]
        listed = (shared / "course_checkpoint_keys.txt").read_text().splitlines()
        assert [line.strip() for line in lines] == [line.strip() for line in listed]

    def test_what_the_form_has_no_place_for_is_said(self, tmp_path: Path) -> None:
        config = replace(CONFIG, prior="learned", output="sigmoid")
        content = {"state_dict": CVAE(config).state_dict(), "config": config.to_dict()}
        torch.save(content, tmp_path / "a.ckpt")
        notes = export(load_checkpoint(tmp_path / "a.ckpt"), tmp_path / "b.pth")
        assert [word for word in ("prior", "reference", "output") if word in str(notes[1:])] == [
            "prior",
            "output",
        ]
        assert load_checkpoint(tmp_path / "b.pth").config.prior == "standard"

    def test_no_file_is_replaced(self, saved: Path) -> None:
        before = saved.read_bytes()
        checkpoint = load_checkpoint(saved)
        with pytest.raises(UserError, match="is there already"):
            export(checkpoint, saved)
        assert saved.read_bytes() == before
        with pytest.raises(UserError, match=r"another ending"):
            export(checkpoint, saved.with_name("a.safetensors"))
        with pytest.raises(UserError, match="cannot be written"):
            export(checkpoint, saved.parent / "none" / "a.pth")


class TestWriting:
    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be written"):
            save_checkpoints([tmp_path / "none" / "a.ckpt"], {})

    def test_only_plain_values_are_saved(self, saved: Path) -> None:
        # What weights_only refuses must not get in: it could not be read back.
        buffer = io.BytesIO(saved.read_bytes())
        torch.load(buffer, weights_only=True)

    def test_same_content_everywhere(self, tmp_path: Path) -> None:
        paths = [tmp_path / "best.ckpt", tmp_path / "last.ckpt"]
        save_checkpoints(paths, older_content())
        assert paths[0].read_bytes() == paths[1].read_bytes()


class TestBest:
    def test_three_cases(self) -> None:
        best = Best()
        everything = ["best.ckpt", "best_psnr.ckpt", "best_loss.ckpt"]
        assert best.update(0, psnr=20.0, loss=0.01) == everything  # the first saves all
        assert best.update(1, psnr=19.0, loss=0.02) == []
        assert best.update(2, psnr=21.0, loss=0.02) == ["best_psnr.ckpt"]
        assert best.update(3, psnr=20.5, loss=0.009) == ["best_loss.ckpt"]
        assert best.update(4, psnr=22.0, loss=0.008) == everything
        assert best.update(5, psnr=22.0, loss=0.008) == []  # equal is no better
        assert (best.psnr, best.loss, best.epoch) == (22.0, 0.008, 4)

    @pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
    def test_not_finite_is_never_best(self, wrong: float) -> None:
        best = Best()
        assert best.update(0, psnr=wrong, loss=0.1) == []
        assert best.update(1, psnr=20.0, loss=wrong) == []
        assert best.update(2, psnr=20.0, loss=0.1) != []

    def test_state_is_plain(self) -> None:
        assert vars(Best(**vars(Best(1.0, 2.0, 3)))) == {"psnr": 1.0, "loss": 2.0, "epoch": 3}


def test_no_unsafe_load_anywhere() -> None:
    loads = []
    for path in (*REPOSITORY.glob("*.py"), *(REPOSITORY / "modules").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                loads.append((path.name, {k.arg: ast.unparse(k.value) for k in node.keywords}))
    assert {name for name, _ in loads} >= {"weight_files.py", "keypoints.py"}
    assert all(given.get("weights_only") == "True" for _, given in loads), loads


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"background": [0, 0], "contrast": 9},
        {"background": "abc", "contrast": 9},
        {"background": [0, 0, "x"], "contrast": 9},
    ],
)
def test_what_labels_lie_on_is_known_or_not(labels: dict[str, object]) -> None:
    assert _ink(labels) is None
    assert _ink({"background": [255, 254, 253], "contrast": 99}) == Ink((255, 254, 253), 99)
