"""Tiny data sets: as arrays, in the formats of MNIST and CIFAR, and on a local HTTP server that can fail."""

import gzip
import io
import struct
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def sample(n_train=6, n_test=4, shape=(5, 5), dtype=np.uint8, classes=3, seed=0):
    """The four arrays of a tiny data set; every class occurs in the training set."""
    g = np.random.default_rng(seed)
    return {
        "x_train": g.integers(0, 256, (n_train, *shape)).astype(dtype),
        "y_train": np.arange(n_train) % classes,
        "x_test": g.integers(0, 256, (n_test, *shape)).astype(dtype),
        "y_test": np.arange(n_test) % classes,
    }


def saved(folder, arrays, name="own.npz"):
    np.savez(folder / name, **arrays)
    return folder / name


def idx(array):
    """A gzipped IDX file of bytes."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes())


def mnist_files(arrays):
    names = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return dict(zip(names, map(idx, arrays.values()), strict=True))


def targz(members):
    """An archive with regular files, and with a symbolic link and a name that leaves the folder, to be ignored."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../outside"
        tar.addfile(link)
        for name, content in {"../outside": b"outside", **members}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def records(x, y, coarse=False):
    """Binary CIFAR records; with ``coarse``, another label before the true one."""
    rows = [y[:, None], x.reshape(len(x), -1)]
    return np.hstack([np.full((len(x), 1), 19)] * coarse + rows).astype(np.uint8).tobytes()


def cifar_files(arrays, name):
    x, y, x_test, y_test = arrays.values()
    if name == "cifar10":
        folder, n = "cifar-10-batches-bin", len(x) // 5
        parts = {f"{folder}/data_batch_{i + 1}.bin": slice(n * i, n * (i + 1)) for i in range(5)}
        members = {part: records(x[rows], y[rows]) for part, rows in parts.items()}
        return {"cifar-10-binary.tar.gz": targz(members | {f"{folder}/test_batch.bin": records(x_test, y_test)})}
    members = {"train": records(x, y, coarse=True), "test": records(x_test, y_test, coarse=True)}
    return {"cifar-100-binary.tar.gz": targz({f"cifar-100-binary/{k}.bin": v for k, v in members.items()})}


def files_of(name, arrays):
    return mnist_files(arrays) if name == "mnist" else cifar_files(arrays, name)


class Server(ThreadingHTTPServer):
    """Serves bytes from memory; ``faults`` holds, for the next requests, an HTTP status, "cut" or "bad"."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.requests = files, [], []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path[1:])
        fault, body = (self.server.faults or [None]).pop(0), self.server.files.get(self.path[1:], b"")
        self.send_response(fault if isinstance(fault, int) else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write({"cut": body[: len(body) // 2], "bad": body[::-1]}.get(fault, body))

    def log_message(self, *_):
        """Keep the test's output clean."""
