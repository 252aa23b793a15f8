from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdvi_lite import data

law = settings(deadline=None, max_examples=30)  # no deadline: how fast a machine is decides nothing here


def dataset(x_train, x_test=None, y_train=None, classes=3):
    """A data set around given images; labels 0, 1, 2, 0, ... unless given."""
    x_test = x_train[:2] if x_test is None else x_test
    y_train = torch.arange(len(x_train)) % classes if y_train is None else y_train
    y_test = torch.arange(len(x_test)) % classes
    return data.Dataset("own", x_train, y_train, x_test, y_test, classes, "")


def images(n, c, h, w, seed, dtype=torch.float64):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


sizes = st.integers(1, 3)
seeds = st.integers(0, 2**32)


@law
@given(blocks=st.tuples(sizes, sizes), size=st.integers(1, 4), channels=sizes, seed=seeds)
def test_pooling_is_the_mean_over_blocks(blocks, size, channels, seed):
    x = images(3, channels, size * blocks[0], size * blocks[1], seed)
    pooled = data.average_pool(dataset(x), size).x_train
    by_hand = x.unfold(2, blocks[0], blocks[0]).unfold(3, blocks[1], blocks[1]).mean((-2, -1))
    assert torch.allclose(pooled, by_hand, rtol=0, atol=1e-14)
    assert torch.allclose(pooled.mean((2, 3)), x.mean((2, 3)), rtol=0, atol=1e-14)


@law
@given(seed=seeds)
def test_pooling_twice_is_pooling_once(seed):
    own = dataset(images(3, 2, 12, 12, seed))
    once, twice = data.average_pool(own, 2), data.average_pool(data.average_pool(own, 6), 2)
    assert torch.allclose(once.x_train, twice.x_train, rtol=0, atol=1e-14)
    assert torch.equal(data.average_pool(own, 12).x_test, own.x_test)


@pytest.mark.parametrize(
    ("size", "message"),
    [(3, r"size = 3: expected a divisor of 8 and 8, one of \[1, 2, 4, 8\]"), (0, r"in \[1, 8\]"), (9, r"in \[1, 8\]")],
)
def test_sizes_that_do_not_divide(size, message):
    with pytest.raises(ValueError, match=message):
        data.average_pool(data.load("digits"), size)


@law
@given(channels=sizes, scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10), seed=seeds)
def test_standardising_gives_mean_0_and_variance_1_whatever_the_units(channels, scale, shift, seed):
    x, x_test = images(5, channels, 3, 3, seed), images(4, channels, 3, 3, seed + 1)
    plain = data.standardise(dataset(x, x_test))
    assert plain.x_train.mean((0, 2, 3)).abs().max() < 1e-12
    assert (plain.x_train.square().mean((0, 2, 3)) - 1).abs().max() < 1e-12
    units = data.standardise(dataset(x * scale + shift, x_test * scale + shift))
    tolerance = 1e-13 * (1 + abs(shift) / scale)
    assert torch.allclose(units.x_train, plain.x_train, rtol=0, atol=100 * tolerance)
    assert torch.allclose(units.x_test, plain.x_test, rtol=0, atol=100 * tolerance)


@pytest.mark.parametrize("step", [data.standardise, data.gcn_zca])
def test_preprocessing_is_fitted_on_the_training_images_alone(step):
    x = images(8, 2, 3, 3, 0)
    one, two = step(dataset(x, images(3, 2, 3, 3, 1))), step(dataset(x, images(3, 2, 3, 3, 2)))
    assert torch.equal(one.x_train, two.x_train) and not torch.equal(one.x_test, two.x_test)
    same = step(dataset(x, x))
    assert torch.equal(same.x_train, same.x_test)


def test_a_constant_channel_cannot_be_standardised():
    x = images(4, 2, 3, 3, 0)
    x[:, 1] = 0.5
    with pytest.raises(ValueError, match="channel 1 is constant"):
        data.standardise(dataset(x))


def whiten_by_hand(x, epsilon):
    """GCN and ZCA by other means: NumPy, and the inverse square root from a singular value decomposition."""
    x = x.flatten(1).numpy()
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    x = x - x.mean(0)
    _, s, V = np.linalg.svd(x / len(x) ** 0.5, full_matrices=True)
    eigenvalues = np.zeros(x.shape[1])
    eigenvalues[: len(s)] = s**2
    return x @ (V.T / np.sqrt(eigenvalues + epsilon)) @ V


@law
@given(n=st.integers(2, 30), epsilon=st.floats(1e-4, 10), seed=seeds)
def test_whitening_agrees_with_another_way_of_computing_it(n, epsilon, seed):
    x = images(n, 3, 2, 2, seed)
    white = data.gcn_zca(dataset(x), epsilon).x_train
    assert white.shape == x.shape
    assert np.allclose(white.flatten(1).numpy(), whiten_by_hand(x, epsilon), rtol=0, atol=1e-9 / epsilon**0.5)


@law
@given(n=st.integers(30, 60), seed=seeds)
def test_whitened_covariance_is_the_identity_but_for_the_mean_of_each_image(n, seed):
    x = data.gcn_zca(dataset(images(n, 3, 2, 2, seed)), 1e-9).x_train.flatten(1)
    assert x.mean(0).abs().max() < 1e-9
    expected = torch.eye(12, dtype=torch.float64) - 1 / 12
    assert torch.allclose(x.T @ x / n, expected, rtol=0, atol=1e-5)


