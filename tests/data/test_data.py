import os
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from imagesets import sample, saved
from jaxtyping import TypeCheckError
from sklearn.datasets import load_digits

from sgdvi_lite import data
from sgdvi_lite.data import sources


def test_digits_are_split_without_loss_and_with_the_same_shares_of_classes():
    digits, (images, labels) = data.load("digits"), load_digits(return_X_y=True)
    together = torch.cat([digits.x_train, digits.x_test]).flatten(1).mul(16).numpy().astype(int)
    assert sorted(map(tuple, together)) == sorted(map(tuple, images.astype(int)))
    assert np.array_equal(np.bincount(torch.cat([digits.y_train, digits.y_test])), np.bincount(labels))
    shares = digits.y_test.bincount().numpy() / np.bincount(labels)
    assert abs(shares - 0.2).max() < 0.01


def test_digits_are_the_same_each_time_and_in_each_precision():
    one, two = data.load("digits"), data.load("digits", dtype=torch.float64)
    assert torch.equal(one.x_train.double(), two.x_train) and torch.equal(one.y_test, two.y_test)
    assert one.sha256 == two.sha256 and two.x_test.dtype == torch.float64


def test_an_npz_of_bytes_is_scaled_by_255(tmp_path):
    arrays = sample()
    own = data.load(saved(tmp_path, arrays))
    assert own.name == "own" and own.classes == 3 and own.x_train.shape == (6, 1, 5, 5)
    assert torch.equal(own.x_train.mul(255).round()[:, 0], torch.tensor(arrays["x_train"]).float())
    assert own.x_train.max() <= 1 and own.y_test.dtype == torch.int64


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["channels first", "channels last"])
@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4"])
def test_layouts_and_float_types_give_the_same_images(tmp_path, order, kind):
    arrays = sample(shape=(3, 5, 6))
    floats = {k: (a / 255).astype(kind).transpose(order) if k[0] == "x" else a for k, a in arrays.items()}
    own = data.load(str(saved(tmp_path, floats)))
    expected = torch.tensor(arrays["x_train"]) / 255
    assert torch.allclose(own.x_train, expected, atol=0, rtol=1e-3)


def test_the_checksum_names_the_data_and_not_their_container(tmp_path):
    arrays = sample()
    small = {k: a.astype(np.uint8) if k[0] == "y" else a[:, None] for k, a in arrays.items()}
    changed = arrays | {"x_test": arrays["x_test"] ^ 1}
    sums = [data.load(saved(tmp_path, a, f"{i}.npz")).sha256 for i, a in enumerate((arrays, small, changed), start=1)]
    assert sums[0] == sums[1] != sums[2]
    assert data.standardise(data.load(tmp_path / "1.npz")).sha256 == sums[0]


def without(name):
    return {k: a for k, a in sample().items() if k != name}


