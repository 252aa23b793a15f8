"""The experiment of long trajectories: its settings, its resumption, and each saved number against a plain one."""

import dataclasses
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import recorded
import torch
from problems import generator
from torch.nn.functional import cross_entropy

from sgdvi_lite import experiments, nets, reports, results, series, sgd
from sgdvi_lite.__main__ import main
from sgdvi_lite.experiments import registry
from sgdvi_lite.experiments.trajectory import measures, report, turning
from sgdvi_lite.experiments.trajectory import run as trajectory_run
from sgdvi_lite.experiments.trajectory import slopes as along
from sgdvi_lite.sgd.loop import Run

QUICK = {"pool": 2, "epochs": 560, "burn": 40, "classes": (0, 1, 2)}


def quick(**changes):
    return experiments.settings("trajectory", "lite", **(QUICK | changes))


def run(folder, chosen, **options):
    return experiments.run("trajectory", "lite", chosen, folder=folder, progress=False, **options)


@pytest.fixture(scope="module", autouse=True)
def fewer_draws():
    """What only makes errors smaller takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turning, "DRAWS", 3)
        patch.setattr(turning, "REPEATS", 8)
        patch.setattr(along, "POINTS", 100)
        patch.setattr(along, "DRAWS", 4)
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A result and the recording from which it was made."""
    path = run(tmp_path_factory.mktemp("results"), quick(), keep=True)
    return results.load(path), sgd.open_recording(path.with_suffix(".partial") / "run"), path


def test_a_result_is_small_and_says_how_it_was_made(kept):
    result, made, path = kept
    assert path.stat().st_size < 200_000 and path.with_suffix(".svg").is_file()
    assert all(np.isfinite(a).all() for a in result.arrays.values() if a.dtype.kind == "f")
    note = result.provenance
    assert note["experiment"] == "trajectory" and note["settings"]["classes"] == [0, 1, 2]
    assert sorted(note["changed_from_preset"]) == ["burn", "classes", "epochs", "pool"]
    assert made.done == 560 * int(result.arrays["epoch_steps"]) and made.run["weight_decay"] == 0.01


def test_the_recording_is_the_one_that_a_reader_would_make(kept, tmp_path):
    """By hand, with nothing of the experiment but its numbers."""
    from sgdvi_lite import data

    _, made, _ = kept
    digits = data.average_pool(data.class_subset(data.load("digits"), [0, 1, 2]), 2)
    digits, g = data.standardise(digits), generator(0)
    net = nets.build("tiny-fc", in_shape=(1, 2, 2), classes=3, generator=g)
    steps = len(digits.x_train) // 128
    own = sgd.record(
        *(net, cross_entropy, digits.x_train, digits.y_train, tmp_path),
        n_steps=20 * steps,
        every=steps,
        batch_size=128,
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.01,
        generator=g,
        progress=False,
    )
    assert np.array_equal(own.weights, made.weights[:21])


def test_the_curves_are_means_over_blocks_of_epochs(kept):
    result, made, _ = kept
    a = result.arrays
    blocks = np.array_split(np.arange(520), 400)
    assert np.allclose(a["loss"], [made.loss[40:][block].mean() for block in blocks])
    assert np.allclose(a["size"], [np.linalg.norm(made.weights[41:][block], axis=1).mean() for block in blocks])
    assert np.allclose(a["epoch"], [41 + block.mean() for block in blocks])
    left, right = (side[40:] for side in made.balance())
    assert np.allclose(a["balance"], series.stationarity(left, right))
    assert a["burn"] == 40 and a["stationary"] and np.allclose(a["drift"], a["tried_drift"][0])
    assert a["tried"].tolist() == [40, 56, 112, 168, 224, 280]


