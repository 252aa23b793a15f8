"""Slow twins of the fast methods: readable, and by different mathematics."""

import itertools
from fractions import Fraction

import torch
from torch.utils._pytree import tree_leaves, tree_map


def autograd_gradients(model, loss, x, y):
    """Per-example gradients by one backward pass for each example; inputs and outputs may be dicts and tuples."""
    weights, rows = [p for p in model.parameters() if p.requires_grad], []
    for k in range(len(next(iter(tree_leaves(x))))):
        for p in weights:
            p.grad = torch.zeros_like(p)
        x_k, y_k = (tree_map(lambda t, k=k: None if t is None else t[k : k + 1].clone(), tree) for tree in (x, y))
        value = loss(model(x_k), y_k)
        if value.requires_grad:
            value.backward()
        rows.append(torch.cat([p.grad.reshape(-1).clone() for p in weights]))
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


def direct_autocorrelation(x, lags):
    """Autocorrelation of one series by its sums, lag by lag."""
    n, mean = len(x), sum(x) / len(x)
    spread = sum((v - mean) ** 2 for v in x)
    return [sum((x[t] - mean) * (x[t + k] - mean) for t in range(n - k)) / spread for k in range(lags + 1)]


def shoelace(points):
    """Area of a closed polygon, counter-clockwise positive, as a sum of signed triangles with the first corner."""
    x0, y0 = points[0]
    triangles = itertools.pairwise(points[1:])
    return sum(((a - x0) * (d - y0) - (c - x0) * (b - y0)) / 2 for (a, b), (c, d) in triangles)


def kronecker_lyapunov(A, noise):
    """Solution of C = A C A^T + noise as one linear system for all entries of C."""
    m = len(A)
    operator = torch.eye(m * m, dtype=torch.float64) - torch.kron(torch.as_tensor(A), torch.as_tensor(A))
    return torch.linalg.solve(operator, torch.as_tensor(noise).reshape(-1)).reshape(m, m).numpy()


def periodograms(x, segment):
    """One-sided density by the definition: Hann windows that overlap by half, a Fourier sum for each frequency.

    Less the mean under the window, which takes 5/12 of white noise's power at the lowest frequency.
    """
    t, half = torch.arange(segment, dtype=torch.float64), segment // 2
    window = torch.sin(torch.pi * t / segment) ** 2
    found = []
    for first in range(0, len(x) - segment + 1, half):
        part = torch.as_tensor(x[first : first + segment])
        part = (part - part @ window / window.sum()) * window
        angles = 2 * torch.pi * torch.outer(torch.arange(1, half), t) / segment
        power = (angles.cos() @ part) ** 2 + (angles.sin() @ part) ** 2
        found.append(2 * power / (window**2).sum())
    density = torch.stack(found).mean(0).numpy()
    density[0] *= 12 / 7
    return density


def least_squares_moments(A, y, lr, b, sampling):
    """Exact stationary mean and covariance of constant-step SGD on f_k = (a_k . x - y_k)^2 / 2, after each step, or,
    reshuffled, after each epoch. One such unit is an affine map z -> M z + s with a finite number of equally likely
    (M, s), all enumerated; the moments are those that the average map leaves as they are.
    """
    maps = [_affine(A, y, lr, batches) for batches in _orders(len(A), b, sampling)]
    M, s = (torch.stack(part) for part in zip(*maps, strict=True))
    d = A.shape[1]
    eye = torch.eye(d * d, dtype=A.dtype)
    mean = torch.linalg.solve(torch.eye(d, dtype=A.dtype) - M.mean(0), s.mean(0))
    square = torch.stack([torch.kron(m, m) for m in M]).mean(0)
    cross = torch.einsum("kij,j,kl->il", M, mean, s) / len(M)
    rest = cross + cross.T + torch.einsum("ki,kj->ij", s, s) / len(s)
    second = torch.linalg.solve(eye - square, rest.reshape(-1)).reshape(d, d)
    return mean, second - torch.outer(mean, mean)


def _affine(A, y, lr, batches):
    M, s = torch.eye(A.shape[1], dtype=A.dtype), torch.zeros(A.shape[1], dtype=A.dtype)
    for batch in batches:
        a, target = A[list(batch)], y[list(batch)]
        step = torch.eye(A.shape[1], dtype=A.dtype) - lr * a.T @ a / len(a)
        M, s = step @ M, step @ s + lr * a.T @ target / len(a)
    return M, s


def _orders(N, b, sampling):
    """All equally likely sequences of batches of one unit."""
    if sampling == "with":
        return [[batch] for batch in itertools.product(range(N), repeat=b)]
    if sampling == "without":
        return [[batch] for batch in itertools.combinations(range(N), b)]
    return [[p[k : k + b] for k in range(0, N - b + 1, b)] for p in itertools.permutations(range(N))]
