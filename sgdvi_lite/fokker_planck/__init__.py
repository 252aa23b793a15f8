"""The Fokker-Planck equation in two dimensions, by finite volumes on a rectangle with zero-flux walls.

The result is the generator of a Markov chain on the cells: it conserves mass, never makes a density negative, and its
steady state is exact, cell by cell, where the effective drift is ``-D grad Phi`` with a quartic ``Phi``. Chapters 2 to
6 and 8 use it.
"""

from sgdvi_lite.fokker_planck.fields import Field
from sgdvi_lite.fokker_planck.solver import CONVENTIONS, KEPT, PIECES, FokkerPlanck

__all__ = ["CONVENTIONS", "KEPT", "PIECES", "Field", "FokkerPlanck"]
