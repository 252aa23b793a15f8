"""What editors and type checkers read of ``sgdvi_lite``; at run time ``__getattr__`` serves the same names."""

from sgdvi_lite import data as data
from sgdvi_lite import diffusion as diffusion
from sgdvi_lite import experiments as experiments
from sgdvi_lite import fokker_planck as fokker_planck
from sgdvi_lite import gradients as gradients
from sgdvi_lite import ledger as ledger
from sgdvi_lite import linalg as linalg
from sgdvi_lite import minibatch as minibatch
from sgdvi_lite import nets as nets
from sgdvi_lite import ou as ou
from sgdvi_lite import plots as plots
from sgdvi_lite import reports as reports
from sgdvi_lite import results as results
from sgdvi_lite import sde as sde
from sgdvi_lite import series as series
from sgdvi_lite import sgd as sgd
from sgdvi_lite import slider as slider
from sgdvi_lite import symbolic as symbolic
from sgdvi_lite import tables as tables
from sgdvi_lite import thermo as thermo
from sgdvi_lite.diffusion import Certificate as Certificate
from sgdvi_lite.diffusion import DiffusionMatrix as DiffusionMatrix
from sgdvi_lite.diffusion import LimitError as LimitError
from sgdvi_lite.fokker_planck import FokkerPlanck as FokkerPlanck
from sgdvi_lite.minibatch import minibatch_factor as minibatch_factor
from sgdvi_lite.minibatch import temperature as temperature
from sgdvi_lite.ou import OrnsteinUhlenbeck as OrnsteinUhlenbeck

__version__: str
