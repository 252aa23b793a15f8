import gzip
import hashlib
import threading
from dataclasses import replace

import numpy as np
import pooch
import pytest
import torch
from imagesets import Server, cifar_files, files_of, idx, mnist_files, sample, targz

from sgdvi_lite import data
from sgdvi_lite.data import sources

SHAPES = {"mnist": (28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}


@pytest.fixture
def serve(monkeypatch):
    """Returns a function that serves files on 127.0.0.1 and makes them the only source of a data set."""
    servers = []

    def start(name, files, mirrors=1):
        for _ in range(mirrors):
            servers.append(Server(files))
            threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        new = servers[-mirrors:]
        sums = {file: hashlib.sha256(body).hexdigest() for file, body in files.items()}
        addresses = tuple(server.address for server in new)
        source = replace(sources.SOURCES[name], mirrors=addresses, sha256=sums)
        monkeypatch.setitem(sources.SOURCES, name, source)
        return new if mirrors > 1 else new[0]

    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def left_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def load(name, cache):
    return data.load(name, cache=cache, progress=False)


@pytest.mark.parametrize("name", SHAPES)
def test_a_data_set_is_downloaded_once_and_is_what_was_served(serve, tmp_path, name):
    arrays = sample(10, 4, SHAPES[name])
    server = serve(name, files_of(name, arrays))
    own, again = load(name, tmp_path), load(name, tmp_path)
    assert server.requests == list(server.files) and left_in(tmp_path) == sorted(server.files)
    assert own.name == name and own.classes == (100 if name == "cifar100" else 10)
    images = torch.tensor(arrays["x_train"]).view(10, -1, *SHAPES[name][-2:])
    assert torch.equal(own.x_train.mul(255).round().byte(), images)
    assert own.y_train.tolist() == arrays["y_train"].tolist() and own.y_test.tolist() == arrays["y_test"].tolist()
    assert torch.equal(own.x_test, again.x_test) and own.sha256 == again.sha256


def test_the_cache_folder_is_the_argument_else_the_variable_else_the_users(serve, tmp_path, monkeypatch):
    serve("mnist", mnist_files(sample()))
    monkeypatch.setenv("SGDVI_CACHE", str(tmp_path / "variable"))
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "user" / project)
    load("mnist", tmp_path / "argument")
    assert left_in(tmp_path / "argument") and not (tmp_path / "variable").exists()
    load("mnist", None)
    assert left_in(tmp_path / "variable") and not (tmp_path / "user").exists()
    monkeypatch.delenv("SGDVI_CACHE")
    load("mnist", None)
    assert len(left_in(tmp_path / "user" / "sgdvi" / "mnist")) == 4


def test_a_progress_bar_is_shown_if_asked_for(serve, tmp_path, capfd):
    serve("mnist", mnist_files(sample()))
    load("mnist", tmp_path / "quiet")
    assert "%" not in capfd.readouterr().err
    data.load("mnist", cache=tmp_path / "loud")
    assert "100%" in capfd.readouterr().err


@pytest.mark.parametrize("fault", ["cut", "bad", 500])
def test_a_download_that_fails_once_is_tried_again(serve, tmp_path, fault):
    server = serve("cifar10", cifar_files(sample(10, 4, (3, 32, 32)), "cifar10"))
    server.faults = [fault]
    assert len(load("cifar10", tmp_path).x_train) == 10
    assert len(server.requests) == 2 and left_in(tmp_path) == list(server.files)


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [("cut", OSError, "Connection broken"), ("bad", ValueError, "hash of downloaded file"), (404, OSError, "404")],
)
def test_a_download_that_keeps_failing_leaves_nothing_and_says_what_to_do(serve, tmp_path, fault, kind, reason):
    server = serve("cifar10", cifar_files(sample(10, 4, (3, 32, 32)), "cifar10"))
    server.faults = [fault] * 10
    with pytest.raises(kind, match=rf"(?s)nothing was kept .*{reason}.*Check the connection .* into .* yourself"):
        load("cifar10", tmp_path)
    assert left_in(tmp_path) == [] and len(server.requests) == 1 + sources.RETRIES


def test_the_next_mirror_is_asked_when_one_fails(serve, tmp_path):
    broken, good = serve("mnist", mnist_files(sample()), mirrors=2)
    broken.faults = ["bad", "cut", 500]
    assert len(load("mnist", tmp_path).x_train) == 6
    assert good.requests == broken.requests[:1] and len(left_in(tmp_path)) == 4


