import copy
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import command, one_thread  # noqa: F401
from references import autograd_gradients
from torch.nn.functional import cross_entropy

from sgdvi_lite import data, experiments, gradients, nets, reports, results, sgd
from sgdvi_lite.__main__ import main
from sgdvi_lite._storage import folder as storage
from sgdvi_lite.experiments import registry
from sgdvi_lite.experiments.spectrum import run as spectrum_run

QUICK = {"net": "tiny-fc", "pool": 4, "epochs": 5, "examples": 60}


def quick(**changes):
    return experiments.settings("spectrum", "lite", **(QUICK | changes))


def run(folder, chosen, **options):
    return experiments.run("spectrum", "lite", chosen, folder=folder, progress=False, **options)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return run(tmp_path_factory.mktemp("results"), quick())


def test_a_result_holds_the_spectra_at_three_instants_and_its_provenance(path):
    result = results.load(path)
    arrays = result.arrays
    assert arrays["epoch"].tolist() == [1, 2, 5]
    assert int(arrays["N"]) == 60 and int(arrays["d"]) == 16 * 16 + 16 + 32 + 16 * 16 + 16 + 32 + 160 + 10
    assert arrays["eigenvalues"].shape == (3, 60)
    assert np.allclose(arrays["eigenvalues"].sum(1), arrays["trace"], rtol=1e-10)
    assert np.allclose(np.sqrt((arrays["eigenvalues"] ** 2).sum(1)), arrays["frobenius"], rtol=1e-10)
    assert arrays["null"].sum() == pytest.approx(arrays["trace"][-1])
    assert result.provenance["settings"]["net"] == "tiny-fc" and len(result.provenance["data_sha256"]) == 64
    assert path.with_suffix(".svg").read_text().lstrip().startswith("<?xml")
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, path.with_suffix(".svg").name])


def test_a_run_in_float32_keeps_the_leading_eigenvalues_and_says_that_it_is_coarse(path, tmp_path):
    exact, single = results.load(path), results.load(run(tmp_path, quick(arithmetic="float32")))
    one, two = exact.arrays, single.arrays
    eps, d = torch.finfo(torch.float32).eps, int(one["d"])
    for i in range(3):
        above = one["eigenvalues"][i][one["eigenvalues"][i] > one["eigenvalues"][i].max() * d * eps]
        assert np.allclose(two["eigenvalues"][i][: len(above)], above, rtol=1e-3)
        assert not two["eigenvalues"][i][len(above) :].any()
    assert np.allclose(one["trace"], two["trace"], rtol=1e-5)
    _, *fine = str(reports.table(exact)).splitlines()
    _, *coarse = str(reports.table(single)).splitlines()
    for a, b in zip(fine, coarse, strict=True):
        assert a.split()[6] == b.split()[6] and b.split()[7] == "-" != a.split()[7]


