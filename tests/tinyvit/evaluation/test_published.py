"""Published sets, in miniature copies of their layouts: the figures of timm's own way of validating, to the image."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from support import tinyvit
from timm.data import create_dataset, create_loader
from timm.data.real_labels import RealLabelsImagenet
from timm.utils import accuracy
from torch import Tensor

from tinyvit.classes import synsets
from tinyvit.errors import UserError
from tinyvit.evaluation import EvalModel, Evaluator, evaluate, load_eval_model
from tinyvit.evaluation.corruptions import ALEXNET, corruption_error, find_corrupted, open_corrupted, prepared
from tinyvit.evaluation.images import LabelledImages, Relabelled
from tinyvit.evaluation.measure import Evaluation
from tinyvit.evaluation.published import SETS, open_set, real_labels, reassessed
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import LogProgress
from tinyvit.transfer.scorer import Scorer

CPU = World(device=torch.device("cpu"))
TEACHER = "pypi:efficientnet-lite0"
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "cat", "camera")
# Each photograph is cut in so many ways.
CUTS = 4


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng, found = np.random.default_rng(0), []
    for name in PHOTOGRAPHS:
        whole = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        for _ in range(CUTS):
            left, top = rng.integers(0, min(whole.size) // 3, 2).tolist()
            side = int(min(whole.size) * 0.6)
            found.append(whole.crop((left, top, left + side, top + int(side * 0.9))))
    return found


@pytest.fixture(scope="module")
def subject() -> EvalModel:
    return load_eval_model(TEACHER, CPU.device)


@pytest.fixture(scope="module")
def logits(images: list[Image.Image], subject: EvalModel, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """What the teacher says of each image."""
    folder, found = tmp_path_factory.mktemp("asked"), list[Tensor]()
    for number, image in enumerate(images):
        (folder / "all").mkdir(exist_ok=True)
        image.save(folder / "all" / f"{number:03d}.png")
    timms(subject, folder, ["all"], lambda output, _: found.append(output), folder)
    return torch.cat(found)


def answers(logits: Tensor, subject: EvalModel, among: list[str]) -> list[int]:
    """What the teacher calls each image among these classes; that of every third image is replaced by another."""
    assert subject.classes
    columns = [n for n, name in enumerate(subject.classes) if name.split()[0] in set(among)]
    best = logits[:, columns].argmax(dim=1).tolist()
    return [(one + 1) % len(among) if number % 3 == 0 else one for number, one in enumerate(best)]


def layout(images: list[Image.Image], folders: list[str], root: Path, name: str = "image-{}.JPEG") -> Path:
    for number, (image, folder) in enumerate(zip(images, folders, strict=True)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        image.save(root / folder / name.format(number + 1), quality=92)
    return root


def ours(subject: EvalModel, images: LabelledImages) -> Evaluation:
    return Evaluator(subject, [images], CPU, 0, torch.float32, restrict=True, batch_size=7).measure(subject.model)


def timms(
    subject: EvalModel, folder: Path, class_map: list[str], consume: Callable[[Any, Any], None], where: Path
) -> None:
    """What validate.py of timm's repository does with each batch of a folder."""
    (where / "map.txt").write_text("\n".join(class_map))
    dataset = create_dataset("", root=str(folder), class_map=str(where / "map.txt"))  # type: ignore[arg-type]
    loader = create_loader(
        dataset, (3, 224, 224), 5, use_prefetcher=False, interpolation=subject.interpolation,
        mean=subject.mean, std=subject.std, crop_pct=subject.crop_pct,
    )  # fmt: skip
    with torch.inference_mode():
        for views, target in loader:
            consume(subject.model(views), target)


