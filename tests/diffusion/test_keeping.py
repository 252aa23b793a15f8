"""What is kept of a diffusion matrix: stopped anywhere, the same call goes on to the same numbers, bit for bit."""

import os
import subprocess
import sys
import warnings
from itertools import pairwise

import pytest
import torch
from problems import generator, network_problem, one_thread, small_problem  # noqa: F401

from sgdvi_lite import DiffusionMatrix, gradients
from sgdvi_lite._storage import folder as storage
from sgdvi_lite.diffusion import eigenvalues, keeping, lanczos

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def at_once(monkeypatch):
    """Everything is written as soon as it is done."""
    monkeypatch.setattr(storage, "SECONDS", 0)
    monkeypatch.setattr(storage, "SHARE", 0)


def kept_in(folder, **identity):
    """A folder for states of a computation with such an identity."""
    return storage.Checkpoints(storage.Folder(folder, keeping.COMPUTATION, identity), torch.device("cpu"))


def files_in(folder):
    """Names of all files but the one that is locked."""
    return {path.name for path in folder.iterdir()} - {".lock"}


class Passes:
    """Counts the chunks of gradients that are computed; stops the computation after ``left`` of them."""

    def __init__(self, monkeypatch):
        self.made, self.left, parts = 0, 10**9, gradients.Network.parts

        def counted(network, *arguments):
            for part in parts(network, *arguments):
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                self.made += 1
                yield part

        monkeypatch.setattr(gradients.Network, "parts", counted)


def spectrum(problem, backend, folder, eps=1e-4):
    D = DiffusionMatrix.from_model(*problem, backend, chunk=50, folder=folder)
    found = D.rank_certificate(eps)
    return found.values, found.residuals, torch.tensor([D.trace(), D.frobenius_norm(), found.products])


