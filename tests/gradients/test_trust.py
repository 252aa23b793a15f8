"""What a way to compute gradients must show before it is trusted, what is refused; the network stays as it was."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from problems import generator, network_problem
from references import autograd_gradients
from test_any_network import CLASSES, FEATURES, LOOP, N, case, first_and_last, floats, made, mlp, normed, of, tokens
from torch import nn
from torch.nn.functional import cross_entropy

from sgdvi_lite import DiffusionMatrix, gradients
from sgdvi_lite.gradients import choice
from sgdvi_lite.gradients.conditions import Peak, full_precision
from sgdvi_lite.gradients.ways import Tolerance

# ---- what two examples, or one tolerance for all layers, would not see


def linear(loss=cross_entropy, outputs=CLASSES):
    return made(lambda: case(nn.Linear(FEATURES, outputs), loss=loss))


def assert_right(model, loss, x, y, **options):
    source = gradients.Network(model, loss, x, y, **options)
    exact = autograd_gradients(model, loss, x, y)
    assert torch.allclose(torch.cat(list(source.chunks())), exact, rtol=0, atol=1e-12 * exact.abs().max().item())
    return source.how


def test_examples_without_gradient_prove_nothing():
    model, _, x, y = made(
        lambda: case(
            of(
                lambda m, x: m.last(m.first(x)) + F.linear(x, m.last.weight[:, :1] @ m.first.weight[:1] ** 2),
                **first_and_last(),
            )
        )
    )
    hinge = lambda output, y: F.relu(cross_entropy(output, y) - 1.0)  # noqa: E731
    order = torch.tensor([hinge(model(x[k : k + 1]), y[k : k + 1]).item() for k in range(N)]).argsort()
    x, y = x[order], y[order]
    assert not autograd_gradients(model, hinge, x[:2], y[:2]).any()
    assert assert_right(model, hinge, x, y).startswith("vmap, since ")


def test_all_gradients_zero_are_left_to_the_loop():
    model, loss, x, y = linear(lambda output, y: F.relu(output - 100).sum())
    assert assert_right(model, loss, x, y).startswith(LOOP + f"the gradients of {N} examples are all zero")


def test_the_mean_of_a_batch_whose_first_examples_are_the_same():
    model, loss, x, y = made(lambda: case(of(lambda m, x: m.last(m.first(x - x.mean(0) / 2)), **first_and_last())))
    x, y = x[[0, 0, *range(N)]], y[[0, 0, *range(N)]]
    assert "examples contradict it" in assert_right(model, loss, x, y)


def test_examples_that_see_each_other_in_large_chunks_only_are_found_midway():
    sees = lambda m, x: m.last(m.first(x)) * (2.0 if len(x) > choice.SAMPLE else 1.0)  # noqa: E731
    problem = made(lambda: case(of(sees, **first_and_last())))
    source = gradients.Network(*problem)
    assert source.how == "layer by layer"
    with pytest.raises(
        ValueError, match=r"from example 0 on: they are not those of each example alone, .*; give chunk=1"
    ):
        list(source.parts())
    assert assert_right(*problem, chunk=1) == LOOP + "each chunk is one example"


def test_few_examples_that_see_others_are_found_in_other_company():
    """An expert with a capacity: a tenth of the examples is too much for it. The one compared with the loop is not."""
    torch.manual_seed(0)
    x, y = torch.randn(2000, FEATURES, dtype=torch.float64), torch.randint(CLASSES, (2000,))

    def with_expert(m, x):
        wants = x[:, :1] > 0
        return m.last(x) + (wants & (wants.cumsum(0) <= 800)) * m.first(x)

    layers = {name: nn.Linear(FEATURES, CLASSES) for name in ("first", "last")}
    problem = of(with_expert, **layers).double(), cross_entropy, x, y
    source = gradients.Network(*problem)
    assert source.how == "layer by layer" and source.chunk == 2000
    with pytest.raises(ValueError, match="from example 0 on: they are not those of each example alone"):
        list(source.parts())
    tolerance = source._choice.tolerance
    tolerance.allows = lambda found, exact: len(found) > 1 or Tolerance.allows(tolerance, found, exact)
    list(source.parts())


def test_a_branch_that_leaves_a_layer_out_is_found_midway():
    leaves = lambda m, x: m.last(m.first(x)) if len(x) <= choice.SAMPLE else x[:, :CLASSES]  # noqa: E731
    problem = made(lambda: case(of(leaves, **first_and_last())))
    with pytest.raises(ValueError, match=r"a layer is not used exactly once, though a sample agreed; .*give chunk=1"):
        gradients.per_example_gradients(*problem)
    assert_right(*problem, chunk=1)


def test_each_parameter_is_judged_by_its_own_scale():
    exact = torch.tensor([[1.0, 2.0, 3.0, 3e-7, -1e-7]], dtype=torch.float64)
    tolerance, wrong = Tolerance([nn.Parameter(exact[0, :3]), nn.Parameter(exact[0, 3:])]), exact.clone()
    wrong[0, 3:] *= 1.96
    assert tolerance.allows(exact * (1 + 1e-9), exact)
    assert not tolerance.allows(wrong, exact)
    assert not tolerance.allows(torch.full_like(exact, float("nan")), exact)


def test_a_gradient_that_is_zero_but_for_rounding_does_not_stop_the_fast_ways():
    """The bias of the keys in an attention has no influence: in float32 its gradient is noise in all ways."""
    torch.manual_seed(0)
    model = of(
        lambda m, x: m.last(m.net(x).mean(1)),
        net=nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True),
        last=nn.Linear(8, 3),
    )
    x, y = torch.randn(N, 5, 8), tokens(high=3)
    rows = autograd_gradients(model, cross_entropy, x, y)
    assert 0 < rows[:, 8 * 24 + 8 : 8 * 24 + 16].abs().max() < 1e-6 * rows.abs().max()
    assert gradients.Network(model, cross_entropy, x, y).how.startswith("vmap, since ")


def test_vmap_is_compared_too(monkeypatch):
    monkeypatch.setattr(
        choice,
        "by_vmap",
        lambda model, loss: lambda x, y: [gradients.source.Rows(torch.ones(len(x), 36, dtype=torch.float64))],
    )
    model, loss, x, y = made(
        lambda: case(nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.LayerNorm(3), nn.Linear(3, 3)))
    )
    how = assert_right(model, loss, x, y)
    assert how.startswith(LOOP + "LayerNorm '1' is none of ") and how.endswith("; vmap: 8 examples contradict it")


def test_a_slow_way_on_a_large_problem_warns_with_a_remedy():
    model = nn.Linear(1, 1).double()
    model.weight.register_hook(lambda g: 2 * g)
    x = torch.ones(10_000, 1, dtype=torch.float64)
    with pytest.warns(
        UserWarning, match=r"a hook changes the gradient of 'weight': slow for 10,000 examples; give fewer"
    ):
        gradients.Network(model, F.mse_loss, x, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients.Network(model, F.mse_loss, x[:9_999], x[:9_999])


# ---- what is refused, with a remedy


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, x):
        return F.dropout(self.layer(x), 0.5, self.training)


def attentive(dropout):
    net = nn.MultiheadAttention(4, 2, dropout=dropout, batch_first=True)
    return of(lambda m, x: m.last(m.net(x, x, x)[0].mean(1)), net=net, last=nn.Linear(4, 3))


def bad_problems():
    x, y, plain = floats(), tokens(high=CLASSES), lambda **options: (nn.Linear(FEATURES, CLASSES).double(), options)
    embedding = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(6, 3))
    noise = r"two passes over example \d+ give different gradients; .* call model.eval\(\) first"
    return {
        "F.dropout": (Noisy(), {}, noise),
        "dropout of an attention": (attentive(0.3), {"x": floats(5, 4)}, noise),
        "RReLU": (nn.Sequential(nn.Linear(FEATURES, 3), nn.RReLU()), {}, noise),
        "float16": (
            nn.Linear(FEATURES, 3).half(),
            {"x": x.half()},
            r"has trainable weights in torch.float16 on cpu; expected all in float32",
        ),
        "bfloat16": (
            nn.Linear(FEATURES, 3).bfloat16(),
            {"x": x.bfloat16()},
            r"weights in torch.bfloat16 on cpu; expected .*model.float\(\)",
        ),
        "two dtypes": (
            nn.Sequential(nn.Linear(5, 3).double(), nn.Linear(3, 3)),
            {},
            r"torch.float32 on cpu, torch.float64 on cpu; expected all",
        ),
        "labels from 1": (
            *plain(y=y + 1),
            r"y has integers from 1 to 3: expected 0 to 2, the model's outputs; relabel the classes",
        ),
        "one label too high": (
            *plain(y=torch.where(torch.arange(N) == 17, 3, 0)),
            r"y has integers from 0 to 3: expected 0 to 2",
        ),
        "one token too high": (
            embedding,
            {"x": torch.where(torch.arange(2 * N).view(N, 2) == 35, 4, 1)},
            r"x has integers from 1 to 4: .*unlike one of example 17",
        ),
        "x in float32": (
            *plain(x=x.float()),
            r"x is torch.float32 on cpu, the model torch.float64 on cpu: expected the same",
        ),
        "lengths in a dict": (
            *plain(x={"a": x, "b": x[:3]}),
            r"has 24 examples and x, further on, has 3: expected the same number",
        ),
        "numbers": (*plain(y=[1, 2]), r"y holds 1, of <class 'int'>: expected dense tensors or numpy arrays"),
        "sparse": (*plain(x=x.to_sparse()), r"x holds .*: expected dense tensors"),
        "no dimension": (*plain(x=(x, torch.tensor(1.0))), r"x or y has shape \(\): expected a row for each example"),
        "nothing": (*plain(x={}), r"x holds no tensor: expected at least one"),
        "a lazy layer": (nn.LazyLinear(3), {}, r"weight, bias: expected weights with numbers.*call the model once"),
        "a detached loss": (
            *plain(loss=lambda output, y: cross_entropy(output.detach(), y)),
            r"loss: depends on no trainable weight",
        ),
        "a loss that is a number": (
            *plain(loss=lambda output, y: 1.0),
            r"loss: gave shape float for a batch of one; expected a scalar",
        ),
        "a product of finite factors": (
            *plain(x=1e200 * x, loss=lambda output, y: 1e200 * output.sum()),
            r"gradients: NaN or infinity in row 0",
        ),
    }


@pytest.mark.parametrize("name", bad_problems())
def test_what_cannot_work_is_refused_before_any_work(name):
    model, options, message = bad_problems()[name]
    defaults = {"x": floats(), "y": tokens(high=CLASSES), "loss": cross_entropy}
    if name not in ("float16", "bfloat16", "two dtypes"):
        model = model.double()
    arguments = defaults | options
    with pytest.raises((ValueError, TypeError), match=message):
        gradients.chunks(model, arguments["loss"], arguments["x"], arguments["y"])


@pytest.mark.parametrize("model", [Noisy, lambda: attentive(0.3), lambda: nn.Sequential(nn.Linear(4, 3), nn.RReLU())])
def test_in_evaluation_mode_they_are_welcome(model):
    model = made(lambda: case(model()))[0].eval()
    x = (
        floats(5, 4)
        if isinstance(model, nn.Module) and hasattr(model, "net")
        else floats(next(model.parameters()).shape[1])
    )
    assert_right(model, cross_entropy, x, tokens(high=CLASSES))


def test_a_product_that_overflows_in_a_later_chunk_is_found_there():
    scale = torch.ones(500, dtype=torch.float64)
    scale[400] = 1e200
    model = nn.Linear(1, 1, bias=False).double()
    source = gradients.Network(model, lambda output, y: (y * output).sum(), scale[:, None], scale[:, None], chunk=50)
    with pytest.raises(ValueError, match="NaN or infinity in row 400"):
        list(source.parts())


def test_errors_of_the_network_and_of_the_loss_stay_what_they_are():
    model, loss, x, y = linear()
    with pytest.raises(RuntimeError, match="expected target dtype to be Long") as caught:
        gradients.chunks(model, loss, x, y.double())
    assert "the loss fails on a batch of one" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        gradients.chunks(model, loss, x[:, :2], y)
    assert "the model fails on a batch of one" in caught.value.__notes__[0]


def test_class_weights_cancel_in_a_mean_over_one_and_one_is_told():
    model, _, x, y = linear()
    w = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    with pytest.warns(UserWarning, match="which cancel in a batch of one: .* use reduction='sum'"):
        mean = gradients.per_example_gradients(model, nn.CrossEntropyLoss(weight=w), x, y)
    plain = gradients.per_example_gradients(model, cross_entropy, x, y)
    total = gradients.per_example_gradients(model, nn.CrossEntropyLoss(weight=w, reduction="sum"), x, y)
    assert torch.allclose(mean, plain, rtol=0, atol=1e-14)
    assert torch.allclose(total, w[y][:, None] * plain, rtol=0, atol=1e-14)
    assert "so that they cancel" in gradients.chunks.__doc__.replace("\n    ", " ")


# ---- the network stays as it was, and what was given is what is meant


class Remembering(nn.Module):
    """Keeps what it saw: in a buffer in place, in a new buffer, in an attribute."""

    def __init__(self):
        super().__init__()
        self.layer, self.last, self.seen = nn.Linear(FEATURES, CLASSES), None, 0
        self.register_buffer("sum", torch.zeros(CLASSES))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        out = self.layer(x) + self.sum + (0 if self.last is None else self.last)
        self.sum += out.detach().mean(0)
        self.count = self.count + 1
        self.last, self.seen = out.detach().mean(0), self.seen + 1
        return out


NETWORKS = {
    "remembering": Remembering,
    "old spectral_norm in training": lambda: normed(nn.utils.spectral_norm),
    "old weight_norm": lambda: normed(nn.utils.weight_norm),
    "instance-norm in training": lambda: nn.Sequential(
        nn.Unflatten(1, (1, FEATURES)),
        nn.InstanceNorm1d(1, track_running_stats=True),
        nn.Flatten(),
        nn.Linear(FEATURES, 3),
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_of_a_pass_stays_in_the_network(name):
    model, loss, x, y = made(lambda: case(NETWORKS[name]()))
    twin = copy.deepcopy(model) if name == "remembering" else None
    loss(model(x[:1]), y[:1]).backward()
    with torch.no_grad():
        model(x[:1])
    attributes = [dict(vars(module)) for module in model.modules()]
    values = {key: value.clone() for key, value in model.state_dict().items()}
    modes, slopes = [m.training for m in model.modules()], [p.grad.clone() for p in model.parameters()]
    torch.manual_seed(5)
    D = DiffusionMatrix.from_model(model, loss, x, y, "recomputed", chunk=10)
    D @ torch.ones(D.shape[0], dtype=torch.float64)
    drawn, _ = torch.rand(1), torch.manual_seed(5)
    assert drawn == torch.rand(1)
    assert [dict(vars(module)) for module in model.modules()] == attributes
    assert all(torch.equal(model.state_dict()[key], value) for key, value in values.items())
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(p.grad, slope) for p, slope in zip(model.parameters(), slopes, strict=True))
    assert twin is None or twin.seen == 0


def test_the_gradients_are_those_at_the_weights_when_they_were_asked_for():
    """Of a network that is trained, frozen and rebuilt afterwards, in the middle of a pass too."""
    model, loss, x, y = made(lambda: case(mlp(nn.LayerNorm(6))))
    exact = autograd_gradients(model, loss, x, y)
    source, V = gradients.Network(model, loss, x, y, chunk=5), torch.ones(exact.shape[1], dtype=torch.float64)
    D = DiffusionMatrix.from_model(model, loss, x, y, "recomputed", chunk=5)
    product, chunks = D @ V, source.chunks()
    first = next(chunks)
    with torch.no_grad():
        model[0].weight.mul_(2)
    model[0].bias.data += 1
    model[0].requires_grad_(False)
    model.train(not model.training)
    model[2] = nn.Linear(6, CLASSES).double()
    weights = [p.detach().clone() for p in model.parameters()]
    assert torch.allclose(torch.cat([first, *chunks]), exact, rtol=0, atol=1e-14)
    assert torch.equal(D @ V, product)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert not model[0].weight.requires_grad and model[2].weight.requires_grad


@pytest.mark.parametrize("which", ["x", "y"])
def test_a_change_of_the_examples_in_place_is_noticed(which):
    model, loss, x, y = linear()
    source = gradients.Network(model, loss, {"x": x}["x"], y, chunk=5)
    parts = source.parts()
    next(parts)
    {"x": x, "y": y}[which][0] = 0
    with pytest.raises(ValueError, match=r"x or y was changed in place after it was given; .*give a copy"):
        next(parts)


def test_arrays_of_numpy_are_copied():
    model, loss, x, y = linear()
    x, y = x.numpy(), y.numpy().astype(np.int64)
    source, exact = gradients.Network(model, loss, x, y), gradients.per_example_gradients(model, loss, x, y)
    x[:] = 0
    assert torch.equal(next(source.chunks()), exact)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("backend", ["auto", "recomputed"])
def test_networks_that_cannot_be_copied_have_a_diffusion_matrix(norm, backend):
    model, loss, x, y = made(lambda: case(normed(norm).eval()))
    loss(model(x[:1]), y[:1])
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    G = autograd_gradients(model, loss, x, y)
    D = DiffusionMatrix.from_model(model, loss, x, y, backend)
    v = torch.randn(G.shape[1], generator=generator(1), dtype=torch.float64)
    assert torch.allclose(D @ v, (G - G.mean(0)).T @ ((G - G.mean(0)) @ v) / N, rtol=0, atol=1e-12)


def test_hooks_and_losses_that_reach_weights_count_in_a_recomputed_matrix():
    model, _, x, y = made(lambda: case(mlp(nn.Tanh())))
    model[2].weight.register_hook(lambda g: 3 * g)
    loss = lambda output, y: cross_entropy(output, y) + (y == 1).sum() * model[0].weight.square().sum()  # noqa: E731
    G = autograd_gradients(model, loss, x, y)
    D = DiffusionMatrix.from_model(model, loss, x, y, "recomputed")
    assert D.trace() == pytest.approx((G - G.mean(0)).square().sum().item() / N, rel=1e-12)


def test_a_weight_without_a_part_in_the_loss_costs_no_second_pass():
    passes = []
    layers = {**first_and_last(), "unused": nn.Linear(2, 2)}
    problem = made(lambda: case(of(lambda m, x: passes.append(1) or m.last(m.first(x)), **layers)))
    source = gradients.Network(*problem, chunk=1)
    passes.clear()
    assert torch.cat(list(source.chunks())).shape == (N, source.d) and len(passes) == N


class OfItsOwn(torch.autograd.Function):
    """Computes a layer without a graph, and its gradients by a backward pass within the other."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.save_for_backward(x)
        ctx.layer = layer
        return layer(x)

    @staticmethod
    def backward(ctx, slope):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            ctx.layer(x).backward(slope)
        return x.grad, None


