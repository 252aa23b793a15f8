import numpy as np
import pytest
import torch

from sgdvi_lite import results

NOTE = {
    name: "x" for name in ("preset", "seed", "commit", "versions", "device", "wall_seconds", "data_sha256", "created")
}


def test_arrays_and_provenance_come_back(tmp_path):
    arrays = {"a": np.linspace(0, 1, 5), "b": np.array(3), "c": np.array(["x", "yz"]), "d": np.ones(2, np.float32)}
    given = arrays | {"d": torch.ones(2, requires_grad=True)}
    path = results.save(tmp_path / "deep" / "one.npz", given, NOTE)
    again = results.load(path)
    assert again.provenance == NOTE and set(again.arrays) == set(arrays)
    assert all(
        np.array_equal(again.arrays[name], array) and again.arrays[name].dtype == array.dtype
        for name, array in arrays.items()
    )
    assert results.find(tmp_path / "deep") == [path]


def test_provenance_looks_up_commit_versions_and_device():
    note = results.provenance(preset="lite", seed=3, data_sha256="ff", device="cpu", wall_seconds=1.23456, extra=[1])
    assert note["seed"] == 3 and note["wall_seconds"] == 1.235 and note["extra"] == [1]
    assert note["versions"]["numpy"] == np.__version__ and note["device"].startswith("cpu")
    assert note["commit"] == "unknown" or len(note["commit"].removesuffix("+changes")) == 40


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = results.save(tmp_path / "one.npz", {"a": np.zeros(2)}, NOTE)
    before = path.read_bytes()

    def half(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results.write_atomically(path, half)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_of_numpy_and_tensors_become_numbers(tmp_path):
    made = {"seed": np.int64(3), "rates": np.array([0.5, 1.0]), "on": np.bool_(True), "lr": np.float32(0.5)}
    made["torch"] = torch.tensor(2)
    again = results.load(results.save(tmp_path / "one.npz", {"a": np.ones(2)}, NOTE | made))
    wanted = {"seed": 3, "rates": [0.5, 1.0], "on": True, "lr": 0.5, "torch": 2}
    assert {name: again.provenance[name] for name in wanted} == wanted and again.arrays["a"].tolist() == [1, 1]
    note = results.provenance(
        preset="lite", seed=np.int64(3), data_sha256="ff", device="cpu", wall_seconds=np.float32(1)
    )
    assert results.load(results.save(tmp_path / "two.npz", {}, note)).provenance["seed"] == 3


@pytest.mark.parametrize(
    ("name", "arrays", "note", "message"),
    [
        ("one.txt", {}, NOTE, "expected a name that ends in .npz"),
        ("one.npz", {"a": np.array([object()])}, NOTE, r"arrays: 'a' cannot be saved"),
        ("one.npz", {"provenance": np.zeros(1)}, NOTE, r"arrays: 'provenance' cannot be saved"),
        ("one.npz", {"file": np.zeros(1)}, NOTE, r"arrays: 'file' cannot be saved; expected .* other names"),
        ("one.npz", {"allow_pickle": np.zeros(1)}, NOTE, r"arrays: 'allow_pickle' cannot be saved"),
        ("one.npz", {"a": np.ma.array([1, 2], mask=[0, 1])}, NOTE, r"arrays: 'a' cannot be saved"),
        ("one.npz", {"a": [[1], [1, 2]]}, NOTE, "arrays: 'a' cannot be saved; expected arrays of numbers"),
        ("one.npz", {"a": torch.ones(1).bfloat16()}, NOTE, "arrays: 'a' cannot be saved"),
        ("one.npz", {5: np.zeros(1)}, NOTE, "arrays: 5 cannot be saved; expected .* other names"),
        ("one.npz", {}, NOTE | {"seed": object()}, "provenance cannot be saved .*: expected numbers, text"),
        ("one.npz", {}, {"preset": "lite"}, r"provenance lacks \['seed'"),
    ],
)
def test_what_cannot_be_saved(tmp_path, name, arrays, note, message):
    with pytest.raises(ValueError, match=message):
        results.save(tmp_path / name, arrays, note)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        results.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "bare.npz", a=np.zeros(1))
    np.savez(tmp_path / "pickled.npz", provenance=np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "listed.npz", provenance=np.array("[1]"))
    for name in ("text", "bare", "pickled", "listed"):
        with pytest.raises(ValueError, match="not a saved result of sgdvi_lite"):
            results.load(tmp_path / f"{name}.npz")


def test_a_folder_that_is_not_there_has_no_results(tmp_path):
    assert results.find(tmp_path / "nowhere") == []
