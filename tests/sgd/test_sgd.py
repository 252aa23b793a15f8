from itertools import pairwise

import numpy as np
import pytest
import torch
from problems import CLASSES, SHAPES, examples, generator
from references import least_squares_moments
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils._python_dispatch import TorchDispatchMode

from sgdvi_lite import nets, series, sgd
from sgdvi_lite.sgd.sampling import replica_batches


def drawn(sampling, N=7, b=2, seed=0):
    return list(sgd.batches(N, b, sampling, generator(seed)))


@pytest.mark.parametrize("sampling", sgd.SAMPLINGS)
def test_an_epoch_has_the_same_number_of_batches_however_they_are_drawn(sampling):
    assert [len(batch) for batch in drawn(sampling)] == [2, 2, 2]
    assert all(torch.equal(a, b) for a, b in zip(drawn(sampling), drawn(sampling), strict=True))


def test_no_example_twice_in_a_batch_without_replacement_nor_in_a_reshuffled_epoch():
    for seed in range(50):
        assert all(len(batch.unique()) == 4 for batch in drawn("without", N=5, b=4, seed=seed))
        assert len(torch.cat(drawn("reshuffled", seed=seed)).unique()) == 6


def test_with_replacement_some_batch_repeats_an_example():
    assert any(len(batch.unique()) < 4 for seed in range(50) for batch in drawn("with", N=5, b=4, seed=seed))


@pytest.mark.parametrize("sampling", sgd.SAMPLINGS)
def test_every_example_is_equally_likely(sampling):
    n = 3000
    counts = torch.cat([torch.cat(drawn(sampling, seed=seed)) for seed in range(n)]).bincount(minlength=7)
    share = counts / counts.sum()
    assert (share - 1 / 7).abs().max() < 5 * (1 / 7 / (6 * n)) ** 0.5


def small_run(**options):
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    y = 3 * x + 0.1 * torch.sin(40 * x)
    model = torch.nn.Linear(1, 1).double()
    nets.set_flat_parameters(model, torch.zeros(2, dtype=torch.float64))
    options = {"lr": 0.1, "batch_size": 4, "generator": generator(5)} | options
    return model, mse_loss, x, y, options


def test_one_epoch_is_the_update_of_the_definition():
    model, loss, x, y, options = small_run()
    sgd.SGD(model, loss, x, y, **options).epoch()
    g = generator(5)
    torch.randint(2**31, (), generator=g)
    w, c = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for batch in sgd.batches(12, 4, "reshuffled", g):
        residual = w * x[batch] + c - y[batch]
        w, c = w - 0.1 * (2 * residual * x[batch]).mean(), c - 0.1 * (2 * residual).mean()
    assert nets.flat_parameters(model).tolist() == pytest.approx([w.item(), c.item()], rel=1e-14)


def test_the_schedule_is_asked_once_an_epoch():
    model, loss, x, y, options = small_run(lr=lambda epoch: [0.1, 1e-300][epoch])
    trainer = sgd.SGD(model, loss, x, y, **options)
    trainer.epoch()
    after_one = nets.flat_parameters(model)
    trainer.epoch()
    assert torch.equal(nets.flat_parameters(model), after_one)


def lenet_trainer(seed=0):
    x, y = examples("small-lenet", 40)
    g = generator(seed)
    model = nets.build("small-lenet", in_shape=SHAPES["small-lenet"], classes=CLASSES["small-lenet"], generator=g)
    return sgd.SGD(model, cross_entropy, x.float(), y, lr=0.05, batch_size=8, momentum=0.9, nesterov=True, generator=g)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    whole = lenet_trainer()
    losses = [whole.epoch() for _ in range(4)]
    first = lenet_trainer()
    [first.epoch() for _ in range(2)]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = lenet_trainer(seed=9)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [second.epoch() for _ in range(2)] == losses[2:]
    assert torch.equal(nets.flat_parameters(second.model), nets.flat_parameters(whole.model))