@pytest.mark.parametrize("name", ["in1k", "v2", "a", "r", "sketch"])
def test_top1_is_that_of_timm(
    name: str, images: list[Image.Image], logits: Tensor, subject: EvalModel, tmp_path: Path
) -> None:
    published = SETS[name]
    labels = answers(logits, subject, published.classes)
    called = [str(label) if published.numbered else published.classes[label] for label in labels]
    folder = layout(images, called, tmp_path / "sets" / published.folders[0])
    imaged = open_set(name, str(tmp_path / "sets"), LogProgress())
    found = ours(subject, imaged)
    assert (found.images, found.classes) == (len(images), len(published.classes))
    # What is said of a set says how much of it is there.
    assert found.classes_seen == len(set(labels))
    valid = [n for n, synset in enumerate(synsets("imagenet-1k")) if synset in set(published.classes)]
    right: dict[int, list[float]] = {1: [], 5: []}

    def consume(output: Any, target: Any) -> None:
        for k, share in zip((1, 5), accuracy(output[:, valid], target, topk=(1, 5)), strict=True):
            right[k].append(float(share) * len(target))

    names = [str(n) for n in range(1000)] if published.numbered else published.classes
    timms(subject, folder, names, consume, tmp_path)
    assert found.top1 == pytest.approx(sum(right[1]) / len(images))
    assert found.top5 == pytest.approx(sum(right[5]) / len(images))
    assert 20 < found.top1 < 100


def test_reassessed_labels_are_those_of_timm(
    images: list[Image.Image], logits: Tensor, subject: EvalModel, tmp_path: Path
) -> None:
    folder = layout(images, ["n01440764"] * len(images), tmp_path / "val", "ILSVRC2012_val_{:08d}.JPEG")
    wanted = open_set("real", str(folder), LogProgress())
    assert isinstance(wanted, Relabelled)
    # The reassessed labels of the first files, some of which have none or several; of some of the images the answer.
    valid_logits = answers(logits, subject, SETS["real"].classes)
    labels = [
        (*labels, answer) if labels and number % 2 else labels
        for number, (labels, answer) in enumerate(zip(real_labels(), valid_logits, strict=False))
    ]
    # Of an image that may be anything, all of the best five are right, and count once.
    labels[1] = tuple(range(1000))
    assert {len(one) for one in labels} >= {0, 1, 2, 1000}
    found = ours(subject, replace(wanted, labels=partial(reassessed, labels)))
    (tmp_path / "real.json").write_text(json.dumps(labels))
    files = [f"ILSVRC2012_val_{n + 1:08d}.JPEG" for n in range(len(images))]
    scorer = RealLabelsImagenet(files, str(tmp_path / "real.json"))
    timms(subject, folder, synsets("imagenet-1k"), lambda output, _: scorer.add_result(output), tmp_path)
    assert found.images == sum(bool(one) for one in labels) < len(images)
    assert found.unlabelled == len(images) - found.images
    assert (found.top1, found.top5) == pytest.approx((scorer.get_accuracy(1), scorer.get_accuracy(5)))
    assert 0 < found.top1 < 100
    flat = tmp_path / "flat" / "val"
    flat.mkdir(parents=True)
    for file in folder.rglob("*.JPEG"):
        file.rename(flat / file.name)
    wanted = open_set("real", str(flat.parent), LogProgress())
    assert isinstance(wanted, Relabelled)
    assert ours(subject, replace(wanted, labels=partial(reassessed, labels))).top1 == found.top1
    # As shards, whose samples need no labels of their own.
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "val-000000.tar", "w") as tar:
        for file in sorted(flat.iterdir()):
            tar.add(file, file.name.replace(".JPEG", ".jpeg"))
    wanted = open_set("real", str(tmp_path / "shards"), LogProgress())
    assert ours(subject, replace(wanted, labels=partial(reassessed, labels))).top1 == found.top1
    with pytest.raises(UserError, match=r"ILSVRC2012_val_00000001 has no label \(.cls\)"):
        ours(subject, open_set("in1k", str(tmp_path / "shards"), LogProgress()))


