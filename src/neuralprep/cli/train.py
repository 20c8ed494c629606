"""``neuralprep train``: train a network from label maps, resume, export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb."""
    parser = subparsers.add_parser(
        "train",
        help="train the network from label maps, or a smoke test of it",
        description=(
            "Train from a recipe. The same command resumes a stopped run from its last checkpoint. "
            "--pack turns a folder of whole-head label maps into the atlas file that training reads."
        ),
    )
    parser.add_argument("recipe", nargs="?", default="npp", help="shipped recipe or .toml file (default npp)")
    parser.add_argument("--atlas", type=Path, help="atlas file to train on")
    parser.add_argument("--out", type=Path, default=Path("training"), help="run folder (default ./training)")
    parser.add_argument("--minutes", type=float, help="stop after this long; run again to go on")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--export", type=Path, metavar="FILE.safetensors", help="write the averaged weights here")
    parser.add_argument("--pack", type=Path, metavar="LABELS", help="make --atlas from this folder of label maps")
    parser.add_argument("--smoke", action="store_true", help="train a minute on a phantom; fails if nothing is learnt")


def execute(args: argparse.Namespace) -> int:
    """Pack, train, export: what was asked for."""
    from neuralprep.errors import InputError

    if args.pack is not None:
        if args.atlas is None:
            raise InputError("--pack needs --atlas FILE.npz to write to")
        return _pack(args.pack, args.atlas)
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    from neuralprep.training.loop import Trainer, TrainOptions
    from neuralprep.training.recipe import load_recipe

    if args.smoke:
        return _smoke(args)
    if args.atlas is None:
        raise InputError("training needs --atlas FILE.npz; make one with --pack LABEL_FOLDER --atlas FILE.npz")
    from neuralprep.synthesis.atlas import load_atlas

    recipe = load_recipe(args.recipe)
    options = TrainOptions(args.out, args.device, args.minutes)
    heads = load_atlas(args.atlas, recipe.train_heads), load_atlas(args.atlas, recipe.validation_heads)
    trainer = Trainer(recipe, *heads, options)
    complete = _with_bar(trainer)
    print(f"{args.out}: step {trainer.step} of {recipe.total_steps}{'' if complete else '; run again to go on'}")
    if args.export is not None:
        from neuralprep.training.export import export_model

        print(export_model(trainer.checkpoint_folder, recipe, args.export, {"device": str(trainer.device)}))
    return 0


def _with_bar(trainer: object) -> bool:
    """Train with a progress bar on a terminal and silently elsewhere (the log file has every number)."""
    from tqdm import tqdm

    from neuralprep.training.loop import Trainer

    assert isinstance(trainer, Trainer)
    with tqdm(total=trainer.recipe.total_steps, initial=trainer.step, unit="step", disable=None) as bar:

        def advance(step: int, total: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        return trainer.train(advance)


def _pack(folder: Path, atlas: Path) -> int:
    from neuralprep.synthesis.packing import pack_folder

    for name, score in pack_folder(folder, atlas):
        print(f"{name}: template fit {score:.3f}")
    print(atlas)
    return 0


def _smoke(args: argparse.Namespace) -> int:
    from neuralprep.training.smoke import run_smoke

    first, last = run_smoke(args.out, args.minutes or 1.0, args.device)
    print(f"smoke test: loss {first:.3f} -> {last:.3f}")
    if last >= 0.8 * first:
        print("the loss did not fall: training is broken here", file=sys.stderr)
        return 1
    return 0
