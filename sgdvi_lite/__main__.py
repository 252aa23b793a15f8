"""Command line: ``python -m sgdvi_lite list``, ``run EXPERIMENT``, ``show RESULT``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from sgdvi_lite import experiments, nets, reports, results
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
    run.add_argument("--data", help="name of a data set, or a .npz with x_train, y_train, x_test, y_test")
    run.add_argument("--net", choices=list(nets.NETWORKS))
    run.add_argument("--pool", type=int, metavar="SIDE", help="average the images down to SIDE x SIDE pixels")
    run.add_argument("--epochs", type=int)
    run.add_argument("--lr", type=float, help="initial learning rate")
    run.add_argument("--batch-size", type=int)
    run.add_argument("--examples", type=int, help="number of training examples over which D is computed")
    run.add_argument("--seed", type=int)
    run.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    run.add_argument("--arithmetic", choices=["float64", "float32"], help="of D; float32 keeps the leading eigenvalues")
    run.add_argument("--out", default=DEFAULT_FOLDER, help="folder of the results (default: %(default)s)")
    run.add_argument("--force", action="store_true", help="run again even if this result is there")
    run.add_argument("--no-progress", action="store_true", help="no progress bars")


def _run(args: argparse.Namespace) -> None:
    names = ("data", "net", "pool", "epochs", "lr", "batch_size", "examples", "seed", "device", "arithmetic")
    chosen = experiments.settings(args.experiment, args.preset, **{name: getattr(args, name) for name in names})
    known = experiments.result_path(args.experiment, args.preset, chosen, args.out).exists() and not args.force
    path = experiments.run(
        args.experiment, args.preset, chosen, folder=args.out, progress=not args.no_progress, force=args.force
    )
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
        print("stopped: the same command goes on after the last finished instant", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
