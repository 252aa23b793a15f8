"""Folders that outlive a process: one owner, one identity, states by name, a stopwatch."""

import dataclasses
import errno
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import taken
import torch

from sgdvi_lite._storage import files, folder
from sgdvi_lite._storage.folder import Folder, Kind, Stopwatch, seconds_in

ROOT = Path(__file__).parents[2]
ROUNDS = 100


@pytest.fixture(scope="module")
def processes():
    """Processes that start with everything imported."""
    context, path = multiprocessing.get_context("forkserver"), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(Path(__file__).parent), *([path] if path else [])])
    context.set_forkserver_preload(["taken"])
    yield context
    del os.environ["PYTHONPATH"]
    if path is not None:
        os.environ["PYTHONPATH"] = path


def test_of_two_processes_that_race_for_an_empty_folder_one_gets_it(processes, tmp_path):
    barrier, told = processes.Barrier(2), processes.Queue()
    names = ("one", "other")
    racers = [processes.Process(target=taken.race, args=(barrier, tmp_path, ROUNDS, me, told)) for me in names]
    for racer in racers:
        racer.start()
    winners = [told.get(timeout=taken.BARRIER_SECONDS) for _ in range(ROUNDS)]
    for racer in racers:
        racer.join(taken.BARRIER_SECONDS)
    assert told.empty() and sorted(k for k, _ in winners) == list(range(ROUNDS))
    for k, me in winners:
        assert json.loads((tmp_path / str(k) / "header.json").read_text())["made by"] == me


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that sends signals")
def test_ctrl_c_while_a_state_is_written_is_a_keyboard_interrupt(processes, tmp_path):
    """And no end of the process, as where torch writes into a file of Python that is closed behind it."""
    writer = processes.Process(target=taken.interrupt, args=(tmp_path / "made", 200))
    writer.start()
    writer.join(taken.BARRIER_SECONDS)
    assert writer.exitcode == 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_folder_is_free_once_its_owner_is_killed(processes, tmp_path):
    ready = processes.Event()
    owner = processes.Process(target=taken.hold, args=(ready, tmp_path))
    owner.start()
    assert ready.wait(taken.BARRIER_SECONDS)
    lock = (tmp_path / folder.LOCK).stat().st_ino
    with pytest.raises(BlockingIOError, match="another process computes there; wait for its end"):
        Folder(tmp_path, taken.KIND, {})
    owner.kill()
    owner.join()
    assert owner.exitcode == -signal.SIGKILL
    mine = Folder(tmp_path, taken.KIND, {})
    assert mine.load("state")["step"] == 1
    mine.close()
    assert (tmp_path / folder.LOCK).stat().st_ino == lock  # else two processes could lock one file each


def test_a_process_may_take_a_folder_again_if_its_kind_allows_it(tmp_path):
    first, second = (Folder(tmp_path / "a", taken.KIND, {}) for _ in range(2))
    assert first.header == second.header
    once = Kind("header.json", "thing", again=False)
    held = Folder(tmp_path / "b", once, {})
    with pytest.raises(BlockingIOError):
        Folder(tmp_path / "b", once, {})
    held.close()
    Folder(tmp_path / "b", once, {}).close()


def test_the_lock_is_taken_before_the_header_is_written(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise folder.Timeout("")

    monkeypatch.setattr(folder.FileLock, "acquire", refused)
    with pytest.raises(BlockingIOError):
        Folder(tmp_path, taken.KIND, {})
    assert not (tmp_path / "header.json").exists()


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "other").mkdir()
    Folder(tmp_path / "other", taken.KIND, {"lr": 0.1, "net": {"d": 3}}).close()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"another thing: lr = 0.1 there and 0.2 here; choose another folder, or call"):
        Folder(tmp_path / "other", taken.KIND, {"lr": 0.2})
    with pytest.raises(ValueError, match="another thing: d = 3 there and 4 here"):
        Folder(tmp_path / "other", taken.KIND, {"net": {"d": 4}})
    with pytest.raises(ValueError, match="another thing: seed = None there and 0 here"):
        Folder(tmp_path / "other", taken.KIND, {"seed": 0})
    for place in (tmp_path / "thesis", tmp_path / "thesis" / "thesis.tex"):
        with pytest.raises(ValueError, match="holds no thing, but something else: choose an empty folder"):
            Folder(place, taken.KIND, {})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("header", [{"format": 2}, {}])
def test_another_format_or_none_is_refused_with_its_version_and_a_remedy(tmp_path, header):
    (tmp_path / "header.json").write_text(json.dumps(header | {"lr": 0.1}))
    told = rf"thing of format {header.get('format')}, and format 1 is read here: go on with the version of"
    with pytest.raises(ValueError, match=told):
        Folder(tmp_path, taken.KIND, {"lr": 0.1})
    assert [path.name for path in tmp_path.iterdir()] == ["header.json"]


