"""The matrix of Definition 1 as an object: products, trace, eigenvalues, rank, samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, distributed, nn

from sgdvi_lite import _checks, gradients, linalg
from sgdvi_lite._storage.files import digest
from sgdvi_lite._storage.folder import Checkpoints
from sgdvi_lite.diffusion import keeping
from sgdvi_lite.diffusion import plan as plans
from sgdvi_lite.diffusion.base import Gradients
from sgdvi_lite.diffusion.certificates import Certificate
from sgdvi_lite.diffusion.eigenvalues import Eigenvalues
from sgdvi_lite.diffusion.ranks import Ranks, together
from sgdvi_lite.gradients.source import Given

BACKENDS = ("auto", *plans.BACKENDS)
Array = Tensor | np.ndarray


class DiffusionMatrix:
    r"""The matrix :math:`D = \frac1N \sum_k g_k g_k^\top - g g^\top` of Definition 1.

    Make one with :meth:`from_gradients` or :meth:`from_model`. It acts as a symmetric positive semi-definite
    matrix of shape ``(d, d)`` that need not be stored: ``D @ v`` works for vectors and matrices.

    Attributes
    ----------
    N : int
        Number of examples.
    backend : str
        The back-end in use: ``dense`` stores ``(d, d)``; ``gram`` stores ``(N, N)`` and the gradients, those of linear
        layers as factors; ``recomputed`` stores neither and computes the gradients anew for each product. Where ``d``
        is large and all gradients fit beside ``(d, d)``, ``dense`` keeps them too. With kept gradients the matrix is
        formed only when all its eigenvalues, its norm or itself are asked for; products do without, and ranks of large
        matrices.
    how : str
        What was chosen and why: back-end, memory, way of computing the gradients, and of the last eigenvalues.

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

    def __init__(self, gradients: Gradients, backend: str, memory: float | None):
        source, ranks = gradients.source, gradients.ranks
        limit = min(ranks.collect(int(memory or plans.available(source.like.device))))  # all ranks choose alike
        alone = ranks.size == 1 and gradients.states.folder is None  # a folder keeps the matrix so far
        plan = plans.choose(backend, source, ranks.total, limit, alone)
        self.N = ranks.total
        with plans.computing(plan.kind.remedy):
            self._backend = plan.kind.build(gradients)
        self._eigenvalues = Eigenvalues(self._backend, plan, gradients.progress, gradients.states)

    @classmethod
    def from_gradients(
        cls, gradients: Array, backend: str = "auto", *, memory: float | None = None, progress: bool = False
    ) -> DiffusionMatrix:
        """D from per-example gradients.

        Parameters
        ----------
        gradients
            Array ``(N, d)``, float32 or float64, of torch or NumPy; one row for each example. It is not modified, and
            must not be while ``recomputed`` uses it, which notices. What is NumPy's is copied.
        backend
            ``dense``, ``gram``, ``recomputed``, or ``auto``: ``gram`` if N < d, else ``dense``; if that does not fit
            ``memory``, ``recomputed``.
        memory
            Most bytes to use; by default 80 % of what is free on the device.
        progress
            Whether to show progress bars.

        Raises
        ------
        ValueError
            If the array is not two-dimensional and dense, has no examples, no columns, other numbers than float32 or
            float64, a NaN or an infinity, or numbers whose squares leave the range of the dtype; if the back-end is
            unknown.
        TypeError
            If it is neither torch's nor NumPy's, such as a list.
        MemoryError
            Before any work, if the back-end asked for does not fit ``memory``.
        """
        backend = _checked(backend, memory)
        G = _as_gradients(gradients)
        return cls(Gradients(Given(G), Ranks(None, len(G)), progress), backend, memory)

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        loss: gradients.Loss,
        x: gradients.Examples,
        y: gradients.Examples,
        backend: str = "auto",
        *,
        chunk: int | None = None,
        memory: float | None = None,
        group: distributed.ProcessGroup | None = None,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> DiffusionMatrix:
        """D of a network at its present weights, over the examples ``(x, y)``.

        Parameters
        ----------
        model, loss, x, y, chunk
            As in :func:`sgdvi_lite.gradients.chunks`; in particular the network is in evaluation mode.
        backend, memory, progress
            As in :meth:`from_gradients`; ``recomputed`` never holds all gradients.
        group
            A process group of ``torch.distributed``, such as ``torch.distributed.group.WORLD``, over whose ranks the
            examples are spread: each rank gives its own ``x`` and ``y``, and has the same matrix afterwards. All ranks
            call each method.
        folder
            Where to keep what is done, every minute or more rarely: the matrix of ``dense`` so far (all of its size),
            the passes of ``recomputed``, and the Krylov spaces. The same call goes on from there. Not for a group.

        Raises
        ------
        ValueError
            As in :func:`sgdvi_lite.gradients.chunks`; if the back-end is unknown; if the ranks of the group differ in
            ``d``, weights, dtype or back-end; if the folder holds another computation or other files. Later, if
            ``recomputed`` finds that what it computes from has changed.
        RuntimeError
            On the other ranks of a group, if one of them has failed.
        BlockingIOError
            If another process computes in that folder.
        MemoryError
            As in :meth:`from_gradients`.

        Notes
        -----
        A script for several ranks, started by ``torchrun --nproc-per-node=2 script.py``, has these lines around it::

            torch.distributed.init_process_group("gloo")  # "nccl" with a GPU for each rank, and then
            # torch.cuda.set_device(int(os.environ["LOCAL_RANK"])) before all else, as NCCL uses the current device
            rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
            world = torch.distributed.group.WORLD
            D = DiffusionMatrix.from_model(model, loss, x[rank::ranks], y[rank::ranks], group=world)
            print(rank, D.rank())  # on all ranks: each of them calls each method
            torch.distributed.destroy_process_group()

        Examples
        --------
        >>> import torch
        >>> from sgdvi_lite import DiffusionMatrix
        >>> model = torch.nn.Linear(3, 2)
        >>> x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
        >>> D = DiffusionMatrix.from_model(model, torch.nn.functional.cross_entropy, x, y)
        >>> D.shape, D.backend, D.plan.gradients
        ((8, 8), 'gram', 'layer by layer')
        """

        def made() -> tuple[str, gradients.Network, Checkpoints]:
            """What may be refused on one rank and not on another."""
            name = _checked(backend, memory)
            net = gradients.Network(model, loss, x, y, chunk)
            return name, net, keeping.of_network(folder, net, group)

        name, net, states = together(group, made)
        ranks = Ranks(group, net.N)
        if group is not None:
            weights = digest(*model.state_dict().values())
            ranks.agree(d=net.d, dtype=net.like.dtype, backend=name, weights=weights)
        return cls(Gradients(net, ranks, progress, states), name, memory)

    @property
    def backend(self) -> str:
        """Name of the back-end in use."""
        return self._backend.name

    @property
    def shape(self) -> tuple[int, int]:
        """``(d, d)``."""
        return self._backend.d, self._backend.d

    @property
    def dtype(self) -> torch.dtype:
        """That of the gradients."""
        return self._backend.like.dtype

    @property
    def device(self) -> torch.device:
        """That of the gradients."""
        return self._backend.like.device

    def __matmul__(self, V: Array) -> Tensor:
        """Product with a vector ``(d,)`` or a matrix ``(d, m)``, of the dtype and on the device of ``D``."""
        V = torch.from_numpy(V.copy()) if isinstance(V, np.ndarray) else V
        if not isinstance(V, Tensor):
            raise TypeError(
                f"V is a {type(V).__name__}: expected a tensor or NumPy array, ({self.shape[0]},) or more columns"
            )
        if V.ndim not in (1, 2) or V.shape[0] != self.shape[0]:
            raise ValueError(f"V has shape {tuple(V.shape)}: expected ({self.shape[0]},) or ({self.shape[0]}, m)")
        if V.dtype != self.dtype:
            raise ValueError(f"V is {V.dtype}, D is {self.dtype}: expected the same; convert V with .to(D.dtype)")
        if V.device != self.device:
            raise ValueError(f"V is on {V.device}, D on {self.device}: expected the same; move V with .to(D.device)")
        with plans.computing("multiply with fewer columns at once"):
            return self._backend.matmul(V)

    @property
    def plan(self) -> plans.Plan:
        """What was chosen and why; its text is :attr:`how`."""
        return self._eigenvalues.plan

    @property
    def how(self) -> str:
        """Back-end, memory and method, and why."""
        return str(self.plan)

    def dense(self) -> Float[Tensor, "d d"]:
        """The matrix itself, as a new array."""
        with plans.computing("multiply with it instead"):
            return self._backend.dense()

    def trace(self) -> float:
        """Sum of all eigenvalues: the mean squared distance of a gradient from the mean gradient."""
        return self._backend.trace

    def frobenius_norm(self) -> float:
        """Square root of the sum of all squared eigenvalues, exact for every back-end.

        With ``recomputed`` it costs a pass over the gradients for every 2,048 columns.
        """
        with plans.computing("lower chunk"):
            return self._backend.frobenius_norm

    def mean_and_std(self) -> tuple[float, float]:
        """Mean and standard deviation of all ``d`` eigenvalues, from trace and Frobenius norm; see chapter 9."""
        return linalg.mean_and_std(self.trace(), self.frobenius_norm(), self.shape[0])

    def eigenvalues(self, k: int | None = None) -> Float[Tensor, " k"]:
        """The ``k`` largest eigenvalues, by default all ``d``, largest first; negative rounding is given as zero.

        Raises
        ------
        ValueError
            If ``k > d``, or if all are asked of the back-end ``recomputed``.
        MemoryError
            If all are asked and do not fit.
        LimitError
            If the Krylov space would outgrow the memory; the message says how far it got.
        """
        if k is None and not self._backend.stored:
            raise ValueError("k = None: backend 'recomputed' gives leading eigenvalues; give k, or use backend='dense'")
        k = _checks.count(
            "k", self.shape[0] if k is None else k, high=self.shape[0], remedy="the matrix has no more eigenvalues"
        )
        return self._eigenvalues.largest(k)

    def rank(self, eps: float | None = None) -> int:
        """Number of eigenvalues above ``lambda_max * d * eps``, by default with the epsilon of the gradients' dtype.

        Raises
        ------
        ValueError
            If ``eps`` is smaller than that epsilon: rounding errors would be counted.
        LimitError
            As in :meth:`eigenvalues`, with the back-end ``recomputed``.
        """
        return self.rank_certificate(eps).count

    def rank_certificate(self, eps: float | None = None) -> Certificate:
        """The eigenvalues that :meth:`rank` counts, and the reason why there are no more; errors as there.

        For a large matrix block Lanczos is tried first. If more than a quarter of the eigenvalues are wanted, all
        those of a stored matrix are computed instead; ``how`` says which it was.

        Examples
        --------
        >>> import torch
        >>> from sgdvi_lite import DiffusionMatrix
        >>> found = DiffusionMatrix.from_gradients(torch.eye(3)).rank_certificate()
        >>> found.count, found.kind, found.failure_probability
        (2, 'full', 0.0)
        """
        least = torch.finfo(self.dtype).eps
        eps = least if eps is None else _checks.positive("eps", eps)
        if eps < least:
            raise ValueError(f"eps = {eps}: expected >= {least} for {self.dtype} gradients; compute them in float64")
        found = self._eigenvalues.above(eps)
        return replace(found, values=found.values.clone(), residuals=found.residuals.clone())  # the others are kept

    def stable_rank(self) -> float:
        """Trace over largest eigenvalue; see :func:`sgdvi_lite.linalg.stable_rank`."""
        largest = self.eigenvalues(1).item()
        return self.trace() / largest if largest > 0 else 0.0

    def participation_ratio(self) -> float:
        """Squared trace over squared Frobenius norm; see :func:`sgdvi_lite.linalg.participation_ratio`."""
        frobenius = self.frobenius_norm()
        return (self.trace() / frobenius) ** 2 if frobenius > 0 else 0.0

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw ``n`` Gaussian vectors with mean zero and covariance ``D``, one in each row.

        The normal numbers are drawn on the generator's device, so that a CPU generator gives the same on every device.
        """
        n = _checks.count("n", n)
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator = {generator!r}: expected a torch.Generator, such as torch.Generator()")
        z = torch.randn(n, self._backend.noise, generator=generator, device=generator.device, dtype=self.dtype)
        with plans.computing("draw fewer at once"):
            return self._backend.root_matmul(z.to(self.device).T).T

    def to_scipy(self) -> LinearOperator:
        """As a :class:`scipy.sparse.linalg.LinearOperator`, for SciPy's iterative solvers, on the CPU."""

        def matmul(V):
            _checks.require(not np.iscomplexobj(V), "V is complex: expected real vectors; multiply its two parts")
            return (self @ torch.as_tensor(V.copy(), dtype=self.dtype, device=self.device)).cpu().numpy()

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(self.shape, matvec=matmul, rmatvec=matmul, matmat=matmul, dtype=dtype)

    def __repr__(self) -> str:
        return f"DiffusionMatrix(d={self.shape[0]}, N={self.N}, backend={self.backend!r}, dtype={self.dtype})"


