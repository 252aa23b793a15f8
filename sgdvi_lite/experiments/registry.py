"""Names, presets and settings of the experiments; what runs them and saves their results."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from sgdvi_lite import _checks, data, plots, results
from sgdvi_lite.data.dataset import is_file
from sgdvi_lite.experiments import gpu_check, ranks
from sgdvi_lite.experiments.noise import report as noise_report
from sgdvi_lite.experiments.noise import run as noise_run
from sgdvi_lite.experiments.spectrum import report as spectrum_report
from sgdvi_lite.experiments.spectrum import run as spectrum_run
from sgdvi_lite.experiments.temperature import report as temperature_report
from sgdvi_lite.experiments.temperature import run as temperature_run
from sgdvi_lite.experiments.trajectory import report as trajectory_report
from sgdvi_lite.experiments.trajectory import run as trajectory_run
from sgdvi_lite.tables import Table

Settings = (
    noise_run.NoiseSettings
    | spectrum_run.SpectrumSettings
    | temperature_run.TemperatureSettings
    | trajectory_run.TrajectorySettings
)


@dataclass(frozen=True)
class Experiment:
    """Settings by preset; what computes arrays and seconds, or goes on with a folder; a result's table and figure."""

    presets: dict[str, Settings]
    compute: Callable[[Settings, data.Dataset, Path, bool], tuple[dict, float]]
    table: Callable[[results.Result], Table]
    draw: Callable[[results.Result], Figure]


def _of(run, report) -> Experiment:
    """An experiment of its two modules, which have these parts by the same names."""
    return Experiment(run.PRESETS, run.compute, report.table, report.draw)


EXPERIMENTS = {
    "spectrum": _of(spectrum_run, spectrum_report),
    "trajectory": _of(trajectory_run, trajectory_report),
    "noise": _of(noise_run, noise_report),
    "temperature": _of(temperature_run, temperature_report),
}

PRESETS: dict[str, dict[str, Settings]] = {name: experiment.presets for name, experiment in EXPERIMENTS.items()}
"""Settings by experiment and preset: ``lite`` for two CPU cores, the others at the paper's size."""


def settings(experiment: str, preset: str, **changes) -> Settings:
    """Return the settings of a preset, with the changes that are not ``None``.

    Raises
    ------
    ValueError
        If the experiment, the preset or a setting is not known or not allowed.

    Examples
    --------
    >>> from sgdvi_lite import experiments
    >>> experiments.settings("spectrum", "lite", epochs=5, seed=None).epochs
    5
    """
    _checks.one_of("experiment", experiment, PRESETS)
    _checks.one_of("preset", preset, PRESETS[experiment])
    given, known = {name: v for name, v in changes.items() if v is not None}, asdict(PRESETS[experiment][preset])
    for name, value in given.items():
        fault = f"{name} = {value!r}: {experiment} has no such setting; it has {', '.join(known)}"
        _checks.require(name in known, fault)
    return replace(PRESETS[experiment][preset], **given)


def result_path(experiment: str, preset: str, chosen: Settings, folder: str | Path) -> Path:
    """File of a run: its name tells experiment, preset, network and data, and ends in a digest of all settings.

    Those that are as usual do not enter the digest, so that a new one changes no name. Where ``data`` is a file, its
    contents enter, so that a changed file is never taken for the old one.
    """
    told = {one.name: getattr(chosen, one.name) for one in fields(chosen) if getattr(chosen, one.name) != one.default}
    digest, file = hashlib.sha256(json.dumps(told, sort_keys=True).encode()), Path(chosen.data).expanduser()
    if is_file(chosen.data) and file.is_file():
        digest.update(file.read_bytes())
    return Path(folder) / f"{experiment}-{preset}-{chosen.net}-{Path(chosen.data).stem}-{digest.hexdigest()[:6]}.npz"


