"""The pretend device itself: it computes as the CPU, refuses what CUDA refuses, and rounds as TF32."""

import copy
import io

import numpy as np
import pretend_device
import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def waits():
    with pretend_device.accelerator() as waits:
        yield waits


def on(*shape):
    return torch.ones(*shape, device="cuda")


MIXED = {
    "sum": lambda: on(3) + torch.ones(3),
    "sum in place": lambda: on(3).add_(torch.ones(3)),
    "onto the CPU": lambda: torch.ones(3).add_(on(3)),
    "product": lambda: on(3, 3) @ torch.ones(3, 3),
    "cat": lambda: torch.cat([on(3), torch.ones(1)]),
    "solve": lambda: torch.linalg.solve(on(2, 2), torch.ones(2)),
    "network": lambda: nn.Linear(2, 2).to("cuda")(torch.ones(1, 2)),
    "labels": lambda: nn.functional.cross_entropy(on(2, 2), torch.tensor([0, 1])),
    "index of the device into the CPU": lambda: torch.ones(3)[torch.zeros(1, dtype=torch.long, device="cuda")],
    "rows written from the CPU": lambda: on(3).index_put_((torch.tensor([0, 1]),), torch.ones(2)),
    "CPU generator": lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
    "CPU generator in place": lambda: on(3).normal_(generator=torch.Generator()),
    "generator of the device": lambda: torch.randn(3, generator=pretend_device.Generator()),
}


@pytest.mark.parametrize("case", MIXED)
def test_mixed_devices_are_refused(case):
    with pytest.raises(RuntimeError, match=r"same device|device type for generator|indices should be"):
        MIXED[case]()


def test_there_is_no_second_device():
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(3, device="cuda:1")


def test_numpy_needs_a_copy():
    for convert in (lambda x: x.numpy(), np.asarray):
        with pytest.raises(TypeError, match=r"Use Tensor.cpu\(\)"):
            convert(on(3))


ALLOWED = {
    "number of the CPU": lambda: on(3) + torch.tensor(1.0),
    "index of the CPU": lambda: on(3)[torch.tensor([0, 1])],
    "a number written": lambda: on(3).index_fill_(0, torch.zeros(1, dtype=torch.long, device="cuda"), 2.0),
    "copy": lambda: on(3).copy_(torch.zeros(3)),
    "list": lambda: on(3)[[0, 2]],
    "like": lambda: torch.zeros_like(on(3)) + on(3).new_full((3,), 2.0),
    "network": lambda: copy.deepcopy(nn.Linear(2, 2).to("cuda")).double()(on(1, 2).double()),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_cuda_allows_stays_on_the_device(case):
    assert ALLOWED[case]().device == torch.device("cuda", 0)


def test_backward_passes_and_batches_of_functions_stay_on_the_device():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)).to("cuda"), on(5, 3)
    net(x).sum().backward()
    assert {p.grad.device.type for p in net.parameters()} == {"cuda"}
    rows = torch.func.vmap(torch.func.grad(lambda v: (v**2).sum()))(x)
    assert rows.device.type == "cuda" and torch.equal(rows.cpu(), torch.full((5, 3), 2.0))
    start = torch.ones(3, requires_grad=True)
    (start.to("cuda") * 2).sum().cpu().backward()
    assert torch.equal(start.grad, torch.full((3,), 2.0))


def test_waits_are_counted(waits):
    x = on(4)
    assert sum(waits.values()) == 0
    assert x.sum().item() == 4 and x.cpu().sum() == 4 and x[x > 0].shape == (4,)
    assert sum(waits.values()) == 3


def test_tf32_has_10_bits_and_is_what_the_switches_say():
    assert pretend_device.tf32(torch.tensor([1 + 2**-10, 1 + 2**-12, -3 - 2**-9])).tolist() == [
        1 + 2**-10,
        1,
        -3 - 2**-9,
    ]
    a = torch.tensor([[1 + 2**-12]], device="cuda")
    image, one = a[None, None], torch.ones(1, 1, 1, 1, device="cuda")
    assert (a @ a).item() > 1 and nn.functional.conv2d(image, one).item() == 1
    with torch.backends.cudnn.flags(allow_tf32=False):
        assert nn.functional.conv2d(image, one).item() > 1
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert (a @ a).item() == 1
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_files_go_where_they_are_told():
    file = io.BytesIO()
    torch.save({"x": on(2), "y": torch.ones(1)}, file)

    def read(**options):
        file.seek(0)
        return {name: t.device.type for name, t in torch.load(file, weights_only=True, **options).items()}

    assert read() == {"x": "cuda", "y": "cpu"}
    assert set(read(map_location="cpu").values()) == {"cpu"} and set(read(map_location="cuda").values()) == {"cuda"}
    with pretend_device.no_cuda():
        assert set(read(map_location="cpu").values()) == {"cpu"}
        with pytest.raises(RuntimeError, match=r"cuda.is_available\(\) is False"):
            read()


def test_a_device_without_float64():
    with pretend_device.accelerator(float64=False), pytest.raises(TypeError, match="doesn't support float64"):
        on(2).double()
