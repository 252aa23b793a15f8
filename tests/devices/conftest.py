"""Where the tests of devices run: on a pretend device, bit for bit as on the CPU, and with ``-m gpu`` on a real one."""

from dataclasses import dataclass

import pretend_device
import pytest
import torch
from problems import one_thread  # noqa: F401


@dataclass(frozen=True)
class Place:
    """Where a test runs: ``cuda`` is its device there."""

    real: bool
    waits: dict

    def __call__(self, thing):
        """A copy of a tensor or a network on the device."""
        return thing.detach().to("cuda") if isinstance(thing, torch.Tensor) else thing.to("cuda")

    def generator(self, seed):
        """A generator on the device; on the pretend one it draws what the CPU's draws."""
        kind = torch.Generator("cuda") if self.real else pretend_device.Generator()
        return kind.manual_seed(seed)

    def same(self, there, here):
        """Whether a tensor on the device has the numbers of one on the CPU, to the last bit where that can be."""
        assert there.device.type == "cuda" and here.device.type == "cpu"
        there = there.detach().cpu()
        if not self.real:
            return torch.equal(there, here)
        rel = 1e3 * torch.finfo(here.dtype).eps
        return (there - here).abs().max() <= rel * here.abs().max()


@pytest.fixture(autouse=True)
def exact(one_thread):  # noqa: F811
    """One thread: the numbers of both sides are compared bit for bit."""


@pytest.fixture(params=["pretend", pytest.param("real", marks=pytest.mark.gpu)])
def place(request):
    if request.param == "real":
        if not torch.cuda.is_available():
            pytest.skip(f"torch {torch.__version__} sees no CUDA device")
        yield Place(True, {})
        return
    with pretend_device.accelerator() as waits:
        yield Place(False, waits)