def run(
    experiment: str,
    preset: str,
    chosen: Settings,
    *,
    folder: str | Path,
    progress: bool = True,
    force: bool = False,
    keep: bool = False,
) -> Path:
    """Run an experiment, or go on with one that was stopped, and return its result's file; a figure lies beside it.

    Parameters
    ----------
    experiment, preset, chosen
        Names, and settings as made by :func:`settings`.
    folder
        Where the result goes; made if missing.
    progress
        Whether to show progress bars.
    force
        Run again even if this very result is there. One that is damaged is made again in any case.
    keep
        Leave what the run wrote on its way in ``....partial`` beside the result, such as the recorded weights.
    """
    path = result_path(experiment, preset, chosen, folder)
    file = next(filter(Path.is_file, path.parents), None)
    _checks.require(not file, f"folder = {str(folder)!r}: {str(file)!r} is a file; name a folder (--out)")
    if ranks.of_first(lambda: {"done": not force and finished(path)})["done"]:
        return path
    dataset, partial = prepare(chosen), path.with_suffix(".partial")
    arrays, seconds = EXPERIMENTS[experiment].compute(chosen, dataset, partial, progress)
    if ranks.place()[0] > 0:
        return path
    usual, told = asdict(PRESETS[experiment][preset]), asdict(chosen) | {"data": Path(chosen.data).name}
    changed = {name: told[name] for name in usual if told[name] != usual[name]}
    note = {"preset": preset, "seed": chosen.seed, "data_sha256": dataset.sha256, "device": chosen.device}
    note |= {"wall_seconds": seconds, "experiment": experiment, "processes": ranks.place()[1]}
    note |= {"settings": told, "changed_from_preset": list(changed), "data_source": dataset.source}
    note["command"] = " ".join([f"python -m sgdvi_lite run {experiment} --preset {preset}", *_options(changed)])
    results.save(path, arrays, results.provenance(**note))
    if not keep:
        shutil.rmtree(partial, ignore_errors=True)
    draw(results.load(path), path.with_suffix(".svg"))
    return path


def _options(changed: dict) -> list[str]:
    """Options of the command line for settings."""
    options = []
    for name, value in changed.items():
        option, tupled = name.replace("_", "-"), isinstance(value, tuple)
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        else:
            options.append(f"--{option} {','.join(map(str, value)) if tupled else value}")
    return options


def finished(path: Path) -> bool:
    """Whether a whole result is there, or a warning if it is damaged; its figure is drawn again if it is missing."""
    try:
        result = results.load(path)
    except FileNotFoundError:
        return False
    except ValueError as error:
        warnings.warn(f"{error}, as is done now", stacklevel=1)  # from here, so that two questions give one warning
        return False
    if not path.with_suffix(".svg").exists():
        draw(result, path.with_suffix(".svg"))
    return True


def prepare(chosen: Settings) -> data.Dataset:
    """Load the data of an experiment and preprocess it as the settings say."""
    return chosen.prepared(data.load(chosen.data, labels=chosen.labels))


def table(result: results.Result) -> Table:
    """Return the table of a result: rows for instants of ``spectrum`` and ``noise``, for findings of the others.

    ``print`` shows it as text, a notebook as HTML.
    """
    if result.provenance.get("experiment") == gpu_check.NAME:
        return gpu_check.table(result)
    return _made_by(result).table(result)


def origins(paths: Iterable[Path]) -> Table:
    """Return a table of saved results: commit, minutes, processor, where the data come from, and the command."""
    rows = []
    for path in paths:
        note = results.load(path).provenance
        told = (note.get(name) or "not recorded" for name in ("data_source", "command"))  # as by earlier versions
        rows.append((path.stem, note["commit"][:9], f"{note['wall_seconds'] / 60:.0f}", note["device"], *told))
    return Table(("result", "commit", "minutes", "device", "data", "command"), rows, left=2)


def draw(result: results.Result, path: Path | None = None) -> Figure:
    """Draw the figure of a result; save it as SVG if a path is given."""
    with rc_context(plots.STYLE):  # without pyplot, whose interactive mode a notebook turns on at the first figure
        figure = _made_by(result).draw(result)
        if path is not None:
            results.write_atomically(path, lambda file: figure.savefig(file, format="svg", metadata={"Date": None}))
    return figure


def _made_by(result: results.Result) -> Experiment:
    name = str(result.provenance.get("experiment"))
    _checks.one_of("experiment of this result", name, EXPERIMENTS)
    return EXPERIMENTS[name]
