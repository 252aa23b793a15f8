import pytest
import torch
from problems import examples, network, network_problem
from references import autograd_gradients
from torch.nn.functional import cross_entropy, mse_loss

from sgdvi_lite import gradients, nets


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_they_agree_with_one_backward_pass_for_each_example(name):
    problem = network_problem(name, 6)
    fast, slow = gradients.per_example_gradients(*problem), autograd_gradients(*problem)
    assert (fast - slow).abs().max() <= 1e-10 * slow.abs().max()


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_the_networks_of_the_paper_take_the_fast_path(name):
    assert gradients.Network(*network_problem(name, 2)).how == "layer by layer"


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_the_widths_are_those_of_what_is_computed(name):
    source = gradients.Network(*network_problem(name, 2))
    assert source.widths == tuple(tensor.shape[1] for part in next(source.parts()) for tensor in part)


class Twice(torch.nn.Module):
    """One layer used twice in one pass."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class Bypass(torch.nn.Module):
    """Uses the weights of a layer without calling it."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x) + torch.nn.functional.linear(x, self.layer.weight**2)


def shared():
    one, other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    other.weight = one.weight
    return torch.nn.Sequential(one, torch.nn.Tanh(), other)


UNUSUAL = {
    "PReLU '1' is none of Linear, Conv2d": lambda: torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.PReLU()),
    "Linear '2' shares its weights": shared,
    "a layer is not used exactly once": Twice,
    "the loss depends on weights by another way than through their layer": Bypass,
    "Conv2d '1' is none of": lambda: torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 1, 3)), torch.nn.Conv2d(1, 2, 1, padding="same"), torch.nn.Flatten()
    ),
}


@pytest.mark.parametrize("reason", UNUSUAL)
def test_other_networks_take_the_general_path_and_say_why(reason):
    torch.manual_seed(0)
    model = UNUSUAL[reason]().double()
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    source = gradients.Network(model, cross_entropy, x, y)
    assert source.how.startswith("vmap, since ") and reason in source.how
    assert source.widths == (source.d,)
    rows = torch.cat(list(source.chunks()))
    assert torch.allclose(rows, autograd_gradients(model, cross_entropy, x, y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"stride": 2}, {"padding": 1}, {"dilation": 2}, {"bias": False}, {"groups": 2}])
def test_convolutions_of_every_kind(options):
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, **options), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    model = model.double().eval()
    x, y = torch.randn(5, 2, 9, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    rows = gradients.per_example_gradients(model, cross_entropy, x, y)
    assert torch.allclose(rows, autograd_gradients(model, cross_entropy, x, y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 5, 7, 100])
def test_the_chunk_does_not_matter(chunk):
    problem = network_problem("tiny-fc", 7)
    whole = gradients.per_example_gradients(*problem, chunk=7)
    assert torch.allclose(gradients.per_example_gradients(*problem, chunk=chunk), whole, rtol=0, atol=1e-14)


def test_their_mean_is_the_gradient_of_the_mean_loss():
    model, loss, x, y = network_problem("small-fc", 11)
    rows = gradients.per_example_gradients(model, loss, x, y)
    full = torch.autograd.grad(loss(model(x), y), list(model.parameters()))
    assert torch.allclose(rows.mean(0), torch.cat([g.reshape(-1) for g in full]), rtol=0, atol=1e-14)


def test_regression_targets_and_frozen_weights():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).double()
    model[0].weight.requires_grad_(False)
    x, y = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    rows = gradients.per_example_gradients(model, mse_loss, x, y)
    assert rows.shape == (4, 3 + 3 + 1)
    assert rows.shape[1] == nets.count_parameters(model)


def test_the_network_is_left_as_it_was():
    model, loss, x, y = network_problem("small-lenet", 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients.per_example_gradients(model, loss, x, y)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def bad_problems():
    model, loss = network("tiny-fc"), cross_entropy
    x, y = examples("tiny-fc", 4)
    broken = x.clone()
    broken[2, 0, 0, 0] = float("nan")
    per_example = lambda output, target: cross_entropy(output, target, reduction="none")  # noqa: E731
    frozen = torch.nn.Linear(2, 2).double().requires_grad_(False)
    return {
        "no examples": (model, loss, x[:0], y[:0], r"x has 0 examples and y has 0"),
        "lengths": (model, loss, x, y[:3], r"x has 4 examples and y has 3: expected the same number"),
        "batch-norm": (network("tiny-fc").train(), loss, x, y, r"BatchNorm1d '1.1' is in training mode"),
        "dropout": (
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(49, 5), torch.nn.Dropout()).double(),
            loss,
            x,
            y,
            r"Dropout '2' is in training mode",
        ),
        "labels high": (model, loss, x, y + 3, r"y has integers from \d to \d: expected 0 to 4"),
        "labels low": (model, loss, x, y - 5, r"y has integers from -\d to -\d: expected 0 to 4"),
        "dtype": (model, loss, x.float(), y, r"x is torch.float32 on cpu, the model torch.float64 on cpu"),
        "loss": (model, per_example, x, y, r"loss: gave shape \(1,\) for a batch of one; expected a scalar"),
        "nan": (
            model,
            loss,
            broken,
            y,
            r"gradients: NaN or infinity in row 2; .*; lower the learning rate",
        ),
        "no weights": (frozen, loss, x, y, r"model: has no trainable weights"),
    }


@pytest.mark.parametrize("case", bad_problems())
def test_bad_input(case):
    model, loss, x, y, message = bad_problems()[case]
    with pytest.raises(ValueError, match=message):
        gradients.per_example_gradients(model, loss, x, y)


def test_an_infinite_gradient_is_found_in_a_later_chunk():
    model, loss, x, y = network_problem("tiny-fc", 9)
    x[7] = float("inf")
    with pytest.raises(ValueError, match="row 7"):
        gradients.per_example_gradients(model, loss, x, y, chunk=2)


def test_the_chunk_is_positive():
    with pytest.raises(ValueError, match="chunk = -1: expected an integer >= 1"):
        gradients.per_example_gradients(*network_problem("tiny-fc", 3), chunk=-1)
