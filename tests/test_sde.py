import numpy as np
import pytest
import torch
from problems import fitted_order, generator
from scipy.linalg import expm, solve_continuous_lyapunov

from sgdvi_lite import sde

F = torch.tensor([[1.0, 1.5], [-0.5, 2.0]], dtype=torch.float64)
B = torch.tensor([[0.8, 0.0], [0.3, 0.5]], dtype=torch.float64)


def start(n, d=2, value=1.0):
    return torch.full((n, d), value, dtype=torch.float64)


def run(noise=B, n=1000, dt=0.01, n_steps=100, seed=0, **options):
    return sde.euler_maruyama(lambda x: -x @ F.T, noise, start(n), dt, n_steps, generator=generator(seed), **options)


def test_without_noise_it_is_the_explicit_euler_method():
    x = run(noise=0.0, n=2, n_steps=7)
    step = torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) - 0.01 * F, 7)
    assert torch.allclose(x, start(2) @ step.T, rtol=0, atol=1e-14)


def test_an_ornstein_uhlenbeck_ensemble_has_the_moments_of_the_recursion():
    n, dt, steps = 200_000, 0.05, 40
    x = run(n=n, dt=dt, n_steps=steps)
    A, cov = np.eye(2) - dt * F.numpy(), np.zeros((2, 2))
    for _ in range(steps):
        cov = A @ cov @ A.T + dt * (B @ B.T).numpy()
    mean = np.linalg.matrix_power(A, steps) @ np.ones(2)
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
    assert (np.abs(x.mean(0).numpy() - mean) < 5 * np.sqrt(np.diag(cov) / n)).all()
    assert (np.abs(np.cov(x.numpy().T) - cov) < 5 * error).all()


def test_the_weak_error_is_of_first_order():
    """The scheme's exact covariance at time 1 against that of the equation: no sampling, so the order is clean."""
    S = solve_continuous_lyapunov(F.numpy(), (B @ B.T).numpy())
    exact = S - expm(-F.numpy()) @ S @ expm(-F.numpy()).T
    errors, steps = [], [20, 40, 80, 160]
    for n in steps:
        A, cov = np.eye(2) - F.numpy() / n, np.zeros((2, 2))
        for _ in range(n):
            cov = A @ cov @ A.T + (B @ B.T).numpy() / n
        errors.append(np.abs(cov - exact).max())
    assert fitted_order(steps, errors) == pytest.approx(1, abs=0.1)


def test_every_form_of_the_same_noise_gives_the_same_paths():
    scalar = run(noise=0.3)
    for noise in (
        torch.tensor(0.3, dtype=torch.float64),
        0.3 * torch.eye(2, dtype=torch.float64),
        lambda x: torch.full_like(x[:, :1], 0.3),
        lambda x: torch.full_like(x, 0.3),
        lambda x: (0.3 * torch.eye(2, dtype=torch.float64)).expand(len(x), 2, 2),
    ):
        assert torch.allclose(run(noise=noise), scalar, rtol=0, atol=1e-14)


def test_a_matrix_acts_on_each_particle_in_either_form():
    assert torch.allclose(run(noise=B), run(noise=lambda x: B.expand(len(x), 2, 2)), rtol=0, atol=1e-14)


def test_recording_does_not_change_the_paths():
    final, recorded = run(n_steps=60), run(n_steps=60, every=20)
    assert recorded.shape == (4, 1000, 2)
    assert torch.equal(recorded[0], start(1000)) and torch.equal(recorded[-1], final)
    assert torch.equal(recorded[1], run(n_steps=20))


