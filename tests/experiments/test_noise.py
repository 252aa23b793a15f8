"""The experiment that compares D with the noise of real batches: its arrays, its resumption, its table."""

import numpy as np
import pytest
import torch
from references import autograd_gradients
from torch.nn.functional import cross_entropy

from sgdvi_lite import data, experiments, nets, reports, results
from sgdvi_lite.experiments.noise import run as noise_run

QUICK = {"net": "tiny-fc", "pool": 4, "epochs": 2, "sample": 200, "sizes": (8, 32), "batches": 20, "runs": 2}
NORMS = len(nets.NORMS)


def quick(**changes):
    return experiments.settings("noise", "lite", **(QUICK | changes))


def run(folder, chosen):
    return experiments.run("noise", "lite", chosen, folder=folder, progress=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return run(tmp_path_factory.mktemp("results"), quick())


def test_a_result_has_a_number_for_each_run_norm_instant_dropout_and_size(path):
    a = results.load(path).arrays
    measured = "ratio", "ratio_error", "share", "share_error", "offset"
    assert all(a[name].shape == (2, NORMS, 3, 1, 2) for name in measured)
    assert a["trace"].shape == a["own_share"].shape == a["train_error"].shape == (2, NORMS, 3)
    assert a["epoch"].tolist() == [0, 1, 2] and a["b"].tolist() == [8, 32] and a["N"] == 200
    assert not np.allclose(a["trace"][0], a["trace"][1]) and path.with_suffix(".svg").is_file()


def test_d_is_that_of_the_calibrated_initialisation(path):
    """By hand, with nothing of the experiment but its numbers."""
    digits = data.standardise(data.average_pool(data.load("digits"), 4))
    g, a = torch.Generator().manual_seed(1), results.load(path).arrays
    for i, norm in enumerate(nets.NORMS):
        g.manual_seed(1)
        model = nets.build("tiny-fc", in_shape=(1, 4, 4), classes=10, generator=g, norm=norm)
        order = torch.randperm(len(digits.x_train), generator=g)[:200]
        x, y = digits.x_train[order], digits.y_train[order]
        model = nets.calibrate(model, x) if norm == "batch" else model
        D = torch.cov(autograd_gradients(model.eval(), cross_entropy, x, y).double().T, correction=0)
        values = torch.linalg.eigvalsh(D)
        assert a["trace"][1, i, 0] == pytest.approx(D.trace().item(), rel=1e-4)
        assert a["own_share"][1, i, 0] == pytest.approx((values[-10:].sum() / values.sum()).item(), rel=1e-3)


def test_without_batch_norm_the_noise_is_d_over_b_and_with_it_it_is_not(path):
    """The mean square of z over 24 numbers, of which each is known by an error of some degrees of freedom."""
    a = results.load(path).arrays
    z = (a["ratio"] - 1) / a["ratio_error"], (a["share"] - a["own_share"][..., None, None]) / a["share_error"]
    for values in z:
        assert (values[:, 1:] ** 2).mean() < 2.5 and (values[:, 0] ** 2).mean() > 10
    assert abs(a["offset"][:, 1:, 0]).max() < 0.2 < a["offset"][:, 0, 0, 0, 0].min()


def test_dropout_is_measured_at_its_rate_and_without(tmp_path):
    chosen = quick(net="small-lenet", pool=None, sample=24, runs=1, batches=3, epochs=2, batch_size=12)
    images = torch.rand(24, 1, 22, 22, generator=torch.Generator().manual_seed(0))
    own = data.Dataset("own", images, torch.arange(24) % 3, images, torch.arange(24) % 3, 3, "ff")
    a, _ = noise_run.compute(chosen, own, tmp_path, progress=False)
    assert a["dropout"].tolist() == [0.1, 0.0] and a["ratio"].shape == (1, NORMS, 3, 2, 2)
    assert not np.allclose(a["ratio"][..., 0, :], a["ratio"][..., 1, :])


def test_a_stopped_run_goes_on_and_gives_the_same_numbers(path, tmp_path, monkeypatch):
    network, calls = noise_run._network, []

    def stopped_at_the_second(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return network(*args)

    monkeypatch.setattr(noise_run, "_network", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, quick())
    again = results.load(run(tmp_path, quick())).arrays
    assert len(calls) == 1 + 2 * NORMS
    assert all(np.array_equal(array, again[name]) for name, array in results.load(path).arrays.items())


def test_the_table_says_what_the_arrays_say_each_number_beside_what_d_predicts(path):
    result = results.load(path)
    a, table = result.arrays, reports.table(result)
    rows = table.rows
    assert len(rows) == 2 + 2 * NORMS * 3 and table.columns == ["network, dropout, epoch", "D / b", "b = 8", "b = 32"]
    value = a["ratio"][:, 0, 1, 0, 1]
    assert rows[2][0] == "batch-norm, 0, 1" and rows[2][1] == "1.00"
    least, spread = np.hypot(*a["ratio_error"][:, 0, 1, 0, 1]) / 2, abs(value[0] - value[1]) / 2
    assert rows[2][3] == f"{value.mean():.2f} +- {max(least, spread):.2f}"
    assert rows[-1][:2] == ["no norm, 0, 2", f"{a['own_share'][:, 2, 2].mean():.2f}"]
    one = {name: array[:1] if array.ndim > 2 else array for name, array in a.items()}
    alone = reports.table(results.Result(one, result.provenance)).rows[1][2]
    assert alone == f"{a['ratio'][0, 0, 0, 0, 0]:.2f} +- {a['ratio_error'][0, 0, 0, 0, 0]:.2f}"


def test_the_figure_has_a_column_for_each_instant_and_the_null_in_each_panel(path):
    axes = reports.draw(results.load(path)).axes
    assert len(axes) == 6 and all(len(ax.containers) == NORMS for ax in axes)
    assert all([*line.get_ydata()] == [1.0, 1.0] for line in axes[0].lines if line.get_linestyle() == ":")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": 11}, "sample = 11: expected an integer >= 12"),
        ({"sizes": (16, 1)}, "sizes = 1: expected an integer >= 2"),
        ({"sizes": ()}, r"sizes = \(\): expected at least one"),
        ({"batches": 2}, "batches = 2: expected an integer >= 3"),
        ({"runs": 0}, "runs = 0: expected an integer >= 1"),
    ],
)
def test_settings_that_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        quick(**change)


def test_the_names_of_results_stay_as_they_were(tmp_path):
    """Else a saved result would not be found again; a new setting of an experiment must not change them."""
    digests = {
        "lite": "small-fc-digits-a6858d",
        "paper-mnist-fc": "small-fc-mnist-c7ea5f",
        "paper-mnist-lenet": "small-lenet-mnist-786bd5",
    }
    for preset, end in digests.items():
        path = experiments.result_path("noise", preset, experiments.settings("noise", preset), tmp_path)
        assert path.name == f"noise-{preset}-{end}.npz"