def test_scores_lines_and_areas_are_those_of_the_weights(kept):
    result, made, _ = kept
    path, a = made.weights[40:].astype(float), result.arrays
    assert np.allclose(a["scores"], series.area_scores(path), rtol=1e-6)
    assert np.allclose(a["line"], series.strongest_line(series.principal_components(path, 20), 120 / len(path)))
    _, new = series.chosen_plane(path)
    assert np.allclose(a["area"], series.area_by_lag(new, a["area_lag"]), atol=1e-6)
    assert a["null_scores"].shape == (3, 8, 2) and a["null_scores"][..., 0].mean() > 3
    assert abs(a["null_scores"][..., 1].mean()) < 1
    z = series.principal_components(path, 20)
    assert np.allclose(a["components"], z, atol=1e-5) and a["components"].dtype == np.float32
    assert np.allclose(a["leading_scores"], series.area_scores(z[:, :2]), rtol=1e-6)


def test_the_departures_from_a_running_mean_are_looked_at_likewise(kept):
    result, made, _ = kept
    path, a = made.weights[40:].astype(float), result.arrays
    width = len(path) // 16 * 2 + 1
    smooth = np.stack([np.convolve(column, np.ones(width) / width, mode="valid") for column in path.T], axis=1)
    rest = path[width // 2 : -(width // 2)] - smooth
    assert np.allclose(a["fast_scores"], series.area_scores(rest), rtol=1e-3)
    assert np.allclose(a["fast_components"].var(0), series.principal_components(rest, 20).var(0), rtol=1e-3)


def test_spectrum_and_autocorrelation_are_means_over_the_weights_that_move(kept):
    result, made, _ = kept
    a, path = result.arrays, made.weights[40:].astype(float)
    assert a["moving"] == a["d"] == path.shape[1]  # with weight decay even what has no gradient moves at first
    found = series.increment_spectrum(path, 64)
    density = found.density / np.diff(path, axis=0).var(0)
    assert np.allclose(a["frequency"], found.frequency)
    assert np.allclose(a["spectrum"][0], density.mean(1), rtol=1e-5)
    assert np.allclose(a["spectrum"][2], np.quantile(density, 0.84, axis=1), rtol=1e-5)
    rho = series.autocorrelation(path, int(a["lag"][-1]))
    assert np.allclose(a["correlation"][0], rho[a["lag"]].mean(1), atol=1e-6)
    assert a["low_share"][0] == pytest.approx((density[found.frequency < 0.05].sum(0) / density.sum(0)).mean())
    assert a["outside"][0] == pytest.approx((abs(rho[1:]) > 2.5758 / np.sqrt(len(path))).mean(), abs=1e-3)


def test_what_has_no_gradient_does_not_move(tmp_path):
    dataset = experiments.prepare(quick())
    net, g = trajectory_run.start(quick(), dataset)
    options = {"n_steps": 60, "every": 1, "lr": 0.1, "batch_size": 128, "generator": g, "progress": False}
    path = sgd.record(net, cross_entropy, dataset.x_train, dataset.y_train, tmp_path, **options).weights
    still = np.flatnonzero(~measures._moving(path))
    assert set(still) >= set(range(64, 80)) | set(range(368, 384))  # biases before the two batch-norm layers


def test_the_full_gradient_is_that_of_all_images_in_training_mode(kept):
    result, made, _ = kept
    dataset = experiments.prepare(quick())
    net, _ = trajectory_run.start(quick(), dataset)
    row = int(result.arrays["gradient_epoch"][7])
    w = torch.tensor(made.weights[row])
    nets.set_flat_parameters(net.train(), w)
    cross_entropy(net(dataset.x_train), dataset.y_train).backward()
    slope = torch.cat([p.grad.flatten() for p in net.parameters()]) + 0.01 * w
    assert result.arrays["gradient"][7] == pytest.approx(slope.norm().item() / len(w) ** 0.5, rel=1e-4)


@pytest.fixture(scope="module")
def slopes():
    """In float64, at weights where the network has learnt a little."""
    dataset = experiments.prepare(quick())
    net, g = trajectory_run.start(quick(), dataset)
    sgd.run(net, cross_entropy, dataset.x_train, dataset.y_train, epochs=3, lr=0.1, batch_size=64, generator=g,
            progress=False)  # fmt: skip
    double = type(dataset)(
        "digits", dataset.x_train.double(), dataset.y_train, dataset.x_test.double(), dataset.y_test, 3, "-"
    )
    return along.Slopes(net.double(), double, 0.01)


def test_the_spectrum_that_a_direction_sees_is_that_of_differences_of_gradients(slopes):
    """``v.F v`` and ``|F v|^2``, the first two moments, of which the quadrature is exact."""
    w = nets.flat_parameters(slopes.model).numpy()
    for v in torch.randn(3, len(w), generator=generator(1), dtype=torch.float64):
        ends = []
        for h in (1e-5, -1e-5):
            slopes.at(w + h * v.numpy())
            ends.append(slopes.gradient())
        slopes.at(w)
        turned = (ends[0] - ends[1]) / 2e-5
        nodes, weights = slopes.spectra(v[None])
        assert nodes.shape == (1, along.NODES) and weights.sum() == pytest.approx((v @ v).item())
        assert (weights * nodes).sum() == pytest.approx((turned @ v).item(), rel=1e-5)
        assert (weights * nodes**2).sum() == pytest.approx((turned @ turned).item(), rel=1e-5)


def test_the_noise_of_a_batch_has_mean_zero_and_the_trace_of_its_covariance(slopes):
    """Without batch-norm the noise of reshuffled batches is c(N, b) D, whose trace is known."""
    from sgdvi_lite import DiffusionMatrix, minibatch_factor

    chosen = quick(batch_norm=False, batch_size=64)
    dataset = experiments.prepare(chosen)
    net, _ = trajectory_run.start(chosen, dataset)
    N, g, plain = len(dataset.x_train), generator(2), along.Slopes(net, dataset, 0.0)
    epochs = torch.stack([plain.epoch(chosen, g) for _ in range(40)])
    noise = (epochs - plain.gradient()).square().sum(-1).flatten().numpy()
    D = DiffusionMatrix.from_model(net, cross_entropy, dataset.x_train, dataset.y_train)
    expected = minibatch_factor(N, 64, replacement=False) * float(D.trace())
    assert abs(noise.mean() - expected) < 4 * noise.std() / np.sqrt(len(noise))


@pytest.mark.parametrize("sampling", ["with", "reshuffled"])
def test_the_floor_is_that_of_a_convex_loss(sampling, tmp_path):
    """Logistic regression with weight decay and momentum: |grad f|^2 is the floor, but for a term of order lr."""
    chosen = quick(lr=0.01, weight_decay=0.1, sampling=sampling, batch_size=43, burn=0)
    dataset, g = experiments.prepare(chosen), generator(4)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    options = {name: getattr(chosen, name) for name in ("lr", "momentum", "nesterov", "weight_decay", "sampling")}
    options |= {"n_steps": 40_000, "every": 10, "batch_size": 43, "generator": g, "progress": False}
    path = sgd.record(net, cross_entropy, dataset.x_train, dataset.y_train, tmp_path, **options).weights
    found = along.gradients(chosen, along.Slopes(net, dataset, 0.1), path, 300, g)
    square, error = series.batch_means(np.square(found["gradient"]), 20)
    expected, own = found["floor_shuffled"].mean(), found["floor_error"].mean() / np.sqrt(len(found["floor_error"]))
    assert error < 0.1 * square and abs(square - expected) < 4 * error + 4 * own + 0.05 * expected
    of_temperature = expected / found["floor_square"].mean()
    assert abs(of_temperature - 1) < 0.06 if sampling == "with" else of_temperature < 0.5


def test_the_null_of_a_weight_has_its_correlation_and_is_stationary():
    slow = series.LinearProcess([[0.95]], [[1.0]])
    x = np.hstack([slow.sample(50_000, generator=generator(s)) for s in range(4)])
    null = measures._fitted_ar(x, generator(9))
    assert np.allclose(series.autocorrelation(null, 1)[1], series.autocorrelation(x, 1)[1], atol=0.01)
    many = measures._fitted_ar(np.tile(slow.sample(2000, generator=generator(5)), 300), generator(3))
    first, later = many[0].var(), many[1000].var()
    assert first == pytest.approx(later, rel=4 * np.sqrt(2 / 300) * np.sqrt(2))


def test_dropout_is_off_and_batch_norm_as_in_training():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))
    slopes = along.Slopes(net, experiments.prepare(quick()), 0.0)
    assert net[1].training and not net[2].training
    assert torch.equal(slopes.gradient(), slopes.gradient())


