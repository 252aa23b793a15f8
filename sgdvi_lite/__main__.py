"""Command line: ``python -m sgdvi_lite list``, ``run EXPERIMENT``, ``show RESULT``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from sgdvi_lite import experiments, nets, reports, results, sgd
from sgdvi_lite.diffusion import LimitError

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
    return top


def _run_parser(run: argparse.ArgumentParser) -> None:
    run.add_argument("experiment", choices=list(experiments.PRESETS))
    run.add_argument(
        "--preset", default="lite", help="named settings (default: %(default)s); options below change them"
    )
    _options(run.add_argument_group("settings", "those that the experiment does not have are refused"))
    run.add_argument("--out", default=DEFAULT_FOLDER, help="folder of the results (default: %(default)s)")
    run.add_argument("--force", action="store_true", help="run again even if this result is there")
    run.add_argument("--keep", action="store_true", help="leave what was written on the way, as the recorded weights")
    run.add_argument("--no-progress", action="store_true", help="no progress bars")


def _options(group: argparse._ArgumentGroup) -> None:
    """Settings of the experiments under their own names; what is not given is None."""
    switch = argparse.BooleanOptionalAction
    group.add_argument("--data", help="name of a data set, or a .npz with x_train, y_train, x_test, y_test")
    group.add_argument("--net", choices=list(nets.NETWORKS))
    group.add_argument("--classes", type=_labels, metavar="LABELS", help="labels that are kept, such as 0,1,2,3,4")
    group.add_argument("--pool", type=int, metavar="SIDE", help="average the images down to SIDE x SIDE pixels")
    group.add_argument("--epochs", type=int)
    group.add_argument("--burn", type=int, help="epochs that are dropped before the statistics")
    group.add_argument("--lr", type=float, help="learning rate; of spectrum, the initial one")
    group.add_argument("--momentum", type=float)
    group.add_argument("--nesterov", action=switch)
    group.add_argument("--weight-decay", type=float)
    group.add_argument("--batch-size", type=int)
    group.add_argument("--sampling", choices=list(sgd.SAMPLINGS), help="how batches are drawn")
    group.add_argument("--batch-norm", action=switch, help="with or without these layers")
    group.add_argument("--examples", type=int, help="number of training examples over which D is computed")
    group.add_argument("--seed", type=int)
    group.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    group.add_argument(
        "--arithmetic", choices=["float64", "float32"], help="of D; float32 keeps the leading eigenvalues"
    )


def _labels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(label) for label in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected labels and commas, such as 0,1,2") from error


_NO_SETTINGS = ("command", "experiment", "preset", "out", "force", "keep", "no_progress")


def _run(args: argparse.Namespace) -> None:
    changes = {name: value for name, value in vars(args).items() if name not in _NO_SETTINGS}
    chosen = experiments.settings(args.experiment, args.preset, **changes)
    known = experiments.result_path(args.experiment, args.preset, chosen, args.out).exists() and not args.force
    options = {"progress": not args.no_progress, "force": args.force, "keep": args.keep}
    path = experiments.run(args.experiment, args.preset, chosen, folder=args.out, **options)
    print(reports.table(results.load(path)))
    print(f"\n{'already there' if known else 'saved'}: {path}\nfigure: {path.with_suffix('.svg')}")


def _list(args: argparse.Namespace) -> None:
    for experiment, presets in experiments.PRESETS.items():
        for preset, chosen in presets.items():
            print(f"{experiment} --preset {preset}: " + ", ".join(f"{k}={v}" for k, v in asdict(chosen).items()))
    print("networks: " + ", ".join(nets.NETWORKS))
    found = results.find(args.out)
    print("results: " + ("\n  ".join(["", *map(str, found)]) if found else f"none in {args.out}"))


def _show(args: argparse.Namespace) -> None:
    result = results.load(Path(args.result))
    print(reports.table(result) + "\n")
    print(json.dumps(result.provenance, indent=2))


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 after an error in the arguments or the data."""
    args = parser().parse_args(argv)
    try:
        {"run": _run, "list": _list, "show": _show}[args.command](args)
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError, LimitError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
