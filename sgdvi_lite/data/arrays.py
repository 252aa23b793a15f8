"""Raw arrays of a data set, as NumPy: where a file or scikit-learn has them, brought to one form, and identified.

The form: images (N, channels, height, width) as bytes or as floats, labels (N,) as 64-bit integers from 0.
"""

import hashlib
from pathlib import Path

import numpy as np

from sgdvi_lite import _checks

ARRAYS = ("x_train", "y_train", "x_test", "y_test")  # that make a data set, in the order in which they are hashed
_PIXELS = (np.uint8, np.float16, np.float32, np.float64)


def digits() -> dict[str, np.ndarray]:
    """Split scikit-learn's digits: a fifth for testing, with the same shares of the classes, drawn from seed 0."""
    from sklearn.datasets import load_digits  # here, because importing scikit-learn takes a second
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train, test = map(np.sort, train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0))
    images = images.reshape(-1, 8, 8) / 16
    return dict(zip(ARRAYS, (images[train], labels[train], images[test], labels[test]), strict=True))


def read_npz(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Read the four arrays of an ``.npz``, without unpickling, and the text ``source`` if there is one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an ``.npz``, lacks an array, or holds one that is pickled or none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"name_or_path = {path}: there is no such file; give the path of an .npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing, there = [name for name in ARRAYS if name not in file.files], sorted(file.files) or ["none"]
            _checks.require(not missing, f"no array {', '.join(missing)} among {', '.join(there)}")
            arrays, source = {name: file[name] for name in ARRAYS}, str(file["source"]) if "source" in file else ""
        strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
        _checks.require(not strange, f"{', '.join(strange)} in it is no array of NumPy")
        return arrays, source
    except (OSError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib and NumPy have a dozen for damaged files
        raise ValueError(
            f"{path}: {error}. Expected an .npz with {', '.join(ARRAYS)}, none of them pickled; "
            "write it with numpy.savez from arrays of numbers"
        ) from error


def canonical(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Bring images and labels to the one form; pixels keep their values.

    Raises
    ------
    ValueError
        If an array has a type or a shape that cannot be read in exactly one way.
    """
    form = {"x": _as_images, "y": _as_labels}
    return {name: form[name[0]](name, arrays[name]) for name in ARRAYS}


def _as_images(name: str, x: np.ndarray) -> np.ndarray:
    dtype = x.dtype.newbyteorder("=")
    fault = f"{name} has dtype {x.dtype}: expected uint8, or floats in [0, 1]; convert it with astype"
    _checks.require(dtype in _PIXELS, fault)
    _checks.shape(name, x.shape, x.ndim in (3, 4), "(N, h, w), (N, c, h, w) or (N, h, w, c); reshape it")
    if x.ndim == 3:
        return np.ascontiguousarray(x[:, None], dtype=dtype)
    first, last = (x.shape[axis] in (1, 3) for axis in (1, 3))
    allowed = "1 or 3 channels in axis 1 or in axis 3, but not in both; save grey images as (N, h, w)"
    _checks.shape(name, x.shape, first != last, allowed)
    x = x if first else x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x, dtype=dtype)


def numbered(arrays: dict[str, np.ndarray], compact: bool) -> dict[str, np.ndarray]:
    """Refuse training labels that are not 0, 1, 2, ... without a gap, or give them these numbers in their order.

    Raises
    ------
    ValueError
        If labels are missing among those of the training set, and not ``compact``; if a test label is unknown.
    """
    found, counts = np.unique(arrays["y_train"], return_counts=True)
    if np.array_equal(found, np.arange(len(found))):
        return arrays
    if not compact:
        shown = [f"{label} ({count} times)" for label, count in zip(found, counts, strict=True)]
        shown[6:-5] = ["..."] if len(shown) > 12 else shown[6:-5]
        gap = np.setdiff1d(np.arange(len(found)), found)[0]
        raise ValueError(
            f"y_train has the labels {', '.join(shown)}, and none is {gap}: expected 0 to {len(found) - 1}; remove the "
            "examples without a class, if a label such as 255 stands for that, and use labels='compact' "
            "(--labels compact), which numbers the classes in this order"
        )
    unknown = np.setdiff1d(arrays["y_test"], found)
    if len(unknown):
        raise ValueError(f"y_test has the label {unknown[0]}: expected those of y_train; remove its examples")
    return arrays | {name: np.searchsorted(found, arrays[name]) for name in ("y_train", "y_test")}


def _as_labels(name: str, y: np.ndarray) -> np.ndarray:
    fault = f"{name} has shape {y.shape} and dtype {y.dtype}: expected one integer for each image; use ravel and astype"
    _checks.require(y.ndim == 1 and y.dtype.kind in "iu", fault)
    return y.astype(np.int64)


def sha256(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and values: the same data have the same sum, wherever they were read."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