def test_a_host_that_cannot_be_reached(serve, tmp_path, monkeypatch):
    server = serve("mnist", mnist_files(sample()))
    closed = replace(sources.SOURCES["mnist"], mirrors=("http://127.0.0.1:9/",))
    monkeypatch.setitem(sources.SOURCES, "mnist", closed)
    with pytest.raises(OSError, match=r"train-images-idx3-ubyte\.gz could not be downloaded"):
        load("mnist", tmp_path)
    assert left_in(tmp_path) == [] and server.requests == []


def test_a_stop_in_the_middle_leaves_no_half_written_file(serve, tmp_path, monkeypatch):
    server = serve("mnist", mnist_files(sample()))

    def stop(path, *_, **__):
        assert left_in(tmp_path) != []  # the bytes are on disk, under a temporary name
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pooch.core, "hash_matches", stop)
        load("mnist", tmp_path)
    assert left_in(tmp_path) == []
    assert len(load("mnist", tmp_path).x_train) == 6 and len(server.requests) == 5


def test_a_cached_file_that_was_damaged_is_replaced(serve, tmp_path):
    server = serve("mnist", mnist_files(sample()))
    load("mnist", tmp_path)
    damaged = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    damaged.write_bytes(b"damaged")
    assert len(load("mnist", tmp_path).x_test) == 4
    assert server.requests[4:] == [damaged.name] and damaged.read_bytes() == server.files[damaged.name]


def test_labels_out_of_range_in_a_file_are_refused(serve, tmp_path):
    serve("mnist", mnist_files(sample() | {"y_test": np.array([0, 1, 10, 2])}))
    with pytest.raises(ValueError, match=r"y_test has the label 10 in row 2: expected integers in \[0, 9\]"):
        load("mnist", tmp_path)


ZEROS = gzip.decompress(idx(np.zeros((2, 3))))
NOT_IDX = {
    "not gzipped": (ZEROS, "not a gzip file"),
    "gzip cut short": (gzip.compress(ZEROS)[:-9], "not a gzip file"),
    "empty": (gzip.compress(b""), "not an IDX file"),
    "no header": (gzip.compress(ZEROS[:3]), "not an IDX file"),
    "header cut short": (gzip.compress(ZEROS[:9]), "not an IDX file"),
    "another type": (gzip.compress(b"\0\0\x0d" + ZEROS[3:]), "not an IDX file"),
    "too little": (gzip.compress(ZEROS[:-1]), "with as much data as it announces"),
    "too much": (gzip.compress(ZEROS + b"0"), "with as much data as it announces"),
}


@pytest.mark.parametrize("case", NOT_IDX)
def test_files_that_are_not_idx(tmp_path, case):
    content, message = NOT_IDX[case]
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        sources.read_idx(tmp_path / "x.gz")


def test_archives_are_read_into_memory_and_only_the_members_asked_for(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(targz({"a/b.bin": b"b", "a/c.bin": b"c"}))
    assert sources.read_members(tmp_path / "x.tar.gz", {"a/c.bin"}) == {"a/c.bin": b"c"}
    assert left_in(tmp_path) == ["x.tar.gz"]


@pytest.mark.parametrize("name", ["a/d.bin", "link"])
def test_members_that_are_missing_or_no_files(tmp_path, name):
    (tmp_path / "x.tar.gz").write_bytes(targz({"a/b.bin": b"b"}))
    with pytest.raises(ValueError, match=f"has no regular file {name}; remove it"):
        sources.read_members(tmp_path / "x.tar.gz", {name, "a/b.bin"})


NO_ARCHIVES = {
    "plain": b"plain",
    "empty": b"",
    "cut short": targz({"a": bytes(10_000)})[:-200],
    "no tar": gzip.compress(b"no tar"),
}


@pytest.mark.parametrize("content", NO_ARCHIVES.values(), ids=NO_ARCHIVES)  # in a name, the time would be another's
def test_archives_that_cannot_be_read(tmp_path, content):
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"not a readable .tar.gz|has no regular file"):
        sources.read_members(tmp_path / "x.tar.gz", {"a"})


@pytest.mark.parametrize("length", [0, 3072, 3074])
def test_cifar_records_of_a_wrong_length(length):
    with pytest.raises(ValueError, match=f"{length} bytes of CIFAR records: expected a positive multiple of 3073"):
        sources.cifar_records(bytes(length), label_bytes=1)


def test_the_sources_name_files_by_their_sha256_over_https():
    for source in sources.SOURCES.values():
        assert all(address.startswith("https://") and address.endswith("/") for address in source.mirrors)
        assert all(len(bytes.fromhex(digest)) == 32 for digest in source.sha256.values())
