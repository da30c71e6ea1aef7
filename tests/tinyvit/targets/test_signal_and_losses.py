"""The sparse signal and its losses, against their dense definitions."""

from __future__ import annotations

import math

import pytest
import torch

from tinyvit.targets.losses import agreement, distillation_loss, label_loss
from tinyvit.targets.signal import TeacherSignal, valid_logits

CLASSES = 30


@pytest.fixture
def logits() -> torch.Tensor:
    return 4 * torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(0))


def dense(signal: TeacherSignal, residual: str) -> torch.Tensor:
    """[B, C] or, for the ghost class, [B, C + 1]: the target that the sparse loss must equal."""
    target = torch.zeros(len(signal.class_id), CLASSES + 1, dtype=torch.float64)
    probability = signal.probability.double()
    mass = signal.residual.double()
    if residual == "renormalise":
        probability = probability / probability.sum(dim=1, keepdim=True)
    elif residual == "uniform":
        target[:, :CLASSES] = (mass / (CLASSES - signal.present.sum(dim=1)))[:, None]
    else:
        target[:, CLASSES] = mass
    for row, (ids, there) in enumerate(zip(signal.class_id, signal.present, strict=True)):
        target[row, ids[there]] = probability[row, there]
    return target


@pytest.mark.parametrize("residual", ["uniform", "ghost", "renormalise"])
@pytest.mark.parametrize("top_k", [1, 5, 29])
def test_sparse_loss_equals_the_dense_one(logits: torch.Tensor, residual: str, top_k: int) -> None:
    signal = TeacherSignal.from_logits(logits, top_k)
    student = torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(1), requires_grad=True)
    log_q = student.double().log_softmax(dim=1)
    outside = log_q.scatter(1, signal.class_id, float("-inf")).logsumexp(dim=1, keepdim=True)
    wanted = -(dense(signal, residual) * torch.cat([log_q, outside], dim=1)).sum(dim=1).mean()
    loss = distillation_loss(student, signal, residual).mean()  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    got = torch.autograd.grad(loss, student, retain_graph=True)[0]
    assert torch.allclose(got, torch.autograd.grad(wanted, student)[0].float(), atol=1e-6)


def test_all_classes_kept_is_plain_soft_cross_entropy(logits: torch.Tensor) -> None:
    signal = TeacherSignal.from_logits(logits, CLASSES)
    student = logits.flip(0)
    wanted = torch.nn.functional.cross_entropy(student, logits.softmax(dim=1)).item()
    assert (signal.residual == 0).all()
    for residual in ("uniform", "ghost", "renormalise"):
        assert distillation_loss(student, signal, residual).mean().item() == pytest.approx(wanted, rel=1e-5)


def test_residual_keeps_its_digits_where_the_teacher_is_sure() -> None:
    logits = torch.full((1, CLASSES), -40.0)
    logits[0, 3] = 0.0
    signal = TeacherSignal.from_logits(logits, 1)
    assert signal.residual.item() == pytest.approx(29 * math.exp(-40), rel=1e-5)
    assert signal.class_id.tolist() == [[3]]


def test_fewer_classes_at_read_time_are_what_a_smaller_k_would_have_kept(logits: torch.Tensor) -> None:
    short, cut = TeacherSignal.from_logits(logits, 4), TeacherSignal.from_logits(logits, 12).truncate(4)
    assert torch.equal(short.class_id, cut.class_id)
    assert torch.allclose(short.probability, cut.probability, atol=1e-6)
    assert torch.allclose(short.residual, cut.residual, atol=1e-6)


def test_a_logit_of_minus_infinity_is_probability_zero(logits: torch.Tensor) -> None:
    masked = torch.arange(CLASSES) % 3 > 0
    some = logits[:, ~masked]
    logits = logits.masked_fill(masked, -torch.inf)
    few, many = TeacherSignal.from_logits(logits, 4), TeacherSignal.from_logits(logits, 15)
    plain = TeacherSignal.from_logits(some, 4)
    assert torch.equal(few.class_id, plain.class_id * 3)
    assert torch.allclose(few.probability, plain.probability)
    assert torch.allclose(few.residual, plain.residual)
    # Ten classes are possible.
    assert (many.present.sum(dim=1) == 10).all()
    assert (many.residual == 0).all()
    assert torch.allclose(many.probability.sum(dim=1), torch.ones(64))
    assert (many.class_id % 3 == 0).all()
    seeds = torch.arange(64)
    mass = TeacherSignal.from_logits_by_mass(logits, 15, 1.0)
    drawn = TeacherSignal.sampled_from_logits(logits, 15, seeds)
    for signal in (mass, drawn, many.truncate(12)):
        assert (signal.class_id % 3 == 0).all()
        assert torch.allclose(signal.probability.sum(dim=1) + signal.residual, torch.ones(64))
    one, two = (TeacherSignal.sampled_from_logits(x, 8, seeds) for x in (logits, some))
    assert torch.equal(dense(one, "ghost")[:, :-1:3], dense(two, "ghost")[:, :10])


