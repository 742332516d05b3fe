"""The workbook without a notebook: `python -m mclir_nb train --task dehaze --recipe tiny --seed 0 --out DIR`.

Thin on purpose: arguments in, one call, result out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args, get_origin

from mclir_nb import files
from mclir_nb.training import distributed, recipes
from mclir_nb.training.recipes import Recipe


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 for a user's error (one sentence on stderr), 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.call(arguments)
    except KeyboardInterrupt as stop:
        if distributed.is_first():
            print(str(stop) or "stopped; run the same command to go on from what was saved.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mclir_nb", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="train one network with one objective"))
    _add_check_data(commands.add_parser("check-data", help="is a downloaded data set complete and usable?"))
    _add_evaluate(commands.add_parser("evaluate", help="score a checkpoint on a benchmark"))
    _add_restore(commands.add_parser("restore", help="restore your own pictures"))
    _add_compare(commands.add_parser("compare", help="run an experiment: arms x seeds, and write its record"))
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="demo", help=", ".join(recipes.names()))
    parser.add_argument("--task", default="dehaze")
    parser.add_argument("--out", type=Path, required=True, help="the run folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--no-resume", action="store_true", help="refuse a folder that already holds a run")
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard scalars beside log.csv")
    fields = parser.add_argument_group("fields of the recipe", "A field that is not given is the recipe's own.")
    for name, field in Recipe.model_fields.items():
        if name not in ("name", "task"):
            option, told = f"--{name.replace('_', '-')}", " ".join((field.description or "").split()).replace("%", "%%")
            fields.add_argument(option, default=argparse.SUPPRESS, help=told, **_reading(field.annotation))
    parser.set_defaults(call=_train)


def _reading(annotation) -> dict:
    """How argparse reads a recipe field of this type."""
    kinds = _kinds(annotation)
    if bool in kinds:
        return {"action": argparse.BooleanOptionalAction}
    kind = float if float in kinds else int if int in kinds else str

    def read(text: str):
        return None if type(None) in kinds and text in ("None", "none") else kind(text)

    read.__name__ = kind.__name__ + " or None" * (type(None) in kinds)  # for argparse's own sentence
    return {"type": read, "metavar": kind.__name__.upper()} | (
        {"nargs": "*"} if get_origin(annotation) is tuple else {}
    )


def _kinds(annotation) -> set:
    """The plain types that an annotation names."""
    if isinstance(annotation, type) and not get_args(annotation):
        return {annotation}
    return {kind for part in get_args(annotation) for kind in _kinds(part)}


def _train(arguments: argparse.Namespace) -> None:
    from mclir_nb.training.train import train

    fields = {name: value for name, value in vars(arguments).items() if name in Recipe.model_fields and name != "task"}
    recipe = recipes.get(arguments.recipe, arguments.task, **fields)
    run = train(
        recipe, arguments.out, not arguments.no_resume, device=arguments.device, tensorboard=arguments.tensorboard
    )
    if distributed.is_first():
        print(run.scores.to_string(index=False, float_format="%.3f"))
        print(f"written to {run.dir}")


def _add_check_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="such as reside-its, or folder for your own pictures")
    parser.add_argument("root", type=Path, help="the folder that holds the data set")
    parser.add_argument("--task", help="what its files are for, if not what it is published for")
    parser.add_argument("--scale", type=int, help="of super-resolution: 2, 3 or 4")
    parser.add_argument("--patch-size", type=int, default=128, help="smaller training pictures are listed")
    parser.set_defaults(call=_check_data)


def _check_data(arguments: argparse.Namespace) -> None:
    from mclir_nb.data import tasks
    from mclir_nb.data.checks import check_data

    task = tasks.get(arguments.task or "sr", arguments.scale) if arguments.scale else arguments.task
    report = check_data(arguments.name, arguments.root, task, arguments.patch_size)
    print(report)
    if not report.ok:
        raise ValueError(f"{arguments.name} is not complete or not sound; see above.")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", help="such as sots-indoor, set5, folder, or embedded")
    parser.add_argument("root", type=Path, nargs="?", help="the folder that holds the benchmark")
    _add_network(parser)
    parser.add_argument("--task", help="what the benchmark is scored for; default: what it is published for")
    parser.add_argument("--protocol", help="default: that of the paper's table for the task")
    parser.add_argument("--crop", type=int, help="border left out, in gt pixels; default: that of the task")
    parser.add_argument("--out", type=Path, help="a new .csv file for one row per picture")
    parser.set_defaults(call=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    from mclir_nb import networks
    from mclir_nb.data import datasets, overlaps, tasks
    from mclir_nb.data.patches import Benchmark
    from mclir_nb.evaluation import evaluate
    from mclir_nb.experiments import paper
    from mclir_nb.training import records

    network, benchmark = _network(arguments), arguments.benchmark
    run = records.Run(arguments.checkpoint).recipe if arguments.checkpoint.is_dir() else None
    if arguments.out and arguments.out.exists():
        raise ValueError(f"{arguments.out} exists and is never overwritten; choose another name.")
    network = network if run else evaluate.as_published(network)
    own = run.task if run else networks.NETWORKS[network.name].task
    task = tasks.get(arguments.task or datasets.fitting_task(benchmark, own), network.scale)
    images = datasets.open_set(benchmark, task, "test", arguments.root)
    for line in filter(None, [images.note, *overlaps.overlap_warnings(run.dataset if run else "", benchmark)]):
        print(line)
    scores = evaluate.evaluate(
        network,
        Benchmark(images, task),
        arguments.protocol,
        arguments.crop,
        tile=arguments.tile,
        ensemble=arguments.ensemble,
    )
    print(scores.to_string(index=False, float_format="%.4f"))
    print(evaluate.summary(scores).to_string(float_format="%.4f"))
    if len(by_part := evaluate.parts(scores)) > 1:
        print(by_part.to_string(float_format="%.4f"))
    table = paper.beside_paper(scores, network.name, benchmark, network.scale)
    print(table.to_string(index=False, float_format="%.4f", na_rep=""))
    if arguments.out:
        facts = {key: scores.attrs[key] for key in ("protocol", "crop", "ensemble")}
        files.write_file(arguments.out, scores.assign(**facts).to_csv(index=False))
        print(f"written to {arguments.out}")


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run folder, or a file of weights")
    parser.add_argument("--network", help="which network the file is for; a run folder knows its own")
    parser.add_argument("--scale", type=int, default=1, help="of a super-resolution network: 2, 3 or 4")
    parser.add_argument("--tile", type=int, help="side of a tile in lq pixels; default: 1280")
    parser.add_argument("--ensemble", action="store_true", help="mean over 8 flips and rotations, 8 times slower")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_restore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", nargs="+", type=Path, help="PNG, JPEG, TIFF, WebP or BMP files")
    parser.add_argument("--out", type=Path, help="a folder or a new .png file; default: beside each picture")
    _add_network(parser)
    parser.set_defaults(call=_restore)


def _restore(arguments: argparse.Namespace) -> None:
    from mclir_nb.evaluation.restore import restore_file

    network = _network(arguments)
    options = dict(tile=arguments.tile, ensemble=arguments.ensemble, quiet=False)
    for picture in arguments.pictures:
        print(f"written: {restore_file(network, picture, arguments.out, **options)}")


def _network(arguments: argparse.Namespace):
    """The trained network of a run folder, or the one named with the weights of a file, on its device."""
    from mclir_nb import networks
    from mclir_nb.training import records
    from mclir_nb.training.train import pick_device

    device = pick_device(arguments.device)
    if arguments.checkpoint.is_dir():
        return records.Run(arguments.checkpoint).model().to(device)
    if arguments.network is None:
        raise ValueError(f"give --network for a file of weights; one of {', '.join(networks.names())}.")
    network = networks.build(arguments.network, arguments.scale)
    return networks.load_checkpoint(network, arguments.checkpoint).to(device)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the experiment, such as C1")
    parser.add_argument("--out", type=Path, help="folder of the runs; default: runs/NAME")
    parser.add_argument("--record", type=Path, help="folder of the record; default: data/records/NAME")
    parser.add_argument("--seeds", type=int, help="only the first so many of the decided seeds")
    parser.add_argument("--data-root", help="folder of the data set, if it is not embedded")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--processes", type=int, help="so many runs at once, each in its own process")
    parser.add_argument("--scheduler", help="'local', or the address of a Dask scheduler")
    parser.set_defaults(call=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    from mclir_nb.experiments import evidence

    experiment = evidence.get(arguments.name)
    folder = evidence.run(
        experiment,
        arguments.out,
        seeds=arguments.seeds,
        folder=arguments.record,
        data_root=arguments.data_root,
        device=arguments.device,
        processes=arguments.processes,
        scheduler=arguments.scheduler,
    )
    print(evidence.outcome(evidence.read_record(arguments.name, folder), experiment.baseline))
    print(f"written to {folder}")


if __name__ == "__main__":
    sys.exit(main())
