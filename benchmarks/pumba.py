"""What can be learnt from shapes alone: strippers that never saw a brain, on real heads.

Two are trained here, each until its recipe is done or ``--minutes`` are used up (run again to go on): ``shapes``, our
distance network on heads of the shape engine, and ``pumba``, network, generator and loss as published. Weights
trained elsewhere can be given with ``--weights`` (any layout that strips). Every real head is stripped and compared
with the masks of deepbet and MindGrab as in ``heads.py``; those come from ``peers.py``. Prints Markdown tables, saves
``pumba.json``; masks stay in the cache.

    python benchmarks/pumba.py --recipes shapes pumba --minutes 60
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import CACHE, RESULTS, SHARED, find_heads, markdown, save_results, stem
from heads import PEERS, against_peers, by_contrast, by_head
from scipy import ndimage

from neuralprep import Grid, Volume, load, save
from neuralprep.networks.layers import channels_last
from neuralprep.networks.loading import MESHNET_LAYOUT, NPP_LAYOUT, PUMBA_LAYOUT, STRIP_LAYOUT, load_any
from neuralprep.networks.npp import GRID_MULTIPLE
from neuralprep.networks.unet import pumba_mask
from neuralprep.resample import resample
from neuralprep.stages.conform import conform, wide_grid, windowed
from neuralprep.training.export import export_model
from neuralprep.training.loop import Trainer, TrainOptions
from neuralprep.training.recipe import load_recipe
from neuralprep.training.tasks.mindgrab import from_lia, mindgrab_input

FAR_MM = 10.0
WIDTH_MM = 256.0


def trained(name: str, runs: Path, minutes: float | None, device: str) -> Path:
    """Train a recipe further and export it; the path of its weights."""
    recipe = load_recipe(name)
    trainer = Trainer(recipe, [], [], TrainOptions(runs / name, device, minutes))
    complete = trainer.train()
    print(f"{name}: step {trainer.step} of {recipe.total_steps}{'' if complete else ' (not done)'}", flush=True)
    facts = {"device": str(trainer.device)}
    return export_model(trainer.checkpoint_folder, recipe, runs / f"{name}.safetensors", facts)


def main_part(mask: np.ndarray) -> np.ndarray:
    """The largest component, filled."""
    labels, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        mask = labels == sizes.argmax()
    return np.asarray(ndimage.binary_fill_holes(mask))


def strip(scan: Volume, layout: str, network: torch.nn.Module, spacing: float) -> np.ndarray:
    """Brain mask of a scan on its own grid, as each kind of network is meant to be used."""
    scan = windowed(scan)
    if layout == PUMBA_LAYOUT:  # the published conform: 128 cubed at 2 mm about the centre, percentiles 1 to 99
        grid = Grid.centered((128, 128, 128), 2.0, scan.grid.center)
        values = resample(scan, grid, antialias=True).data
        low, high = np.percentile(values, (1, 99))
        image = np.clip((values - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
        logits = network(torch.from_numpy(image)[None, None])
        mask = pumba_mask(torch.softmax(logits, 1)[0].numpy())
        return resample(Volume(mask.astype(np.uint8), grid), scan.grid, order=0).data > 0
    edge = math.ceil(WIDTH_MM / spacing / GRID_MULTIPLE - 1e-6) * GRID_MULTIPLE
    grid = Grid.centered((edge, edge, edge), spacing, wide_grid(scan).center)
    image = torch.from_numpy(np.ascontiguousarray(conform(scan, grid).image))[None, None]
    if layout == MESHNET_LAYOUT:
        logits = from_lia(network(mindgrab_input(image)))
        level = (logits[0, 0] - logits[0, 1]).numpy()
    else:
        output = network(image, torch.full((1, 1), -1.0))[0] if layout == NPP_LAYOUT else network(image)
        level = output[0, 1].numpy()
    native = resample(Volume(np.ascontiguousarray(level), grid), scan.grid, fill=FAR_MM).data
    return main_part(native <= 0)


@torch.no_grad()
def strip_all(weights: Path, heads: list[Path], folder: Path) -> None:
    """Strip every head with one network."""
    layout, network = load_any(weights)
    if layout not in (STRIP_LAYOUT, PUMBA_LAYOUT, NPP_LAYOUT, MESHNET_LAYOUT):
        raise SystemExit(f"{weights}: layout {layout} does not strip")
    network = channels_last(network).eval()
    folder.mkdir(parents=True, exist_ok=True)
    card = weights.with_suffix(".json")
    spacing = float(json.loads(card.read_text()).get("spacing_mm", 2.0)) if card.is_file() else 2.0
    for path in heads:
        scan = load(path)
        mask = strip(scan, layout, network, spacing)
        save(scan.with_data(mask.astype(np.uint8)), folder / f"{stem(path)}.nii.gz", dtype="uint8")


def main() -> None:
    """Parse the command line, train, strip, score, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipes", nargs="*", default=["shapes"], choices=("shapes", "pumba"))
    parser.add_argument("--weights", nargs="*", type=Path, default=[], help="further weights files to score")
    parser.add_argument("--runs", type=Path, default=Path("training/shapes_alone"), help="folder of the runs")
    parser.add_argument("--minutes", type=float, help="stop each training after so long")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--heads", type=Path, default=SHARED / "heads", help="folder of scans")
    parser.add_argument("--cache", type=Path, default=CACHE, help="the peers' masks, from peers.py")
    parser.add_argument("--only", nargs="+", help="names of heads; all if not given")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    heads = [p for p in find_heads(options.heads) if not options.only or stem(p) in options.only]
    if not heads:
        parser.error(f"no heads to score in {options.heads}")
    files = [trained(name, options.runs, options.minutes, options.device) for name in options.recipes]
    content: dict[str, Any] = {}
    for weights in (*files, *options.weights):
        folder = options.cache / f"trained-{weights.stem}"
        strip_all(weights, heads, folder)
        lines = by_head(against_peers(heads, folder, options.cache), {})
        groups = by_contrast(lines)
        columns = [f"{label} {kind}" for label in (*PEERS, "peers") for kind in ("median", "worst")]
        print(f"\n{weights.stem}\n\n{markdown(groups, ['group', 'heads', *columns])}")
        content[weights.stem] = {"heads": lines, "groups": groups}
    headline = {name: result["groups"] for name, result in content.items()}
    print(f"\nsaved {save_results('pumba', {'headline': headline, **content}, options.results)}")


if __name__ == "__main__":
    main()