@law
@given(n=st.integers(5, 30), brightness=st.floats(-1, 1), contrast=st.floats(0.1, 10), seed=seeds)
def test_whitening_does_not_see_brightness_and_contrast_of_an_image(n, brightness, contrast, seed):
    x = images(n, 1, 3, 3, seed)
    changed = x.clone()
    changed[1] = contrast * x[1] + brightness
    one, two = data.gcn_zca(dataset(x)), data.gcn_zca(dataset(changed))
    assert torch.allclose(one.x_train, two.x_train, rtol=0, atol=1e-9)


@law
@given(seed=seeds)
def test_whitening_commutes_with_a_permutation_of_the_pixels(seed):
    x = images(9, 2, 3, 3, seed)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(seed))
    mixed = x.flatten(1)[:, order].view_as(x)
    one, two = data.gcn_zca(dataset(x)), data.gcn_zca(dataset(mixed))
    assert torch.allclose(one.x_train.flatten(1)[:, order], two.x_train.flatten(1), rtol=0, atol=1e-9)


def test_whitening_in_chunks_and_in_single_precision_is_the_same(monkeypatch):
    x = images(50, 3, 4, 4, 0)
    whole = data.gcn_zca(dataset(x)).x_train
    monkeypatch.setattr("sgdvi_lite.data.preprocessing.CHUNK", 7)
    assert torch.allclose(data.gcn_zca(dataset(x)).x_train, whole, rtol=0, atol=1e-12)
    single = data.gcn_zca(dataset(x.float())).x_train
    assert single.dtype == torch.float32 and torch.allclose(single.double(), whole, rtol=0, atol=1e-5)


def test_a_constant_image_becomes_a_grey_one_and_not_nan():
    x = images(20, 1, 3, 3, 0)
    x[4] = 0.3
    white = data.gcn_zca(dataset(x)).x_train
    assert torch.isfinite(white).all() and white[4].abs().max() < white[5].abs().max()


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_whitening_needs_a_positive_epsilon(epsilon):
    with pytest.raises(ValueError, match=r"epsilon = .*: expected a finite number > 0"):
        data.gcn_zca(data.load("digits"), epsilon)


def test_a_subset_of_classes_is_numbered_in_the_order_asked_for():
    digits = data.load("digits")
    own = data.class_subset(digits, [7, 2])
    assert own.classes == 2
    for new, old in enumerate([7, 2]):
        assert torch.equal(own.x_train[own.y_train == new], digits.x_train[digits.y_train == old])
        assert torch.equal(own.x_test[own.y_test == new], digits.x_test[digits.y_test == old])


@pytest.mark.parametrize("classes", [[], [1, 1], [0, 10], [-1]])
def test_classes_that_do_not_exist(classes):
    with pytest.raises(ValueError, match=r"expected different labels in \[0, 9\]"):
        data.class_subset(data.load("digits"), classes)


def test_the_first_images_of_a_random_order():
    digits = data.load("digits")
    draw = lambda n, seed=0: data.first(digits, n, torch.Generator().manual_seed(seed))  # noqa: E731
    few, more, all_ = draw(5), draw(9), draw(len(digits.x_train))
    assert torch.equal(few.x_train, more.x_train[:5]) and torch.equal(few.y_train, more.y_train[:5])
    assert not torch.equal(few.x_train, draw(5, seed=1).x_train)
    assert torch.equal(all_.x_train.sum(0), digits.x_train.sum(0)) and len(few.x_test) == len(digits.x_test)
    for n in (0, len(digits.x_train) + 1):
        with pytest.raises(ValueError, match=rf"n = {n}: expected an integer in \[1, {len(digits.x_train)}\]"):
            draw(n)


def test_augmentation_shifts_and_mirrors_and_nothing_else():
    """Each augmented image is one of the 2 x 9 x 9 that a plain loop makes of it."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 32, 32, generator=g)
    frame = torch.zeros(6, 3, 40, 40)
    frame[:, :, 4:36, 4:36] = x
    out, moves = data.augment(x, g), set()
    for k in range(6):
        windows = {(i, j): frame[k, :, i : i + 32, j : j + 32] for i in range(9) for j in range(9)}
        found = [
            (i, j, m) for (i, j), w in windows.items() for m in (0, 1) if torch.equal(w.flip(2) if m else w, out[k])
        ]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) == 6 and {m for *_, m in moves} == {0, 1}


def test_overflow_is_what_unsigned_bytes_do():
    """By NumPy's own bytes, for each of the 256 values."""
    digits = data.load("digits")
    x = torch.arange(256).float().view(1, 1, 16, 16) / 255
    wide = replace(digits, x_train=x, y_train=digits.y_train[:1], x_test=x, y_test=digits.y_test[:1])
    by_bytes = np.arange(256, dtype=np.uint8) * np.uint8(255)
    assert np.array_equal((255 * data.overflow(wide).x_train).round().flatten().numpy(), by_bytes)
    assert torch.equal(wide.x_train, x)
