"""The workbook without a notebook: `python -m mclir_nb train --task dehaze --recipe tiny --seed 0 --out DIR`.

Thin on purpose: arguments in, one call, result out.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_origin

from mclir_nb import files, networks
from mclir_nb.data import checks, datasets, overlaps, tasks
from mclir_nb.data.patches import Benchmark
from mclir_nb.evaluation import evaluate, metrics
from mclir_nb.evaluation.restore import restore_file
from mclir_nb.experiments import evidence, measure, paper, plans, push_study, recording, verdicts
from mclir_nb.training import distributed, machine, recipes, records, train
from mclir_nb.training.recipes import Recipe


def main(argv: list[str] | None = None) -> int:
    """Run the command in `argv`, by default the command line's words.

    Returns: the exit status: 0, 1 for a user's error (one sentence on stderr), 130 interrupted.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file may have a name that this console cannot show
    arguments = _parser().parse_args(argv)
    try:
        arguments.call(arguments)
    except KeyboardInterrupt as stop:
        saves = arguments.call in (_train, _compare, _probe)
        told = "stopped; run the same command to go on from what was saved." if saves else "stopped."
        if distributed.is_first_rank():
            print(str(stop) or told, file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m mclir_nb", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, call: Callable, told: str) -> Callable:
        added = commands.add_parser(name, help=told, description=told, allow_abbrev=False)
        added.set_defaults(call=call)
        if name not in ("check-data", "probe"):
            added.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        return added.add_argument

    option = command("train", _train, "train one network with one objective")
    option("--recipe", help=f"{', '.join(recipes.names())}; default: demo")
    option("--task", help=f"{', '.join(tasks.names())}; default: dehaze")
    told = "a finished run: all of it goes on to --steps in the new folder --out, with its recipe but for what is given"
    option("--continue", dest="continues", metavar="RUN", default=argparse.SUPPRESS, help=told)
    option("--out", type=_path, required=True, help="the run folder")
    option("--no-resume", action="store_true", help="refuse a folder that already holds a run")
    option("--tensorboard", action="store_true", help="write TensorBoard scalars beside log.csv")
    option("--deterministic", action="store_true", help="on CUDA, the same bits each time; slower")
    fields = commands.choices["train"].add_argument_group("fields of the recipe", "default: the recipe's own")
    for name, field in Recipe.model_fields.items():
        if name not in ("name", "task", "continues"):
            told = " ".join((field.description or "").split()).replace("%", "%%")
            reading = _reading(field.annotation)
            fields.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=told, **reading)

    option = command("check-data", _check_data, "is a downloaded data set complete and usable?")
    option("name", help="such as reside-its, or folder for your own pictures")
    option("root", type=_path, help="the folder that holds the data set")
    option("--task", help="what its files are for, if not what it is published for")
    option("--scale", type=int, help="of super-resolution: 2, 3 or 4")
    option("--patch-size", type=_not_below(1), default=128, help="smaller training pictures are listed")

    evaluate_option = command("evaluate", _evaluate, "score a checkpoint on a benchmark")
    evaluate_option("benchmark", help="such as sots-indoor, set5, folder, or embedded")
    evaluate_option("root", type=_path, nargs="?", help="the folder that holds the benchmark")
    evaluate_option("--task", help="what the benchmark is scored for; default: what it is published for")
    told = "default: that of the paper's table for the task"
    evaluate_option("--protocol", choices=[*metrics.PROTOCOLS], help=told)
    evaluate_option("--crop", type=_not_below(0), help="border left out, in gt pixels; default: that of the task")
    evaluate_option("--out", type=_path, help="a new .csv file for one row per picture")
    restore_option = command("restore", _restore, "restore your own pictures")
    restore_option("pictures", nargs="+", type=_path, help="PNG, JPEG, TIFF, WebP or BMP files")
    restore_option("--task", help="what is wrong with them: dehaze, derain, deblur or sr")
    restore_option("--out", type=_path, help="a folder or a new .png file; default: beside each picture")
    for option in (evaluate_option, restore_option):
        option("--checkpoint", type=_path, help="a run folder, or a file of weights; default: what comes along")
        option("--network", help="which network the file is for; a run knows its own")
        option("--scale", type=int, help="of a super-resolution network: 2, 3 or 4 (the default); a run knows its own")
        option("--entry", help="which network of a file that holds several, such as params or params_ema")
        option("--tile", type=int, help="side of a tile in lq pixels; default: 1280")
        option("--ensemble", action="store_true", help="mean over 8 flips and rotations, 8 times slower")

    option = command("compare", _compare, "run an experiment: arms x seeds, and write its record")
    option("name", help="of the experiment, such as C1")
    option("--out", type=_path, help="folder of the runs; default: runs/NAME")
    option("--record", type=_path, help="folder of the record; default: data/records/NAME")
    option("--seeds", type=int, help="only the first so many of the decided seeds")
    option("--collect", action="store_true", help="run nothing: write the record of the finished seeds")
    option("--again", action="store_true", help="do what committed records hold as well, to compare; needs --record")
    option("--data-root", help="folder of the data set, if it is not embedded")
    option("--processes", type=int, help="so many runs at once, each in its own process")
    option("--scheduler", help="'local', or the address of a Dask scheduler")

    option = command("probe", _probe, "experiment P: does the push help where it is applied?")
    option("--out", type=_path, required=True, help="folder of the runs, about 3 GB; goes on if it is there")
    option("--data-root", help="folder of BSDS500; without it only the record is written, of what is there")
    option("--record", type=_path, help="folder of the record; default: data/records/P")

    option = command("measure", _measure, "check and time this machine, for the minutes that it is lent")
    folder = commands.choices["measure"].add_mutually_exclusive_group(required=True)
    folder.add_argument("--out", type=_path, help="a new folder for the results")
    folder.add_argument("--continue", type=_path, dest="begun", help="the folder of an earlier call, to go on in")
    option("--minutes", type=float, required=True, help="after which nothing more is begun, such as 8")
    option("--experiments", nargs="*", default=[], help="whose seeds are run with the time that is left")
    option("--data-root", help="folder of their data set, if it is not embedded")
    option("--rehearsal", action="store_true", help="small networks and patches, to try the command out")
    return parser