def test_a_header_without_a_fingerprint_is_damaged(tmp_path):
    (tmp_path / "header.json").write_text(json.dumps({"format": 1, "lr": 0.1}))
    with pytest.raises(ValueError, match=r"header.json' is damaged \(it is not as it was written\)"):
        Folder(tmp_path, taken.KIND, {"lr": 0.1})


def test_a_note_is_written_once_and_not_compared(tmp_path):
    assert Folder(tmp_path, taken.KIND, {"lr": 0.1}, {"threads": 2}).header["threads"] == 2
    assert Folder(tmp_path, taken.KIND, {"lr": 0.1}, {"threads": 4}).header["threads"] == 2


def test_floats_are_compared_exactly_unless_the_kind_is_tolerant(tmp_path):
    tolerant = Kind("header.json", "thing", tolerance=1e-3)
    Folder(tmp_path, tolerant, {"losses": [1.0, 2.0]})
    Folder(tmp_path, tolerant, {"losses": [1.0005, 2.0]})
    for kind, losses in ((taken.KIND, [1.0 + 1e-12, 2.0]), (tolerant, [1.002, 2.0]), (tolerant, [1.0]), (tolerant, [])):
        with pytest.raises(ValueError, match="another thing: losses"):
            Folder(tmp_path, kind, {"losses": losses})


def test_of_a_tolerant_kind_lists_are_measured_and_numbers_are_not(tmp_path):
    tolerant = Kind("header.json", "thing", tolerance=1e-3)
    nan, inf = float("nan"), float("inf")
    told = {"lr": 0.1, "values": [1e-9, 2e-9, nan, inf], "names": ["a", "b"]}
    Folder(tmp_path, tolerant, told)
    Folder(tmp_path, tolerant, told | {"values": [1.0005e-9, 2e-9, nan, inf]})
    others = ({"lr": 0.10001}, {"values": [1e-9, 4e-9, nan, inf]}, {"values": [1e-9, 2e-9, 1.0, inf]})
    for other in (*others, {"values": [1e-9, 2e-9, nan, -inf]}, {"names": ["a", "c"]}):
        with pytest.raises(ValueError, match="another thing"):
            Folder(tmp_path, tolerant, told | other)


def test_a_damaged_state_is_named(tmp_path):
    made = Folder(tmp_path, taken.KIND, {})
    made.save("state", {"x": torch.ones(3)})
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"state.pt' is damaged .*: remove it, and this part begins anew"):
        made.load("state")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'{"lr": 0.1}garbage'])
def test_a_damaged_header_is_named_with_the_remedy(tmp_path, content):
    (tmp_path / "header.json").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"header.json' is damaged \(.*\): restore it from a copy, or remove the folder"
    ):
        Folder(tmp_path, taken.KIND, {})
    assert [file.name for file in tmp_path.iterdir()] == ["header.json"]


def test_a_header_and_a_state_with_a_flipped_bit_are_damaged(tmp_path):
    made = Folder(tmp_path, taken.KIND, {"lr": 0.1})
    made.save("state", {"x": torch.full((1000,), 3.0)})
    made.close()
    content = bytearray((tmp_path / "state.pt").read_bytes())
    content[content.find(torch.full((9,), 3.0).numpy().tobytes()) + 2002] ^= 1
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"state.pt' is damaged \(the checksum of .* is wrong\): remove it, and this part"
    ):
        Folder(tmp_path, taken.KIND, {"lr": 0.1}).load("state")
    text = (tmp_path / "header.json").read_text().replace("0.1", "0.2")
    (tmp_path / "header.json").write_text(text)
    with pytest.raises(ValueError, match=r"header.json' is damaged \(it is not as it was written\)"):
        Folder(tmp_path, taken.KIND, {"lr": 0.2})


def test_a_folder_that_is_refused_is_not_kept(tmp_path, monkeypatch):
    """Also where the header is another's only once the lock is taken."""
    once = dataclasses.replace(taken.KIND, again=False)
    Folder(tmp_path, once, {"lr": 0.1}).close()
    found, taking = Folder._find, []
    monkeypatch.setattr(
        Folder, "_find", lambda self, wanted: taking.append(1) or (len(taking) > 1 and found(self, wanted))
    )
    with pytest.raises(ValueError, match="another thing") as kept:
        Folder(tmp_path, once, {"lr": 0.2})
    monkeypatch.undo()
    assert Folder(tmp_path, once, {"lr": 0.1}).header["lr"] == 0.1 and kept.tb