def test_weights_that_only_a_backward_pass_within_another_reaches_have_their_gradients():
    inner, last = nn.Linear(FEATURES, 4), nn.Linear(4, 3)
    own = made(
        lambda: case(of(lambda m, x: m.last(OfItsOwn.apply(x.requires_grad_(), m.inner)), inner=inner, last=last))
    )
    plain = of(lambda m, x: m.last(m.inner(x)), inner=own[0].inner, last=own[0].last)
    assert torch.equal(gradients.per_example_gradients(*own, chunk=1), autograd_gradients(plain, *own[1:]))


# ---- precision and memory


def test_gradients_are_computed_in_full_precision_whatever_is_allowed():
    backends, seen = torch.backends, []

    def switches():
        return torch.get_float32_matmul_precision(), backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32

    model = of(lambda m, x: seen.append(switches()) or m.layer(x), layer=nn.Linear(FEATURES, CLASSES))
    before = switches()
    torch.set_float32_matmul_precision("medium")
    try:
        allowed = switches()
        gradients.per_example_gradients(model, cross_entropy, torch.randn(N, FEATURES), tokens(high=3))
        assert set(seen) == {("highest", False, False)} and switches() == allowed
    finally:
        torch.set_float32_matmul_precision("highest")
    assert switches() == before