def _checked(backend: str, memory: float | None) -> str:
    """The present name of a back-end, or raise before any work if there is none of that name or no memory."""
    backend = plans.ALIASES.get(backend, backend)
    _checks.one_of("backend", backend, BACKENDS)
    if memory is not None:
        _checks.positive("memory", memory)
    return backend


def _as_gradients(array: object) -> Tensor:
    """Gradients (N, d) without a graph, or raise unless they are finite float32 or float64."""
    if isinstance(array, np.ndarray) and array.dtype.kind in "fiu" and not isinstance(array, np.ma.MaskedArray):
        array = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))  # a copy: who knows who writes
    if not isinstance(array, Tensor):
        raise TypeError(
            f"gradients is a {type(array).__name__}: expected a tensor or a NumPy array of float32 or float64, "
            "(N, d); convert it with torch.tensor"
        )
    array = array.detach()
    _checks.require(
        array.layout == torch.strided
        and (array.dtype in (torch.float32, torch.float64) or not array.is_floating_point()),
        f"gradients has {array.dtype} and layout {array.layout}: expected floats of torch.float32 or torch.float64, "
        "dense; convert it with .to_dense() or .to(torch.float32)",
    )
    _checks.rows("gradients", array, "(N, d) with N >= 1 and d >= 1; put one example in each row")
    return array
