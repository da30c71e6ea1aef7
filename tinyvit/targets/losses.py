"""What a view's logits cost, from a sparse teacher signal or its labels, without a dense [B, C] target.

Losses are in nats, one a view [B]: the engine sums them, so that what a step weighs does not depend on how it was
divided among devices.
"""

from torch import Tensor

from tinyvit.config import Residual
from tinyvit.targets.signal import TeacherSignal


def distillation_loss(logits: Tensor, signal: TeacherSignal, residual: Residual) -> Tensor:
    """[B] cross-entropy of student logits [B, C] against the teacher's soft targets.

    The mass r outside the kept classes, which may be fewer than K, is
    - `uniform`: spread over the other classes (TinyViT, section 3.1),
    - `ghost`: held by one extra class, whose student probability is the sum over the other classes,
    - `renormalise`: left out, the kept classes scaled up to one.
    The gradient is that of the Kullback-Leibler divergence, which differs by the teacher's constant entropy.
    """
    logits = logits.float()
    log_q = logits - logits.logsumexp(dim=1, keepdim=True)
    kept_log_q = log_q.gather(1, signal.class_id)
    kept = signal.probability
    loss = -(kept * kept_log_q).sum(dim=1)
    if residual == "renormalise":
        return loss / kept.sum(dim=1)
    if signal.class_id.shape[1] == signal.num_classes:
        return loss
    if residual == "uniform":
        present = signal.present
        others = signal.num_classes - present.sum(dim=1)
        outside = (log_q.sum(dim=1) - (kept_log_q * present).sum(dim=1)) / others.clamp(min=1)
    else:
        outside = log_q.scatter(1, signal.class_id, float("-inf")).logsumexp(dim=1)
    return loss - signal.residual * outside


def label_loss(logits: Tensor, labels: TeacherSignal, smoothing: float) -> Tensor:
    """[B] cross-entropy of logits [B, C] against labels, of which a mixed view has two, with their shares.

    `smoothing` of the mass is spread over all classes (as in torch's cross_entropy).
    """
    logits = logits.float()
    log_q = logits - logits.logsumexp(dim=1, keepdim=True)
    loss = -(labels.probability * log_q.gather(1, labels.class_id)).sum(dim=1)
    return (1 - smoothing) * loss - smoothing * log_q.mean(dim=1)


def agreement(logits: Tensor, signal: TeacherSignal) -> Tensor:
    """[B] bool: the student names the teacher's best class."""
    return logits.argmax(dim=1) == signal.class_id[:, 0]
