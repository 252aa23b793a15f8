"""The diffusion matrix D(x) of Definition 1, and the temperature that multiplies it.

``D`` is the covariance of the per-example gradients, normalised by ``1/N``. Chapter 1 derives the formulas.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from sgdvi_lite import _backends, _checks, gradients, linalg

BACKENDS = ("auto", "dense", "gram")


def minibatch_factor(N: int, b: int, replacement: bool = True) -> float:
    """Variance of a mini-batch gradient in units of ``D``: var = minibatch_factor(N, b, replacement) * D.

    Parameters
    ----------
    N
        Number of examples.
    b
        Batch size; at most ``N`` without replacement.
    replacement
        With: ``1/b`` (equation (A1)). Without: ``(N - b) / (b (N - 1))`` (equation (A2), corrected; chapter 1).

    Raises
    ------
    ValueError
        If ``N`` or ``b`` is less than 1, or ``b > N`` without replacement.

    Examples
    --------
    >>> from sgdvi_lite import minibatch_factor
    >>> minibatch_factor(N=5, b=2), minibatch_factor(N=5, b=2, replacement=False)
    (0.5, 0.375)
    """
    _checks.count("N", N)
    if replacement:
        _checks.count("b", b)
        return 1 / b
    _checks.count("b", b, high=N, remedy="without replacement a batch holds at most N examples")
    return (N - b) / (b * (N - 1)) if N > 1 else 0.0


def temperature(lr: float, b: int, N: int | None = None, replacement: bool = True) -> float:
    """Temperature T = 1/beta = lr/2 * minibatch_factor of SGD, in continuous time (Lemma 2).

    Parameters
    ----------
    lr
        Learning rate; one step of SGD takes the time ``lr``.
    b
        Batch size.
    N
        Number of examples; needed only without replacement.
    replacement
        Whether examples are drawn with replacement.

    Raises
    ------
    ValueError
        If ``lr <= 0``, if ``N`` is missing where it is needed, or as in :func:`minibatch_factor`.

    Examples
    --------
    >>> from sgdvi_lite import temperature
    >>> temperature(lr=0.5, b=4)
    0.0625
    """
    _checks.positive("lr", lr)
    if N is None and not replacement:
        raise ValueError("N = None: expected the number of examples, since replacement=False")
    return lr / 2 * minibatch_factor(b if N is None else N, b, replacement)


class DiffusionMatrix:
    r"""The matrix :math:`D = \frac1N \sum_k g_k g_k^\top - g g^\top` of Definition 1.

    Make one with :meth:`from_gradients` or :meth:`from_model`. It acts as a symmetric positive semi-definite
    matrix of shape ``(d, d)`` that need not be stored: ``D @ v`` works for vectors and matrices.

    Attributes
    ----------
    N : int
        Number of examples.
    backend : str
        The back-end in use: ``dense`` stores ``(d, d)``, ``gram`` stores the centred gradients ``(N, d)``.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import DiffusionMatrix
    >>> D = DiffusionMatrix.from_gradients(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    >>> D.dense()
    tensor([[1., 0.],
            [0., 0.]])
    >>> D.trace(), D.rank(), D.backend
    (1.0, 1, 'dense')
    """

    def __init__(self, backend: _backends.Dense | _backends.Gram, N: int):
        self._backend, self.N = backend, N

    @classmethod
    def from_gradients(cls, gradients: Tensor, backend: str = "auto") -> DiffusionMatrix:
        """D from per-example gradients.

        Parameters
        ----------
        gradients
            Array ``(N, d)``, float32 or float64; one row for each example. It is not modified.
        backend
            ``dense``, ``gram``, or ``auto``: ``gram`` if N < d, else ``dense``.

        Raises
        ------
        ValueError
            If the array is not two-dimensional, has no examples, no columns, no floating-point numbers, or holds
            a NaN or an infinity; if the back-end is unknown.
        """
        if gradients.ndim != 2 or min(gradients.shape) < 1 or not gradients.is_floating_point():
            raise ValueError(
                f"gradients has shape {tuple(gradients.shape)} and {gradients.dtype}: expected floats of "
                "shape (N, d) with N >= 1 and d >= 1; put one example in each row"
            )
        _checks.finite("gradients", gradients)
        _checks.one_of("backend", backend, BACKENDS)
        return cls._build([gradients], *gradients.shape, backend)

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        loss: gradients.Loss,
        x: Tensor,
        y: Tensor,
        backend: str = "auto",
        *,
        chunk: int | None = None,
        progress: bool = False,
    ) -> DiffusionMatrix:
        """D of a network at its present weights, over the examples ``(x, y)``.

        Parameters
        ----------
        model, loss, x, y, chunk, progress
            As in :func:`sgdvi_lite.gradients.chunks`; in particular the network is in evaluation mode.
        backend
            As in :meth:`from_gradients`; ``dense`` streams the examples and never holds all gradients.

        Raises
        ------
        ValueError
            As in :func:`sgdvi_lite.gradients.chunks`, or if the back-end is unknown.

        Examples
        --------
        >>> import torch
        >>> from sgdvi_lite import DiffusionMatrix
        >>> model = torch.nn.Linear(3, 2)
        >>> x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
        >>> DiffusionMatrix.from_model(model, torch.nn.functional.cross_entropy, x, y).shape
        (8, 8)
        """
        _checks.one_of("backend", backend, BACKENDS)
        parts = gradients.chunks(model, loss, x, y, chunk=chunk, progress=progress)
        return cls._build(parts, len(x), gradients.count_parameters(model), backend)

    @classmethod
    def _build(cls, parts, N: int, d: int, backend: str) -> DiffusionMatrix:
        return cls(_backends.choose(backend, N, d).from_chunks(parts, N), N)

    @property
    def backend(self) -> str:
        """Name of the back-end in use."""
        return self._backend.name

    @property
    def shape(self) -> tuple[int, int]:
        """``(d, d)``."""
        d = self._backend.like.shape[1]
        return d, d

    @property
    def dtype(self) -> torch.dtype:
        """That of the gradients."""
        return self._backend.like.dtype

    @property
    def device(self) -> torch.device:
        """That of the gradients."""
        return self._backend.like.device

    def __matmul__(self, V: Tensor) -> Tensor:
        """Product with a vector ``(d,)`` or a matrix ``(d, m)``."""
        if V.ndim not in (1, 2) or V.shape[0] != self.shape[0]:
            raise ValueError(f"V has shape {tuple(V.shape)}: expected ({self.shape[0]},) or ({self.shape[0]}, m)")
        return self._backend.matmul(V)

    def dense(self) -> Float[Tensor, "d d"]:
        """The matrix itself, as a new array."""
        return self._backend.dense()

    def trace(self) -> float:
        """Sum of all eigenvalues: the mean squared distance of a gradient from the mean gradient."""
        return self._backend.trace()

    def frobenius_norm(self) -> float:
        """Square root of the sum of all squared eigenvalues."""
        return self._backend.frobenius_norm()

    @cached_property
    def _spectrum(self) -> Float[Tensor, " n"]:
        """Eigenvalues that may be non-zero: the largest min(N, d)."""
        return self._backend.eigenvalues()[: self.N]

    def eigenvalues(self, k: int | None = None) -> Float[Tensor, " k"]:
        """The ``k`` largest eigenvalues, by default all ``d``, largest first; negative rounding is given as zero."""
        d = self.shape[0]
        k = d if k is None else k
        _checks.count("k", k, high=d, remedy="the matrix has no more eigenvalues")
        known = self._spectrum[:k]
        return torch.cat([known, known.new_zeros(k - len(known))])

    def rank(self, eps: float | None = None) -> int:
        """Number of eigenvalues above ``lambda_max * d * eps``, by default with the epsilon of the gradients' dtype.

        Raises
        ------
        ValueError
            If ``eps`` is smaller than that epsilon: rounding errors would be counted.
        """
        own = torch.finfo(self.dtype).eps
        eps = own if eps is None else eps
        if eps < own:
            raise ValueError(f"eps = {eps}: expected >= {own} for {self.dtype} gradients; compute them in float64")
        return linalg.numerical_rank(self._spectrum, self.shape[0], eps)

    def stable_rank(self) -> float:
        """Trace over largest eigenvalue; see :func:`sgdvi_lite.linalg.stable_rank`."""
        return linalg.stable_rank(self._spectrum)

    def participation_ratio(self) -> float:
        """Squared trace over squared Frobenius norm; see :func:`sgdvi_lite.linalg.participation_ratio`."""
        frobenius = self.frobenius_norm()
        return (self.trace() / frobenius) ** 2 if frobenius > 0 else 0.0

    @cached_property
    def _root(self) -> Float[Tensor, "d m"]:
        return self._backend.square_root()

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw ``n`` Gaussian vectors with mean zero and covariance ``D``, one in each row.

        The normal numbers are drawn on the generator's device, so that a CPU generator gives the same on every device.
        """
        _checks.count("n", n)
        z = torch.randn(n, self._root.shape[1], generator=generator, device=generator.device, dtype=self.dtype)
        return z.to(self.device) @ self._root.T

    def to_scipy(self) -> LinearOperator:
        """As a :class:`scipy.sparse.linalg.LinearOperator`, for SciPy's iterative solvers, on the CPU."""

        def matmul(V):
            return (self @ torch.as_tensor(V, dtype=self.dtype, device=self.device)).cpu().numpy()

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(self.shape, matvec=matmul, rmatvec=matmul, matmat=matmul, dtype=dtype)

    def __repr__(self) -> str:
        return f"DiffusionMatrix(d={self.shape[0]}, N={self.N}, backend={self.backend!r}, dtype={self.dtype})"