def test_the_generator_is_the_only_randomness_and_x0_is_not_modified():
    x0 = start(5)
    torch.manual_seed(1)
    one = sde.euler_maruyama(lambda x: -x, 1.0, x0, 0.1, 3, generator=generator(4))
    torch.manual_seed(2)
    assert torch.equal(one, sde.euler_maruyama(lambda x: -x, 1.0, x0, 0.1, 3, generator=generator(4)))
    assert torch.equal(x0, start(5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": torch.zeros(3)}, r"x0 has shape \(3,\)"),
        ({"x0": torch.zeros(0, 2)}, r"x0 has shape \(0, 2\)"),
        ({"x0": torch.zeros(2, 2, dtype=torch.int64)}, "torch.int64: expected floats"),
        ({"x0": torch.tensor([[0.0, float("nan")]])}, "x0: NaN or infinity in row 0"),
        ({"dt": 0.0}, "dt = 0.0: expected a finite number > 0"),
        ({"n_steps": 0}, "n_steps = 0: expected an integer >= 1"),
        ({"every": 3}, "every = 3: expected a divisor of n_steps = 10"),
        ({"every": 11}, r"every = 11: expected an integer in \[1, 10\]"),
        ({"drift": lambda x: x[:, 0]}, r"drift gave shape \(4,\): expected \(4, 2\)"),
        ({"noise": lambda x: x[:, 0]}, r"noise gave shape \(4,\): expected \(4, 1\) or \(4, 2\) or \(4, 2, 2\)"),
        ({"noise": torch.eye(3)}, r"noise has shape \(3, 3\): expected \(2, 2\)"),
    ],
)
def test_bad_arguments(change, message):
    good = {"drift": lambda x: -x, "noise": 1.0, "x0": torch.zeros(4, 2), "dt": 0.1, "n_steps": 10}
    with pytest.raises(ValueError, match=message):
        sde.euler_maruyama(**(good | change), generator=generator())


def test_an_explosion_is_reported_with_its_step():
    with pytest.raises(FloatingPointError, match=r"NaN or infinite by step 10, not yet at step 5: lower dt = 1.0"):
        sde.euler_maruyama(lambda x: x**3, 0.0, start(2, value=9.0), 1.0, 50, generator=generator(), every=5)


def test_the_steps_between_which_it_explodes_are_named():
    for every, message in ((None, "by step 100, not yet at step 0:"), (50, r"by step 50, not yet at step 0:")):
        with pytest.raises(FloatingPointError, match=message):
            sde.euler_maruyama(
                lambda x: x**3, 0.0, start(2, value=9.0), 1.0, 10_000, generator=generator(), every=every
            )

    class Late:
        calls = -1  # the first is the check

        def __call__(self, x):
            self.calls += 1
            return x * (torch.inf if self.calls == 171 else 0)

    with pytest.raises(FloatingPointError, match="by step 200, not yet at step 100: lower dt"):
        sde.euler_maruyama(Late(), 0.0, start(2), 1.0, 1000, generator=generator())


# ---- functions of the user


def test_functions_may_change_their_argument_and_share_a_buffer():
    x0, shared = start(50, value=0.5), torch.empty(50, 2, dtype=torch.float64)
    usual = sde.euler_maruyama(lambda x: -x, lambda x: 0.1 + x.abs(), x0, 0.1, 20, generator=generator())
    careless = sde.euler_maruyama(
        lambda x: shared.copy_(x.neg_()), lambda x: shared.copy_(x.abs_().add_(0.1)), x0, 0.1, 20, generator=generator()
    )
    assert torch.equal(usual, careless) and torch.equal(x0, start(50, value=0.5))


def test_what_a_function_remembers_is_not_changed_later():
    seen = []
    path = sde.euler_maruyama(lambda x: (seen.append(x), -x)[1], 0.3, start(3), 0.1, 5, generator=generator(), every=1)
    assert torch.equal(torch.stack(seen[1:]), path[:-1])


@pytest.mark.parametrize("noise", ["module", 0.1])
def test_a_module_leaves_no_graph(noise):
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh()).double()
    x0 = start(5).requires_grad_()
    noise = layer if noise == "module" else noise
    for every in (None, 2):
        x = sde.euler_maruyama(layer, noise, x0, 0.1, 4, generator=generator(), every=every)
        assert not x.requires_grad and x.grad_fn is None


