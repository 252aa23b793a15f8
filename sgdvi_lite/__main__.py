"""Command line: ``python -m sgdvi_lite list``, ``run EXPERIMENT``, ``show RESULT``, ``shipped``, ``gpu-check``."""

import argparse
import json
import os
import sys
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

from sgdvi_lite import nets, results
from sgdvi_lite.diffusion import LimitError
from sgdvi_lite.experiments import gpu_check, ranks, registry
from sgdvi_lite.experiments.training import TrainingSettings

# Where results go, and are looked for, unless another folder is named
DEFAULT_FOLDER = "sgdvi-results"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m sgdvi_lite", description="Run the book's experiments.")
    commands = top.add_subparsers(dest="command", required=True)
    _run_parser(commands.add_parser("run", help="run an experiment, or go on with one that was stopped"))
    lister = commands.add_parser("list", help="list experiments, presets, networks and saved results")
    lister.add_argument("--out", default=DEFAULT_FOLDER, help="folder of the results (default: %(default)s)")
    shower = commands.add_parser("show", help="print the table and the provenance of a saved result")
    shower.add_argument("result", help="file of the result")
    commands.add_parser("shipped", help="list the results that come with the book, and what makes them again")
    checker = commands.add_parser("gpu-check", help="check the GPU here, in a few minutes")
    checker.add_argument("--data", dest="dataset", help="images, as of run (default: random ones)")
    checker.add_argument("--examples", type=int, default=50_000, help="number of examples of D (default: %(default)s)")
    checker.add_argument("--out", default=DEFAULT_FOLDER, help="folder of the result (default: %(default)s)")
    return top


def _run_parser(run: argparse.ArgumentParser) -> None:
    run.add_argument("experiment", choices=list(registry.PRESETS))
    run.add_argument("--preset", default="lite", help="named settings (default: %(default)s); options change them")
    _add_settings(run.add_argument_group("settings of every experiment"), TrainingSettings)
    for name, presets in registry.PRESETS.items():
        _add_settings(run.add_argument_group(f"settings of {name} alone, refused by others"), type(presets["lite"]))
    run.add_argument("--out", default=DEFAULT_FOLDER, help="folder of the results (default: %(default)s)")
    run.add_argument("--force", action="store_true", help="run again even if this result is there")
    run.add_argument("--keep", action="store_true", help="leave what was written on the way, as the recorded weights")
    run.add_argument("--no-progress", action="store_true", help="no progress bars")


def _add_settings(group: argparse._ArgumentGroup, settings: type[TrainingSettings]) -> None:
    """Options for the settings that a class adds to those it inherits; what is not given is None."""
    types = get_type_hints(settings)
    for field in fields(settings):
        if field.name in settings.__annotations__ and field.metadata:
            told = {name: told for name, told in field.metadata.items() if name != "check"}
            group.add_argument("--" + field.name.replace("_", "-"), **_option(types[field.name], field.default, **told))


def _option(kind: Any, default: Any, **option) -> dict:
    """Arguments of argparse for a setting of this type, from what its field tells."""
    if kind is bool:
        return option | {"action": argparse.BooleanOptionalAction}
    kind = (*get_args(kind), kind)[0]  # int of tuple[int, ...] and of int | None
    example = option.pop("example", default)
    if not isinstance(default, tuple):
        return option | {"type": kind}
    example = "such as " + ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in example)
    expected = f"{option['metavar'].lower()} and commas, {example}"
    return option | {"help": f"{option['help']}, {example}", "type": partial(_numbers, kind, expected)}


def _numbers(kind: type, expected: str, text: str) -> tuple:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}") from error


def _run(*, experiment: str, preset: str, out: str, force: bool, keep: bool, no_progress: bool, **changes) -> None:
    chosen = registry.settings(experiment, preset, **changes)
    known = registry.finished(registry.result_path(experiment, preset, chosen, out)) and not force
    with ranks.joined(chosen.device):
        first = ranks.place()[0] == 0
        progress = first and not no_progress
        path = registry.run(experiment, preset, chosen, folder=out, progress=progress, force=force, keep=keep)
        if first:
            print(registry.table(results.load(path)))
            print(f"\n{'already there' if known else 'saved'}: {path}\nfigure: {path.with_suffix('.svg')}")


def _list(*, out: str) -> None:
    for experiment, presets in registry.PRESETS.items():
        for preset, chosen in presets.items():
            print(f"{experiment} --preset {preset}: " + ", ".join(f"{k}={v}" for k, v in asdict(chosen).items()))
    print("networks: " + ", ".join(nets.NETWORKS))
    saved = results.find(out)
    print("results: " + ("\n  ".join(["", *map(str, saved)]) if saved else f"none in {out}"))


def _gpu_check(*, out: str, **options) -> int:
    path = gpu_check.run(out, **options)
    result = results.load(path)
    print(gpu_check.table(result), f"saved: {path}", sep="\n\n")
    return 0 if gpu_check.right(result).all() else 1


def _show(*, result: str) -> None:
    saved = results.load(Path(result))
    print(registry.table(saved), json.dumps(saved.provenance, indent=2), sep="\n\n")


def _shipped() -> None:
    print(registry.origins(results.shipped()))


# What torch says where there is no memory left, on a GPU and on a CPU
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 if a GPU is wrong, or 2 after an error in what is given."""
    args = vars(parser().parse_args(argv))
    try:
        commands = {"run": _run, "list": _list, "show": _show, "shipped": _shipped, "gpu-check": _gpu_check}
        return commands[args.pop("command")](**args) or 0
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError, LimitError) as error:
        return _fault(error)
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        return _fault(
            f"{str(error).splitlines()[0]} Lower --examples or --batch-size, take --arithmetic float32, or "
            "--device cpu; what else uses this device takes memory too. The same command goes on where it was"
        )
    except KeyboardInterrupt:
        print("stopped: the same command goes on where it was", file=sys.stderr)
        return 130


def _fault(error: object) -> int:
    """Say what is wrong, and which process of several says so."""
    number = int(os.environ.get("RANK", 0))
    print(f"error{f' in process {number}' if number else ''}: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