def test_a_folder_that_is_removed_goes_and_one_with_other_files_stays(tmp_path):
    made = Folder(tmp_path / "a" / "b", taken.KIND, {})
    (tmp_path / "a" / "b" / "array.npy").write_bytes(b"")
    made.remove("array.npy", "not there")
    made.close()
    assert (tmp_path / "a").exists() and not (tmp_path / "a" / "b").exists()
    made = Folder(tmp_path / "a", taken.KIND, {})
    (tmp_path / "a" / "note.txt").write_text("mine")
    made.remove()
    made.close()
    assert not (tmp_path / "a" / "header.json").exists() and (tmp_path / "a" / "note.txt").exists()


def test_a_lock_that_was_removed_with_its_folder_is_none(tmp_path, monkeypatch):
    acquire = folder.FileLock.acquire

    def late(lock, **options):
        acquire(lock, **options)
        os.unlink(lock.lock_file)  # as by the one that had it before

    monkeypatch.setattr(folder.FileLock, "acquire", late)
    with pytest.raises(BlockingIOError, match="another process computes there"):
        Folder(tmp_path / "a", dataclasses.replace(taken.KIND, again=False), {})
    monkeypatch.undo()
    Folder(tmp_path / "a", dataclasses.replace(taken.KIND, again=False), {}).close()


@pytest.mark.skipif(os.name != "posix", reason="needs a umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_files_obey_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = files.write_atomically(tmp_path / "new" / "file", lambda file: file.write(b"content"))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode and path.read_bytes() == b"content"
    with pytest.raises(ZeroDivisionError):
        files.write_atomically(path, lambda file: file.write(b"half") / 0)
    assert [file.name for file in path.parent.iterdir()] == ["file"] and path.read_bytes() == b"content"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file for which there is never room")
def test_no_room_on_the_disk_leaves_the_state_before(tmp_path, monkeypatch):
    made, save = Folder(tmp_path, taken.KIND, {}), torch.save
    made.save("state", {"x": torch.ones(3)})
    monkeypatch.setattr(folder.torch, "save", lambda state, file: save(state, "/dev/full"))
    with pytest.raises(OSError, match=r"state.pt' cannot be written \(.*\); make room, or choose another disk"):
        made.save("state", {"x": torch.zeros(1000, dtype=torch.float64)})
    assert torch.equal(made.load("state")["x"], torch.ones(3)) and not list(tmp_path.glob(".*.part"))


def test_the_room_is_that_of_the_disk_where_a_folder_will_lie(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    files.require_room(tmp_path / "not" / "yet", free // 2, "")
    with pytest.raises(OSError, match=r"not/yet': it takes .* GB free; make some") as told:
        files.require_room(tmp_path / "not" / "yet", 2 * free, "make some")
    assert told.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "stranger", [{"no": "spent"}, torch.nn.Linear(1, 1), torch.ones(2)], ids=["dict", "model", "tensor"]
)
def test_a_file_of_the_user_in_the_folder_is_left_alone(tmp_path, stranger):
    Folder(tmp_path, taken.KIND, {}).close()
    torch.save(stranger, tmp_path / "net.pt")
    (tmp_path / "damaged.pt").write_bytes(b"no state")
    content = (tmp_path / "net.pt").read_bytes()
    again = Folder(tmp_path, taken.KIND, {})
    assert again.stopwatch.before == 0 and (tmp_path / "net.pt").read_bytes() == content
    with pytest.raises(ValueError, match="is damaged"):
        again.load("damaged")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_can_only_be_read_is_read(tmp_path, monkeypatch, code):
    made = Folder(tmp_path, taken.KIND, {})
    made.save("a", {"step": 3})
    made.close()

    def refused(*args, **options):
        raise OSError(code, "cannot be written")  # a PermissionError, if its number is that

    monkeypatch.setattr(folder.FileLock, "acquire", refused)
    assert Folder(tmp_path, taken.KIND, {}).load("a")["step"] == 3
    with pytest.raises(OSError, match="cannot be written"):
        Folder(tmp_path / "new", taken.KIND, {})
    with pytest.raises(OSError, match="cannot be written"):
        Folder(tmp_path, dataclasses.replace(taken.KIND, again=False), {})


def test_the_stopwatch_goes_on_where_the_last_saved_state_left_it(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(folder.time, "monotonic", lambda: now[0])
    made = Folder(tmp_path, taken.KIND, {})
    now[0] += 7
    made.save("a", {})
    now[0] += 3
    made.save("b", {})
    now[0] += 20  # lost: the process ends before it saves again
    made.close()
    assert seconds_in(tmp_path) == 10 and seconds_in(tmp_path / "nothing") == 0
    again = Folder(tmp_path, taken.KIND, {})
    now[0] += 5
    assert again.stopwatch.seconds == 15
    again.save("a", {})
    assert seconds_in(tmp_path) == 15
    watch = Stopwatch(2.0)
    now[0] += 1
    assert watch.seconds == 3
