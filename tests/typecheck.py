"""The checker of annotations under pytest: beartype, with an int for a float, and NumPy's numbers for Python's."""

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

NUMBERS = {int: int | np.integer, float: float | int | np.floating | np.integer}
check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict(NUMBERS)))
