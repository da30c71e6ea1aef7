"""Features: those of timm, kept once, gone on with where a run was lost, refused where pixels changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from support import samples_of

from logitstore import FeatureStore, Unit
from tinyvit.config import Recipe
from tinyvit.errors import UserError
from tinyvit.evaluation import EvalModel, open_images
from tinyvit.evaluation.images import DataSet
from tinyvit.models import create_student
from tinyvit.runtime.progress import LogProgress
from tinyvit.transfer import features as module
from tinyvit.transfer.features import Extractor, Split
from tinyvit.views.pixels import normalise

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject(small_recipe: Recipe) -> EvalModel:
    # As it is when it was made or loaded: in training mode.
    return EvalModel.of(create_student(small_recipe.student, 10, seed=0))


def extractor(subject: EvalModel, folder: Path, workers: int = 0) -> Extractor:
    return Extractor("student", subject, folder, CPU, torch.float32, workers, LogProgress())


def train(data: Path) -> DataSet:
    return open_images(str(data / "train"), LogProgress())


def only_store(folder: Path) -> FeatureStore:
    (path,) = folder.iterdir()
    return FeatureStore.open(path)


def test_features_are_those_of_timm_and_lie_in_a_plain_zarr_group(
    subject: EvalModel, small_data: Path, tmp_path: Path
) -> None:
    split = extractor(subject, tmp_path, workers=1).split("small", train(small_data))
    samples = samples_of(small_data / "train")
    assert split.labels.tolist() == [sample.label for sample in samples]
    model = subject.model.eval()
    views = extractor(subject, tmp_path)._views(train(small_data))
    pixels = torch.cat([views.batch(span)[0] for span in views.spans])
    with torch.inference_mode():
        # By another way: what the classifier's own layer is given.
        given: list[torch.Tensor] = []
        hook = model.get_submodule("head.fc").register_forward_hook(lambda _m, inputs, _o: given.append(inputs[0]))
        model(normalise(pixels, subject.mean, subject.std, CPU))
        hook.remove()
    assert np.allclose(split.features, given[0].numpy(), rtol=1e-4, atol=1e-5)
    store = only_store(tmp_path)
    group = zarr.open_group(store.location, mode="r")
    stored = np.concatenate([np.asarray(group["feature"][0, shard, :n]) for shard, n in enumerate(store.samples)])  # type: ignore[index]
    assert np.array_equal(stored, split.features)
    assert not any(store.faults())


def test_what_is_there_is_not_made_again(
    subject: EvalModel, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extractor(subject, tmp_path).split("small", train(small_data))
    store = only_store(tmp_path)
    kept = store.commit_times([Unit(0, 0)])
    store.uncommit(Unit(0, 1))
    again = extractor(subject, tmp_path).split("small", train(small_data))
    assert np.array_equal(again.features, first.features)
    assert store.commit_times([Unit(0, 0)]) == kept
    # With everything there, no image is read but the probes.
    monkeypatch.setattr(module, "run_jobs", None)
    assert np.array_equal(extractor(subject, tmp_path).split("small", train(small_data)).features, first.features)


def test_another_network_preparation_or_data_set_has_a_store_of_its_own(
    subject: EvalModel, small_recipe: Recipe, small_data: Path, tmp_path: Path
) -> None:
    other = EvalModel.of(create_student(small_recipe.student, 10, seed=1).eval())
    val = open_images(str(small_data / "val"), LogProgress())
    made: list[Split] = [
        extractor(one, tmp_path).split("small", images)
        for one, images in (
            (subject, train(small_data)),
            (other, train(small_data)),
            (replace(subject, size=48), train(small_data)),
            (subject, val),
        )
    ]
    assert len(list(tmp_path.iterdir())) == len(made)


def test_features_of_other_pixels_are_refused(
    subject: EvalModel, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor(subject, tmp_path).split("small", train(small_data))
    monkeypatch.setattr(module, "view_digest", lambda _pixels: 1)
    with pytest.raises(UserError, match=r"has features of other pixels \(the images or the code changed\); remove it"):
        extractor(subject, tmp_path).split("small", train(small_data))


def test_a_network_without_features_and_one_that_is_not_finite_are_refused(
    subject: EvalModel, small_recipe: Recipe, small_data: Path, tmp_path: Path
) -> None:
    bare = replace(subject, model=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10)))
    with pytest.raises(UserError, match="does not say what its features are"):
        extractor(bare, tmp_path).split("small", train(small_data))
    broken = EvalModel.of(create_student(small_recipe.student, 10, seed=0).eval())
    with torch.no_grad():
        broken.model.get_submodule("head.norm").weight.fill_(torch.nan)  # type: ignore[operator]
    with pytest.raises(UserError, match="gives features that are not finite"):
        extractor(broken, tmp_path).split("small", train(small_data))