def test_without_batch_norm_the_rest_stays():
    dataset = experiments.prepare(quick())
    whole, _ = trajectory_run.start(quick(), dataset)
    plain, _ = trajectory_run.start(quick(batch_norm=False), dataset)
    linear = [layer for layer in whole.modules() if isinstance(layer, torch.nn.Linear)]
    kept = [layer for layer in plain.modules() if isinstance(layer, torch.nn.Linear)]
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(linear, kept, strict=True))
    assert nets.count_parameters(whole) - nets.count_parameters(plain) == 4 * 16
    assert plain(dataset.x_train[:5]).shape == (5, 3)


# ---- as in the figure


def test_the_plots_of_the_figure_are_amplitudes_and_correlations_after_the_least_burn_in(kept):
    result, made, _ = kept
    a, path = result.arrays, made.weights[40:].astype(float)
    amplitude = np.abs(np.fft.fft(np.diff(path, axis=0), axis=0))[: len(a["figure_frequency"])]
    assert np.allclose(a["figure_spectrum"][0], amplitude.mean(1), rtol=1e-4, atol=1e-6)
    x = path[:, 3] - path[:, 3].mean()
    one = [x[: len(x) - lag] @ x[lag:] / (x @ x) for lag in a["figure_lag"]]
    assert np.allclose(series.autocorrelation(path, len(x) - 1)[:: len(x) // 100, 3], one)
    assert np.allclose(a["figure_correlation"][0], series.autocorrelation(path, len(x) - 1)[a["figure_lag"]].mean(1))
    assert series.autocorrelation(x, len(x) - 1)[1:].sum() == pytest.approx(-0.5)  # whatever the series
    walk = np.sqrt(np.pi / 4 * (len(path) - 1)) * np.diff(path, axis=0).std(0).mean()
    assert a["figure_walk_spectrum"][0, 1:].mean() == pytest.approx(walk, rel=0.02)


def test_the_gradient_of_the_figure_is_the_mean_over_an_epoch_of_batches(kept):
    result, made, _ = kept
    a, dataset = result.arrays, experiments.prepare(quick())
    assert a["figure_epoch"][:175].tolist() == list(range(175)) and a["figure_epoch"][-1] == 560
    net, _ = trajectory_run.start(quick(), dataset)
    slopes, norms = along.Slopes(net, dataset, 0.01).at(made.weights[9]), []
    for batch in (g.mean(0) for g in (slopes.epoch(quick(), generator(s)) for s in range(5))):
        norms.append(batch.norm().item() / len(batch) ** 0.5)
    assert abs(a["figure_gradient"][9] - np.mean(norms)) < 6 * np.std(norms)


# ---- stationarity, and a current that was planted


def made_of(weights, left, right):
    """A recording of these weights after each step, with these sides of the balance; the first weight is the loss."""
    log = np.column_stack([weights[:, 0], left, right, np.zeros(len(left))])
    run = {"lr": 2.0, "momentum": 0.0, "nesterov": False}
    return sgd.Recording(Path(), run, "", len(log), None, np.vstack([weights[:1], weights]), log)


def test_the_burn_in_is_the_first_that_passes_and_a_drift_never_does():
    n, g = 20_000, generator(5)
    steady = 10 + series.LinearProcess(0.9 * np.eye(3), np.eye(3)).sample(n, generator=g)
    left, right = 1 + 0.1 * series.white_noise(n, np.eye(2), generator=g).T
    relaxing = steady + 100 * np.exp(-np.arange(n) / 1000)[:, None]
    found = {
        name: measures.settled(made_of(x, left, right), 500)
        for name, x in (("steady", steady), ("relaxing", relaxing), ("drifting", steady + np.arange(n)[:, None] / 2000))
    }
    assert found["steady"]["stationary"] and found["steady"]["burn"] == 500
    assert found["relaxing"]["stationary"] and 4000 <= found["relaxing"]["burn"] <= 10_000
    assert not found["drifting"]["stationary"] and found["drifting"]["burn"] == 500
    unequal = measures.settled(made_of(steady, 1.1 * left, right), 500)
    assert not unequal["stationary"] and unequal["drift"][0] > 3 > np.abs(unequal["drift"][1:]).max()


def test_a_planted_rotation_turns_as_it_says():
    u = turning.rotation(200_000, 10, generator(6))
    assert np.allclose(np.cov(u.T), np.eye(2), atol=0.05)
    lags = np.array([1, 8, 20])
    value, error = series.area_by_lag(u, lags)
    assert (abs(value - np.exp(-lags / 10) * np.sin(lags / 10)) < 4 * error).all()
    z = series.white_noise(200_000, np.diag([4.0, 1.0, 1.0]), generator=generator(7))
    mixed = turning.plant(z, u, 1, 0.2)
    assert np.array_equal(mixed[:, 0], z[:, 0]) and np.allclose(mixed[:, 1:].var(0), 1 / 0.8, rtol=0.03)
    assert report.TOP == pytest.approx(np.max(np.exp(-np.arange(1e4) / 1e3) * np.sin(np.arange(1e4) / 1e3)), rel=1e-5)


def test_a_rotation_is_seen_alone_and_lost_among_random_walks_in_forty_other_dimensions():
    u = turning.rotation(20_000, 10, generator(8))
    walk = series.brownian(len(u), np.eye(40), generator=generator(9))
    assert series.area_scores(u).new > 8
    assert abs(series.area_scores(np.hstack([u, walk])).new) < 3  # it is not among the twenty leading components


def test_the_smallest_current_that_is_seen_is_found_from_the_power():
    z = series.white_noise(20_000, np.diag(np.arange(22, 0, -1.0)), generator=generator(10))
    found = turning.turning(z, generator(11))
    a = {name: np.asarray(value) for name, value in found.items()}
    power = a["planted_power"]
    assert power.shape == (3, 2, 7) and power[0, 0, 0] < 0.3 and power[0, 0, -1] > 0.6  # a fast turn in the lead
    assert min(a["p_values"]) > 0.001
    value, low, high = report.smallest(a)[0, 0]
    assert low <= value <= high and report.TOP * 0.003 < value < report.TOP
    steps = {"planted_part": np.array([0.01, 0.1, 1.0]), "planted_power": np.array([[[0.0, 0.7, 0.9]]])}
    assert report.smallest(steps)[0, 0, 0] == pytest.approx(report.TOP * 10**-0.5)
    assert report.smallest(steps | {"planted_power": np.zeros((1, 1, 3))})[0, 0, 0] == np.inf


def test_a_score_is_compared_with_the_null_model_that_explains_it_best():
    g = generator(12)
    nulls = series.white_noise(20, np.eye(3), generator=g).T + np.array([[0.0], [0.0], [5.0]])
    assert turning._chance(4.0, nulls) > 0.5 and turning._chance(4.0, nulls[:2]) < 0.01


# ---- stopped and resumed


def test_a_run_stopped_on_its_way_goes_on_and_gives_the_same_numbers(kept, tmp_path, monkeypatch):
    record, stops = sgd.record, recorded.Stops(monkeypatch, left=3)
    monkeypatch.setattr(sgd, "record", lambda *a, **k: record(*a, **k, checkpoint_seconds=0.0))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, quick())
    (partial,) = tmp_path.iterdir()
    assert partial.suffix == ".partial" and 0 < sgd.open_recording(partial / "run").done < 560
    state = torch.load(partial / "run" / "state.pt", weights_only=True)
    began = time.monotonic()
    torch.save(state | {"spent": state["spent"] + 1000}, partial / "run" / "state.pt")
    monkeypatch.setattr(measures, "measure", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    stops.left = 10**6
    with pytest.raises(KeyboardInterrupt):  # in the measurements
        run(tmp_path, quick())
    monkeypatch.undo()
    monkeypatch.setattr(Run, "_chunk", lambda *a: pytest.fail("a step was made again"))
    result, whole = results.load(run(tmp_path, quick())), kept[0].arrays
    again, seconds = result.arrays, result.provenance["wall_seconds"]
    assert set(again) == set(whole) and all(np.array_equal(again[name], whole[name]) for name in whole)
    assert not partial.exists()
    assert state["spent"] > 0 and 1000 <= seconds - state["spent"] <= 1000 + time.monotonic() - began


def test_what_was_kept_is_measured_again_without_a_step(kept, monkeypatch):
    result, _, path = kept
    monkeypatch.setattr(Run, "_chunk", lambda *a: pytest.fail("a step was made again"))
    again = results.load(run(path.parent, quick(), force=True, keep=True))
    assert all(np.array_equal(array, again.arrays[name]) for name, array in result.arrays.items())


# ---- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": "resnet"}, "net = 'resnet': expected one of small-lenet"),
        ({"sampling": "twice"}, "sampling = 'twice': expected one of"),
        ({"epochs": 0}, "epochs = 0: expected an integer >= 1"),
        ({"burn": -1}, "burn = -1: expected an integer >= 0"),
        ({"burn": 100}, "epochs = 560 with burn = 100: expected at least 500 epochs after the burn-in"),
        ({"lr": 0.0}, "lr = 0.0: expected a finite number > 0"),
        ({"momentum": 0.0}, "nesterov = True with momentum = 0"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1: expected a finite number >= 0"),
        ({"device": "abacus"}, "device = 'abacus': not available here"),
        ({"batch_size": 10**6}, r"batch_size = 1000000: expected an integer in \[2, \d+\]"),
        ({"classes": (0, 17)}, r"classes = \[0, 17\]: expected different labels in \[0, 9\]"),
        ({"pool": 3}, "3"),
        ({"each": 200}, "each = 200: expected an integer in .1, 14[0-9].; no class has less"),
        ({"examples": 3}, "examples = 3: trajectory has no such setting"),
    ],
)
def test_bad_settings_leave_nothing_behind(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", quick(**change))
    assert not (tmp_path / "out").exists()


def test_the_paper_s_preset_has_the_paper_s_numbers_and_the_others_depart_from_it_as_they_say():
    paper = experiments.settings("trajectory", "paper")
    assert (paper.data, paper.pool, paper.classes, paper.net) == ("mnist", 7, (0, 1, 2, 3, 4), "tiny-fc")
    assert (paper.epochs, paper.burn, paper.lr, paper.batch_size) == (100_000, 1000, 1e-3, 128)
    assert paper.momentum == 0.9 and paper.nesterov and paper.batch_norm and paper.weight_decay == 0
    decay, plain = (experiments.settings("trajectory", f"paper-{name}") for name in ("decay", "plain"))
    assert (1 - decay.momentum) / (decay.lr * decay.weight_decay) == pytest.approx(10_000)
    assert plain.lr == pytest.approx(decay.lr / (1 - decay.momentum)) and not plain.batch_norm


def test_the_figure_s_preset_has_the_numbers_of_the_authors_code():
    figure = experiments.settings("trajectory", "figure")
    assert (figure.net, figure.pool, figure.classes, figure.each) == ("tiny-one-fc", 7, (0, 1, 2, 3), 512)
    assert (figure.epochs, figure.burn, figure.lr, figure.batch_size) == (100_000, 1000, 0.1, 128)
    assert figure.momentum == 0.9 and not figure.nesterov and figure.batch_norm and figure.weight_decay == 0
    assert figure.sampling == "reshuffled" and figure.wrapped and figure.pixels == "unit"


def test_the_first_images_of_each_class_are_kept():
    from sgdvi_lite import data

    digits = data.load("digits")
    kept = experiments.prepare(quick(each=50, classes=(3, 1), pixels="unit", pool=8))
    assert torch.bincount(kept.y_train).tolist() == [50, 50] and len(kept.x_test) == sum(
        (digits.y_test == k).sum() for k in (1, 3)
    )
    for label, digit in enumerate((3, 1)):
        own = digits.x_train[digits.y_train == digit]
        assert torch.equal(kept.x_train[kept.y_train == label], own[:50])


def test_the_names_of_results_stay_as_they_were(tmp_path):
    """Else a saved result would not be found again; a new setting of an experiment must not change them."""
    digests = {
        "lite": "tiny-fc-digits-44136f",
        "figure": "tiny-one-fc-mnist-d2c6dd",
        "paper": "tiny-fc-mnist-fff659",
        "paper-decay": "tiny-fc-mnist-6f4a95",
        "paper-plain": "tiny-fc-mnist-d6abdc",
    }
    for preset, end in digests.items():
        chosen = experiments.settings("trajectory", preset)
        name = experiments.result_path("trajectory", preset, chosen, tmp_path).name
        assert name == f"trajectory-{preset}-{end}.npz"


# ---- table, figure, command line


def test_the_table_says_what_the_arrays_say(kept):
    result, _, _ = kept
    a, lines = result.arrays, str(reports.table(result)).splitlines()
    rows = [re.split(r"  +", line.strip(), maxsplit=1) for line in lines]
    headings = [row[0] for row in rows if len(row) == 1]
    assert [heading.split(":")[0] for heading in headings] == [
        "is there a current",
        "departures from a running mean",
    ]
    text = dict(reversed([row for row in rows if len(row) == 2]))  # of two rows, the first
    assert text["what was run"].startswith("tiny-fc on digits, 520 epochs of ")
    new = text["area / error in that plane, new data"]
    assert new.startswith(f"{a['scores'][1]:.1f}; {a['null_scores'][0, :, 1].mean():.1f}")
    p = series.holm([*a["p_values"], *a["fast_p_values"]])
    assert new.endswith(f"p = {p[0]:.2g} by Holm, of 4")
    drift = "errors from stationarity: balance, trends of loss and |x|"
    assert text[drift] == ", ".join(f"{z:+.1f}" for z in a["drift"]) + ": stationary"
    assert f"limit {a['line'][1]:.1f}" in text["strongest line"]
    first, last = a["gradient"][:10].mean(), a["gradient"][-10:].mean()
    norm = text["|grad f| / sqrt(d), first and last tenth"]
    assert norm == f"{first:.3g} -> {last:.3g}, last over first {last / first:.2f}"
    for kind, floor in (("independent", "floor_square"), ("reshuffled", "floor_shuffled")):
        squares = a["gradient"].astype(float) ** 2, a[floor]
        tops, bottoms = (square.reshape(10, -1).mean(1) for square in squares)
        shown = text[f"gradient over the floor of {kind} batches, by tenths"].split()
        assert shown == [f"{ratio:.2f}" for ratio in np.sqrt(tops / bottoms)]
    assert reports.table(result).columns == ("finding", "value")


def test_the_area_is_said_to_go_down_only_if_it_does(kept):
    result, _, _ = kept
    for curve, end in (([1.0, 2.0], "2.000 at lag 2"), ([1.0, 0.5], "1.000 at lag 1, then down to +0.500")):
        changed = result.arrays | {"area": np.array([curve]), "area_lag": np.array([1, 2])}
        rows = reports.table(dataclasses.replace(result, arrays=changed)).rows
        assert next(row for row in rows if row[0] == "area over variance in the chosen plane")[1] == end


def test_a_result_from_before_some_rows_were_there_says_so(kept):
    old = ("drift", "floor_shuffled", "p_values", "planted_power", "figure_gradient", "burn")
    arrays = {name: array for name, array in kept[0].arrays.items() if name not in old}
    result = dataclasses.replace(kept[0], arrays=arrays)
    texts = [row[1] for row in reports.table(result).rows if not isinstance(row, str)]
    assert (
        texts.count("not measured") == 3
        and sum("p = nan" in text for text in texts) == 4
        and len(reports.draw(result).axes) == 4
    )


def test_the_figure_has_four_panels_with_what_was_measured(kept, monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.figure", lambda *a, **k: pytest.fail("pyplot was used"))
    figure = reports.draw(kept[0])
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert len(titles) == 4 and [title[:3] for title in titles[:3]] == ["(a)", "(b)", "(c)"]
    drawn = figure.axes[0].lines[0].get_ydata()
    assert np.array_equal(drawn, kept[0].arrays["spectrum"][0])
    floors = [line.get_ydata() for line in figure.axes[2].lines[2:]]
    assert np.allclose(np.square(floors), [kept[0].arrays["floor_square"], kept[0].arrays["floor_shuffled"]])


ARGUMENTS = ["run", "trajectory", "--pool", "2", "--epochs", "560", "--burn", "40", "--classes", "0,1,2"]


def test_the_command_line_runs_lists_and_shows(kept, tmp_path, capsys):
    folder = ["--out", str(tmp_path)]
    assert main([*ARGUMENTS, "--no-progress", *folder]) == 0
    ran = capsys.readouterr().out
    (saved,) = results.find(tmp_path)
    assert saved.name == kept[2].name and f"saved: {saved}" in ran and "Yaida's balance" in ran
    assert main(["list", *folder]) == 0
    listed = capsys.readouterr().out
    assert str(saved) in listed and "trajectory --preset paper-decay: data=mnist" in listed
    assert main(["show", str(saved)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(ran.split("\n\n")[0])
    assert json.loads(shown[shown.index("\n{") :])["settings"]["burn"] == 40


def test_every_setting_that_the_command_line_offers_is_taken(monkeypatch, capsys):
    given = ["--lr", "0.2", "--momentum", "0", "--no-nesterov", "--weight-decay", "0.1", "--no-batch-norm", "--keep"]
    given += ["--batch-size", "32", "--sampling", "with", "--seed", "3", "--device", "cpu", "--net", "small-fc"]
    seen = []
    monkeypatch.setattr(registry, "run", lambda *a, **k: seen.append((a[2], k)) or (_ for _ in ()).throw(ValueError))
    assert main([*ARGUMENTS, *given]) == 2
    chosen, options = seen[0]
    changes = {"lr": 0.2, "momentum": 0.0, "nesterov": False, "weight_decay": 0.1, "batch_norm": False}
    changes |= {"batch_size": 32, "sampling": "with", "seed": 3, "device": "cpu", "net": "small-fc"}
    assert chosen == quick(**changes) and options["keep"] and not options["force"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "trajectory", "--examples", "5"], "examples = 5: trajectory has no such setting; it has data, net"),
        (["run", "spectrum", "--no-batch-norm"], "batch_norm = False: spectrum has no such setting"),
        (["run", "trajectory", "--epochs", "1500"], "epochs = 1500 with burn = 1400: expected at least 500"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_labels_that_are_no_numbers(capsys):
    with pytest.raises(SystemExit):
        main(["run", "trajectory", "--classes", "a,b"])
    assert "'a,b': expected labels and commas, such as 0,1" in capsys.readouterr().err
