"""How strong the noise of a mini-batch is: the factor that multiplies ``D``, and the temperature."""

from sgdvi_lite import _checks


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
    N = _checks.count("N", N)
    _checks.argument("replacement", repr(replacement), replacement in (True, False), "True or False")
    if replacement:
        return 1 / _checks.count("b", b)
    b = _checks.count("b", b, high=N, remedy="without replacement a batch holds at most N examples")
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
    lr = _checks.positive("lr", lr)
    _checks.argument("N", N, N is not None or replacement, "the number of examples, since replacement=False")
    return lr / 2 * minibatch_factor(b if N is None else N, b, replacement)
