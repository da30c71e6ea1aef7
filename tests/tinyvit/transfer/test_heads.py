"""Heads on frozen features: what scikit-learn or plain numpy makes of the same features."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tinyvit.errors import UserError
from tinyvit.transfer.accuracy import Accuracy
from tinyvit.transfer.features import Split
from tinyvit.transfer.few_shot import EPISODES, QUERIES, WAYS, episodes, few_shot
from tinyvit.transfer.heads import STRENGTHS, linear_probe, nearest_neighbours


def clusters(count: int, spread: float, seed: int, classes: int = 6, channels: int = 8) -> Split:
    """Features around a centre a class; the same centres for every seed."""
    centres = np.random.default_rng(99).normal(size=(classes, channels))
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    features = centres[labels] + spread * rng.normal(size=(count, channels))
    # Channels of very different scales, as of a network without a normalisation at its end.
    return Split((features * np.logspace(-2, 2, channels)).astype(np.float32), labels.astype(np.int32))


TRAIN, TEST = clusters(600, 0.9, 1), clusters(500, 0.9, 2)


def test_a_linear_probe_is_that_of_scikit_learn_with_the_chosen_strength() -> None:
    found = linear_probe(TRAIN, TEST, seed=0)
    scaled = StandardScaler().fit(TRAIN.features)
    direct = LogisticRegression(C=found["strength"], max_iter=1000).fit(scaled.transform(TRAIN.features), TRAIN.labels)
    accuracy = 100 * direct.score(scaled.transform(TEST.features), TEST.labels)
    assert found["accuracy"].percent == pytest.approx(accuracy, abs=0.2)
    assert 50 < accuracy < 100
    best = max(share for _, share in found["sweep"])
    assert found["strength"] == min(strength for strength, share in found["sweep"] if share == best)


def test_the_sweep_goes_on_where_the_best_is_at_its_end() -> None:
    """Classes that are neighbouring intervals of a line: the weaker the penalty, the sharper the borders."""
    x = np.random.default_rng(0).uniform(0, 6, 4000)
    line = Split(np.stack([x, x**2], axis=1).astype(np.float32), x.astype(np.int32))
    found = linear_probe(line, line, seed=0)
    assert found["strength"] > max(STRENGTHS)
    assert max(strength for strength, _ in found["sweep"]) > found["strength"]
    assert found["accuracy"].percent > 98


def test_a_class_with_one_image_is_refused() -> None:
    lonely = Split(TRAIN.features[:7], np.array([0, 0, 1, 1, 2, 2, 3], np.int32))
    with pytest.raises(UserError, match="a class has a single training image"):
        linear_probe(lonely, TEST, seed=0)


def test_neighbours_vote_by_the_cosine() -> None:
    found = nearest_neighbours(TRAIN, TEST)
    unit = [s.features / np.linalg.norm(s.features, axis=1, keepdims=True) for s in (TRAIN, TEST)]
    cosine = unit[1] @ unit[0].T
    right = 0
    for row, label in zip(cosine, TEST.labels, strict=True):
        nearest = np.argsort(-row)[:20]
        votes = np.bincount(TRAIN.labels[nearest], weights=np.exp(row[nearest] / 0.07))
        right += votes.argmax() == label
    assert found["accuracy"].percent == pytest.approx(100 * right / len(TEST.labels), abs=0.21)
    assert nearest_neighbours(Split(TRAIN.features[:12], TRAIN.labels[:12]), TEST)["neighbours"] == 12


def test_episodes_are_the_same_for_every_network_and_keep_queries_apart() -> None:
    one, two = (list(episodes(TEST.labels, 5, seed=3)) for _ in range(2))
    assert len(one) == EPISODES >= 600
    assert all(np.array_equal(a.support, b.support) and np.array_equal(a.query, b.query) for a, b in zip(one, two))  # noqa: B905
    for episode in one[:50]:
        assert episode.support.shape == (WAYS, 5)
        assert episode.query.shape == (WAYS, QUERIES)
        assert not set(episode.support.ravel()) & set(episode.query.ravel())
        assert len(set(TEST.labels[episode.support[:, 0]])) == WAYS
        for support, query in zip(episode.support, episode.query, strict=True):
            assert len({*TEST.labels[support], *TEST.labels[query]}) == 1
    other = next(episodes(TEST.labels, 5, seed=4))
    assert not np.array_equal(other.support, one[0].support)


def test_few_shot_is_the_mean_over_episodes_with_its_interval() -> None:
    found = few_shot(TEST, 1, seed=0)
    unit = TEST.features / np.linalg.norm(TEST.features, axis=1, keepdims=True)
    shares = []
    for episode in episodes(TEST.labels, 1, seed=0):
        # With one shot the nearest prototype is the nearest image, the one with the largest cosine.
        cosine = unit[episode.query] @ unit[episode.support[:, 0]].T
        shares.append((cosine.argmax(axis=2) == np.arange(WAYS)[:, None]).mean())
    assert found["prototype"].percent == pytest.approx(100 * np.mean(shares), abs=0.05)
    half = 100 * 1.96 * np.std(shares, ddof=1) / np.sqrt(EPISODES)
    assert found["prototype"].high - found["prototype"].percent == pytest.approx(half, rel=0.02)
    assert 20 < found["linear"].percent <= 100
    assert few_shot(TEST, 5, seed=0)["linear"].percent > found["linear"].percent


def test_too_few_classes_for_an_episode() -> None:
    with pytest.raises(UserError, match="4 classes have the 20 images"):
        next(episodes(np.repeat(np.arange(6), [30, 30, 30, 30, 19, 3]).astype(np.int32), 5, seed=0))


def test_intervals() -> None:
    """Wilson's, by the figures of Brown, Cai and DasGupta 2001 for a proportion of 0 of 10 and of 5 of 10."""
    none, half = Accuracy.counted(0, 10), Accuracy.counted(5, 10)
    assert (none.low, none.high) == pytest.approx((0, 27.75), abs=0.01)
    assert (half.low, half.high) == pytest.approx((23.66, 76.34), abs=0.01)
    for count in range(1, 60):
        assert Accuracy.counted(0, count).low == 0
        assert Accuracy.counted(count, count).high == 100