BROKEN = {
    "missing": (without("y_test"), "no array y_test among x_test, x_train, y_train"),
    "pickled": (sample() | {"x_train": np.array([{}] * 6)}, "none of them pickled"),
    "text": (sample() | {"x_train": np.full((6, 5, 5), "a")}, "x_train has dtype <U1: expected uint8, or floats"),
    "integers": (sample(dtype=np.int64), "x_train has dtype int64: expected uint8, or floats"),
    "flat": (sample(shape=(25,)), r"x_train has shape \(6, 25\): expected \(N, h, w\)"),
    "ambiguous": (sample(shape=(3, 5, 3)), r"expected 1 or 3 channels in axis 1 or in axis 3, but not in both"),
    "no channels": (sample(shape=(5, 5, 5)), r"x_train has shape \(6, 5, 5, 5\): expected 1 or 3 channels"),
    "large": (sample(dtype=np.float32), r"x_train has floats from .* to .*: expected \[0, 1\]; divide"),
    "lengths": (sample() | {"y_train": np.zeros(5, int)}, "x_train has 6 examples and y_train has 5"),
    "none": (sample(n_test=0), "x_test has 0 examples and y_test has 0"),
    "shapes": (sample() | {"x_test": sample(shape=(5, 4))["x_test"]}, r"x_test has images of shape \(1, 5, 4\)"),
    "float labels": (sample() | {"y_train": np.arange(6) / 2}, "y_train has shape .* expected one integer for each"),
    "one-hot": (sample() | {"y_test": np.eye(4, 3, dtype=int)}, r"y_test has shape \(4, 3\) .* expected one integer"),
    "negative": (
        sample() | {"y_train": np.arange(6) - 1},
        r"labels -1 \(1 times\), 0 .*, and none is 5: expected 0 to 5",
    ),
    "from one": (sample() | {"y_train": np.arange(6) % 3 + 1}, r"labels 1 \(2 times\), 2 .*, and none is 0: .* 0 to 2"),
    "gap": (sample() | {"y_train": np.array([0, 1, 3] * 2)}, "and none is 2: expected 0 to 2; .* labels='compact'"),
    "void": (
        sample() | {"y_train": np.array([0, 1, 255] * 2, np.uint8)},
        r"255 \(2 times\), and none is 2: .* such as 255",
    ),
    "unseen": (sample() | {"y_test": np.array([0, 1, 3, 2])}, r"y_test has the label 3 in row 2: .* \[0, 2\]"),
    "too many": (sample() | {"y_train": np.arange(6), "y_test": [0, 1, 2, 6]}, r"y_test has the label 6 .* \[0, 5\]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_arrays_that_are_refused(tmp_path, case):
    arrays, message = BROKEN[case]
    with pytest.raises(ValueError, match=message):
        data.load(saved(tmp_path, arrays))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x_train", "x_test"])
def test_nan_and_infinity_are_refused(tmp_path, name, value):
    arrays = {k: a / 255 if k[0] == "x" else a for k, a in sample().items()}
    arrays[name][2, 1, 1] = value
    with pytest.raises(ValueError, match=f"{name}: NaN or infinity in row 2; .*mend"):
        data.load(saved(tmp_path, arrays))
    own = data.load(saved(tmp_path, sample()))
    with pytest.raises(ValueError, match=f"{name}: NaN or infinity in row 2; .*mend"):
        replace(own, **{name: torch.from_numpy(arrays[name][:, None]).float()})


@pytest.mark.parametrize("content", [b"", b"no zip at all", pickle.dumps({"x_train": 1}), b"PK\x03\x04 half a zip"])
def test_files_that_are_not_npz_are_refused(tmp_path, content):
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"own.npz: .*Expected an .npz with x_train, y_train, x_test, y_test"):
        data.load(tmp_path / "own.npz")


def test_a_single_array_and_a_cut_npz_are_refused(tmp_path):
    whole = saved(tmp_path, sample()).read_bytes()
    with open(tmp_path / "single.npz", "wb") as file:
        np.save(file, np.zeros(3))
    (tmp_path / "cut.npz").write_bytes(whole[:-30])
    flipped = bytearray(whole)
    flipped[whole.index(b"NUMPY") + 130] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    for name in ("single", "cut", "flipped"):
        with pytest.raises(ValueError, match=f"{name}.npz: "):
            data.load(tmp_path / f"{name}.npz")


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("bomb-went-off",))


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, sample() | {"y_test": np.array([Bomb()] * 4, dtype=object)})
    with pytest.raises(ValueError, match="pickled"):
        data.load(path)
    assert not (tmp_path / "bomb-went-off").exists()


def test_labels_of_many_classes_are_counted_in_a_line(tmp_path):
    y = np.delete(np.arange(40), 17)
    arrays = sample(n_train=39) | {"y_train": y}
    with pytest.raises(ValueError, match=r"5 \(1 times\), \.\.\., 35 \(1 times\), .* and none is 17: expected 0 to 38"):
        data.load(saved(tmp_path, arrays))


