"""What a search has decided and found out so far, in its folder: each file is seen whole or not at all.

`search.json` names what it searches. `round-03/round.json` says which candidates the third round has, of which
parent and within which bounds; `round-03/c2/score.json` what came of one. Beside it lie the curves of its training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyvit.contraction.costs import Costs
from tinyvit.contraction.point import Point
from tinyvit.errors import UserError
from tinyvit.models import WEIGHTS
from tinyvit.training.folder import read_json, write_json

ROUND, SCORE, SEARCH = "round.json", "score.json", "search.json"
# The stage of a candidate's short training, and its folder.
TRAIN = "train"


@dataclass(frozen=True)
class Score:
    """How a trained candidate does on views that were held out: cross-entropy with the teacher's soft targets in nats
    and agreement with its best class in percent, over so many views. `images` were trained on, `seconds` it took.
    """

    loss: float
    agreement: float
    views: int
    images: int
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """A student of a round, in a folder below that of the search."""

    folder: str
    point: Point
    costs: Costs
    score: Score | None = None


@dataclass(frozen=True)
class Round:
    """Candidates within the bounds of a round. Number 0 has the first student alone, which has no parent."""

    number: int
    parent: str | None
    bounds: dict[str, float]
    candidates: list[Candidate]
    measured: int

    @property
    def best(self) -> Candidate:
        """The one whose logits are nearest to the teacher's. All have a score."""
        return min(self.candidates, key=lambda candidate: candidate.score.loss if candidate.score else 0.0)


class SearchFolder:
    """The folder of the search that has this digest (of recipe, store and data)."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path.resolve()
        known = read_json(self.path, SEARCH)
        if known and known["digest"] != digest:
            raise UserError(
                f"{path} holds the search of another recipe, store or data set; choose another run folder, or remove it"
            )
        self._digest = digest

    def begin(self, record: dict[str, Any]) -> None:
        """Say what is searched."""
        write_json(self.path / SEARCH, {"digest": self._digest, **record})

    def read(self, number: int) -> Round | None:
        """A round with the scores that there are; None where it has not been decided on."""
        document = read_json(self.path / f"round-{number:02}", ROUND)
        if document is None:
            return None
        candidates = [
            Candidate(c["folder"], Point.from_dict(c["point"]), Costs(**c["costs"]), self.score(c["folder"]))
            for c in document["candidates"]
        ]
        return Round(**{**document, "candidates": candidates})

    def decide(self, number: int, parent: Candidate | None, bounds: dict[str, float], costs: dict[Point, Costs],
               measured: int) -> Round:  # fmt: skip
        """Keep which candidates a round has."""
        home = f"round-{number:02}"
        chosen = [Candidate(f"{home}/c{place}", point, of) for place, (point, of) in enumerate(costs.items(), 1)]
        made = Round(number, parent.folder if parent else None, bounds, chosen, measured)
        document = asdict(made)
        for entry in document["candidates"]:
            del entry["score"]
        write_json(self.path / home / ROUND, document)
        return made

    def score(self, candidate: str) -> Score | None:
        """What came of a candidate, by its folder; None where it is not finished."""
        document = read_json(self.path / candidate, SCORE)
        return Score(**document) if document else None

    def drop_weights(self, done: Round) -> None:
        """Of a finished round only the best one's weights are needed; all else of the others stays."""
        for candidate in done.candidates:
            if candidate is not done.best:
                (self.path / candidate.folder / TRAIN / WEIGHTS).unlink(missing_ok=True)

    def keep_score(self, candidate: str, score: Score) -> None:
        """The candidate is finished."""
        write_json(self.path / candidate / SCORE, asdict(score))