def test_the_last_draw_hits_a_class_that_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tinyvit.targets.signal._uniform", lambda seeds: torch.full((len(seeds),), 1.0, dtype=torch.float64)
    )
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [-torch.inf, 0.0, 1e3]])
    signal = TeacherSignal.sampled_from_logits(logits, 2, torch.zeros(2, dtype=torch.int64))
    assert signal.class_id.tolist() == [[1, 1], [2, 2]]


def test_what_is_no_answer_is_told_from_what_is() -> None:
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor([[0.0, 1, 2], [-inf, -inf, 0], [-inf, -inf, -inf], [nan, 0, 0], [inf, 0, 0], [-inf, nan, 0]])
    assert valid_logits(logits).tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("residual", ["uniform", "ghost", "renormalise"])
@pytest.mark.parametrize("kind", ["mass", "sampled", "truncated", "masked"])
def test_the_loss_of_rows_of_several_lengths_equals_the_dense_one(
    logits: torch.Tensor, residual: str, kind: str
) -> None:
    if kind == "sampled":
        signal = TeacherSignal.sampled_from_logits(logits, 12, torch.arange(64))
    elif kind == "masked":
        possible = torch.arange(CLASSES) <= torch.arange(64)[:, None] % 20
        signal = TeacherSignal.from_logits(logits.masked_fill(~possible, -torch.inf), 12)
    else:
        signal = TeacherSignal.from_logits_by_mass(logits, 12, 0.9)
        signal = signal.truncate(5) if kind == "truncated" else signal
    assert len(set(signal.present.sum(dim=1).tolist())) > 3
    student = torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(1))
    log_q = student.double().log_softmax(dim=1)
    outside = torch.stack(
        [q[~torch.isin(torch.arange(CLASSES), i)].logsumexp(0) for q, i in zip(log_q, signal.class_id, strict=True)]
    )
    wanted = -(dense(signal, residual) * torch.cat([log_q, outside[:, None]], dim=1)).sum(dim=1).mean()
    assert distillation_loss(student, signal, residual).mean().item() == pytest.approx(wanted.item(), rel=1e-5)  # type: ignore[arg-type]


def test_mass_keeps_the_fewest_classes_that_reach_it(logits: torch.Tensor) -> None:
    signal = TeacherSignal.from_logits_by_mass(logits, CLASSES, 0.9)
    p = logits.softmax(dim=1).sort(dim=1, descending=True).values
    for row in range(len(logits)):
        count = int(signal.present[row].sum())
        assert p[row, :count].sum() >= 0.9
        assert p[row, : count - 1].sum() < 0.9
    assert torch.allclose(signal.probability.sum(dim=1) + signal.residual, torch.ones(64), atol=1e-5)


def test_sampled_answers_are_unbiased_and_their_starts_even() -> None:
    logits = 2 * torch.randn(1, CLASSES, generator=torch.Generator().manual_seed(3))
    times = 4096
    signal = TeacherSignal.sampled_from_logits(logits.expand(times, -1), 8, torch.arange(times))
    assert (signal.residual == 0).all()
    assert torch.allclose(signal.probability.sum(dim=1), torch.ones(times))
    mean = torch.zeros(times, CLASSES).scatter_add(1, signal.class_id, signal.probability).mean(dim=0)
    p = logits.softmax(dim=1)[0]
    # A class's share of one row has at most the variance of one draw in eight; five standard errors.
    assert ((mean - p).abs() <= 5 * (p * (1 - p) / 8 / times).sqrt() + 1e-9).all()
    # The eight best classes alone would be further off than that.
    best = TeacherSignal.from_logits(logits, 8)
    assert best.residual.item() > 0.02


def test_sampling_is_decided_by_the_seed(logits: torch.Tensor) -> None:
    one, two = (TeacherSignal.sampled_from_logits(logits, 8, torch.arange(64) + first) for first in (0, 0))
    other = TeacherSignal.sampled_from_logits(logits, 8, torch.arange(64) + 1)
    assert torch.equal(one.class_id, two.class_id)
    assert torch.equal(one.probability, two.probability)
    assert not torch.equal(one.class_id, other.class_id)


def test_agreement_counts_equal_best_classes(logits: torch.Tensor) -> None:
    signal = TeacherSignal.from_logits(logits, 3)
    assert agreement(logits, signal).float().mean().item() == 1.0
    half = torch.cat([logits[:32], -logits[32:]])
    assert agreement(half, signal).float().mean().item() == 0.5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_loss_is_torchs_cross_entropy_also_of_mixed_labels(smoothing: float) -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    class_id = torch.tensor([[i, (i + 4) % 9] for i in range(6)])
    share = torch.tensor([1.0, 0.9, 0.8, 0.5, 0.7, 1.0])
    labels = TeacherSignal(class_id, torch.stack([share, 1 - share], dim=1), torch.zeros(6), 9)
    dense = torch.zeros(6, 9).scatter(1, class_id, labels.probability)
    wanted = torch.nn.functional.cross_entropy(logits, dense, label_smoothing=smoothing)
    assert torch.allclose(label_loss(logits, labels, smoothing).mean(), wanted)