@pytest.mark.parametrize("labels", [[1, 2, 3], [0, 7, 255], [-1, 4, 5], [10, 0, 5]])
def test_compact_labels_are_numbered_in_their_order(tmp_path, labels):
    y = {"y_train": np.array(labels * 2), "y_test": np.array([*labels, labels[0]])}
    own = data.load(saved(tmp_path, sample() | y), labels="compact")
    rank = torch.tensor([sorted(labels).index(label) for label in labels])
    assert own.classes == 3 and torch.equal(own.y_train, rank.repeat(2)) and torch.equal(own.y_test[:3], rank)
    plain = data.load(saved(tmp_path, sample()))
    assert data.load(saved(tmp_path, sample()), labels="compact").sha256 == plain.sha256


def test_a_test_label_without_training_examples_has_no_number(tmp_path):
    y = {"y_train": np.array([1, 2, 3] * 2), "y_test": np.array([1, 2, 9, 3])}
    with pytest.raises(ValueError, match="y_test has the label 9: expected those of y_train; remove its examples"):
        data.load(saved(tmp_path, sample() | y), labels="compact")


def test_members_that_are_no_arrays_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        for name in sample():
            archive.writestr(name, b"some text")
    with pytest.raises(ValueError, match=r"own.npz: x_train, .*, y_test in it is no array of NumPy. Expected an .npz"):
        data.load(tmp_path / "own.npz")
    with zipfile.ZipFile(tmp_path / "own.npz", "w", compression=zipfile.ZIP_LZMA) as archive:
        for name in sample():
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x09\x00garbage")
    with pytest.raises(ValueError, match=r"own.npz: .*Expected an .npz"):
        data.load(tmp_path / "own.npz")


@pytest.mark.parametrize("value", [1e300, -1e300, 255.0])
def test_pixels_out_of_range_are_advised_to_be_divided(tmp_path, value):
    arrays = {k: a / 255 if k[0] == "x" else a for k, a in sample().items()}
    arrays["x_train"][1, 2, 3] = value
    with pytest.raises(ValueError, match=r"x_train has floats from .*: expected \[0, 1\]; divide by the largest value"):
        data.load(saved(tmp_path, arrays))


def test_pixels_that_are_nan_are_not_called_a_diverged_training(tmp_path):
    arrays = {k: a / 255 if k[0] == "x" else a for k, a in sample().items()}
    arrays["x_train"][1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity in row 1; expected floats in \[0, 1\]; remove or mend"):
        data.load(saved(tmp_path, arrays))


def test_a_name_in_large_letters_is_a_file_too(tmp_path):
    path = saved(tmp_path, sample()).rename(tmp_path / "OWN.NPZ")
    assert data.load(path).name == "OWN" and len(data.load(str(path)).x_train) == 6


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, None, "float32"])
def test_a_type_is_refused_before_anything_is_downloaded(dtype, monkeypatch):
    monkeypatch.setattr(sources, "fetch", lambda *a: pytest.fail("it downloads before it refuses"))
    with pytest.raises((ValueError, TypeCheckError), match="dtype"):
        data.load("mnist", dtype=dtype)


def test_an_unknown_way_of_numbering_is_refused():
    with pytest.raises(ValueError, match="labels = 'mine': expected 'compact', or None"):
        data.load("digits", labels="mine")


def test_unknown_names_missing_files_and_integer_types_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'mnits': expected one of digits, mnist, cifar10, cifar100, PATH\.npz"):
        data.load("mnits")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        data.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"dtype = torch.int64: expected a floating-point type"):
        data.load("digits", dtype=torch.int64)


@pytest.mark.parametrize("y", [torch.tensor([0.0, 0.5]), torch.tensor([0, 1], dtype=torch.int32)])
def test_a_data_set_made_by_hand_is_checked_too(y):
    x = torch.zeros(2, 1, 3, 3)
    with pytest.raises((ValueError, TypeCheckError), match=r"y_train has dtype|typechecking parameter 'y_train'"):
        data.Dataset("own", x, y, x, torch.tensor([0, 1]), 2, "")
    with pytest.raises(
        ValueError, match=r"x_test has images of shape \(2, 3, 3\): expected that of x_train, \(1, 3, 3\)"
    ):
        data.Dataset("own", x, y.long(), torch.zeros(2, 2, 3, 3), torch.tensor([0, 1]), 2, "")