@pytest.mark.parametrize("backend", ["dense", "lanczos"])
def test_stopped_again_and_again_it_ends_with_the_same_numbers(backend, tmp_path, monkeypatch, at_once):
    problem = small_problem("tiny-fc", "N > d")
    passes = Passes(monkeypatch)
    whole = spectrum(problem, backend, None)
    once, passes.made = passes.made, 0
    per_pass = -(-len(problem[2]) // 50)
    for stops in range(1000):  # noqa: B007
        # a product begins with its pass anew, and two are as far as a stopped call comes
        passes.left = 2 if backend == "dense" else 2 * per_pass
        try:
            again = spectrum(problem, backend, tmp_path)
            break
        except KeyboardInterrupt:
            continue
    assert stops >= 4
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert passes.made == once if backend == "dense" else passes.made < 2.5 * once


@pytest.mark.parametrize("backend", ["dense", "lanczos"])
def test_what_is_there_is_not_computed_again(backend, tmp_path, monkeypatch, at_once):
    problem = network_problem("tiny-fc", 150)
    first = spectrum(problem, backend, tmp_path)
    passes = Passes(monkeypatch)
    again = spectrum(problem, backend, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert passes.made == 0


def test_a_search_goes_on_after_a_fresh_start(tmp_path, monkeypatch, at_once):
    """A start that knows one eigenvector and is blind to the other: what follows is drawn by a generator, kept too."""
    A = torch.diag(torch.cat([torch.tensor([1.0, 0.5]), torch.linspace(0, 5e-4, 198)]).double())
    randn, left, calls = torch.randn, [10**9], []

    def blind_at_first(*size, **options):
        block = randn(*size, **options)
        calls.append(size)
        if len(calls) > 1:
            return block
        blind = torch.zeros_like(block)
        blind[0, 0], blind[50:, 1:] = 1.0, block[50:, 1:]
        return blind

    def matmul(X):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return A @ X

    def search(kept):
        calls.clear()
        problem = lanczos.Problem(matmul, 200, A, lambda values: 1e-3, trace=1.5)
        return lanczos.Search(problem, 200, generator(1), block=8, states=kept).run()

    monkeypatch.setattr(torch, "randn", blind_at_first)
    whole = search(keeping.NOTHING)
    assert whole.count == 2 and len(calls) > 3  # start, probes that find the other one, fresh start, probes
    for stops in range(100):  # noqa: B007
        left[0] = 1
        try:
            again = search(kept_in(tmp_path, matrix="A"))
            break
        except KeyboardInterrupt:
            continue
    assert stops > 3 and whole.products == again.products
    assert whole.failure_probability == again.failure_probability > 0
    assert torch.equal(whole.values, again.values) and torch.equal(whole.residuals, again.residuals)


def test_nothing_is_written_before_it_is_time(tmp_path):
    DiffusionMatrix.from_model(*network_problem("tiny-fc", 150), "dense", chunk=10, folder=tmp_path)
    assert files_in(tmp_path) == {"computation.json"}


def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    clock, written = [0.0], []
    monkeypatch.setattr(storage.time, "monotonic", lambda: clock[0])

    def slow(path, write):
        clock[0] += 10.0
        written.append(clock[0])

    kept = kept_in(tmp_path)
    monkeypatch.setattr(storage, "write_atomically", slow)
    for _ in range(2000):
        clock[0] += 1.0
        kept.save("matrix", dict)
    assert written[0] == 70.0 and {b - a for a, b in pairwise(written)} == {210.0}


def test_a_stopped_write_leaves_the_state_before(tmp_path, monkeypatch, at_once):
    kept = kept_in(tmp_path)
    kept.save("mean", lambda: {"mean": torch.ones(3)})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        kept.save("mean", lambda: {"mean": torch.zeros(3)})
    monkeypatch.undo()
    assert torch.equal(kept_in(tmp_path).load("mean")["mean"], torch.ones(3))


def double(loss):
    return lambda output, y: 2 * loss(output, y)


def last_one_shifted(x):
    return torch.cat([x[:-1], x[-1:] + 1])


CHANGES = {
    "weights": lambda model, loss, x, y: ((last_bias_shifted(model), loss, x, y), 10),
    "data": lambda model, loss, x, y: ((model, loss, last_one_shifted(x), y), 10),
    "chunk": lambda *problem: (problem, 9),
    "gradients": lambda model, loss, x, y: ((model, double(loss), x, y), 10),
    "trained": lambda model, loss, x, y: ((first_layer_frozen(model), loss, x, y), 10),
}


def last_bias_shifted(model):
    """All outputs by the same, which no loss of softmax sees."""
    model[-1].bias.data += 1
    return model


def first_layer_frozen(model):
    model[1].requires_grad_(False)
    return model


@pytest.mark.parametrize("name", CHANGES)
def test_another_computation_is_refused_and_nothing_is_lost(name, tmp_path, at_once):
    problem = network_problem("tiny-fc", 20)
    DiffusionMatrix.from_model(*problem, "dense", chunk=10, folder=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other, chunk = CHANGES[name](*problem)
    with pytest.raises(ValueError, match=rf"another computation: {name} = .* there and .* here; choose another"):
        DiffusionMatrix.from_model(*other, "dense", chunk=chunk, folder=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before and len(before) == 3


@pytest.mark.parametrize("change", ["scaled", "one sign", "one weight"])
def test_another_gradient_of_the_same_losses_is_another_computation(change, tmp_path, at_once):
    """A hook on a weight changes what is learned, and no loss."""

    def problem():
        torch.manual_seed(0)
        layer = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
        x, y = torch.randn(30, 6, generator=generator()).double(), torch.arange(30) % 3
        return layer, torch.nn.functional.cross_entropy, x, y

    DiffusionMatrix.from_model(*problem(), "lanczos", folder=tmp_path)
    DiffusionMatrix.from_model(*problem(), "lanczos", folder=tmp_path)
    changed = problem()
    factor = torch.ones(5, 6).double()
    if change != "scaled":
        factor[0] = -1.0 if change == "one sign" else 0.0
    weight = changed[0][0].weight
    weight.register_hook(lambda g: g * (2.0 if change == "scaled" else factor))
    with pytest.raises(ValueError, match=r"holds another computation: (gradients|halves) = .*choose another folder"):
        keeping.of_network(tmp_path, gradients.Network(*changed, 30))


def test_a_folder_with_other_files_and_a_group_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds no computation, but something else: choose an empty folder"):
        DiffusionMatrix.from_model(*network_problem("tiny-fc", 5), folder=tmp_path)
    model, loss, x, y = network_problem("tiny-fc", 5)
    with pytest.raises(ValueError, match="with a group: the work of several ranks is not kept; leave one out"):
        keeping.of_network(tmp_path / "new", gradients.Network(model, loss, x, y, 5), group=object())


def test_gram_keeps_nothing(tmp_path, at_once):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        D = DiffusionMatrix.from_model(*network_problem("tiny-fc", 20), folder=tmp_path)
    assert D.backend == "gram"
    assert files_in(tmp_path) == {"computation.json"}


def test_rounding_does_not_make_another_computation(tmp_path):
    kept_in(tmp_path, losses=[1.0, 2.0, 0.0])
    kept_in(tmp_path, losses=[1.0 + 1e-6, 2.0, 1e-9])
    for other in ([1.01, 2.0, 0.0], [1.0, 2.0], [1.0, 2.0, 0.1]):
        with pytest.raises(ValueError, match="another computation: losses = "):
            kept_in(tmp_path, losses=other)


@pytest.mark.parametrize("damaged", ["mean.pt", "trace.pt"])
def test_a_damaged_file_is_named(damaged, tmp_path, at_once):
    problem = network_problem("tiny-fc", 20)
    DiffusionMatrix.from_model(*problem, "lanczos", folder=tmp_path)
    (tmp_path / damaged).write_bytes(b"PK")
    with pytest.raises(ValueError, match=rf"{damaged}' is damaged .*: remove it, and this part begins anew"):
        DiffusionMatrix.from_model(*problem, "lanczos", folder=tmp_path)
    (tmp_path / damaged).unlink()
    assert DiffusionMatrix.from_model(*problem, "lanczos", folder=tmp_path).rank(1e-6) <= 19


def test_what_a_killed_writing_left_is_removed(tmp_path):
    (tmp_path / ".dense.pt.abc.part").write_bytes(b"half")
    kept_in(tmp_path)
    assert files_in(tmp_path) == {"computation.json"}


def test_a_failed_writing_is_told_once_and_the_work_goes_on(tmp_path, monkeypatch, at_once):
    def full(*_):
        raise RuntimeError("unexpected pos 64 vs 0")

    problem = network_problem("tiny-fc", 50)
    exact = DiffusionMatrix.from_model(*problem, "dense", chunk=10).trace()
    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match=r"dense is not kept \(.*dense.pt. cannot be written \(unexpected pos") as told:
        assert DiffusionMatrix.from_model(*problem, "dense", chunk=10, folder=tmp_path).trace() == exact
    assert len(told) == 1, [str(w.message) for w in told]


def test_a_folder_belongs_to_one_process_which_may_take_it_again(tmp_path):
    program = """
import sys
from sgdvi_lite._storage.folder import Folder
from sgdvi_lite.diffusion.keeping import COMPUTATION
try:
    Folder(sys.argv[1], COMPUTATION, {})
except BlockingIOError as error:
    print(error)
"""
    kept = [kept_in(tmp_path) for _ in range(2)]
    said = [run_python(program, tmp_path)]
    kept.clear()
    said.append(run_python(program, tmp_path))
    assert said == [f"folder = {str(tmp_path)!r}: another process computes there; wait for its end\n", ""]


def run_python(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_with_another_limit_a_search_goes_on_or_begins_anew(tmp_path, at_once):
    """More memory than before is used at full width, less begins anew; the count is the same."""
    A = torch.diag(torch.logspace(0, -6, 300, dtype=torch.float64))

    def search(limit, kept):
        products = []
        matmul = lambda X: products.append(X.shape[1]) or A @ X  # noqa: E731
        problem = lanczos.Problem(matmul, 300, A, lambda v: 1e-2, A.trace().item())
        return lanczos.Search(problem, limit, generator(1), block=16, states=kept).run(), products

    exact, _ = search(300, keeping.NOTHING)
    kept = kept_in(tmp_path)
    with pytest.raises(lanczos.LimitError):
        search(70, kept)
    found, products = search(300, kept)
    assert found.count == exact.count == 100 and products.count(16) > 3
    again, products = search(270, kept)
    assert again.count == exact.count


def test_two_thresholds_and_two_back_ends_share_a_folder(tmp_path, at_once):
    problem = network_problem("tiny-fc", 150)
    for backend in ("dense", "recomputed", "dense"):
        for eps in (1e-4, 1e-5):
            exact = DiffusionMatrix.from_model(*problem, backend).rank_certificate(eps)
            found = DiffusionMatrix.from_model(*problem, backend, folder=tmp_path).rank_certificate(eps)
            assert torch.equal(found.values, exact.values) and found.products == exact.products


def test_of_a_krylov_space_only_what_is_used_is_written(tmp_path, at_once):
    found = DiffusionMatrix.from_model(*network_problem("tiny-fc", 150), "lanczos", folder=tmp_path)
    size = found.rank_certificate(1e-4).products
    (state,) = (path for path in tmp_path.glob("lanczos-*.pt") if "probe" not in path.name)
    assert state.stat().st_size < 2.5 * size * found.shape[0] * 8


@pytest.mark.parametrize("backend", ["dense", "gram", "lanczos"])
def test_a_search_in_float64_does_not_go_on_from_one_in_float32(backend, tmp_path, monkeypatch, at_once):
    """An eigenvalue closer to the threshold than float32 can tell: both searches are kept, each for itself."""
    monkeypatch.setattr(eigenvalues, "FULL", 100)
    model, loss, x, y = network_problem("tiny-fc", 400)
    problem = model.float(), loss, x.float(), y
    D = DiffusionMatrix.from_model(*problem, backend, chunk=100)
    exact = torch.linalg.eigvalsh(D.dense().double())
    eps = exact[-12].item() * (1 + 1e-6) / (exact[-1].item() * D.shape[0])
    whole = D.rank_certificate(eps)
    assert whole.count == 11 and whole.values.dtype == torch.float64
    for _ in range(2):
        found = DiffusionMatrix.from_model(*problem, backend, chunk=100, folder=tmp_path).rank_certificate(eps)
        assert torch.equal(found.values, whole.values) and torch.equal(found.residuals, whole.residuals)
        assert found.products == whole.products


def test_a_folder_made_under_the_back_ends_former_name_goes_on(tmp_path, monkeypatch, at_once):
    """The names of the files are those of before, so nothing is computed again."""
    problem = network_problem("tiny-fc", 150)
    first = spectrum(problem, "lanczos", tmp_path)
    assert {path.stem for path in tmp_path.glob("*.pt")} >= {"mean", "trace", "lanczos-eps=0.0001-float64"}
    passes = Passes(monkeypatch)
    again = spectrum(problem, "recomputed", tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)) and passes.made == 0
