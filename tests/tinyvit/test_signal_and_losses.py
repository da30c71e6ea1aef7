"""The sparse answer and its losses, against their dense definitions."""

from __future__ import annotations

import pytest
import torch

from tinyvit.losses import agreement, distillation_loss
from tinyvit.signal import TeacherSignal

CLASSES = 30


@pytest.fixture
def logits() -> torch.Tensor:
    return 4 * torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(0))


def dense(signal: TeacherSignal, residual: str) -> torch.Tensor:
    """[B, C] or, for the ghost class, [B, C + 1]: the target that the sparse loss must equal."""
    target = torch.zeros(len(signal.class_id), CLASSES + 1, dtype=torch.float64)
    probability = signal.probability.double()
    mass = signal.log_residual.double().exp()
    if residual == "renormalise":
        probability = probability / probability.sum(dim=1, keepdim=True)
    elif residual == "uniform":
        target[:, :CLASSES] = (mass / (CLASSES - signal.class_id.shape[1]))[:, None]
    else:
        target[:, CLASSES] = mass
    return target.scatter(1, signal.class_id, probability)


@pytest.mark.parametrize("residual", ["uniform", "ghost", "renormalise"])
@pytest.mark.parametrize("top_k", [1, 5, 29])
def test_sparse_loss_equals_the_dense_one(logits: torch.Tensor, residual: str, top_k: int) -> None:
    signal = TeacherSignal.from_logits(logits, top_k)
    student = torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(1), requires_grad=True)
    log_q = student.double().log_softmax(dim=1)
    outside = log_q.scatter(1, signal.class_id, float("-inf")).logsumexp(dim=1, keepdim=True)
    wanted = -(dense(signal, residual) * torch.cat([log_q, outside], dim=1)).sum(dim=1).mean()
    loss = distillation_loss(student, signal, residual)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    got = torch.autograd.grad(loss, student, retain_graph=True)[0]
    assert torch.allclose(got, torch.autograd.grad(wanted, student)[0].float(), atol=1e-6)


def test_all_classes_kept_is_plain_soft_cross_entropy(logits: torch.Tensor) -> None:
    signal = TeacherSignal.from_logits(logits, CLASSES)
    student = logits.flip(0)
    wanted = torch.nn.functional.cross_entropy(student, logits.softmax(dim=1)).item()
    assert (signal.log_residual == float("-inf")).all()
    for residual in ("uniform", "ghost", "renormalise"):
        assert distillation_loss(student, signal, residual).item() == pytest.approx(wanted, rel=1e-5)  # type: ignore[arg-type]


def test_residual_keeps_its_digits_where_the_teacher_is_sure() -> None:
    logits = torch.full((1, CLASSES), -40.0)
    logits[0, 3] = 0.0
    signal = TeacherSignal.from_logits(logits, 1)
    wanted = torch.log(torch.tensor(29.0, dtype=torch.float64)) - 40
    assert signal.log_residual.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert signal.class_id.tolist() == [[3]]


def test_fewer_classes_at_read_time_are_what_a_smaller_k_would_have_kept(logits: torch.Tensor) -> None:
    short, cut = TeacherSignal.from_logits(logits, 4), TeacherSignal.from_logits(logits, 12).truncate(4)
    assert torch.equal(short.class_id, cut.class_id)
    assert torch.allclose(short.probability, cut.probability, atol=1e-6)
    assert torch.allclose(short.log_residual, cut.log_residual, atol=1e-5)


def test_agreement_counts_equal_best_classes(logits: torch.Tensor) -> None:
    signal = TeacherSignal.from_logits(logits, 3)
    assert agreement(logits, signal).item() == 1.0
    half = torch.cat([logits[:32], -logits[32:]])
    assert agreement(half, signal).item() == 0.5
