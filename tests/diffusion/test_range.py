"""Numbers near the ends of their range, gradients that hardly differ, and what may be given as gradients."""

import numpy as np
import pytest
import torch
from problems import generator, network_problem

from sgdvi_lite import DiffusionMatrix
from sgdvi_lite.diffusion import plan
from sgdvi_lite.diffusion.dense import Dense
from sgdvi_lite.diffusion.matrix import _as_gradients

BACKENDS = ["dense", "gram", "recomputed"]


def random(N, d, dtype=torch.float32):
    return torch.randn(N, d, generator=generator(), dtype=torch.float64).to(dtype)


# ---- squares that vanish or overflow


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, 1e-23), (torch.float32, 1e-17), (torch.float32, 1e19), (torch.float64, 1e-160)],
)
def test_gradients_whose_squares_leave_the_range_are_refused_by_all_back_ends(backend, dtype, scale):
    with pytest.raises(ValueError, match=r"gradients: the largest entries .* multiply the loss by a power of two, or"):
        DiffusionMatrix.from_gradients(random(20, 7, dtype) * scale, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_spread_that_vanishes_beside_a_mean_that_does_not_is_refused_too(backend):
    G = torch.stack([torch.ones(20), 1e-23 * random(20, 1)[:, 0]], dim=1)
    with pytest.raises(ValueError, match=r"less their mean are at most .*e-23"):
        DiffusionMatrix.from_gradients(G, backend)


@pytest.mark.parametrize("scale", [1e-14, 1e14])
@pytest.mark.parametrize("backend", BACKENDS)
def test_inside_the_range_the_size_is_no_matter(backend, scale):
    G = random(20, 7)
    D, scaled = (DiffusionMatrix.from_gradients(rows, backend) for rows in (G, G * scale))
    assert scaled.rank() == D.rank() == 7
    assert scaled.trace() == pytest.approx(D.trace() * scale**2, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_range_of_a_network_is_that_of_its_rows_and_not_of_its_factors(backend):
    model, _, x, y = network_problem("tiny-fc", 30)
    for factor in (1e-23, 1e19):
        loss = lambda output, y, f=factor: f * torch.nn.functional.cross_entropy(output, y)  # noqa: E731
        with pytest.raises(ValueError, match="whose squares neither vanish nor overflow in float32"):
            DiffusionMatrix.from_model(model.float(), loss, x.float(), y, backend)


# ---- gradients that are the same, or nearly


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("N", [3, 100, 5000])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_are_all_the_same_have_rank_zero(backend, N, dtype):
    D = DiffusionMatrix.from_gradients(random(1, 40, dtype).expand(N, 40), backend)
    assert D.rank() == 0 and D.trace() == 0 and D.stable_rank() == 0 and (D.eigenvalues(3) == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_example_repeated_has_rank_zero_in_a_network(backend):
    model, loss, x, y = network_problem("tiny-fc", 1)
    D = DiffusionMatrix.from_model(model.float(), loss, x.float().expand(50, *x.shape[1:]), y.expand(50), backend)
    assert D.rank() <= 1 and D.trace() <= 1e-12  # a batched pass may round its rows differently


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_differ_in_their_last_digits_keep_them(backend, dtype):
    """The spread is a few units in the last place of the mean: a mean that is rounded would be off by as much."""
    few = torch.randint(-4, 5, (300, 12), generator=generator()) * torch.finfo(dtype).eps
    G = random(1, 12, torch.float64).to(dtype) * (1 + few.to(dtype))
    exact = (G - G[0]).double()
    exact -= exact.mean(0)
    D = DiffusionMatrix.from_gradients(G, backend)
    assert (D.dense().double() - exact.T @ exact / 300).abs().max() <= 1e-4 * (exact.square().sum() / 300)
    assert D.rank() == DiffusionMatrix.from_gradients(exact.to(dtype), backend).rank()


def test_an_outlier_that_comes_first_is_no_matter():
    G = random(500, 6, torch.float64)
    G[:64] += 1e4
    exact = torch.cov(G.T, correction=0)
    for backend in BACKENDS:
        D = DiffusionMatrix.from_gradients(G.float(), backend)
        assert (D.dense() - exact).abs().max() <= 1e-5 * exact.abs().max()


# ---- what is given, and what becomes of it later


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["C", "F", "strided", "swapped", "read-only"])
def test_arrays_of_numpy_are_copied(backend, order):
    G = random(8, 5, torch.float64).numpy()
    forms = {"C": G, "F": np.asfortranarray(G), "strided": np.repeat(G, 2, 0)[::-2][::-1], "swapped": G.astype(">f8")}
    given = forms.get(order, G).copy() if order in ("C", "read-only") else forms[order]
    given.flags.writeable = order != "read-only"
    D, exact = (DiffusionMatrix.from_gradients(rows, backend) for rows in (given, torch.from_numpy(G.copy())))
    if given.flags.writeable:
        given[:] = 0
    assert torch.equal(D.dense(), exact.dense()) and D.dtype == torch.float64
    assert torch.equal(D @ np.ones(5), exact @ torch.ones(5).double())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([[1.0, 2.0]], TypeError, "gradients is a list: expected a tensor or a NumPy array"),
        (np.ma.masked_array(np.eye(2)), TypeError, "gradients is a MaskedArray"),
        (np.eye(2, dtype=complex), TypeError, "gradients is a ndarray"),
        (
            torch.eye(2).to_sparse(),
            ValueError,
            r"layout torch.sparse_coo: expected .* dense; convert it with .to_dense",
        ),
        (torch.eye(2).half(), ValueError, "gradients has torch.float16 .*expected floats of torch.float32 or"),
        (torch.eye(2).bfloat16(), ValueError, "gradients has torch.bfloat16"),
        (np.eye(2, dtype=np.float16), ValueError, "gradients has torch.float16"),
    ],
)
def test_other_arrays_are_refused_with_a_remedy(given, error, message):
    with pytest.raises(error, match=message):
        _as_gradients(given)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_graph_is_kept(backend):
    D = DiffusionMatrix.from_gradients(random(6, 4).requires_grad_(), backend)
    V = torch.ones(4)
    assert not any(t.requires_grad for t in (D.dense(), D @ V, D.eigenvalues(2), D.sample(1, generator())))