def test_the_same_settings_give_the_same_numbers(path, tmp_path):
    one, two = results.load(path).arrays, results.load(run(tmp_path, quick())).arrays
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_stopped_run_goes_on_and_gives_the_same_numbers(path, tmp_path, monkeypatch):
    row, calls = spectrum_run._row, []

    def stopped_at_the_second(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return row(*args)

    monkeypatch.setattr(spectrum_run, "_row", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, quick())
    (partial,) = tmp_path.iterdir()
    assert partial.suffix == ".partial" and {p.name for p in partial.iterdir()} == {
        ".lock",
        "experiment.json",
        "state.pt",
    }
    again = results.load(run(tmp_path, quick())).arrays
    assert len(calls) == 4 and not partial.exists()
    assert all(np.array_equal(array, again[name]) for name, array in results.load(path).arrays.items())


@pytest.mark.usefixtures("one_thread")
def test_a_run_stopped_in_an_epoch_or_in_a_matrix_does_nothing_twice(tmp_path, monkeypatch):
    """Epochs and chunks of gradients, counted: as many with stops as without; one thread, for the last bit."""
    chosen = quick(examples=800)  # more than d, so that the matrix is streamed
    chunks, epoch, made = gradients.Network.parts, sgd.SGD.epoch, {"chunks": 0, "epochs": 0, "left": 10**9}

    def count(name):
        if made["left"] == 0:
            raise KeyboardInterrupt
        made["left"] -= 1
        made[name] += 1

    def counted(self, *arguments):
        for part in chunks(self, *arguments):
            count("chunks")
            yield part

    monkeypatch.setattr(gradients.Network, "parts", counted)
    monkeypatch.setattr(sgd.SGD, "epoch", lambda self: (count("epochs"), epoch(self))[1])
    monkeypatch.setitem(gradients.CHUNK_BYTES, "cpu", 100 * 8 * 700)
    monkeypatch.setattr(storage, "SECONDS", 0)
    monkeypatch.setattr(storage, "SHARE", 0)
    whole, once = results.load(run(tmp_path / "whole", chosen)).arrays, dict(made)
    made |= {"chunks": 0, "epochs": 0}
    for stops in range(200):  # noqa: B007
        made["left"] = 1
        try:
            again = results.load(run(tmp_path / "stopped", chosen)).arrays
            break
        except KeyboardInterrupt:
            continue
    assert stops > 15 and made["epochs"] == once["epochs"] == 5 and made["chunks"] == once["chunks"] > 15
    assert all(np.array_equal(array, again[name]) for name, array in whole.items())


def test_a_finished_result_is_not_computed_again_unless_forced(path, monkeypatch):
    monkeypatch.setattr("sgdvi_lite.experiments.registry.prepare", lambda chosen: pytest.fail("it was computed again"))
    assert run(path.parent, quick()) == path
    with pytest.raises(pytest.fail.Exception):
        run(path.parent, quick(), force=True)


def test_different_settings_have_different_files(tmp_path):
    names = {experiments.result_path("spectrum", "lite", quick(seed=seed), tmp_path) for seed in range(3)}
    assert len(names) == 3


def test_the_names_of_results_stay_as_they_were(tmp_path):
    """Else a saved result would not be found again; a new setting of an experiment must not change them."""
    digests = {
        "lite": "small-fc-digits-44136f",
        "paper-mnist-lenet": "small-lenet-mnist-98b3ba",
        "paper-mnist-fc": "small-one-fc-mnist-00265c",
        "paper-cifar10": "small-allcnn-cifar10-3fe60b",
        "paper-cifar100": "small-allcnn-cifar100-aaf766",
    }
    for preset, end in digests.items():
        chosen = experiments.settings("spectrum", preset)
        name = experiments.result_path("spectrum", preset, chosen, tmp_path).name
        assert name == f"spectrum-{preset}-{end}.npz"


def test_the_table_says_what_the_arrays_say(path):
    result = results.load(path)
    head, *lines = str(reports.table(result)).splitlines()
    assert len(lines) == 3 and "rank/d float32" in head and "participation" in head
    spectrum = result.arrays["eigenvalues"][-1]
    d = int(result.arrays["d"])
    full = np.concatenate([spectrum, np.zeros(d - len(spectrum))])
    assert f"{full.mean():.3g} +- {full.std():.3g}" in lines[-1]
    assert f"{(spectrum > spectrum[0] * d * np.finfo(np.float32).eps).sum() / d:.2%}" in lines[-1]
    assert f"{spectrum.sum() / spectrum[0]:.2f}" in lines[-1]


def test_drawing_leaves_pyplot_alone(path, monkeypatch):
    """A notebook turns interactive figures on at pyplot's first; were that inside our style, it would be undone."""
    monkeypatch.setattr("matplotlib.pyplot.figure", lambda *a, **k: pytest.fail("pyplot was used"))
    figure = reports.draw(results.load(path))
    assert len(figure.axes[0].lines) == 3 + 2  # three instants, the null model, the threshold


def test_provenance_names_what_was_changed_from_the_preset(path):
    note = results.load(path).provenance
    assert sorted(note["changed_from_preset"]) == ["epochs", "examples", "net", "pool"]


def test_the_instant_zero_is_the_initialisation():
    assert quick(instants=(0.0, 0.01, 1.0)).stops == [0, 1, 5]


def test_a_whitened_run_with_other_views_of_the_same_weights(tmp_path):
    """A view has arrays of its own; what is beside it does not change."""
    few = {"pixels": "whitened", "epochs": 1, "instants": (0.0, 1.0)}
    plain = results.load(run(tmp_path, quick(**few))).arrays
    both = results.load(run(tmp_path, quick(**few, also=("calibrated", "augmented")))).arrays
    assert all(np.array_equal(both[name], array) for name, array in plain.items())
    for view in ("calibrated", "augmented"):
        assert (both[f"{view}_eigenvalues"] >= 0).all() and not np.allclose(both[f"{view}_trace"], plain["trace"])
    assert plain["train_error"][0] == pytest.approx(0.9, abs=0.05) and both["calibrated_trace"][0] > plain["trace"][0]


def test_what_D_is_computed_of_is_the_loop_s_at_the_weights_of_a_run_by_hand(tmp_path):
    """Trained by torch alone: other dropout, plain momentum, weight decay, a constant rate, two digits, ten outputs."""
    chosen = quick(classes=(3, 8), outputs=10, pixels="unit", wrapped=True, input_dropout=0.2, anneal=False, epochs=2)
    chosen = replace(chosen, nesterov=False, weight_decay=1e-3, instants=(1.0,), also=("calibrated",))
    found = results.load(run(tmp_path, chosen)).arrays
    raw = data.class_subset(data.load("digits"), (3, 8))
    x = torch.nn.functional.avg_pool2d((255 * (255 * raw.x_train).round() % 256) / 255, 8 // chosen.pool)
    generator = torch.Generator().manual_seed(0)
    net = nets.build("tiny-fc", in_shape=x.shape[1:], classes=10, generator=generator)
    model = torch.nn.Sequential(torch.nn.Dropout(0.2), net)
    order = torch.randperm(len(x), generator=generator)[: chosen.examples]
    optimizer = torch.optim.SGD(model.parameters(), lr=chosen.lr, momentum=chosen.momentum, weight_decay=1e-3)
    for _ in range(2):
        model.train()
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        for index in sgd.batches(len(x), chosen.batch_size, "reshuffled", generator):
            optimizer.zero_grad()
            cross_entropy(model(x[index]), raw.y_train[index]).backward()
            optimizer.step()
    for view in ("", "calibrated_"):
        G = autograd_gradients(
            copy.deepcopy(model).double().eval(), cross_entropy, x[order].double(), raw.y_train[order]
        )
        assert found[f"{view}trace"][0] == pytest.approx((G - G.mean(0)).square().sum().item() / len(G), rel=1e-9)
        nets.calibrate(model, x)


def test_the_command_in_the_provenance_makes_the_same_file(tmp_path, capsys):
    given = ["--classes", "0,1", "--outputs", "10", "--no-anneal", "--also", "augmented", "--pixels", "unit"]
    assert main([*ARGUMENTS, *given, "--out", str(tmp_path)]) == 0
    (saved,) = results.find(tmp_path)
    note = results.load(saved).provenance
    words = note["command"].split()
    assert words[:3] == ["python", "-m", "sgdvi_lite"] and note["data_source"] == "scikit-learn"
    capsys.readouterr()
    assert main([*words[3:], "--out", str(tmp_path)]) == 0
    assert f"already there: {saved}" in capsys.readouterr().out


@pytest.mark.parametrize("preset", [name for name in experiments.PRESETS["spectrum"] if name != "lite"])
def test_presets_of_the_paper_follow_the_authors_code(preset):
    chosen = experiments.settings("spectrum", preset)
    assert chosen.examples == 60_000 and chosen.stops == [11, 21, 50] and not chosen.nesterov and not chosen.anneal
    assert chosen.net == ("small-allcnn" if "cifar" in preset else "small-one-fc" if "fc" in preset else "small-lenet")
    assert chosen.weight_decay == (1e-4 if "cifar" in preset else 0)


def test_the_error_rate_counts_wrong_labels():
    model = torch.nn.Identity()
    model.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
    assert experiments.error_rate(model, torch.eye(4), torch.tensor([0, 1, 2, 0]), chunk=3) == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": "resnet"}, "net = 'resnet': expected one of small-lenet"),
        ({"epochs": 0}, "epochs = 0: expected an integer >= 1"),
        ({"examples": 1}, "examples = 1: expected an integer >= 2"),
        ({"lr": -0.1}, "lr = -0.1: expected a finite number > 0"),
        ({"momentum": 1.0}, r"momentum = 1.0: expected a number in \[0, 1\)"),
        ({"instants": (0.5, 1.5)}, r"instants = \(0.5, 1.5\): expected fractions"),
        ({"device": "abacus"}, "device = 'abacus': not available here"),
        ({"batch_size": 10**6}, r"batch_size = 1000000: expected an integer in \[2, \d+\]"),
        ({"data": "no-such-data"}, "no-such-data"),
        ({"pool": 3}, "3"),
    ],
)
def test_bad_settings_leave_nothing_behind(change, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(tmp_path / "out", quick(**change))
    assert not (tmp_path / "out").exists()


def test_an_unknown_experiment_or_preset():
    with pytest.raises(ValueError, match="experiment = 'tides': expected one of spectrum, trajectory"):
        experiments.settings("tides", "lite")
    with pytest.raises(ValueError, match="preset = 'huge': expected one of lite, paper-mnist-lenet"):
        experiments.settings("spectrum", "huge")


def test_a_setting_of_another_experiment_is_refused():
    with pytest.raises(ValueError, match="burn = 3: spectrum has no such setting; it has data, net, classes"):
        experiments.settings("spectrum", "lite", burn=3)


ARGUMENTS = command(5, 60)


def test_the_command_line_runs_lists_and_shows(tmp_path, capsys):
    folder = ["--out", str(tmp_path)]
    assert main([*ARGUMENTS, *folder]) == 0
    ran = capsys.readouterr().out
    (saved,) = results.find(tmp_path)
    assert f"saved: {saved}" in ran and "eigenvalues mean +- std" in ran
    assert main([*ARGUMENTS, *folder]) == 0
    assert f"already there: {saved}" in capsys.readouterr().out
    assert main(["list", *folder]) == 0
    listed = capsys.readouterr().out
    assert str(saved) in listed and "spectrum --preset lite" in listed and "small-allcnn" in listed
    assert main(["show", str(saved)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(ran.split("\n\n")[0])
    assert json.loads(shown[shown.index("{") :])["settings"]["epochs"] == 5


def test_every_setting_that_the_command_line_offers_is_taken(tmp_path, capsys):
    given = ["--arithmetic", "float32", "--lr", "0.04", "--batch-size", "32", "--seed", "3", "--device", "cpu"]
    assert main([*ARGUMENTS, *given, "--out", str(tmp_path)]) == 0
    (saved,) = results.find(tmp_path)
    chosen = results.load(saved).provenance["settings"]
    names = {"arithmetic": "float32", "lr": 0.04, "batch_size": 32, "seed": 3, "device": "cpu", "epochs": 5}
    assert {name: chosen[name] for name in names} == names


@pytest.mark.parametrize("experiment", experiments.PRESETS)
def test_the_command_line_has_an_option_with_a_text_for_each_setting(experiment, capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    assert "settings of every experiment" in text and f"settings of {experiment} alone" in text
    for name in experiments.settings(experiment, "lite").__dataclass_fields__:
        option = "--" + name.replace("_", "-")
        entry = re.search(rf"^  {option}\b.*(\n {{5,}}.*)*", text, re.M)
        assert entry and len(re.split(r"\s{2,}", entry[0].strip(), maxsplit=1)) == 2, option


def test_options_that_had_none_are_taken(monkeypatch):
    chosen = []
    monkeypatch.setattr(registry, "run", lambda *a, **k: chosen.append(a[2]) or (_ for _ in ()).throw(ValueError))
    given = ["--pixels", "whitened", "--wrapped", "--also", "calibrated,augmented", "--instants", "0,0.5,1"]
    assert main([*ARGUMENTS, *given]) == 2 and main([*ARGUMENTS, "--no-wrapped"]) == 2
    views = ("calibrated", "augmented")
    assert chosen == [quick(pixels="whitened", wrapped=True, also=views, instants=(0.0, 0.5, 1.0)), quick()]


def test_instants_that_are_no_numbers(capsys):
    with pytest.raises(SystemExit):
        main([*ARGUMENTS, "--instants", "0,end"])
    assert "'0,end': expected fractions and commas, such as 0.2,0.4,1" in capsys.readouterr().err


def test_the_names_of_settings_of_before_still_import():
    from sgdvi_lite.experiments import Spectrum, SpectrumSettings, Trajectory, TrajectorySettings

    assert (Spectrum, Trajectory) == (SpectrumSettings, TrajectorySettings)


def test_the_command_line_runs_on_a_file(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {f"{kind}_{part}": None for kind in "xy" for part in ("train", "test")}
    for part, n in (("train", 90), ("test", 30)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (n, 8, 8), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(n) % 10
    np.savez(tmp_path / "mine.npz", **arrays)
    assert main([*ARGUMENTS, "--data", str(tmp_path / "mine.npz"), "--out", str(tmp_path / "out")]) == 0
    (saved,) = results.find(tmp_path / "out")
    assert "-mine-" in saved.name
    assert results.load(saved).provenance["settings"]["data"] == "mine.npz"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "spectrum", "--epochs", "0"], "epochs = 0"),
        (["run", "spectrum", "--data", "nothing.npz"], "nothing.npz"),
        (["show", "nothing.npz"], "no such file"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_all_stored_eigenvalues_reach_is_a_lower_bound():
    spectrum = np.array([[3.0, 2.0, 1.0]])
    numbers = {"epoch": [1], "train_error": [0], "test_error": [0], "d": 50, "trace": [6.0], "frobenius": [14**0.5]}

    def shown(eigenvalues, N):
        arrays = numbers | {"eigenvalues": eigenvalues, "N": N}
        result = results.Result({name: np.asarray(value) for name, value in arrays.items()}, {"experiment": "spectrum"})
        return reports.table(result).rows[0][4]

    assert shown(spectrum, 40) == "≥ 6.00%"
    assert shown(np.append(spectrum, [[0.0]], 1), 40) == "6.00%"
    assert shown(spectrum, 4) == "6.00%"


@pytest.mark.parametrize("more", [{}, {"experiment": "other"}, {"experiment": ["spectrum"]}])
def test_a_result_that_no_experiment_saved_is_refused(tmp_path, capsys, more):
    note = results.provenance(preset="lite", seed=0, data_sha256="ff", device="cpu", wall_seconds=1.0, **more)
    path = results.save(tmp_path / "one.npz", {"a": np.zeros(1)}, note)
    assert main(["show", str(path)]) == 2
    assert re.search("experiment of this result = .*: expected one of spectrum, trajectory", capsys.readouterr().err)
    with pytest.raises(ValueError, match=r"experiment of this result = .*: expected one of spectrum, trajectory"):
        reports.draw(results.load(path))
