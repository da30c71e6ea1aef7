"""What is trained for some drawn labels: the teacher, what it says, the students; and how good each of them is.

Whatever is done is kept and not done again. Several processes may work in one folder: what two of them need, one makes
while the other waits.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.dividend.sets import write_labelled
from benchmarks.dividend.setting import ALL_LABELS, ANSWERS, LABELS, Plan, Setting
from benchmarks.dividend.teaching import teach
from logitstore import LogitStore, digest_of
from tinyvit.config import Recipe, load_recipe
from tinyvit.evaluation import EvalModel, evaluate, load_eval_model, open_images
from tinyvit.labelling.label import label_store
from tinyvit.models.teachers import Teacher
from tinyvit.runtime.distributed import World
from tinyvit.runtime.progress import LogProgress, Progress
from tinyvit.tasks.run import open_run
from tinyvit.tasks.signals import StoredSignals
from tinyvit.training.folder import read_json, write_json
from tinyvit.training.metric_logger import METRICS, read_lines
from tinyvit.training.model_runner import precision_of
from tinyvit.training.train import train

TESTED = "test.json"
WRITTEN = "written.json"
# A teacher sees each of many labels so often.
TEACHER_EPOCHS = 4


@dataclass(frozen=True)
class Cell:
    """So many labels, drawn with a seed from the shards in `train`; accuracies are on those in `test`."""

    plan: Plan
    train: str
    test: str
    labelled: int
    seed: int
    progress: Progress = field(default_factory=LogProgress)

    def measure(self, setting: Setting, way: str) -> dict[str, Any]:
        """A student that is trained this way in a setting: for how many steps, and how good it is, in percent."""
        recipe = load_recipe("few-labels", [*self.plan.overrides, *setting.overrides, f"label.seed={self.seed}"])
        about = {"what": setting.what, "value": setting.value, "labelled": self.labelled, "seed": self.seed}
        return {**about, "way": way, **self._student(way, recipe, setting)}

    @property
    def _home(self) -> Path:
        return self.plan.folder / f"labels-{self.labelled}-seed-{self.seed}"

    def _student(self, way: str, recipe: Recipe, setting: Setting) -> dict[str, Any]:
        if way in (LABELS, ALL_LABELS):
            return self._trained(recipe, ["labels"], self.train if way == ALL_LABELS else self._labelled(), None, None)
        images = self._labelled() if way == ANSWERS else self._unlabelled(setting.unlabelled)
        teacher, top1 = self._teacher(setting.teacher)
        store = self._answers(recipe, images, teacher)
        views = store.spec.epochs * sum(store.samples)
        trained = self._trained(recipe, ["distill", "finetune"], images, self._labelled(), store)
        return {"teacher": setting.teacher, "teacher_top1": top1, "views": views, **trained}

    def _trained(
        self, recipe: Recipe, stages: Sequence[str], data: str, labelled: str | None, store: LogitStore | None
    ) -> dict[str, Any]:
        """A student that went through these stages on the shards in `data`, or on labels on those in `labelled`."""
        own = {
            name: recipe.stages[name].model_copy(
                update={"seed": self.seed, "train": labelled if recipe.stages[name].target == "labels" else None}
            )
            for name in stages
        }
        here = recipe.data.model_copy(update={"train": data, "val": None})
        recipe = recipe.model_copy(update={"data": here, "stages": own})
        home = self._home / "students" / digest_of([recipe.digest(), store.location if store else None])[:16]
        run = replace(open_run(recipe, home, stages, 0, self.progress), signals=StoredSignals(store) if store else None)
        steps, line = 0, dict[str, Any]()
        for result in train(run, stages):
            folder = home / result["stage"]
            steps += read_lines(folder / METRICS)[-1]["step"]
            tested = self._tested(folder, None)
            line |= {f"{folder.name}_top1": tested["top1"]}
        measured = {name: tested[name] for name in ("top1", "loss", "calibration_error")}
        return {**line, **measured, "steps": steps, "run": str(home.relative_to(self.plan.folder))}

    def _teacher(self, name: str) -> tuple[Teacher, float]:
        folder = self._home / "teachers"
        with _alone(folder):
            views = max(self.plan.teacher_views, TEACHER_EPOCHS * self.labelled)
            shown = self._drawn(self._home / "for-teachers", self.labelled, self.seed, views)
            teacher = teach(name, shown, folder, self.plan.teaching, self.seed, self.progress)
            return teacher, self._tested(folder / name, EvalModel.of_teacher(teacher))["top1"]

    def _answers(self, recipe: Recipe, data: str, teacher: Teacher) -> LogitStore:
        asked = recipe.label.model_copy(update={"teacher": teacher.name})
        here = recipe.data.model_copy(update={"train": data})
        asking = recipe.model_copy(update={"labelling": asked, "data": here})
        name = digest_of([asked.model_dump(mode="json"), teacher.weights_sha256, data])[:16]
        return label_store(asking, self._home / "stores" / name, teacher, 0, self.progress)[0]

    def _tested(self, folder: Path, subject: EvalModel | None) -> dict[str, Any]:
        """How good the network in a stage's folder, or `subject`, is on images that nothing was learned of."""
        found = read_json(folder, TESTED)
        if found is None or found["pictures"] != self.test:
            world = World()
            asked = subject or load_eval_model(str(folder), world.device)
            images, dtype = open_images(self.test, self.progress), precision_of("auto", world.device)
            (evaluation,) = evaluate(asked, [images], world, 0, dtype, self.progress, "test")
            found = asdict(evaluation) | {"pictures": self.test}
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / TESTED, found)
        return found

    def _labelled(self) -> str:
        return self._drawn(self._home / "labelled", self.labelled, self.seed, None)

    def _unlabelled(self, count: int | None) -> str:
        return self.train if count is None else self._drawn(self.plan.folder / f"unlabelled-{count}", count, 0, None)

    def _drawn(self, out: Path, count: int, seed: int, views: int | None) -> str:
        wanted = {"train": self.train, "count": count, "seed": seed, "views": views}
        with _alone(out):
            if read_json(out, WRITTEN) != wanted:
                write_labelled(self.train, out, count, seed, views, self.progress)
                write_json(out / WRITTEN, wanted)
        return str(out)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of several processes that make something in a folder, one at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