def test_gradients_and_products_are_those_without_autocast():
    model, loss, x, y = mlp(nn.Tanh()), cross_entropy, torch.randn(N, FEATURES), tokens(high=3)
    exact = gradients.per_example_gradients(model, loss, x, y)
    D = DiffusionMatrix.from_model(model, loss, x, y, "recomputed")
    V = torch.ones(exact.shape[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gradients.per_example_gradients(model, loss, x, y), exact)
        again = DiffusionMatrix.from_model(model, loss, x, y, "recomputed")
        assert again.trace() == D.trace() and torch.equal(again @ V, D @ V)


def test_experts_that_share_out_the_examples_are_computed_one_by_one():
    """Half of them each: no layer has a row for every example, and none has one for each of a chunk."""

    def shared_out(m, x):
        takes, out = x[:, 0] > 0, x.new_zeros(len(x), CLASSES)
        out[takes], out[~takes] = m.first(x[takes]), m.last(x[~takes])
        return out

    layers = {name: nn.Linear(FEATURES, CLASSES) for name in ("first", "last")}
    model, loss, x, y = made(lambda: case(of(shared_out, **layers)))
    x[:, 0] = torch.tensor([1.0, -1.0]).repeat(N // 2)
    how = assert_right(model, loss, x, y, chunk=10)
    assert how.startswith(LOOP + "a layer gets other rows than one for each example")


def test_what_holds_hooks_and_dtypes_is_part_of_the_state():
    model, loss, x, y = made(lambda: case(mlp(nn.Tanh())))
    source, exact = gradients.Network(model, loss, x, y), autograd_gradients(model, loss, x, y)
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    model.float()
    assert torch.allclose(next(source.chunks()), exact, rtol=0, atol=1e-14)
    assert model[0].weight.dtype == torch.float32 and len(model[0]._forward_hooks) == 1


def test_a_weighted_loss_with_smoothed_labels_is_not_refused_midway():
    model, _, x, y = linear()
    w = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    with pytest.warns(UserWarning, match="use reduction='sum'"):
        assert assert_right(model, nn.CrossEntropyLoss(weight=w, label_smoothing=0.1), x, y).startswith("vmap, since ")


def test_the_newer_switches_of_precision_are_respected():
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has none")
    switch = torch.backends.cuda.matmul
    before, switch.fp32_precision = switch.fp32_precision, "tf32"
    try:
        with full_precision():
            assert switch.fp32_precision == "ieee"
        assert switch.fp32_precision == "tf32"
    finally:
        switch.fp32_precision = before


def test_activations_count():
    """Many activations and few weights: a chunk is no longer as many gradients as fit."""
    wide = nn.Sequential(
        nn.Linear(1, 1),
        nn.Flatten(),
        nn.Unflatten(1, (1, 1)),
        nn.Upsample(2000),
        nn.Tanh(),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
    )
    x, y = torch.randn(60_000, 1), tokens(high=2)[:1].repeat(60_000)
    source = gradients.Network(wide.float(), cross_entropy, x, y)
    assert source.d == 2 and source.chunk < 60_000
    with Peak() as memory:
        next(source.parts())
    assert memory.bytes <= source.working_bytes * 1.05 <= 1.05 * 10 * gradients.CHUNK_BYTES["cpu"]
    assert memory.bytes >= 0.5 * source.working_bytes
    small = gradients.Network(wide, cross_entropy, x, y, chunk=100)
    assert small.working_bytes == pytest.approx(100 / source.chunk * source.working_bytes, rel=1e-6)


def test_for_the_networks_of_the_paper_the_size_of_the_gradients_decides():
    model, loss, x, y = network_problem("tiny-fc", 4000)
    assert gradients.Network(model, loss, x, y).chunk == gradients.CHUNK_BYTES["cpu"] // (8 * 1221)


def test_a_device_without_memory_is_an_error_with_advice(monkeypatch):
    source = gradients.Network(*linear())

    def fails(x, y):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.00 GiB")

    source._choice = source._choice._replace(way=fails)
    with pytest.raises(
        MemoryError,
        match=r"gradients of 24 examples, d = 18: .*: lower chunk, .*\(CUDA out of memory. Tried.*\)",
    ):
        next(source.parts())


def test_arrays_of_any_layout_are_welcome():
    layer, a, y = (
        torch.nn.Linear(4, 3),
        np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32),
        np.arange(6) % 3,
    )
    expected = torch.cat(list(gradients.chunks(layer, F.cross_entropy, a[::-1].copy(), y)))
    for other in (a[::-1], a[::-1].astype(">f4"), np.asfortranarray(a[::-1])):
        assert torch.equal(torch.cat(list(gradients.chunks(layer, F.cross_entropy, other, y))), expected)