def test_a_state_is_a_copy_and_stays_one_when_it_is_loaded():
    trainer = lenet_trainer()
    trainer.epoch()
    state = trainer.state_dict()
    there, loss = nets.flat_parameters(trainer.model), trainer.epoch()
    for _ in range(2):  # a second time, too: loading lends nothing out
        trainer.load_state_dict(state)
        assert torch.equal(nets.flat_parameters(trainer.model), there)
        assert trainer.epoch() == loss


class Reads(TorchDispatchMode):
    """Counts how often the CPU waits for a number."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_an_epoch_waits_for_the_device_as_often_however_many_steps_it_has():
    def reads(batch_size):
        model, loss, x, y, options = small_run(batch_size=batch_size)
        trainer = sgd.SGD(model, loss, x, y, **options)
        with Reads() as mode:
            trainer.epoch()
        return mode.count

    assert reads(1) == reads(12) <= 1


def test_only_the_device_that_trains_lends_its_random_state(monkeypatch):
    """Whichever devices there are; and cuDNN chooses what gives the same twice."""
    forked, fork = [], torch.random.fork_rng
    monkeypatch.setattr(torch.random, "fork_rng", lambda *devices, **o: forked.append(devices) or fork(*devices, **o))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen, model, loss, (x, y, options) = [], *small_run()[:2], small_run()[2:]

    def watching(out, y):
        seen.append((torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark))
        return loss(out, y)

    sgd.SGD(model, watching, x, y, **options).epoch()
    assert forked == [([],)] and set(seen) == {(True, False)} and torch.backends.cudnn.benchmark
    monkeypatch.setattr(torch, "manual_seed", None)  # it would seed all GPUs
    sgd.SGD(model, watching, x, y, **options).epoch()


class OnAGpu(torch.Generator):
    device = torch.device("cuda")


@pytest.mark.parametrize("call", ["SGD", "record"])
def test_devices_that_differ_are_named_with_the_remedy(tmp_path, call):
    def use(model, x, y, generator):
        options = {"lr": 0.1, "batch_size": 4, "generator": generator}
        if call == "SGD":
            return sgd.SGD(model, mse_loss, x, y, **options)
        return sgd.record(model, mse_loss, x, y, tmp_path / "run", n_steps=4, every=1, **options)

    model, _, x, y, _ = small_run()
    with pytest.raises(ValueError, match=r"y is on cpu and model on meta: expected one device; pass y.to\('meta'\)"):
        use(model.to("meta"), x.to("meta"), y, generator())
    model = small_run()[0]
    with pytest.raises(ValueError, match="x is on meta and model on cpu: expected one device"):
        use(model, x.to("meta"), y, generator())
    with pytest.raises(ValueError, match=r"generator = .*: expected a torch.Generator\(\) on the CPU"):
        use(model, x, y, OnAGpu())
    with pytest.raises(ValueError, match="model has no trainable weights"):
        use(model.requires_grad_(False), x, y, generator())
    assert not (tmp_path / "run").exists()


def test_numpy_is_welcome():
    def train(numbers, arrays):
        model, loss, x, y, options = small_run(lr=numbers(0.25), momentum=numbers(0.5), batch_size=4)
        return sgd.run(model, loss, arrays(x), arrays(y), epochs=3, progress=False, **options)

    assert train(np.float32, lambda t: t.numpy()) == train(float, lambda t: t)
    model, loss, x, y, options = small_run(batch_size=np.int64(4), lr=lambda epoch: np.float32(0.25))
    assert len(sgd.run(model, loss, x, y, epochs=np.int64(2), progress=False, **options)) == 2
    assert len(list(sgd.batches(np.int64(7), np.int32(2), "reshuffled", generator()))) == 3
    counts = {"N": np.int64(6), "lr": np.float32(0.25), "batch_size": np.int64(2), "n_steps": np.int64(4)}
    assert (
        sgd.replicas(pull, torch.zeros(3, 1).double(), **counts, every=np.int64(2), generator=generator()).shape[0] == 3
    )


def test_dropout_draws_from_the_generator_and_the_global_state_is_untouched():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = lenet_trainer().epoch()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert lenet_trainer().epoch() == first


def test_run_returns_the_loss_of_each_epoch_and_leaves_evaluation_mode():
    model, loss, x, y, options = small_run()
    losses = sgd.run(model, loss, x, y, epochs=30, progress=False, **options)
    assert len(losses) == 30 and all(b < a for a, b in pairwise(losses[:5]))
    assert not model.training


@torch.no_grad()
def test_training_keeps_its_graphs_whatever_the_caller_does(tmp_path):
    model, loss, x, y, options = small_run()
    losses = sgd.run(model, loss, x, y, epochs=2, progress=False, **options)
    assert losses[1] < losses[0]
    made = sgd.record(model, loss, x, y, tmp_path, n_steps=6, every=3, progress=False, **options)
    assert made.loss[1] < made.loss[0]


def test_divergence_names_the_step():
    model, loss, x, y, options = small_run(lr=1e200)
    with pytest.raises(FloatingPointError, match=r"loss = (nan|inf) in epoch 0, step \d: training diverged; lower lr"):
        sgd.run(model, loss, x, y, epochs=3, progress=False, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr = 0.0: expected a finite number > 0"),
        ({"lr": lambda epoch: -1.0}, "lr = -1.0: expected a finite number > 0"),
        ({"momentum": 1.5}, r"momentum = 1.5: expected a number in \[0, 1\)"),
        ({"nesterov": True}, "nesterov = True with momentum = 0: expected a momentum > 0"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0: expected a finite number >= 0"),
        ({"batch_size": 13}, r"batch_size = 13: expected an integer in \[1, 12\]"),
        ({"batch_size": 0}, r"batch_size = 0: expected an integer in \[1, 12\]"),
        ({"sampling": "sorted"}, "sampling = 'sorted': expected one of with, without, reshuffled"),
    ],
)
def test_bad_arguments(change, message):
    model, loss, x, y, options = small_run(**change)
    with pytest.raises(ValueError, match=message):
        sgd.SGD(model, loss, x, y, **options)


def test_lengths_and_epochs():
    model, loss, x, y, options = small_run()
    with pytest.raises(ValueError, match="x has 12 examples and y has 11"):
        sgd.SGD(model, loss, x, y[:11], **options)
    with pytest.raises(ValueError, match="epochs = 0: expected an integer >= 1"):
        sgd.run(model, loss, x, y, epochs=0, **options)


# ---- replicas of a finite sum

TARGETS = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 0.0], dtype=torch.float64)  # f_k = (x - a_k)^2 / 2, D = 5/3


def pull(x, index):
    return x - TARGETS[index].mean(1, keepdim=True)


def many(sampling="with", **change):
    options = {"N": 6, "lr": 0.3, "batch_size": 2, "n_steps": 60, "generator": generator(5), "sampling": sampling}
    return sgd.replicas(pull, torch.zeros(40_000, 1, dtype=torch.float64), **(options | change))


@pytest.mark.parametrize(("sampling", "factor"), [("with", 1 / 2), ("without", 4 / (2 * 5))])
def test_replicas_have_the_exact_stationary_variance(sampling, factor):
    exact = 0.3 * factor * (5 / 3) / (2 - 0.3)
    error = exact * (2 / 40_000) ** 0.5
    assert abs(many(sampling).var().item() - exact) < 3 * error


def test_reshuffled_replicas_have_the_variance_of_their_epoch():
    """After an epoch of three batches: enumerate all orders, and solve the linear recursion over epochs."""
    from itertools import permutations

    keep = [0.3 * 0.7 ** (2 - k) for k in range(3)]
    ends = [
        sum(w * TARGETS[list(p[2 * k : 2 * k + 2])].mean() for k, w in enumerate(keep)) for p in permutations(range(6))
    ]
    exact = torch.stack(ends).var(unbiased=False).item() / (1 - 0.7**6)
    assert abs(many("reshuffled").var().item() - exact) < 3 * exact * (2 / 40_000) ** 0.5


def test_each_reshuffled_epoch_of_a_replica_sees_every_example_once():
    drawn = replica_batches(4, 6, 2, "reshuffled", generator())
    for _ in range(2):
        epoch = torch.cat([next(drawn) for _ in range(3)], dim=1)
        assert torch.equal(epoch.sort(dim=1).values, torch.arange(6).expand(4, 6))


@pytest.mark.parametrize("sampling", ["with", "without", "reshuffled"])
def test_a_record_of_replicas_ends_with_their_last_weights(sampling):
    record = many(sampling, every=20)
    assert record.shape == (4, 40_000, 1) and not record[0].any()
    assert torch.equal(record[-1], many(sampling)) and not torch.equal(record[-1], record[-2])


@pytest.mark.parametrize("nesterov", [False, True])
def test_replicas_with_momentum_have_its_exact_stationary_covariance(nesterov):
    rates = {"momentum": 0.8, "nesterov": nesterov}
    exact = series.momentum_process([[1.0]], [[5 / 3 / 2]], 0.3, **rates)
    record = many(n_steps=121, every=1, **rates)[-2:, :, 0]
    for found, value in ((record[1].var(), exact.covariance), (record.cov()[0, 1], exact.autocovariance(1))):
        assert abs(found.item() - value.item()) < 3 * exact.covariance.item() * (2 / 40_000) ** 0.5


@pytest.mark.parametrize("nesterov", [False, True])
def test_replicas_with_momentum_move_as_the_optimiser_does(nesterov):
    x = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    optimizer = torch.optim.SGD([x], 0.3, 0.8, nesterov=nesterov)
    options = {"N": 6, "lr": 0.3, "batch_size": 2, "n_steps": 9, "momentum": 0.8, "nesterov": nesterov}
    end = sgd.replicas(pull, x.detach().clone(), generator=generator(5), **options)
    drawn = replica_batches(1, 6, 2, "with", generator(5))
    for _ in range(9):
        x.grad = pull(x.detach(), next(drawn))
        optimizer.step()
    assert torch.allclose(x.detach(), end, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr = 0.0: expected a finite number > 0"),
        ({"momentum": -0.1}, r"momentum = -0.1: expected a number in \[0, 1\)"),
        ({"nesterov": True}, "nesterov = True with momentum = 0: expected a momentum > 0"),
        ({"batch_size": 7}, r"batch_size = 7: expected an integer in \[1, 6\]"),
        ({"n_steps": 0}, "n_steps = 0: expected an integer >= 1"),
        ({"every": 7}, "every = 7: expected a divisor of n_steps = 60"),
        ({"sampling": "some"}, "sampling = 'some': expected one of with, without, reshuffled"),
    ],
)
def test_bad_replicas(change, message):
    with pytest.raises(ValueError, match=message):
        many(**change)


def test_gradients_of_replicas_may_change_what_they_get_and_carry_a_graph():
    x0, net = torch.ones(3, 1, dtype=torch.float64), torch.nn.Linear(1, 1).double()
    options = {"N": 6, "lr": 0.3, "batch_size": 2, "n_steps": 6}
    expected = sgd.replicas(pull, x0, **options, generator=generator(5))
    in_place = sgd.replicas(
        lambda x, i: x.sub_(TARGETS[i].mean(1, keepdim=True)), x0, **options, generator=generator(5)
    )
    assert torch.equal(in_place, expected) and torch.equal(x0, torch.ones_like(x0))
    assert not sgd.replicas(lambda x, index: net(x), x0, **options, momentum=0.5, generator=generator(5)).requires_grad
    for nothing in (None, 1.0):
        with pytest.raises(ValueError, match=r"gradient gave shape \(\): expected \(3, 1\)"):
            sgd.replicas(lambda x, index, nothing=nothing: nothing, x0, **options, generator=generator(5))


def test_bad_starts_and_gradients_of_replicas():
    options = {"N": 6, "lr": 0.3, "batch_size": 2, "n_steps": 6, "generator": generator()}
    with pytest.raises(ValueError, match=r"gradient gave shape \(3, 2\): expected \(3, 1\)"):
        sgd.replicas(lambda x, index: x.expand(3, 2), torch.zeros(3, 1), **options)
    with pytest.raises(ValueError, match="x0: NaN or infinity in row 0"):
        sgd.replicas(pull, torch.full((1, 1), torch.nan), **options)
    with pytest.raises(FloatingPointError, match=r"NaN or infinite by step \d+, not yet at step \d+: lower lr"):
        sgd.replicas(pull, torch.ones(1, 1), **(options | {"lr": 3.0, "n_steps": 2000}))


# ---- least squares: the exact solution in discrete time

DESIGN = torch.tensor([[1.0, 0.2], [0.4, -1.0], [1.2, 1.0], [-0.3, 0.8], [0.9, -0.4], [0.1, 1.1]], dtype=torch.float64)
ANSWERS = torch.tensor([1.0, -0.5, 0.3, 0.9, -1.2, 0.4], dtype=torch.float64)


def fit(x, index):
    a = DESIGN[index]
    return ((a * x[:, None]).sum(-1) - ANSWERS[index]).unsqueeze(-1).mul(a).mean(1)


def standard_errors(x):
    """Of the entries of the mean and of the covariance of independent rows."""
    z = x - x.mean(0)
    products = z[:, :, None] * z[:, None]
    return z.std(0) / len(x) ** 0.5, products.std(0) / len(x) ** 0.5


@pytest.mark.parametrize("sampling", sgd.SAMPLINGS)
def test_least_squares_has_the_exact_stationary_mean_and_covariance(sampling):
    """Within three standard errors; reshuffled, at the ends of epochs, where also the mean is not the minimum."""
    mean, covariance = least_squares_moments(DESIGN, ANSWERS, 0.4, 2, sampling)
    start = torch.zeros(60_000, 2, dtype=torch.float64)
    x = sgd.replicas(fit, start, 6, 0.4, 2, 60, generator=generator(3), sampling=sampling)
    mean_error, covariance_error = standard_errors(x)
    assert ((x.mean(0) - mean).abs() < 3 * mean_error).all()
    assert ((x.T.cov() - covariance).abs() < 3 * covariance_error).all()
    for other in set(sgd.SAMPLINGS) - {sampling}:
        wrong = least_squares_moments(DESIGN, ANSWERS, 0.4, 2, other)[1]
        assert ((x.T.cov() - wrong).abs() > 10 * covariance_error).any()


def test_the_exact_moments_are_those_of_the_linear_process_where_the_noise_is_constant():
    """One weight and a_k = 1: the Hessian of every batch is 1, the noise D / b."""
    ones, y = torch.ones(6, 1, dtype=torch.float64), TARGETS
    mean, covariance = least_squares_moments(ones, y, 0.3, 2, "with")
    exact = series.momentum_process([[1.0]], [[5 / 3 / 2]], 0.3, 0.0).covariance
    assert mean.item() == pytest.approx(0, abs=1e-14) and covariance.item() == pytest.approx(exact.item(), rel=1e-12)


@pytest.mark.parametrize("sampling", sgd.SAMPLINGS)
def test_a_recorded_run_of_least_squares_has_the_exact_covariance(tmp_path, sampling):
    """The same from one long trajectory on a network of one linear layer, recorded every three steps: an epoch."""
    _, covariance = least_squares_moments(DESIGN, ANSWERS, 0.4, 2, sampling)
    model = torch.nn.Linear(2, 1, bias=False).double()
    options = {"lr": 0.4, "batch_size": 2, "sampling": sampling, "generator": generator(2), "progress": False}
    half = lambda out, y: ((out[:, 0] - y) ** 2).mean() / 2  # noqa: E731
    made = sgd.record(model, half, DESIGN, ANSWERS, tmp_path, n_steps=18_000, every=3, **options)
    x = made.weights[100:]
    z = x - x.mean(0)
    found, error = series.batch_means(z[:, :, None] * z[:, None])
    assert (np.abs(found - covariance.numpy()) < 3 * error).all()
