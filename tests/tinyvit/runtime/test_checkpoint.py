"""Files that are no checkpoints are refused in one line wherever one is read, whatever they hold."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tinyvit.errors import UserError
from tinyvit.models.released import import_released
from tinyvit.models.teachers import load_teacher
from tinyvit.runtime.checkpoint import read_checkpoint, read_weights
from tinyvit.training.folder import STATE, StageFolder

CPU = torch.device("cpu")


def saved() -> bytes:
    content = io.BytesIO()
    torch.save({"model": {"weight": torch.arange(100.0)}}, content)
    return content.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"\x80\x02", b"PK\x03\x04 and then", saved()[:700], saved()[700:]]
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / STATE
    file.write_bytes(content)
    for read in (
        lambda: import_released(file, tmp_path / "out"),
        lambda: StageFolder(tmp_path, "digest").read_state(CPU),
        lambda: load_teacher(f"timm:resnet18@{file}", CPU, None),
    ):
        with pytest.raises(UserError, match="is no checkpoint that can be read safely") as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("checksums", [True, False])
def test_random_damage_is_refused_in_one_line_or_harmless(tmp_path: Path, checksums: bool) -> None:
    torch.serialization.set_crc32_options(checksums)
    try:
        rng, whole, file = random.Random(0), saved(), tmp_path / "x.pt"
    finally:
        torch.serialization.set_crc32_options(True)
    file.write_bytes(whole)
    assert read_checkpoint(file, CPU, "remove it")["model"]["weight"].tolist() == list(range(100))
    refused = []
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 20)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(content)
        try:
            found = read_checkpoint(file, CPU, "remove it")
            assert not checksums or found["model"]["weight"].tolist() == list(range(100))
        except UserError as fault:
            refused.append(str(fault))
    assert len(refused) > 100
    assert not any("\n" in line for line in refused)


def test_a_value_that_was_damaged_is_refused_wherever_a_checkpoint_is_read(tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save({"model": {"weight": torch.ones(1000)}, "digest": "digest"}, content)
    damaged = bytearray(content.getvalue())
    damaged[damaged.index(torch.ones(9).numpy().tobytes()) + 20] ^= 0x40
    file = tmp_path / STATE
    file.write_bytes(damaged)
    for read in (
        lambda: import_released(file, tmp_path / "out"),
        lambda: StageFolder(tmp_path, "digest").read_state(CPU),
        lambda: load_teacher(f"timm:resnet18@{file}", CPU, None),
    ):
        with pytest.raises(UserError, match=r"damaged: the checksum of archive/data/0 does not fit"):
            read()


WEIGHTS = {"head.weight": torch.arange(6.0).view(2, 3), "norm.steps": torch.tensor(3)}


PREFIXES = [
    "", "module.", "_orig_mod.", "module._orig_mod.", "image_encoder.", "module.image_encoder.",
    "image_encoder.module.", "_orig_mod.module.image_encoder.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    "wrap", ["alone", "state_dict", "model", "model_ema", "state_dict_ema", "ema", "ema of a module"]
)
def test_weights_are_found_under_the_names_of_other_code(tmp_path: Path, prefix: str, wrap: str) -> None:
    state = {prefix + name: values for name, values in WEIGHTS.items()}
    other = {"prompt_encoder.weight": torch.zeros(3)} if "image_encoder" in prefix else {}
    content: dict[str, Any] = {**state, **other}
    if wrap == "ema of a module":
        content = {"ema": {"module": content, "updates": 7}, "epoch": 3}
    elif wrap != "alone":
        content = {wrap: content, "epoch": 3}
    torch.save(content, tmp_path / "x.pth")
    found = read_weights(tmp_path / "x.pth", None, "give another")
    assert {name: values.tolist() for name, values in found.state.items()} == {
        name: values.tolist() for name, values in WEIGHTS.items()
    }
    assert (found.entry, found.others) == ("" if wrap == "alone" else wrap.split()[0], ())
    assert found.left == len(other)


def test_of_weights_and_their_average_the_average_is_taken_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "x.pth"
    torch.save({"model": {"weight": torch.zeros(2)}, "model_ema": {"module.weight": torch.ones(2)}}, file)
    with caplog.at_level("INFO", "tinyvit"):
        average = read_weights(file, None, "give another")
    assert (average.state["weight"].tolist(), average.entry, average.others) == ([1, 1], "model_ema", ("model",))
    assert "the weights are those under 'model_ema'; it also has model" in caplog.text
    assert read_weights(file, "model", "give another").state["weight"].tolist() == [0, 0]
    with pytest.raises(UserError, match="no weights under 'ema'; it has some under model_ema, model"):
        read_weights(file, "ema", "give another")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"model": {"a": torch.tensor([1.0, torch.nan, 2]), "b": torch.ones(2)}}, "1 of 3 values of a are NaN"),
        ({"model": {"module.a": torch.tensor([torch.inf, torch.inf])}}, "2 of 2 values of a are NaN or infinite"),
        ({"optimizer": {"lr": 1}, "epoch": 3}, "holds no weights by name.* it has optimizer, epoch; give another"),
        ([1, 2], "it is something else; give another"),
        ({"module.a": torch.ones(2), "a": torch.zeros(2)}, "names differ in module. and _orig_mod. alone"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(tmp_path: Path, content: Any, line: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=line) as caught:
        read_weights(tmp_path / "x.pth", None, "give another")
    assert "\n" not in str(caught.value)


class Opened:
    def __reduce__(self) -> Any:
        return (Path, ("/tmp",))


def test_the_advice_about_a_file_with_more_than_data_is_whole(tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.ones(2)}, "args": Opened()}, tmp_path / "x.pth")
    with pytest.raises(UserError) as caught:
        read_weights(tmp_path / "x.pth", None, "give another")
    line = str(caught.value)
    assert "it holds a pathlib.Path, whose code would be run" in line
    assert "torch.load it with weights_only=False and torch.save the state dict in it; else give another" in line
    assert "\n" not in line
