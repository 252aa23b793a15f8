"""The experiment of temperatures: the linear theory against simulation, measures against plain ones, the verdict."""

import dataclasses

import numpy as np
import pytest
import torch
from problems import generator
from torch.nn.functional import cross_entropy

from sgdvi_lite import DiffusionMatrix, experiments, nets, reports, results, series, sgd
from sgdvi_lite.experiments.temperature import measures, report
from sgdvi_lite.experiments.temperature import run as temperature_run

QUICK = {"pool": 2, "classes": (0, 1, 2), "epochs": 400, "settling": 100, "directions": 4, "draws": 600, "pulling": 3}


def quick(**changes):
    return experiments.settings("temperature", "lite", **(QUICK | changes))


def run(folder, chosen, **options):
    return experiments.run("temperature", "lite", chosen, folder=folder, progress=False, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return results.load(run(folder, quick(), keep=True)), folder


# ---- the linear theory

RATES, LR, N, B, EPOCHS = torch.tensor([2.0, 0.5]).double(), 0.1, 26, 4, 8


def simulated(sampling, inertia):
    """Variance of two modes within the last epochs and its error, over copies of SGD on a sum of quadratic losses."""
    g = generator(1)
    centres = torch.randn(N, 2, generator=g).double()
    centres -= centres.mean(0)
    every = N // B

    def gradient(x, index):
        return RATES * (x - centres[index].mean(1))

    start = torch.zeros(1500, 2).double()
    options = {"generator": g, "sampling": sampling, "every": every} | inertia
    path = sgd.replicas(gradient, start, N, LR, B, 60 * every, **options)[-EPOCHS:]
    values = path.var(0)
    noise = np.cov((RATES * centres).numpy().T, bias=True) / B
    return values.mean(0).numpy(), (values.std(0) / len(values) ** 0.5).numpy(), noise


PLAIN, NESTEROV = {"momentum": 0.0, "nesterov": False}, {"momentum": 0.5, "nesterov": True}


@pytest.mark.parametrize("inertia", [PLAIN, NESTEROV], ids=["plain", "Nesterov"])
@pytest.mark.parametrize("sampling", report.WAYS)
def test_the_linear_theory_is_that_of_the_steps(sampling, inertia):
    mean, error, noise = simulated(sampling, inertia)
    process = series.momentum_process(np.diag(RATES), noise, LR, **inertia)
    theory = {way: measures.within(process, N, B, way, EPOCHS) for way in report.WAYS}
    assert (abs(mean - theory[sampling]) < 4 * error).all()
    (other,) = {*report.WAYS} - {sampling}
    assert (abs(mean - theory[other]) > 8 * error).all()


@pytest.mark.parametrize("x", [0.3, 2.0, 10.0])
def test_reshuffling_takes_off_what_the_formula_says(x):
    K, lr = 4000, 1e-3
    process = series.momentum_process([[x / K / lr]], [[1.0]], lr, 0.0)
    ratio = measures.within(process, 7 * K, 7, "reshuffled", 3000) / process.covariance[0]
    assert ratio == pytest.approx(1 - np.tanh(x / 2) / (x / 2), rel=0.02)


def test_within_a_stretch_the_mean_is_taken_off():
    process = series.LinearProcess([[0.9]], [[1.0]])
    cuts = process.sample(40_000, generator=generator(0)).reshape(-1, 10).var(axis=1, ddof=1)
    error = cuts.std() / len(cuts) ** 0.5
    assert abs(cuts.mean() - measures.within(process, 3, 2, "with", 10)[0]) < 5 * error  # correlated neighbours
    assert measures.within(process, 3, 2, "with", 10)[0] < 0.5 * process.covariance[0, 0]


# ---- loss, Hessian, noise, forces


def landscape(norm=None, **changes):
    chosen = quick(**changes)
    dataset = experiments.prepare(chosen)
    model, g = chosen.network(dataset, norm=norm)
    return measures.Landscape(model, dataset, chosen), model, g


@pytest.mark.parametrize("norm", [None, "batch"])
def test_the_loss_is_the_mean_of_the_batches_of_an_epoch_in_training_mode(norm):
    land, model, _ = landscape(norm)
    w = nets.flat_parameters(model).double()
    own = model.double().train()
    plain = [cross_entropy(own(land.x[index]), land.y[index]).item() for index in land.epoch]
    assert land.full(w).item() == pytest.approx(np.mean(plain) + 0.03 / 2 * (w @ w).item(), rel=1e-12)
    assert len(land.epoch.flatten().unique()) == len(land.x) // 32 * 32


@pytest.mark.parametrize("norm", [None, "batch"])
def test_directions_are_eigenvectors_of_the_hessian(norm):
    land, model, _ = landscape(norm)
    w = nets.flat_parameters(model).double()
    H = torch.func.jacrev(torch.func.grad(land.full))(w).numpy()
    values, V = land.leading(w)
    assert np.allclose(values, np.linalg.eigvalsh(H)[:-5:-1], rtol=1e-6)
    assert np.allclose(H @ V, V * values, atol=1e-4 * values[0]) and np.allclose(V.T @ V, np.eye(4), atol=1e-8)


def test_noise_is_that_of_definition_1_without_norm():
    land, model, g = landscape(draws=3000)
    w = nets.flat_parameters(model).double().numpy()
    V = np.linalg.qr(torch.randn(len(w), 2, generator=g).double().numpy())[0]
    own = model.double().eval()
    D = DiffusionMatrix.from_model(own, cross_entropy, land.x, land.y).dense().numpy()
    seen = land.noise(np.stack([w, w]), V, g) ** 2
    error = seen.std(0) / len(seen) ** 0.5
    assert (abs(seen.mean(0) - np.diag(V.T @ D @ V) / 32) < 4 * error).all()


@pytest.mark.parametrize("inertia", [PLAIN, NESTEROV], ids=["plain", "Nesterov"])
def test_copies_are_pulled_to_and_fro_with_the_same_batches(inertia):
    land, model, _ = landscape(**inertia)
    w = nets.flat_parameters(model).double()
    force = torch.randn(1, len(w), generator=generator(3)).double() / 10
    moved = land.pulled(w[None], torch.cat([force, 0 * force]), "with", generator(4))
    ends = []
    for side in (1, -1):
        g, x = generator(4), w.clone().requires_grad_()
        optimizer = torch.optim.SGD([x], lr=0.1, **inertia)
        for _ in range(3 * len(land.epoch)):
            optimizer.zero_grad()
            (land.loss(x, torch.randint(len(land.x), (1, 32), generator=g)[0]) - side * force[0] @ x).backward()
            optimizer.step()
        ends.append(x.detach())
    assert torch.allclose(moved[-1, 0, 0], (ends[0] - ends[1]) / 2, atol=1e-10)
    assert moved.shape == (3, 1, 2, len(w)) and moved[:, :, 1].abs().max() == 0


# ---- the verdict


def test_temperatures_are_those_of_the_linear_theory_and_not_twice_as_high(made):
    independent, *_ = report.cases(made[0]).values()
    ratio, error = report.over(independent, "with")
    assert error.max() < 0.25 and (abs(ratio - 1) < 0.3 + 3 * error).all()
    assert abs(ratio.mean() - 1) < 0.2


def test_reshuffled_batches_are_colder_and_have_their_own_prediction(made):
    _, reshuffled, *_ = report.cases(made[0]).values()
    own, other = (report.over(reshuffled, way)[0] for way in ("reshuffled", "with"))
    assert abs(np.log(own)).max() < abs(np.log(other)).max() / 2


def test_one_temperature_for_all_directions_is_refused(made):
    for a in [*report.cases(made[0]).values()][:2]:
        T, error = a["curvature"] * a["variance"], a["curvature"] * a["variance_error"]
        assert (T[0] - T[-1]) > 5 * np.hypot(error[0], error[-1])


def test_a_force_moves_the_weights_by_its_size_over_the_curvature(made):
    for a in report.cases(made[0]).values():
        assert np.allclose(a["stiffness"][:3], a["curvature"][[0, 2, 3]])
        assert np.allclose(np.linalg.norm(a["forces"], axis=1), 1)
    gain = made[0].arrays["stiffness"][0] * made[0].arrays["response"][0, :, -1]
    assert (abs(gain - 1) < 0.4).all()


# ---- saved, resumed, shown


def test_variances_are_those_of_the_recorded_path(made):
    result, folder = made
    (place,) = folder.glob("*.partial")
    path = sgd.open_recording(place / "run-batch-reshuffled").weights[101:].astype(float)
    a = report.cases(result)["batch-norm, reshuffled batches"]
    land, *_ = landscape("batch")
    _, V = land.leading(torch.from_numpy(path.mean(0)))
    parts = (path @ V).reshape(30, 10, 4).var(axis=1, ddof=1)
    assert np.allclose(a["variance"], parts.mean(0), rtol=1e-4)
    assert np.allclose(a["variance_error"], parts.std(0, ddof=1) / 30**0.5, rtol=1e-4)
    assert np.allclose(a["total"], (path @ V).var(0), rtol=1e-4) and np.allclose(
        a["variance"], np.diag(a["covariance"])
    )


def test_a_run_that_was_stopped_goes_on(made, tmp_path, monkeypatch):
    chosen = quick()
    with monkeypatch.context() as patch:
        patch.setattr(
            temperature_run.measures.Landscape, "leading", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, chosen)
    steps = []
    monkeypatch.setattr(temperature_run, "CASES", temperature_run.CASES[:1])
    monkeypatch.setattr("sgdvi_lite.sgd.loop.Run.go", lambda self, progress: steps.append(self))
    monkeypatch.setattr("sgdvi_lite.experiments.registry.draw", lambda *_: None)
    again = results.load(run(tmp_path, chosen)).arrays
    assert steps == []
    assert all(np.allclose(again[name][0], made[0].arrays[name][0], rtol=1e-6, atol=1e-12) for name in again)


def test_table_and_figure_show_each_case(made, monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.figure", lambda *a, **k: pytest.fail("pyplot was used"))
    rows = reports.table(made[0]).rows
    assert [row.split(":")[0] for row in rows if isinstance(row, str)] == [*report.cases(made[0])]
    assert sum(row[0] == "over prediction, reshuffled" for row in rows) == 4
    figure = reports.draw(made[0])
    assert [ax.get_title(loc="left").split(":")[0] for ax in figure.axes] == ["no norm", "batch-norm"]
    drawn = figure.axes[1].lines[0].get_ydata()
    assert np.allclose(drawn, made[0].arrays["curvature"][2] * made[0].arrays["variance"][2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 399}, "epochs = 399 with settling = 100: expected at least 300 epochs after it"),
        ({"directions": 2}, "directions = 2"),
        ({"pull": 0.0}, "pull = 0.0"),
        ({"burn": 3}, "temperature has no such setting"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        quick(**changes)


def test_the_paper_s_preset_differs_in_size_alone():
    paper, lite = (dataclasses.asdict(experiments.settings("temperature", name)) for name in ("paper", "lite"))
    differ = {name for name in paper if paper[name] != lite[name]}
    assert differ == {"data", "pool", "batch_size", "epochs", "directions", "pulling"}
