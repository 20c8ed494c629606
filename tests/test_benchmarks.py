"""The benchmark programs: they fit the package, and finished work is reused only where nothing has changed."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from neuralprep import Affine, Preprocessor, Settings, load
from neuralprep.evaluation.overlap import dice

FOLDER = Path(__file__).parent.parent / "benchmarks"
WEIGHTS = FOLDER.parent / "src" / "neuralprep" / "weights"


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """All programs as modules; their short names are taken out of the table of modules afterwards."""
    names = [path.stem for path in sorted(FOLDER.glob("*.py"))]
    if not names:
        pytest.skip("the benchmark programs are not here")
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    for name in names:  # a folder of tests may have the name of a program
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    yield {name: importlib.import_module(name) for name in names}
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "x").parent == FOLDER:
            del sys.modules[name]


def test_every_program_has_a_docstring_and_a_place_in_the_readme(programs: dict[str, ModuleType]) -> None:
    readme = (FOLDER / "README.md").read_text()
    for name, module in programs.items():
        assert module.__doc__
        if hasattr(module, "main"):
            assert f"benchmarks/{name}.py" in readme
            assert f"python benchmarks/{name}.py" in module.__doc__


def test_finished_work_is_not_done_again(programs: dict[str, ModuleType], tmp_path: Path) -> None:
    common, done = programs["common"], []

    def work(number: int) -> dict[str, float]:
        done.append(number)
        return {"square": number**2}

    tasks = {str(k): (k,) for k in range(3)}
    ledger = common.Ledger("x", {"a": 1}, ("grid",), tmp_path)
    first = common.run_cached(ledger, work, tasks)
    assert first == {"0": {"square": 0}, "1": {"square": 1}, "2": {"square": 4}}
    again = common.Ledger("x", {"a": 1}, ("grid",), tmp_path)
    assert common.run_cached(again, work, tasks | {"3": (3,)})["3"] == {"square": 9}
    assert done == [0, 1, 2, 3]
    with again.path.open("a") as file:
        file.write('{"key": "4", "val')  # killed while writing
    assert "4" not in common.Ledger("x", {"a": 1}, ("grid",), tmp_path)
    other = common.Ledger("x", {"a": 2}, ("grid",), tmp_path)
    assert "0" not in other
    assert other.path != ledger.path
    assert "0" not in common.Ledger("x", {"a": 1}, ("grid",), tmp_path, fresh=True)


def test_code_counts_and_comments_do_not(
    programs: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = programs["common"]
    monkeypatch.setattr(common, "PACKAGE", tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "part.py").write_text('"""One."""\ndef f(x):\n    """Two."""\n    return x + 1\n')
    before = common.code_fingerprint(["part"])
    (tmp_path / "part.py").write_text('"""Other."""\n# why\ndef f(x):\n    """Words."""\n    return x + 1\n')
    assert common.code_fingerprint(["part"]) == before
    (tmp_path / "part.py").write_text('"""Other."""\ndef f(x):\n    return x + 2\n')
    assert common.code_fingerprint(["part"]) != before
    (tmp_path / "weights" / "m.safetensors").write_bytes(b"1")
    changed = common.code_fingerprint(["part"])
    (tmp_path / "weights" / "m.safetensors").write_bytes(b"2")
    assert common.code_fingerprint(["part"]) != changed


def test_goals_and_summaries_read_well(programs: dict[str, ModuleType], tmp_path: Path) -> None:
    common = programs["common"]
    table = common.targets([("Dice", 0.97, 0.965, ">="), ("error", 3.0, 2.0, "<="), ("nothing", None, 1.0, ">=")])
    assert [line.split("|")[3].strip() for line in table.splitlines()[2:]] == ["yes", "no", "not measured"]
    assert common.goal_rows([("error", 3.0, 2.0, "<=")]) == [{"goal": "error", "found": 3.0, "limit": 2.0}]
    rows = [{"case": str(k), "dice": 0.9 + 0.01 * k, "hd": float(k)} for k in range(5)]
    shown = common.summary_table(rows, ["dice", "hd"]).splitlines()[2:]
    assert [line.split("|")[4].strip() for line in shown] == ["0.902", "3.80"]  # the bad side of each
    path = common.save_results("x", {"rows": [{"hd": float("inf")}]}, tmp_path)
    saved = json.loads(path.read_text())
    assert saved["rows"] == [{"hd": None}]
    assert saved["machine"]["date"]


def test_the_cards_name_programs_that_are_there(programs: dict[str, ModuleType]) -> None:
    named = {name for chosen in programs["card"].PROGRAMS.values() for name in chosen}
    assert named <= programs.keys()
    for card in programs["card"].PROGRAMS:
        scores = json.loads((WEIGHTS / f"{card}.json").read_text())["scores"]
        assert {Path(program).stem for program in scores} <= named


def test_stripping_is_judged_beyond_the_start_of_its_process(programs: dict[str, ModuleType]) -> None:
    run = programs["speed"].Run
    runs = {"neuralprep": [run(9.0, 9.0, 2.0)], "strip": [run(4.0, 5.0, 1.0), run(6.0, 3.0, 1.0)],
            "start": [run(1.0, 1.5, 0.25)]}  # fmt: skip
    assert [value for _, value, _, _ in programs["speed"].strip_goals(runs)] == [2.5, 0.75]


def test_two_places_in_the_template_differ_by_size_and_shape_alone(programs: dict[str, ModuleType]) -> None:
    mni = programs["mni"]
    place = mni.random_affine(np.random.default_rng(3))
    turned = Affine(mni.random_rotation(np.random.default_rng(4), np.zeros(3)).matrix @ place.matrix)
    assert mni.shape_difference(place, turned) < 1e-6
    points = turned.apply(mni.brain_points())
    radius = np.linalg.norm(points - points.mean(0), axis=1).mean()
    larger = Affine(np.diag([1.02, 1.02, 1.02, 1.0]) @ turned.matrix)
    assert mni.shape_difference(place, larger) == pytest.approx(0.02 * radius, rel=0.02)


def test_the_cards_take_the_headlines_of_their_programs(
    programs: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("npp", "npp_close", "npp_fine", "pair"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "scores": {"old": 1}}))
    results = tmp_path / "results"
    results.mkdir()
    saved = {"machine": {"date": "2020-01-02"}, "headline": {"Dice": 0.123456, "rows": [{"x": 1.00001}]}}
    (results / "mni.json").write_text(json.dumps(saved))
    monkeypatch.setattr(sys, "argv", ["card.py", "--cards", str(tmp_path), "--results", str(results)])
    programs["card"].main()
    made, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("npp", "pair"))
    assert made["name"] == "npp"
    assert made["scores"] == {"benchmarks/mni.py": {"date": "2020-01-02", "Dice": 0.1235, "rows": [{"x": 1.0}]}}
    assert other["scores"] == {}
    assert made["limits"] != other["limits"]
    assert made["limits"]


def test_the_tissue_mask_opens_the_folds_that_manual_labels_show(
    programs: dict[str, ModuleType], shared_data: Path
) -> None:
    """Better than the network's own surface on its 2 mm."""
    folder, tissue = shared_data / "labels" / "malf_oasis", programs["tissue"]
    scan, labels = load(folder / "1000_SS.nii.gz"), load(folder / "1000_glm.nii.gz")
    masks = tissue.masks(Preprocessor(Settings(threads=2, device="cpu", resolution=2.0)), scan)
    ours, alone = (dice(masks[method], labels.data > 0) for method in (tissue.OURS, tissue.NETWORK))
    assert ours > alone + 0.005
    assert ours > 0.965
