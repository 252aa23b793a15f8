"""Names and what they cost: every public name of the flat library is where it was; rooms are imported when needed."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import sgdvi_lite

LIBRARY = Path(sgdvi_lite.__file__).parent
NAMES = {
    "sgdvi_lite": """
        Certificate DiffusionMatrix FokkerPlanck LimitError OrnsteinUhlenbeck data gradients ledger linalg
        minibatch_factor nets ou plots results sde series sgd slider symbolic temperature thermo
    """,
    "sgdvi_lite.data": """
        Dataset NAMES augment average_pool class_subset first gcn_zca load standardise
    """,
    "sgdvi_lite.diffusion": """
        BACKENDS Certificate DiffusionMatrix LimitError
    """,
    "sgdvi_lite.experiments": """
        PRESETS Settings Spectrum Trajectory error_rate prepare result_path run settings
    """,
    "sgdvi_lite.fokker_planck": """
        CONVENTIONS FokkerPlanck KEPT PIECES
    """,
    "sgdvi_lite.gradients": """
        CHUNK_BYTES Loss Network chunks per_example_gradients
    """,
    "sgdvi_lite.ledger": """
        Claim VERDICTS check default_path load
    """,
    "sgdvi_lite.linalg": """
        eigenvalues entropy_rank marchenko_pastur mean_and_std numerical_rank participation_ratio rank_threshold
        stable_rank
    """,
    "sgdvi_lite.minibatch": """
        minibatch_factor temperature
    """,
    "sgdvi_lite.nets": """
        NETWORKS Shape build count_parameters error_rate flat_parameters set_flat_parameters
    """,
    "sgdvi_lite.ou": """
        OrnsteinUhlenbeck RESONANT SINGULAR
    """,
    "sgdvi_lite.plots": """
        COLOURS GREY INK STYLE matrix shades spectrum threshold
    """,
    "sgdvi_lite.reports": """
        draw table
    """,
    "sgdvi_lite.results": """
        Result find load provenance save shipped
    """,
    "sgdvi_lite.sde": """
        Field euler_maruyama
    """,
    "sgdvi_lite.series": """
        Balance Estimate Line LinearProcess Scores ShortSeriesError Spectrum VelocityField area_by_lag
        area_scores autocorrelation autocorrelation_band batch_means brownian chosen_plane fit_linear
        increment_spectrum integrated_time lagged_covariance momentum_process phase_surrogate
        principal_components spectrum stationarity stochastic_area strongest_line time_reversed turning_plane
        velocity_field white_noise
    """,
    "sgdvi_lite.sgd": """
        Recording SAMPLINGS SGD Schedule Transform batches open_recording record replicas run
    """,
    "sgdvi_lite.slider": """
        Slider slider
    """,
    "sgdvi_lite.symbolic": """
        antisymmetric_field coordinates current div div_rows fokker_planck functional_derivative generator grad
        scalar_field symmetric_field vector_field
    """,
    "sgdvi_lite.thermo": """
        current dissipation entropy entropy_production free_energy gaussian_entropy gaussian_kl kl_divergence
        velocity
    """,
}
"""What could be imported from each module before the modules became rooms (version 0.1.0, 55 flat files)."""
SINCE = {
    "sgdvi_lite.data": "overflow",
    "sgdvi_lite.experiments": "NoiseSettings SpectrumSettings TemperatureSettings TrajectorySettings",
    "sgdvi_lite.fokker_planck": "Field",
    "sgdvi_lite.gradients": "Examples Source",
    "sgdvi_lite.linalg": "clipped_mean_and_std",
    "sgdvi_lite.minibatch": "MeasuredCovariance measured_covariance",
    "sgdvi_lite.nets": "CHANNELS_A_GROUP DROPOUT NORMS Network calibrate",
    "sgdvi_lite.series": "PowerSpectrum epoch_process holm trend",
    "sgdvi_lite.tables": "Table",
}
"""What became public with the rooms."""
FORMER = {"sgdvi_lite.experiments": {"Spectrum", "Trajectory"}, "sgdvi_lite.series": {"Spectrum"}}
"""Names that stay, but are no longer exported: their successors stand in ``SINCE``."""
HEAVY = {"IPython", "matplotlib", "numpy", "pooch", "scipy", "sklearn", "sympy", "torch", "tqdm", "yaml"}


def in_a_fresh_process(code):
    """What some code prints, as JSON, in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def public_modules():
    found = [*LIBRARY.glob("*.py"), *(path.parent for path in LIBRARY.glob("*/__init__.py"))]
    return {path.stem for path in found if not path.stem.startswith("_")}


@pytest.mark.parametrize("module", sorted({*NAMES, *SINCE}))
def test_a_public_name_is_still_where_it_was(module):
    names = [*NAMES.get(module, "").split(), *SINCE.get(module, "").split()]
    assert [name for name in names if not hasattr(import_module(module), name)] == []


@pytest.mark.parametrize("room", ["data", "diffusion", "experiments", "fokker_planck", "gradients", "series", "sgd"])
def test_what_a_room_exports_are_the_listed_names_without_the_former_ones(room):
    name = f"sgdvi_lite.{room}"
    listed = {*NAMES[name].split(), *SINCE.get(name, "").split()} - FORMER.get(name, set())
    assert set(import_module(name).__all__) == listed


def test_everything_is_an_attribute_after_the_plain_import():
    code = "import json, sgdvi_lite as s; print(json.dumps([n for n in {} if not hasattr(s, n)]))"
    paths = [name.removeprefix("sgdvi_lite.") for name in NAMES if name != "sgdvi_lite"]
    assert in_a_fresh_process(code.format([*NAMES["sgdvi_lite"].split(), *paths])) == []


def test_the_plain_import_brings_nothing_heavy():
    code = "import json, sys, sgdvi_lite; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    loaded = set(in_a_fresh_process(code))
    assert "sgdvi_lite" in loaded and loaded & HEAVY == set()


def test_all_rooms_and_names_are_listed_before_they_are_imported():
    listed = in_a_fresh_process("import json, sgdvi_lite; print(json.dumps(dir(sgdvi_lite)))")
    assert public_modules() <= set(sgdvi_lite.__all__) <= set(listed)


def test_type_checkers_read_the_names_that_are_served():
    tree = ast.parse((LIBRARY / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    read = {(node.module.removeprefix("sgdvi_lite").lstrip("."), item.name) for node in imports for item in node.names}
    assert all(item.asname == item.name for node in imports for item in node.names)  # else a stub keeps it to itself
    rooms = {("", name) for name in sgdvi_lite.__all__ if name not in sgdvi_lite._ROOM_OF}
    assert read == rooms | {(room, name) for name, room in sgdvi_lite._ROOM_OF.items()}


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'sgdvi_lite' has no attribute 'nothing'"):
        _ = sgdvi_lite.nothing


def test_the_names_of_the_quick_start_import_from_the_package():
    assert {"DiffusionMatrix", "minibatch_factor", "temperature", "sgd"} <= set(sgdvi_lite.__all__)
    assert all(hasattr(sgdvi_lite, name) for name in sgdvi_lite.__all__)
