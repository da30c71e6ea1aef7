"""The stage for webdataset's pipelines, with webdataset's own reader: each sample with its view and its row."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset.compat as wds
from streams import places
from support import ROOT, SMALL, label_all
from webdataset.handlers import ignore_and_stop, warn_and_continue

from logitstore import LogitStore
from tinyvit.config import Recipe, load_recipe
from tinyvit.data.index import index_shards
from tinyvit.data.join_logits import join_logits
from tinyvit.data.location import resolve_data
from tinyvit.errors import UserError
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.progress import LogProgress
from tinyvit.views import view_digest

SIZE = 32


def shards(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.tar"))]


def pipeline(data: Path, store: str, epoch: int = 1, **options: Any) -> Any:
    """webdataset's own reader and shuffle, with the stage."""
    source: Any = wds.WebDataset(shards(data / "train"), shardshuffle=2, seed=3, empty_check=False)
    return source.compose(join_logits(store, epoch, SIZE, **options)).shuffle(100)


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_every_sample_has_its_view_and_its_row(
    small_data: Path, small_store: LogitStore, small_recipe: Recipe, workers: int
) -> None:
    known = places(small_recipe, small_store, 1)
    rows = [small_store.read(1, shard) for shard in range(2)]
    keys = [index_shards(small_data / "train", LogProgress()).keys(shard) for shard in range(2)]
    seen = []
    for sample in wds.WebLoader(pipeline(small_data, small_store.location), batch_size=None, num_workers=workers):
        shard, slot = known[view_digest(sample["view"].numpy() if workers else sample["view"])]
        assert sample["__key__"] == keys[shard][slot]
        assert (rows[shard].class_id[slot] == sample["class_id"].numpy()).all()
        assert (rows[shard].probability[slot] == sample["probability"].numpy()).all()
        assert rows[shard].residual[slot] == float(sample["residual"])
        assert rows[shard].seed[slot] == sample["seed"]
        # The sample is still there, for whoever wants its label.
        assert sample["cls"].decode().isdecimal()
        seen.append((shard, slot))
    assert len(seen) == len(set(seen)) == 500


def test_epochs_have_other_views(small_data: Path, small_store: LogitStore) -> None:
    first, second = (
        {sample["__key__"]: view_digest(sample["view"]) for sample in pipeline(small_data, small_store.location, epoch)}
        for epoch in range(2)
    )
    assert first.keys() == second.keys()
    assert sum(first[key] != second[key] for key in first) > 490


def samples(data: Path) -> Iterator[dict[str, Any]]:
    return iter(wds.WebDataset(shards(data / "train"), shardshuffle=False))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"__url__": "https://host/other.tar?signed=1"}, r"has no shard other\.tar; its shards are train-000000\.tar"),
        (
            {"__key__": "stranger"},
            r"no sample 'stranger' in train-000000\.tar: the shard was changed after it was label",
        ),
        ({"cls": 3}, r"was decoded already; put join_logits before whatever decodes"),
        ({"png": b"no image"}, r"no view of '.*' can be made \(it is in no format"),
    ],
)
def test_what_is_not_the_stores_ends_it_with_a_line_or_is_left_out(
    small_data: Path, small_store: LogitStore, change: dict[str, Any], words: str
) -> None:
    def changed() -> Iterator[dict[str, Any]]:
        for number, sample in zip(range(20), samples(small_data), strict=False):
            yield sample | (change if number == 7 else {})

    with pytest.raises(UserError, match=words) as fault:
        list(join_logits(small_store.location, 0, SIZE)(changed()))
    assert "\n" not in str(fault.value)
    with pytest.warns(UserWarning, match="UserError"):
        left = list(join_logits(small_store.location, 0, SIZE, warn_and_continue)(changed()))
    assert len(left) == 19
    assert len(list(join_logits(small_store.location, 0, SIZE, ignore_and_stop)(changed()))) == 7


def test_an_image_whose_pixels_were_changed_is_noticed_where_the_store_has_a_checksum(
    small_data: Path, small_store: LogitStore, tmp_path: Path
) -> None:
    images = {sample["__key__"]: sample["png"] for sample in samples(small_data)}
    first, *_, last = images.values()

    def changed() -> Iterator[dict[str, Any]]:
        for sample in samples(small_data):
            yield sample | {"png": last if sample["png"] != last else first}

    with pytest.raises(UserError, match=r"has other pixels than when .* was made"):
        list(join_logits(small_store.location, 0, SIZE)(changed()))


def test_an_epoch_that_is_not_stored_and_a_place_without_a_store_are_refused(
    small_data: Path, small_store: LogitStore, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"has the epochs 0 to \d, not 9; take one of them"):
        next(iter(pipeline(small_data, small_store.location, 9)))
    with pytest.raises(UserError, match="there is no logit store at"):
        next(iter(pipeline(small_data, str(tmp_path / "none"))))


def test_a_store_of_mixed_views_is_refused(small_data: Path, teacher: Teacher, tmp_path: Path) -> None:
    recipe = resolve_data(load_recipe("example", (*SMALL, "label.augment.cutmix_alpha=1.0")), small_data)
    store = label_all(recipe, tmp_path / "store", teacher)
    with pytest.raises(UserError, match="are mixed with those of partners, which a pipeline has not at hand"):
        next(iter(pipeline(small_data, store.location)))


def test_the_page_in_docs_trains_a_network_of_torchvisions(
    small_data: Path, small_store: LogitStore, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "own-pipeline.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) <= 32
    place, pattern = re.findall(r'"([^"]*(?:store|tar))"', code)[:2]
    code = code.replace(place, small_store.location).replace(
        pattern, str(small_data / "train" / "train-{000000..000001}.tar")
    )
    (tmp_path / "run.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [float(line.rpartition(" ")[2]) for line in done.stdout.splitlines()]
    assert len(losses) == 2
    assert losses[1] < losses[0]