def _path(text: str) -> Path:
    """A path as it was typed, ~ included."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path would be the current folder; write . for that")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text}: the home folder is not known here, write the path out") from None


def _not_below(least: int) -> Callable[[str], int]:
    """How argparse reads a whole number that is at least so large."""

    def read(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)

    read.__name__ = "int"  # for argparse's own sentence
    return read


def _reading(annotation) -> dict:
    """How argparse reads a recipe field of this type; "None" where None is a value."""
    kinds = _kinds(annotation)
    if bool in kinds:
        return {"action": argparse.BooleanOptionalAction}
    kind = float if float in kinds else int if int in kinds else str

    def read(text: str):
        return None if type(None) in kinds and text in ("None", "none") else kind(text)

    read.__name__ = kind.__name__  # for argparse's own sentence
    several = {"nargs": "*"} if get_origin(annotation) is tuple else {}
    return {"type": read, "metavar": kind.__name__.upper()} | several


def _kinds(annotation) -> set:
    """The plain types that an annotation names."""
    if isinstance(annotation, type) and not get_args(annotation):
        return {annotation}
    return {kind for part in get_args(annotation) for kind in _kinds(part)}


def _train(arguments: argparse.Namespace) -> None:
    fields = {name: value for name, value in vars(arguments).items() if name in Recipe.model_fields and name != "task"}
    if "continues" in fields:
        if arguments.recipe or arguments.task or "steps" not in fields:
            raise ValueError("--continue takes the recipe and task of its run; give --steps, and leave these out.")
        recipe = records.read_recipe(Path(fields["continues"]).expanduser())
        recipe = recipe.replace(**dict(initial_weights=None, initial_entry=None) | fields)
    else:
        recipe = recipes.get(arguments.recipe or "demo", arguments.task or "dehaze", **fields)
    how = {name: getattr(arguments, name) for name in ("device", "tensorboard", "deterministic")}
    run = train.train(recipe, arguments.out, not arguments.no_resume, **how)
    if distributed.is_first_rank():
        print(run.scores.to_string(index=False, float_format="%.3f"))
        print(f"written to {run.dir}")


def _check_data(arguments: argparse.Namespace) -> None:
    task = arguments.task
    if arguments.scale is not None:
        task = tasks.get(task or datasets.fitting_task(arguments.name, "sr"), arguments.scale)
    report = checks.check_data(arguments.name, arguments.root, task, arguments.patch_size)
    print(report)
    if not report.ok:
        raise ValueError(f"{arguments.name} is not complete or not sound; see above.")


def _evaluate(arguments: argparse.Namespace) -> None:
    benchmark, out = arguments.benchmark, arguments.out
    if out and out.exists():
        raise ValueError(f"{out} exists and is never overwritten; choose another name.")
    if out and not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        why = "may not be written to" if out.parent.is_dir() else "does not exist"
        raise ValueError(f"{out} lies in a folder that {why}; choose another name.")
    network, run = _network(arguments)
    own = run.task if run else networks.NETWORKS[network.name].task
    name = arguments.task or datasets.fitting_task(benchmark, own)
    if run and not arguments.task and name != run.task:
        raise ValueError(
            f"{arguments.checkpoint} was trained to {run.task}, and {benchmark} is a benchmark of {name}; choose "
            f"another, or give --task {name} to score it all the same."
        )
    task = tasks.get(name, network.scale)
    root, learnt_from = arguments.root, None
    if run and arguments.checkpoint:
        root, learnt_from = records.where_data_lie(arguments.checkpoint, run, benchmark, root)
    images = datasets.open_set(benchmark, task, "test", root, trained_on=learnt_from)
    for line in filter(None, [images.note, *overlaps.overlap_warnings(run.dataset if run else "", benchmark)]):
        print(line)
    checks.check_scored(images, task)
    how = {name: getattr(arguments, name) for name in ("protocol", "crop", "tile", "ensemble")}
    scores = evaluate.evaluate(network, Benchmark(images, task), **how)
    print(scores.to_string(index=False, float_format="%.4f"))
    print(evaluate.summary(scores).to_string(float_format="%.4f"))
    if len(by_part := evaluate.parts(scores)) > 1:
        print(by_part.to_string(float_format="%.4f"))
    table = paper.beside_paper(scores, network.name, benchmark, network.scale)
    print(table.to_string(index=False, float_format="%.4f", na_rep=""))
    if out:
        facts = {key: scores.attrs[key] for key in ("protocol", "crop", "ensemble")}
        files.write_file(out, scores.assign(**facts).to_csv(index=False))
        print(f"written to {out}")


def _network(arguments: argparse.Namespace) -> tuple[networks.Restorer, Recipe | None]:
    """The trained network on its device, and the recipe of its run; None for a file of weights without a run.

    Such a file is used in the form in which its authors score it.
    """
    device, task = machine.pick_device(arguments.device), arguments.task
    if not arguments.checkpoint and not task:
        raise ValueError("give --task, such as dehaze, for the weights that come along, or --checkpoint for your own.")
    if arguments.network and not arguments.checkpoint:
        raise ValueError("--network is for --checkpoint, and the weights that come along know theirs; leave it out.")
    place = arguments.checkpoint or records.shipped(task, arguments.scale)
    network, recipe = records.open_checkpoint(place, arguments.network, arguments.scale, entry=arguments.entry)
    if not recipe:
        evaluate.as_published(network)
    return network.to(device), recipe


def _restore(arguments: argparse.Namespace) -> None:
    out = arguments.out
    failed: list[Path] = []
    originals, pictures = {(picture.parent, picture.stem) for picture in arguments.pictures}, []
    for picture in arguments.pictures:  # `restore *.png` finds the results of an earlier call too
        made = re.fullmatch(r"(.+)_restored(_\d+)?", picture.stem)
        if made and (picture.parent, made[1]) in originals:
            print(f"left out: {picture}, restored from {made[1]} before")
        else:
            pictures.append(picture)
    network, run = _network(arguments)
    if run and arguments.task not in (None, run.task):
        raise ValueError(f"{arguments.checkpoint} was trained to {run.task}; leave --task {arguments.task} out.")
    if out and not out.exists() and not out.suffix:
        out.mkdir(parents=True)
    if out and not out.is_dir() and len(pictures) > 1:
        raise ValueError(f"--out {out} is one file for {len(pictures)} pictures; give a folder.")
    for number, picture in enumerate(pictures):
        try:
            options = dict(tile=arguments.tile, ensemble=arguments.ensemble, quiet=False)
            print(f"restoring: {picture}", flush=True)
            print(f"written: {restore_file(network, picture, out, **options)}")
        except KeyboardInterrupt:
            done = f"{number - len(failed)} of {len(pictures)} pictures are written"
            raise KeyboardInterrupt(f"stopped: {done}; the first that is left is {picture}.") from None
        except (ValueError, OSError, RuntimeError) as error:
            if len(pictures) == 1:
                raise
            failed.append(picture)
            print(f"error: {error}", file=sys.stderr)
    if failed:
        raise ValueError(f"{len(failed)} of {len(pictures)} pictures were not restored: {', '.join(map(str, failed))}.")


def _compare(arguments: argparse.Namespace) -> None:
    experiment = plans.get(arguments.name)
    names = ("seeds", "data_root", "device", "processes", "scheduler", "again")
    how = {name: getattr(arguments, name) for name in names}
    if arguments.collect:
        folder = recording.write_record(experiment, arguments.out, arguments.record, arguments.again)
    else:
        folder = recording.run(experiment, arguments.out, folder=arguments.record, **how)
    whole = (folder / "runs.csv").is_file()
    print(verdicts.outcome(evidence.read_record(arguments.name, folder)) if whole else "No seed is finished yet.")
    if whole and arguments.again:
        print(recording.reproduced(experiment, folder))
    print(f"written to {folder}")


def _probe(arguments: argparse.Namespace) -> None:
    if arguments.data_root:
        push_study.run(arguments.out, arguments.data_root, arguments.record)
    print(f"written to {push_study.write_record(arguments.out, arguments.record)}")


def _measure(arguments: argparse.Namespace) -> None:
    how = {name: getattr(arguments, name) for name in ("device", "experiments", "data_root")}
    sizes = measure.REHEARSAL if arguments.rehearsal else measure.Sizes()
    folder, proceed = arguments.begun or arguments.out, bool(arguments.begun)
    if not measure.measure(folder, arguments.minutes, proceed=proceed, sizes=sizes, **how):
        raise ValueError(f"not everything is as it should be; see above, and the tables in {folder}.")
    print(f"written to {folder}")


if __name__ == "__main__":
    sys.exit(main())
