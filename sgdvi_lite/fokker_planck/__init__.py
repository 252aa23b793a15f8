"""The Fokker-Planck equation in two dimensions, by finite volumes on a rectangle with zero-flux walls.

The tensor is split into diffusions along links between cells (``stencil``), and each link carries an exponentially
fitted flux. The result is the generator of a Markov chain on the cells: it conserves mass, never makes a density
negative, and its steady state is exact, cell by cell, where the effective drift is ``-D grad Phi`` with a quartic
``Phi``. Chapters 2 to 6 and 8 use it.

References
----------
Scharfetter and Gummel, Large-signal analysis of a silicon Read diode oscillator, IEEE Trans. Electron Devices 16
(1969), 64-77: the flux.
"""

from sgdvi_lite.fokker_planck.fields import Field
from sgdvi_lite.fokker_planck.solver import CONVENTIONS, KEPT, PIECES, FokkerPlanck

__all__ = ["CONVENTIONS", "KEPT", "PIECES", "Field", "FokkerPlanck"]
