"""A whole search by the command line: what it leaves, what becomes of it when it is killed, what it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from support import SHORT_SEARCH, command, small_arguments, tinyvit, wait_until

from logitstore import LogitStore
from tinyvit.config import load_recipe
from tinyvit.contraction.count import count
from tinyvit.contraction.point import Point
from tinyvit.contraction.run import contract, open_search
from tinyvit.contraction.search import divide
from tinyvit.data.index import index_shards
from tinyvit.data.location import resolve_data
from tinyvit.errors import UserError
from tinyvit.models import input_size, load_student
from tinyvit.runtime.progress import SilentProgress
from tinyvit.training.folder import read_epochs


def arguments(data: Path, store: LogitStore, folder: Path, *more: str) -> list[str]:
    changes = [part for change in (*SHORT_SEARCH, *more) for part in ("--set", change)]
    return ["contract", "contract-example", "--data", str(data), "--store", store.location, "--run-dir", str(folder),
            *changes]  # fmt: skip


@pytest.fixture(scope="module")
def found(small_data: Path, small_store: LogitStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed search found."""
    folder = tmp_path_factory.mktemp("search") / "whole"
    done = tinyvit(*arguments(small_data, small_store, folder), "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document == json.loads((folder / "path.json").read_text())
    return document


def path_of(found: dict[str, Any]) -> list[Any]:
    """All that is no time and no speed."""
    return [
        (of["round"], of["bounds"], [(c["point"], c["loss"], c["agreement"], c["chosen"]) for c in of["candidates"]])
        for of in found["rounds"]
    ]


def test_the_path_leads_to_the_budget(found: dict[str, Any]) -> None:
    rounds = found["rounds"]
    assert len(rounds) >= 3
    parent = None
    for of in rounds:
        (chosen,) = (entry for entry in of["candidates"] if entry["chosen"])
        assert chosen["loss"] == min(entry["loss"] for entry in of["candidates"])
        for entry in of["candidates"]:
            assert all(entry[name] <= bound for name, bound in of["bounds"].items())
            point = Point.from_dict(entry["point"])
            costs = count(point, 32, 10)
            assert (entry["parameters"], entry["macs"]) == (costs.parameters, costs.macs)
            assert entry["throughput"] > 0
            assert parent is None or point.within(parent)
            # One shard of 250 images is trained on, the other scored on.
            assert (entry["images"], entry["views"]) == (250, 250)
        parent = Point.from_dict(chosen["point"])
    last = next(entry for entry in rounds[-1]["candidates"] if entry["chosen"])
    assert last["parameters"] <= 0.3e6
    assert last["macs"] <= 3.0e6


def test_what_is_kept(found: dict[str, Any], small_data: Path, small_store: LogitStore, tmp_path: Path) -> None:
    folder = Path(found["recipe"]).parent
    for of in found["rounds"]:
        for entry in of["candidates"]:
            home = folder / entry["folder"] / "train"
            (epoch,) = read_epochs(home)
            assert epoch["loss"] > 0
            assert (home / "model.safetensors").exists() == entry["chosen"]
            assert not (home / "state.pt").exists()
            assert not (home.parent / "begin").exists()
    assert not list(folder.rglob("*.partial"))
    image = np.asarray(Image.open(found["picture"]).convert("RGB"))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50
    recipe = load_recipe(found["recipe"])
    assert recipe.contraction is None
    last = next(entry for entry in found["rounds"][-1]["candidates"] if entry["chosen"])
    assert Point.of(recipe.student) == Point.from_dict(last["point"])
    # `train` takes it at once.
    run = tmp_path / "run"
    done = tinyvit("train", found["recipe"], *small_arguments(small_data), "--store", small_store.location,
                   "--run-dir", run, "--stage", "distill", "--workers", "1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    student = load_student(run / "distill")
    assert input_size(student) == 32
    body = sum(values.numel() for name, values in student.named_parameters() if not name.startswith("head.fc"))
    assert body == count(Point.from_dict(last["point"]), 32, 0).parameters


def test_killed_and_resumed_it_takes_the_same_path(
    found: dict[str, Any], small_data: Path, small_store: LogitStore, tmp_path: Path
) -> None:
    folder = tmp_path / "search"
    line = command(*arguments(small_data, small_store, folder), "--json")
    # While the second candidate of a round begins, and while the third round is decided on or begins.
    for moment in ("round-01/c2/train/record.json", "round-02/c1/begin"):
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda moment=moment: (folder / moment).exists(), process)  # type: ignore[misc]
            process.kill()
    first = folder / "round-01" / "c1" / "score.json"
    stamp = first.stat().st_mtime_ns
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert path_of(json.loads(done.stdout)) == path_of(found)
    # What was finished was not done again.
    assert first.stat().st_mtime_ns == stamp
    assert "round-01/c1" not in done.stderr
    again = tinyvit(*arguments(small_data, small_store, folder, "contract.seed=1"))
    assert again.returncode == 2
    assert "holds the search of another recipe, store or data set" in again.stderr


def test_fresh_weights_are_an_option(
    found: dict[str, Any], small_data: Path, small_store: LogitStore, tmp_path: Path
) -> None:
    done = tinyvit(*arguments(small_data, small_store, tmp_path / "s", "contract.inherit=false"), "--json")
    assert done.returncode == 0, done.stderr
    fresh, inherited = json.loads(done.stdout)["rounds"], found["rounds"]
    # The first student is the same, and so are its neighbours, which have not learned what it knew.
    assert path_of({"rounds": fresh[:1]}) == path_of({"rounds": inherited[:1]})
    assert [c["point"] for c in fresh[1]["candidates"]] == [c["point"] for c in inherited[1]["candidates"]]
    for one, other in zip(fresh[1]["candidates"], inherited[1]["candidates"], strict=True):
        assert other["loss"] < one["loss"]


WRONG = {
    "a budget below the space": (
        ["contract.budget={parameters: 1000}"],
        "the budget cannot be met: it wants at most 0.00 M parameters, the smallest student of the space",
    ),
    "a speed beyond the space": (
        ["contract.budget={throughput: 1000}"],
        "it wants at least 1000.00 times the throughput, the smallest student",
    ),
    "a budget that is met": (["contract.budget={parameters: 9.0e+6}"], "keeps the budget already"),
    "no bound": (["contract.budget={}"], "contract.budget: it bounds nothing; give parameters"),
    "more than all shards": (["contract.share=0.8"], "share 0.8 and held_out 0.5 are more than all shards"),
    "heads that do not fit": (["student.kwargs.embed_dims=[32, 64, 100, 128]"], "timm cannot make tiny_vit_5m_224"),
    "a head dimension that divides nothing": (
        ["contract.space.head_dims=[7, 16]"],
        "heads of 7 channels divide no size of the stage of 64 channels (64 to 16 in steps of 16); take 7 out of",
    ),
    "heads of several widths": (["student.kwargs.num_heads=[2, 4, 6, 4]"], "contraction knows one head dimension"),
    "another architecture": (["student={name: resnet18}"], "resnet18 is no TinyViT"),
    "a stage on labels": (["contract.stage=finetune"], "contract.stage is 'finetune', which learns labels"),
    "no such stage": (["contract.stage=pretrain"], "contract.stage is 'pretrain'; the stages are distill, finetune"),
    "a device that is not here": (["contract.device=tpu:7"], "contract.device is 'tpu:7', which this machine has not"),
    "a misspelt factor": (["contract.space.dims=3"], "contract.space.dims"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line(case: str, small_data: Path, small_store: LogitStore, tmp_path: Path) -> None:
    changes, expected = WRONG[case]

    def begin() -> None:
        recipe = resolve_data(load_recipe("contract-example", [*SHORT_SEARCH, *changes]), small_data)
        index = index_shards(recipe.data.train, SilentProgress())
        contract(open_search(recipe, tmp_path / "s", small_store, index, 0, SilentProgress()))

    with pytest.raises(UserError) as fault:
        begin()
    assert expected in str(fault.value)
    assert "\n" not in str(fault.value)
    # Nothing was decided.
    assert not list(tmp_path.rglob("round.json"))


def test_bad_input_ends_in_exit_code_2(small_data: Path, small_store: LogitStore, tmp_path: Path) -> None:
    done = tinyvit(*arguments(small_data, small_store, tmp_path / "s", "contract.budget={parameters: 1000}"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("tinyvit: the budget cannot be met")
    assert "Traceback" not in done.stderr


def test_a_recipe_without_the_section(small_data: Path, small_store: LogitStore, tmp_path: Path) -> None:
    done = tinyvit("contract", "example", "--store", small_store.location, "--run-dir", tmp_path / "s")
    assert (done.returncode, done.stderr.strip()) == (
        2, "tinyvit: the recipe has no contract section: it says to what the student is scaled down; add one",
    )  # fmt: skip


def test_shards_are_divided_once_and_for_all() -> None:
    held, trained = divide(100, 0.05, 0.2, 0)
    assert (len(held), len(trained)) == (5, 20)
    assert not held & trained
    assert divide(100, 0.05, 0.2, 0) == (held, trained)
    assert divide(100, 0.05, 0.2, 1) != (held, trained)
    # A part of none is one.
    assert [len(part) for part in divide(2, 0.01, 0.01, 0)] == [1, 1]


def test_the_papers_search_is_a_recipe() -> None:
    recipe = load_recipe("contract-21m")
    assert Point.of(recipe.student).name == "d96-192-384-576 n2-2-6-2 w7-14-7 r4 m4 h32"
    assert recipe.contract.budget.bounds == {"parameters": 5.4e6, "throughput": 2.0}
    assert "contract" not in yaml.safe_load(yaml.safe_dump(load_recipe("in22k-distill-21m").record()))
