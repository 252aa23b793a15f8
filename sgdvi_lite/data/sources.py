"""Named data sets: where their files come from, how they are fetched, how they are read.

No file is read before its SHA-256 agrees, nothing is unpickled, and no archive is extracted to disk.
"""

import gzip
import tarfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch

from sgdvi_lite import _checks
from sgdvi_lite.data.arrays import ARRAYS

RETRIES = 2  # how often a download is tried again at the same mirror
TIMEOUT = 30  # seconds without a byte after which a connection counts as lost


@dataclass(frozen=True)
class Source:
    """A data set to download.

    ``mirrors`` are addresses of folders, each ending in a slash and tried in order; ``sha256`` maps the name of each
    file to its checksum; ``read`` maps the folder that holds the files to the four arrays, in the order of ``ARRAYS``;
    ``classes`` counts labels.
    """

    mirrors: tuple[str, ...]
    sha256: dict[str, str]
    read: Callable[[Path], list[np.ndarray]]
    classes: int


def fetch(name: str, cache: Path, progress: bool) -> dict[str, np.ndarray]:
    """Fetch the files of ``SOURCES[name]`` into ``cache/name`` unless they are there, and return their arrays.

    Raises
    ------
    OSError
        If no mirror delivers a file. No half-written file is left.
    ValueError
        If a file was delivered and its checksum is wrong (it is removed), or if a file is not in the known format.
    """
    source = SOURCES[name]
    for file, checksum in source.sha256.items():
        _download(source.mirrors, file, checksum, cache / name, progress)
    return dict(zip(ARRAYS, source.read(cache / name), strict=True))


def _download(mirrors: tuple[str, ...], file: str, checksum: str, folder: Path, progress: bool) -> None:
    failures: list[Exception] = []
    downloader = pooch.HTTPDownloader(progressbar=progress, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"})
    for mirror in mirrors:
        store = pooch.create(folder, mirror, registry={file: f"sha256:{checksum}"}, retry_if_failed=RETRIES)
        try:
            store.fetch(file, downloader=downloader)
            return
        except (OSError, ValueError) as error:  # errors of requests are OSErrors, a wrong checksum is a ValueError
            failures.append(error)
    tried = "; ".join(f"{mirror}{file}: {e}" for mirror, e in zip(mirrors, failures, strict=True))
    kind = ValueError if any(isinstance(error, ValueError) for error in failures) else OSError
    raise kind(
        f"{file} could not be downloaded and nothing was kept ({tried}). Check the connection and try again, "
        f"or put the file with SHA-256 {checksum} into {folder} yourself"
    ) from failures[-1]


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of bytes: 0, 0, 8, the number of axes, a big-endian length for each, then the data.

    Raises
    ------
    ValueError
        If the file is not of this form.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a gzip file ({error}); remove it and load again") from error
    axes = raw[3] if len(raw) > 3 and raw[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(raw[4 : 4 + 4 * axes], ">u4").astype(int) if len(raw) >= 4 + 4 * axes else ()
    start = 4 + 4 * axes
    if not axes or len(shape) != axes or len(raw) - start != np.prod(shape):
        raise ValueError(f"{path}: not an IDX file of bytes with as much data as it announces; remove it, load again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _read_mnist(folder: Path) -> list[np.ndarray]:
    files = (f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    return [read_idx(folder / file) for file in files]


def read_members(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """Read the named regular files of a ``.tar.gz`` into memory, in one pass; whatever else it holds is skipped.

    Raises
    ------
    ValueError
        If it is not such an archive, or a name is missing.
    """
    try:
        with tarfile.open(path, "r|gz") as tar:
            contents = {m.name: tar.extractfile(m).read() for m in tar if m.name in names and m.isfile()}
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: not a readable .tar.gz ({error}); remove it and load again") from error
    missing = sorted(set(names) - set(contents))
    fault = f"{path}: the archive has no regular file {', '.join(missing)}; remove it and load again"
    _checks.require(not missing, fault)
    return contents


def cifar_records(raw: bytes, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Split binary CIFAR records into images (n, 3, 32, 32) and labels (n,).

    A record is ``label_bytes`` bytes of labels, of which the last is the finest, then 3 x 32 x 32 bytes of pixels.
    """
    length = label_bytes + 3 * 32 * 32
    if not raw or len(raw) % length:
        raise ValueError(f"{len(raw)} bytes of CIFAR records: expected a positive multiple of {length}")
    records = np.frombuffer(raw, np.uint8).reshape(-1, length)
    return records[:, label_bytes:].reshape(-1, 3, 32, 32), records[:, label_bytes - 1]


def _cifar(archive: str, sha256: str, train: Collection[str], test: str, *, label_bytes: int, classes: int) -> Source:
    """CIFAR in its binary version, because the Python version is a pickle, and loading a pickle can run code."""

    def read(folder: Path) -> list[np.ndarray]:
        contents = read_members(folder / archive, {*train, test})
        parts = (b"".join(contents[name] for name in train), contents[test])
        return [array for raw in parts for array in cifar_records(raw, label_bytes)]

    # the author's page, and the host to which it redirects
    mirrors = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")
    return Source(mirrors, {archive: sha256}, read, classes)


# The data sets that can be downloaded, by name.
# MNIST: the address of the original publication, yann.lecun.com, no longer serves the files. Two mirrors hold them: the
# S3 bucket that torchvision uses, and that of the Common Visual Data Foundation, which TensorFlow Datasets uses.
# The checksums are those of TensorFlow Datasets (tensorflow_datasets/url_checksums/{mnist,cifar10,cifar100}.txt).
SOURCES: dict[str, Source] = {
    "mnist": Source(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        _read_mnist,
        classes=10,
    ),
    "cifar10": _cifar(
        "cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        train=[f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)],
        test="cifar-10-batches-bin/test_batch.bin",
        label_bytes=1,
        classes=10,
    ),
    "cifar100": _cifar(
        "cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        train=["cifar-100-binary/train.bin"],
        test="cifar-100-binary/test.bin",
        label_bytes=2,
        classes=100,
    ),
}
