"""``neuralprep train``: train a network from label maps, shapes or real images; resume, fine-tune, export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuralprep.training.loop import Trainer
    from neuralprep.training.recipe import Recipe

VARIANTS = ("npp", "unet", "unet-stn", "umirgpit")

_TRAINING_ONLY = ("init", "precision", "variant", "real", "real_share", "export")

EPILOG = """\
recipes: npp (the default network), npp-finetune (goes on from its weights: --init npp), npp-close (the
second look: --init npp), npp-fine (that once more, wider: --init npp_close), strip (its stripping part),
shapes (strip, from made-up heads alone), mindgrab, mindgrab-2mm and mindgrab-4mm, pumba (as published), pair (velocity
between two brains), ablation (--variant). A recipe is a short TOML file: copy and change one.
Several GPUs: torchrun --nproc-per-node N -m neuralprep train RECIPE ...
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb."""
    parser = subparsers.add_parser(
        "train",
        help="train a network from label maps, or a smoke test of it",
        description=(
            "Train from a recipe. The same command resumes a stopped run from its last checkpoint. "
            "--pack turns a folder of whole-head label maps into the atlas file that training reads."
        ),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", help="shipped recipe or .toml file (default npp)")
    parser.add_argument("--atlas", type=Path, help="atlas file to train on")
    parser.add_argument("--out", type=Path, help="run folder (default ./training)")
    parser.add_argument("--minutes", type=float, help="stop after this long; run again to go on")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"),
                        help="of the network's products (default: bfloat16 on a GPU, float32 on a processor)")
    parser.add_argument("--init", metavar="WEIGHTS", help="start from a shipped model or a .safetensors file")
    parser.add_argument("--variant", choices=VARIANTS, help="which network the recipe 'ablation' trains")
    parser.add_argument("--real", type=Path, metavar="TABLE.tsv", help="real images and masks to mix in")
    parser.add_argument("--real-share", type=float, metavar="P", help="share of real images (default 0.2 with --real)")
    parser.add_argument("--export", type=Path, metavar="FILE.safetensors", help="write the averaged weights here")
    parser.add_argument("--pack", type=Path, metavar="LABELS", help="make --atlas from this folder of label maps")
    parser.add_argument("--table", type=Path, metavar="TABLE.tsv", help="with --pack: classes of own label numbers")
    parser.add_argument("--smoke", action="store_true", help="train a minute on a phantom; fails if nothing is learnt")


def execute(args: argparse.Namespace) -> int:
    """Pack, train, export: what was asked for."""
    from neuralprep.errors import InputError

    if args.pack is not None:
        _refuse(args, "--pack", "recipe", "out", "minutes", "threads", "smoke", *_TRAINING_ONLY)
        if args.atlas is None:
            raise InputError("--pack needs --atlas FILE.npz to write to")
        return _pack(args.pack, args.atlas, args.table)
    if args.table is not None:
        raise InputError("--table names the labels of --pack; without --pack it has no effect")
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    if args.smoke:
        _refuse(args, "--smoke", "recipe", "atlas", *_TRAINING_ONLY)
        return _smoke(args)
    return _train(args)


def _refuse(args: argparse.Namespace, mode: str, *names: str) -> None:
    """Options that have no effect in a mode are errors."""
    from neuralprep.errors import InputError

    given = [name for name in names if getattr(args, name) not in (None, False)]
    if given:
        raise InputError(f"{mode} does not use {', '.join(n.replace('_', '-') for n in given)}; leave it out")


def _train(args: argparse.Namespace) -> int:
    from neuralprep.files import check_output
    from neuralprep.training.distributed import leave_team

    recipe = _recipe(args)
    if args.export is not None:
        read = (args.recipe, args.init, args.atlas, args.real)
        check_output(args.export, [Path(one) for one in read if one is not None])
    try:
        trainer = _trainer(args, recipe)
        complete = _with_bar(trainer)
        if trainer.team.leads:
            print(f"{trainer.options.folder}: step {trainer.step} of {recipe.total_steps}"
                  f"{'' if complete else '; run again to go on'}")
            _export(args, trainer)
    finally:
        leave_team()
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    """The recipe with what the command line changes."""
    from dataclasses import replace

    from neuralprep.errors import InputError
    from neuralprep.training.recipe import load_recipe

    recipe = load_recipe(args.recipe or "npp")
    if args.variant is not None:
        recipe = recipe.with_variant(args.variant)
    if args.real_share is not None and args.real is None:
        raise InputError("--real-share needs --real TABLE.tsv")
    if args.real is not None:
        share = args.real_share if args.real_share is not None else recipe.real or 0.2
        if not 0 < share <= 1:
            raise InputError(f"--real-share {share:g} must be above 0 and at most 1")
        recipe = replace(recipe, real=share)
    return recipe


def _trainer(args: argparse.Namespace, recipe: Recipe) -> Trainer:
    from functools import partial

    from neuralprep.errors import InputError
    from neuralprep.synthesis.atlas import load_atlas
    from neuralprep.training.loop import Trainer, TrainOptions
    from neuralprep.training.real import load_real_images

    options = TrainOptions(args.out or Path("training"), args.device, args.minutes, init=args.init,
                           precision=args.precision or "auto")
    wants_heads = bool(recipe.train_heads or recipe.validation_heads)
    if wants_heads and args.atlas is None:
        raise InputError("training needs --atlas FILE.npz; make one with --pack LABEL_FOLDER --atlas FILE.npz")
    if args.atlas is not None and not wants_heads:
        raise InputError(f"recipe '{recipe.name}' makes its heads itself; leave out --atlas")
    heads = [load_atlas(args.atlas, names) if names else [] for names in (recipe.train_heads, recipe.validation_heads)]
    reals = None if args.real is None else partial(load_real_images, args.real)
    return Trainer(recipe, heads[0], heads[1], options, reals)


def _export(args: argparse.Namespace, trainer: Trainer) -> None:
    from neuralprep.training.export import export_model

    if args.export is None:
        return
    made = export_model(trainer.checkpoint_folder, trainer.recipe, args.export, {"device": str(trainer.device)})
    print(made)
    if trainer.recipe.task.has_graph and not made.with_suffix(".xml").exists():
        print("no graph for fast CPU inference was written: OpenVINO is not installed here", file=sys.stderr)


def _with_bar(trainer: Trainer) -> bool:
    """Train with a progress bar on a terminal and silently elsewhere (the log file has every number)."""
    from torch import Tensor
    from tqdm import tqdm

    if not trainer.team.leads:
        return trainer.train()
    with tqdm(total=trainer.recipe.total_steps, initial=trainer.step, unit="step", disable=None) as bar:

        def advance(step: int, total: int, loss: Tensor) -> None:
            bar.update(step - bar.n)
            if not bar.disable and step % trainer.options.log_every == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)

        return trainer.train(advance)


def _pack(folder: Path, atlas: Path, table: Path | None) -> int:
    from neuralprep.synthesis.label_table import DEFAULT, read_table
    from neuralprep.synthesis.packing import pack_folder

    for name, score in pack_folder(folder, atlas, DEFAULT if table is None else read_table(table)):
        print(f"{name}: template fit {score:.3f}")
    print(atlas)
    return 0


def _smoke(args: argparse.Namespace) -> int:
    from neuralprep.training.smoke import run_smoke

    first, last = run_smoke(args.out or Path("training"), args.minutes or 1.0, args.device)
    print(f"smoke test: loss {first:.3f} -> {last:.3f}")
    if last >= 0.8 * first:
        print("the loss did not fall: training is broken here", file=sys.stderr)
        return 1
    return 0
