"""Detection: COCO's format in, timm's features, torchvision's heads, COCO's metrics out; one engine trains it."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from coco_sets import DETECTION, STUDENT, measured
from PIL import Image
from support import command, tinyvit, torchrun, wait_until

from tinyvit.config import Decode, Student, load_recipe
from tinyvit.data.location import resolve_data
from tinyvit.datasets.fetch import CLASSES
from tinyvit.detection.coco import CocoSet
from tinyvit.detection.folder import load_detector, save_detector
from tinyvit.detection.model import create_detector
from tinyvit.detection.scenes import TrainingScenes
from tinyvit.errors import UserError
from tinyvit.models import create_student, save_student
from tinyvit.runtime.progress import LogProgress
from tinyvit.tasks.run import open_run
from tinyvit.training.train import train_stage


def test_a_rendered_scene_has_its_objects_where_they_are_said_to_be(coco: CocoSet) -> None:
    for number in range(len(coco)):
        target = coco.target(number, masks=True)
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"]) > 0
        assert target["masks"].sum(dim=0).max() == 1
        for box, mask in zip(target["boxes"].long(), target["masks"], strict=True):
            rows, columns = np.nonzero(mask.numpy())
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def views(coco: CocoSet, **options: Any) -> TrainingScenes:
    settings = {"batch_size": 4, "epoch": 1, "seed": 3, "masks": True, "hflip": 0.5} | options
    return TrainingScenes(coco, **settings)


def boxes_of(stream: Iterator[Any]) -> list[list[float]]:
    return [box for batch in stream for target in batch.targets for box in target["boxes"].tolist()]


def test_the_order_follows_from_the_seed_whoever_reads_it(coco: CocoSet) -> None:
    alone = boxes_of(views(coco).read(0, 1))
    assert views(coco).steps == 2
    assert views(coco).left_out == 1
    # Two ranks share each step, each reading its half in two parts; then what a resumed run reads.
    halves = [list(views(coco, rank=rank, world_size=2, grad_accum_steps=2).read(0, 1)) for rank in range(2)]
    turned = [batch for step in range(2) for half in halves for batch in half[2 * step : 2 * step + 2]]
    assert boxes_of(iter(turned)) == alone
    assert boxes_of(views(coco, start=4).read(0, 1)) == boxes_of(iter(list(views(coco).read(0, 1))[1:]))
    assert boxes_of(views(coco, epoch=2).read(0, 1)) != alone
    names = [image["file_name"] for image in coco.document["images"]]
    assert set(views(coco).keys(0)) < set(names)


def test_a_flipped_image_takes_its_boxes_and_masks_along(coco: CocoSet) -> None:
    for batch in views(coco, hflip=1.0).read(0, 1):
        for target in batch.targets:
            for box, mask in zip(target["boxes"].long(), target["masks"], strict=True):
                columns = np.flatnonzero(mask.any(dim=0).numpy())
                assert box[[0, 2]].tolist() == [columns[0], columns[-1] + 1]
    plain, flipped = (next(views(coco, hflip=chance).read(0, 1)) for chance in (0.0, 1.0))
    assert torch.equal(plain.images[0].flip(2), flipped.images[0])


def test_a_detector_begins_with_the_students_features_at_any_size(tmp_path: Path) -> None:
    whole = create_student(STUDENT, 10, seed=1).eval()
    save_student(tmp_path / "student", whole, STUDENT, None, Decode())
    begun = STUDENT.model_copy(update={"checkpoint": str(tmp_path / "student")})
    detector: Any = create_detector(begun, DETECTION, 10, seed=2).eval()
    loaded: Any = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True, features_only=True,
                                    out_indices=(0, 1, 2, 3)).eval()  # fmt: skip
    pixels = torch.rand(1, 3, 75, 101)
    with torch.inference_mode():
        ours, timms = detector.backbone.features(pixels), loaded(pixels)
        found = detector([torch.rand(3, 75, 101), torch.rand(3, 40, 33)])
    assert [tuple(stage.shape[2:]) for stage in ours] == [(19, 26), (10, 13), (5, 7), (3, 4)]
    assert all(torch.equal(one, two) for one, two in zip(ours, timms, strict=True))
    assert len(found) == 2
    other = STUDENT.model_copy(update={"checkpoint": str(tmp_path / "student"), "kwargs": {}})
    with pytest.raises(UserError, match="is of another model than tiny_vit_5m_224"):
        create_detector(other, DETECTION, 10, seed=2)
    with pytest.raises(UserError, match="has features at strides"):
        create_detector(Student(name="vit_tiny_patch16_224"), DETECTION, 10, seed=2)


def test_places_are_exact_whatever_the_precision() -> None:
    """Of 1,000 pixels bfloat16 tells apart every fourth: only features may be computed in it."""
    detector: Any = create_detector(
        STUDENT, DETECTION.model_copy(update={"longer": 1333, "shorter": (800,)}), 3, seed=0
    )
    detector.eval().roi_heads.score_thresh = 0.0
    images = [torch.rand(3, 200, 260)]
    with torch.inference_mode():
        (plain,) = detector(images)
        with torch.autocast("cpu", torch.bfloat16):
            (mixed,) = detector(images)
    assert mixed["boxes"].dtype == torch.float32
    # Of coarse places, hardly any would have a fraction of its own.
    fractions = [len(set((answer["boxes"] % 1).flatten().tolist())) for answer in (plain, mixed)]
    assert fractions[1] > 0.5 * fractions[0] > 10


def test_each_head_of_a_cascade_mends_the_boxes_of_the_one_before() -> None:
    """Heads that always say the same: to the right by one in their own units, and how sure they are."""
    detector: Any = create_detector(STUDENT, DETECTION.model_copy(update={"cascade": True}), 2, seed=0)
    heads = detector.eval().roi_heads
    sure = ([0.0, 2.0, 0.0], [0.0, 1.0, 3.0], [1.0, 0.0, 2.0])
    with torch.no_grad():
        for predictor, scores in zip([*(head.box_predictor for head in heads.earlier), heads.box_predictor], sure,
                                     strict=True):  # fmt: skip
            for part in (predictor.scores, predictor.offsets):
                part.weight.zero_()
            predictor.scores.bias.copy_(torch.tensor(scores))
            predictor.offsets.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        maps = {str(level): torch.rand(1, 32, 32 >> level, 32 >> level) for level in range(4)}
        (found,), losses = heads(maps, [torch.tensor([[10.0, 20.0, 40.0, 50.0]])], [(128, 128)])
    assert losses == {}
    # 30 wide: by a tenth, a twentieth and a thirtieth of it.
    right = 30 / 10 + 30 / 20 + 30 / 30
    expected = torch.tensor([10 + right, 20, 40 + right, 50])
    mean = torch.tensor(sure).softmax(-1).mean(dim=0)
    assert found["labels"].tolist() == [2, 1]
    assert torch.allclose(found["boxes"], expected.expand(2, 4), atol=1e-4)
    assert torch.allclose(found["scores"], mean[[2, 1]], atol=1e-5)


def test_all_heads_of_a_cascade_learn(coco: CocoSet) -> None:
    detector: Any = create_detector(
        STUDENT, DETECTION.model_copy(update={"cascade": True, "head": "mask_rcnn"}), len(coco.classes), seed=0
    )
    batch = next(views(coco).read(0, 1))
    losses = detector([image.float() / 255 for image in batch.images], batch.targets)
    numbered = {f"loss_{kind}_{number}" for kind in ("classifier", "box_reg") for number in range(3)}
    assert losses.keys() == numbered | {"loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    heads = {name: p.grad for name, p in detector.roi_heads.named_parameters()}
    assert [name for name, gradient in heads.items() if gradient is None or not gradient.abs().sum()] == []


def test_a_set_travels_to_other_processes_without_its_document(coco: CocoSet) -> None:
    travelled = pickle.loads(pickle.dumps(coco))
    assert "document" not in vars(travelled)
    assert torch.equal(travelled.target(3, masks=False)["boxes"], coco.target(3, masks=False)["boxes"])
    assert "document" not in vars(travelled)


def changed(coco: CocoSet, change: Any) -> dict[str, Any]:
    """The figures of a detector that answers the truth, changed."""
    answers = []
    for number in range(len(coco)):
        target = coco.target(number, masks=True)
        answer = {
            "boxes": target["boxes"],
            "labels": target["labels"],
            "scores": torch.ones(len(target["labels"])),
            "masks": target["masks"][:, None].float(),
        }
        answers.append(change(answer))
    return measured(coco, answers)


def test_figures_of_perfect_shifted_and_wrong_answers(coco: CocoSet) -> None:
    perfect = changed(coco, lambda answer: answer)
    assert perfect["ap"] == perfect["ap75"] == perfect["masks"]["ap"] == pytest.approx(100)
    assert perfect["images"] == len(coco)

    def shifted(answer: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        boxes = answer["boxes"].clone()
        # Of an overlap of two thirds: right at 0.5 to 0.65, which are four of the ten thresholds.
        boxes[:, [0, 2]] += 0.2 * (boxes[:, 2] - boxes[:, 0])[:, None]
        return {**answer, "boxes": boxes}

    found = changed(coco, shifted)
    assert found["ap50"] == pytest.approx(100)
    assert found["ap75"] == pytest.approx(0)
    assert found["ap"] == pytest.approx(40)
    wrong = changed(coco, lambda answer: {**answer, "labels": answer["labels"] % 10 + 1})
    assert wrong["ap50"] < 5
    nothing = changed(coco, lambda answer: {name: value[:0] for name, value in answer.items()})
    # Scenes have no objects of more than 96 pixels a side: of such there is no figure, and the rest was not found.
    assert nothing["ap"] == nothing["ap50"] == nothing["ap_small"] == nothing["ap_medium"] == 0
    assert nothing["ap_large"] is None
    assert nothing["masks"]["ap"] == 0
    assert nothing["masks"]["ap_large"] is None


SMALL = (
    "student.checkpoint=null",
    "detection={channels: 16, shorter: [64], longer: 64, anchors: [16, 32, 64, 96, 128], proposals: 20, samples: 16, "
    "head: mask_rcnn}",
    "stages.detect.epochs=1",
    "stages.detect.batch_size=4",
    "engine.save_minutes=0",
)


def test_training_killed_with_9_goes_on_to_the_same_weights(scenes: Path, tmp_path: Path) -> None:
    changes = [part for change in SMALL for part in ("--set", change)]

    def arguments(run: str) -> list[str | Path]:
        return ["train", "detect-example", "--data", scenes, "--run-dir", tmp_path / run, *changes, "--json"]

    whole = tinyvit(*arguments("one"))
    assert whole.returncode == 0, whole.stderr
    result = json.loads(whole.stdout)["detect"]
    assert set(result["val"]) >= {"ap", "ap50", "ap75", "masks"}
    assert result["val"]["images"] == 4
    with subprocess.Popen(command(*arguments("two")), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        wait_until((tmp_path / "two" / "detect" / "state.pt").exists, killed)
        killed.kill()
    assert not (tmp_path / "two" / "detect" / "result.json").exists()
    again = tinyvit(*arguments("two"))
    assert again.returncode == 0, again.stderr
    assert "resumed after epoch 0 of 1 and" in " ".join(again.stderr.split())
    weights = [(tmp_path / run / "detect" / "model.safetensors").read_bytes() for run in ("one", "two")]
    assert weights[0] == weights[1]
    assert [c["name"] for c in load_detector(tmp_path / "one" / "detect").categories] == list(CLASSES)
    png = tmp_path / "found.png"
    measured = tinyvit("evaluate", tmp_path / "one" / "detect", "--data", scenes, "--png", png, "--json")
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["ap"] == pytest.approx(result["val"]["ap"], abs=1e-6)
    assert Image.open(png).width > 300
    report = tinyvit("report", tmp_path / "one", "-o", tmp_path / "report.html")
    assert report.returncode == 0, report.stderr
    assert "Average precision" in (tmp_path / "report.html").read_text()


def test_a_detector_is_measured_on_images_read_as_it_was_trained(coco: CocoSet, tmp_path: Path) -> None:
    decode = Decode(orientation="ignore", background="white")
    model = create_detector(STUDENT, DETECTION, 10, seed=0)
    save_detector(tmp_path, model, STUDENT, DETECTION, coco.categories, decode)
    assert load_detector(tmp_path).decode == decode
    # Also in a data process.
    assert pickle.loads(pickle.dumps(CocoSet(coco.annotations, decode))).decode == decode


def test_two_ranks_train_one_detector(scenes: Path, tmp_path: Path) -> None:
    changes = [part for change in SMALL for part in ("--set", change)]
    line = torchrun("detect-example", "--data", scenes, "--run-dir", tmp_path, *changes, "--json")
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)["detect"]
    # Two steps of four images, two on each rank; each rank measures all four.
    assert result["last"]["images"] == 8
    assert result["val"]["images"] == 4
    assert json.loads((tmp_path / "detect" / "record.json").read_text())["ranks"] == 2
    assert load_detector(tmp_path / "detect").categories


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("detection=null", "stages on boxes and the section detection go together"),
        (
            "stages.detect.layer_decay=0.8",
            "a stage on boxes has no field layer_decay; remove it",
        ),
        ("engine.compile=true", "a detector is neither compiled nor recomputed"),
        ("data.broken=skip", "a detector leaves no broken images out"),
        ("stages.detect.batch_size=50", "a batch_size of 50 does not fit 9 images"),
    ],
)
def test_recipes_that_cannot_be(change: str, line: str, scenes: Path, tmp_path: Path) -> None:
    done = tinyvit("train", "detect-example", "--data", scenes, "--run-dir", tmp_path, "--set", change,
                   "--set", "student.checkpoint=null")  # fmt: skip
    assert done.returncode == 2
    assert line in " ".join(done.stderr.split())


def test_what_cannot_be_measured_is_refused_before_anything_is_trained(scenes: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    file = data / "annotations" / "instances_val.json"
    document = json.loads(file.read_text())
    recipe = resolve_data(load_recipe("detect-example", SMALL), data)

    def refused(line: str) -> None:
        file.write_text(json.dumps(document))
        with pytest.raises(UserError, match=line):
            train_stage(open_run(recipe, tmp_path / "run", ["detect"], 0, LogProgress()), "detect", None)
        assert not (tmp_path / "run" / "detect" / "metrics.jsonl").exists()

    shape = document["annotations"][2].pop("segmentation")
    refused(r"instances_val.json: 1 of \d+ annotations have no mask .* is annotation 3 of 0000\d\d.png: it has no")
    document["annotations"][2]["segmentation"] = shape
    document["categories"][0]["name"] = "hat"
    refused(r"instances_val.json has other categories than .*: it lacks 'T-shirt/top' and also has 'hat'")
