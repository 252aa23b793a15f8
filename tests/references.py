"""Slow twins of the fast methods: readable, and by different mathematics."""

import itertools
from fractions import Fraction

import torch


def autograd_gradients(model, loss, x, y):
    """Per-example gradients by one backward pass for each example."""
    rows = []
    for k in range(len(x)):
        model.zero_grad()
        loss(model(x[k : k + 1]), y[k : k + 1]).backward()
        rows.append(torch.cat([p.grad.reshape(-1).clone() for p in model.parameters()]))
    model.zero_grad()
    return torch.stack(rows)


def diffusion_from_pairs(G):
    """D as the average over pairs of examples: D = sum_kl (g_k - g_l)(g_k - g_l)^T / (2 N^2). No mean is subtracted."""
    N, d = G.shape
    D = torch.zeros(d, d, dtype=G.dtype)
    for k in range(N):
        difference = G[k] - G
        D += difference.T @ difference / (2 * N**2)
    return D


def minibatch_variance(values, b, replacement):
    """Variance of the mean of a batch of exact numbers, by enumeration of all batches."""
    N = len(values)
    batches = itertools.product(range(N), repeat=b) if replacement else itertools.combinations(range(N), b)
    means = [sum(values[i] for i in batch) / Fraction(b) for batch in batches]
    centre = sum(means) / len(means)
    return sum((m - centre) ** 2 for m in means) / len(means)


def plain_sgd(model, loss, x, y, generator, *, n_steps, b, lr, momentum, nesterov, weight_decay):
    """Weights at every step and losses of reshuffled SGD, by PyTorch's own optimiser, one module call at a time."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum, nesterov=nesterov, weight_decay=weight_decay)
    flat, losses, order = lambda: torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()]), [], []
    weights = [flat()]
    model.train()
    for _ in range(n_steps):
        if len(order) < b:
            torch.randint(2**31, (), generator=generator)
            order = torch.randperm(len(x), generator=generator)
        batch, order = order[:b], order[b:]
        optimizer.zero_grad()
        value = loss(model(x[batch]), y[batch])
        value.backward()
        optimizer.step()
        weights.append(flat())
        losses.append(value.item())
    return torch.stack(weights).numpy(), losses