def test_corruptions(images: list[Image.Image], logits: Tensor, subject: EvalModel, tmp_path: Path) -> None:
    """Every corruption in the archives' own folders; severities differ in how many images have the right folder."""
    few = images[::CUTS]
    labels = [SETS["c"].classes[label] for label in answers(logits[::CUTS], subject, SETS["c"].classes)]
    for number, kind in enumerate(ALEXNET):
        archive = tmp_path / "imagenet-c" / ("noise" if "noise" in kind else "other")
        for severity in range(1, 6):
            count = 1 + (number + severity) % len(few)
            small = [image.resize((224, 224)) for image in few[:count]]
            layout(small, labels[:count], archive / kind / str(severity))
    done = tinyvit("evaluate", TEACHER, "--data", tmp_path, "--published", "c", "--workers", "0", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["missing"] == []
    assert found["mce"] == pytest.approx(np.mean([found["error"][kind] / ALEXNET[kind] for kind in ALEXNET]))
    assert len(set(found["error"].values())) > 3
    # All of each image is seen: a crop would see others.
    folder = tmp_path / "imagenet-c" / "noise" / "shot_noise" / "3"
    one = ours(prepared(subject), open_set("c", str(folder), LogProgress()))
    sets = {kind: open_corrupted(folder, LogProgress()) for kind, folder in find_corrupted(str(tmp_path)).items()}
    assert one.images == sum(sets["shot_noise"][2].counts)
    assert sum(sum(s.counts) for severities in sets.values() for s in severities) == found["images"]


def test_a_scorecard_goes_on_after_the_last_corruption(
    images: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("fog", "snow"):
        for severity in range(1, 6):
            layout([images[0].resize((224, 224))], ["n02124075"], tmp_path / "imagenet-c" / kind / str(severity))
    scorer, begun = Scorer.here(tmp_path / "card", 0, 0, LogProgress()), list[int]()

    def stopped_at(number: int) -> Callable[..., list[Evaluation]]:
        def counted(*arguments: Any, **options: Any) -> list[Evaluation]:
            begun.append(len(begun))
            if len(begun) == number:
                raise KeyboardInterrupt
            return evaluate(*arguments, **options)

        return counted

    monkeypatch.setattr("tinyvit.transfer.scorer.evaluate", stopped_at(2))
    with pytest.raises(KeyboardInterrupt):
        scorer.published(TEACHER, str(tmp_path))
    for times in (3, 3):
        found = scorer.published(TEACHER, str(tmp_path))
        # The second corruption is begun again, the first one is not, and in the end none is.
        assert len(begun) == times
        assert found.keys() == {"ImageNet-C"}
        assert found["ImageNet-C"]["of"].startswith("10 images")


def test_some_corruptions_have_no_mean_error(images: list[Image.Image]) -> None:
    one = Evaluation(60, 80, 1, 0, 10, 1, 1, 1000, 2, 0, 0, 0, 0)
    found = corruption_error({"fog": [one] * 5})
    assert found["mce"] is None
    assert found["error"] == {"fog": 40}
    assert found["relative_to_alexnet"]["fog"] == pytest.approx(40 / 0.819324)
    assert "snow" in found["missing"]


def test_what_is_missing_or_is_another_set_is_told(
    images: list[Image.Image], subject: EvalModel, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    for name, published in SETS.items():
        with pytest.raises(UserError, match="it comes from https://") as fault:
            _ = find_corrupted(str(tmp_path)) if name == "c" else open_set(name, str(tmp_path / "none"), LogProgress())
        assert published.source in str(fault.value)
    layout(images[:1], ["cats"], tmp_path / "imagenet-a")
    with pytest.raises(UserError, match="a class 'cats', which ImageNet-A has not"):
        open_set("a", str(tmp_path), LogProgress())
    layout(images[:1], ["n01440764"], tmp_path / "val")
    with pytest.raises(UserError, match="is not called like an image of ImageNet's validation set"):
        ours(subject, open_set("real", str(tmp_path), LogProgress()))
    (tmp_path / "imagenet-c" / "fog" / "1").mkdir(parents=True)
    with pytest.raises(UserError, match="lacks the severity 2"):
        find_corrupted(str(tmp_path))
    with pytest.raises(UserError, match="there is no set 'b'"):
        open_set("b", str(tmp_path), LogProgress())