def test_a_drift_may_differentiate():
    def drift(x):
        x.requires_grad_()
        return -torch.autograd.grad(x.square().sum() / 2, x)[0]

    plain = sde.euler_maruyama(lambda x: -x, 0.1, start(5), 0.1, 4, generator=generator())
    assert torch.allclose(sde.euler_maruyama(drift, 0.1, start(5), 0.1, 4, generator=generator()), plain)


# ---- as many particles as dimensions


def test_a_constant_matrix_given_by_a_function_is_refused_where_it_would_pass_for_factors():
    fault = r"noise gave \(2, 2\) for one particle too: give a constant matrix itself, or expand it to \(2, 2, 2\)"
    with pytest.raises(ValueError, match=fault):
        run(noise=lambda x: B, n=2)
    factors, matrices = (
        run(noise=lambda x: 0.2 * x.abs(), n=2),
        run(noise=lambda x: torch.diag_embed(0.2 * x.abs()), n=2),
    )
    assert torch.allclose(factors, matrices, rtol=0, atol=1e-14)
    assert torch.allclose(run(noise=lambda x: B.expand(len(x), 2, 2), n=2), run(noise=B, n=2), rtol=0, atol=1e-14)
    assert torch.isfinite(
        sde.euler_maruyama(lambda x: -x, lambda x: x, start(1, 1), 0.1, 3, generator=generator())
    ).all()


# ---- types and devices

FLOAT32 = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": torch.eye(2).double()}, "noise has torch.float64 on cpu: expected torch.float32 on cpu, as x0"),
        ({"noise": np.eye(2)}, "noise has torch.float64 on cpu: expected torch.float32"),
        ({"noise": lambda x: x.double()}, "noise gave torch.float64 on cpu: expected torch.float32"),
        ({"drift": lambda x: -x.double()}, "drift gave torch.float64 on cpu: expected torch.float32"),
        ({"drift": lambda x: -x.numpy()}, "drift gave float32 on cpu: expected torch.float32"),
        ({"noise": torch.eye(2, device="meta")}, "noise has torch.float32 on meta: expected torch.float32 on cpu"),
        ({"drift": lambda x: x.to("meta")}, "drift gave torch.float32 on meta: expected torch.float32 on cpu"),
        ({"x0": FLOAT32.to("meta").expand(4, 2), "noise": 1.0}, "generator is on cpu, x0 on meta: expected the same"),
        ({"x0": FLOAT32.half()}, "x0 is torch.float16: expected torch.float32 or float64"),
        ({"noise": float("nan")}, "noise = nan: expected a finite number, a matrix or a function"),
        ({"noise": torch.full((2, 2), torch.inf)}, "noise has a NaN or an infinity"),
    ],
)
def test_types_and_devices_are_checked_before_any_work(change, message, monkeypatch):
    monkeypatch.setattr(sde._checks, "ensemble", lambda *_: None)  # it asks for values, which a meta tensor has not
    good = {"drift": lambda x: -x, "noise": 1.0, "x0": FLOAT32, "dt": 0.1, "n_steps": 10}
    with pytest.raises(ValueError, match=message):
        sde.euler_maruyama(**(good | change), generator=generator())


def test_arrays_and_numpy_numbers_are_tensors_too():
    expected = run(n=4, n_steps=10)
    arrays = sde.euler_maruyama(
        lambda x: -x @ F.T, B.numpy(), np.ones((4, 2)), np.float64(0.01), 10, generator=generator()
    )
    assert torch.equal(arrays, expected) and torch.equal(run(noise=B.float(), n=4), run(noise=B.float().double(), n=4))
    ints = np.array([[1, 0], [0, 1]])
    assert torch.allclose(run(noise=ints, n=4), run(noise=1.0, n=4), rtol=0, atol=1e-14)
