"""Two processes, each with its own examples, have the same matrix as one process with all of them."""

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from problems import DEEP, network_problem, small_problem

from sgdvi_lite import DiffusionMatrix

PROGRAM = """
    import sys
    import torch
    import torch.distributed as dist
    from problems import DEEP, generator, network_problem, small_problem, ten_above
    from sgdvi_lite import DiffusionMatrix, nets
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=int(sys.argv[1]), world_size=2)
    rank = dist.get_rank()
"""
# A rank that exits with the group still open may take the other one down with it.
CLOSE = """
    dist.barrier()
    dist.destroy_process_group()
"""
COMPARE = """
    model, loss, x, y = network_problem("tiny-fc", 150)
    mine = slice(0, 90) if rank == 0 else slice(90, 150)
    found = {}
    for backend in ("dense", "gram", "recomputed"):
        name = "lanczos" if rank and backend == "recomputed" else backend  # the same by its former name
        D = DiffusionMatrix.from_model(
            model, loss, x[mine], y[mine], backend=name, chunk=40, group=dist.group.WORLD
        )
        v = torch.ones(D.shape[0], 2, dtype=torch.float64)
        found[backend] = {
            "N": D.N, "product": D @ v, "trace": D.trace(), "norm": D.frobenius_norm(),
            "values": D.eigenvalues(10), "rank": D.rank(1e-6), "sample": D.sample(2, generator(5)),
        }
    torch.save(found, sys.argv[2] + str(rank))
"""
EVERY = """
    found = {}
    for name, side in ((name, side) for name in DEEP for side in ("N < d", "N > d")):
        model, loss, x, y = small_problem(name, side)
        mine = slice(0, len(x) // 3) if rank == 0 else slice(len(x) // 3, None)
        for backend in ("dense", "gram", "recomputed"):
            D = DiffusionMatrix.from_model(model, loss, x[mine], y[mine], backend, group=dist.group.WORLD)
            v = torch.ones(D.shape[0], 2, dtype=torch.float64)
            found[name, side, backend] = D @ v, D.trace(), D.eigenvalues(12), D.rank(ten_above(D))
    torch.save(found, sys.argv[2] + str(rank))
"""
UNEQUAL = """
    model, loss, x, y = network_problem("tiny-fc", 1300)
    mine = slice(0, 700) if rank == 0 else slice(700, 1300)
    memory = 1e9 if rank == 0 else 4e6
    D = DiffusionMatrix.from_model(model, loss, x[mine], y[mine], chunk=20, memory=memory, group=dist.group.WORLD)
    torch.save((D.backend, D.eigenvalues(2)), sys.argv[2] + str(rank))
"""
DIFFER = """
    said = []
    for name in ("tiny-fc" if rank == 0 else "small-fc", "tiny-fc"):
        model, loss, x, y = network_problem(name, 20)
        with torch.no_grad():
            next(model.parameters())[0] += rank
        try:
            DiffusionMatrix.from_model(model, loss, x, y, backend="recomputed", group=dist.group.WORLD)
        except ValueError as error:
            said.append(str(error))
    torch.save(said, sys.argv[2] + str(rank))
"""
FAILING = """
    model, loss, x, y = network_problem("tiny-fc", 40)
    said = []
    def attempt(make):
        try:
            make()
            said.append("nothing")
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    world = dist.group.WORLD
    labels = y + 100 if rank else y
    attempt(lambda: DiffusionMatrix.from_model(model, loss, x, labels, group=world))
    attempt(lambda: DiffusionMatrix.from_model(model, loss, x, y, "magic" if rank else "gram", group=world))
    broken = x.clone()
    broken[-1] = float("nan") if rank else 0.0
    for backend in ("dense", "gram", "recomputed"):
        attempt(lambda: DiffusionMatrix.from_model(model, loss, broken, y, backend, chunk=10, group=world))
    same = x[:1].expand(20, *x.shape[1:])
    for backend in ("dense", "recomputed"):
        D = DiffusionMatrix.from_model(model, loss, same, y[:1].expand(20), backend, group=world)
        said.append(str(D.trace() <= 1e-28))
    torch.save(said, sys.argv[2] + str(rank))
"""


def on_two_ranks(program, folder, seconds=1800):
    path = folder / "program.py"
    path.write_text("".join(map(textwrap.dedent, (PROGRAM, program, CLOSE))))
    here = Path(__file__).parents[1]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    command = [sys.executable, str(path)]
    ranks = [subprocess.Popen([*command, str(r), str(folder / "out"), str(folder / "meet")], env=env) for r in range(2)]
    assert [rank.wait(timeout=seconds) for rank in ranks] == [0, 0]
    return [torch.load(folder / f"out{r}") for r in range(2)]


def test_two_processes_agree_with_one(tmp_path):
    results = on_two_ranks(COMPARE, tmp_path)
    problem = network_problem("tiny-fc", 150)
    for backend in ("dense", "gram", "recomputed"):
        D = DiffusionMatrix.from_model(*problem, backend=backend)
        largest = D.eigenvalues(1).item()
        for found in (result[backend] for result in results):
            assert found["N"] == 150 and found["rank"] == D.rank(1e-6)
            assert found["trace"] == pytest.approx(D.trace(), rel=1e-9)
            assert found["norm"] == pytest.approx(D.frobenius_norm(), rel=1e-9)
            assert (found["values"] - D.eigenvalues(10)).abs().max() <= 1e-9 * largest
            product = D @ torch.ones(D.shape[0], 2, dtype=torch.float64)
            assert (found["product"] - product).abs().max() <= 1e-9 * product.abs().max()
            if backend != "dense":
                sample = D.sample(2, torch.Generator().manual_seed(5))
                assert (found["sample"] - sample).abs().max() <= 1e-9 * sample.abs().max()


def test_two_processes_agree_with_one_on_every_network_on_both_sides_of_N_equal_d(tmp_path):
    for found in on_two_ranks(EVERY, tmp_path):
        assert len(found) == 3 * 2 * len(DEEP)
        for (name, side, _), (product, trace, values, count) in found.items():
            D = one_process(name, side)
            exact = D @ torch.ones(D.shape[0], 2, dtype=torch.float64)
            assert (product - exact).abs().max() <= 1e-9 * exact.abs().max()
            assert (values - D.eigenvalues(12)).abs().max() <= 1e-9 * values[0]
            assert trace == pytest.approx(D.trace(), rel=1e-9) and count == 10


@functools.cache
def one_process(name, side):
    return DiffusionMatrix.from_model(*small_problem(name, side), "dense")


def test_the_rank_with_the_least_memory_decides_for_all(tmp_path):
    (backend, values), (other, others) = on_two_ranks(UNEQUAL, tmp_path)
    assert backend == other == "recomputed" and torch.equal(values, others)


def test_ranks_with_different_networks_are_refused(tmp_path):
    for network, weights in on_two_ranks(DIFFER, tmp_path):
        assert "d differs between the ranks of the group: 1221, 8266 on ranks 0 to 1" in network
        assert "weights differs between the ranks of the group" in weights


def test_what_fails_on_one_rank_fails_on_all(tmp_path):
    """None waits for another; the one at fault says what it was."""
    first, second = on_two_ranks(FAILING, tmp_path, seconds=120)
    assert len(first) == 7 and first[5:] == second[5:] == ["True", "True"]
    for other, own in zip(first[:5], second[:5], strict=True):
        assert own.startswith("ValueError: ") and other == f"RuntimeError: rank 1 of the group has failed: {own}"