@pytest.mark.parametrize(
    "change",
    [lambda t: t.mul_(2), lambda t: t[-1].add_(1e-6), lambda t: t.copy_(t.flip(-1)), lambda t: t.numpy().fill(3)],
)
def test_what_is_changed_in_place_under_recomputed_is_noticed(change):
    G = random(30, 8)
    model, loss, x, y = network_problem("tiny-fc", 20)
    for D, t in (
        (DiffusionMatrix.from_gradients(G, "recomputed"), G),
        (DiffusionMatrix.from_model(model, loss, x, y, "recomputed"), x),
    ):
        V = torch.ones(D.shape[0], dtype=D.dtype)
        assert torch.equal(D @ V, D @ V)
        change(t)
        with pytest.raises(ValueError, match=r"was changed in place after D was built.*; build D anew"):
            D @ V


@pytest.mark.parametrize("backend", ["dense", "gram"])
def test_what_is_changed_in_place_later_is_no_matter_to_the_others(backend):
    G = random(30, 8)
    D, exact = (DiffusionMatrix.from_gradients(rows, backend) for rows in (G, G.clone()))
    G.zero_()
    assert torch.equal(D.dense(), exact.dense()) and torch.equal(D.eigenvalues(), exact.eigenvalues())


class Stubborn(torch.nn.Linear):
    """Cannot be copied, and fails when called."""

    def __deepcopy__(self, memo):
        pytest.fail("the network was copied")

    def forward(self, x):
        pytest.fail("the network was called")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"backend": "magic"}, "backend = 'magic': expected one of"), ({"memory": -1.0}, "memory = -1.0: expected")],
)
def test_a_mistake_is_told_before_the_network_is_copied_or_called(options, message):
    with pytest.raises(ValueError, match=message):
        DiffusionMatrix.from_model(
            Stubborn(3, 2), torch.nn.functional.cross_entropy, torch.ones(4, 3), torch.zeros(4).long(), **options
        )


# ---- devices


def test_a_vector_on_another_device_is_refused():
    D = DiffusionMatrix.from_gradients(torch.eye(2))
    with pytest.raises(ValueError, match=r"V is on meta, D on cpu: expected the same; move V with .to\(D.device\)"):
        D @ torch.ones(2, device="meta")


def test_a_device_without_memory_is_told_with_advice(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(Dense, "matmul", full)
    D = DiffusionMatrix.from_gradients(torch.eye(2))
    with pytest.raises(MemoryError, match=r"out of memory: multiply with fewer columns at once.*Tried to"):
        D @ torch.ones(2)
    monkeypatch.setattr(Dense, "build", full)
    with pytest.raises(MemoryError, match="out of memory: use backend='recomputed' or float32"):
        DiffusionMatrix.from_gradients(torch.eye(2))


def test_what_torch_holds_in_its_cache_counts_as_free(monkeypatch):
    for name, number in (("mem_get_info", (600, 1000)), ("memory_reserved", 300), ("memory_allocated", 100)):
        monkeypatch.setattr(torch.cuda, name, lambda device, n=number: n)
    assert plan.available(torch.device("cuda")) == int(plan.FRACTION * 800)
