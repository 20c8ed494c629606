"""The methods text: it says what ran and nothing else, and cites what it names."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from neuralprep.pipeline import Result
from neuralprep.report.boilerplate import CITATIONS, boilerplate
from report.sample_result import make_result


def _text(result: Result) -> str:
    return "\n".join(boilerplate(result).paragraphs)


def _with(provenance: dict[str, Any] | None = None, outputs: tuple[str, ...] | None = None, **settings: Any) -> Result:
    result = make_result(**settings)
    kept = result.outputs if outputs is None else {name: result.outputs[name] for name in outputs}
    return replace(result, outputs=kept, provenance={**result.provenance, **(provenance or {})})


def _mask_network() -> Result:
    """A network that only strips leaves little behind."""
    result = _with(outputs=("brain_mask",), normalize=False, register=False, model="mindgrab")
    kept = {key: result.provenance[key] for key in ("neuralprep", "model_sha256", "runtime")}
    return replace(result, provenance={**kept, "model": "mindgrab"})


def test_software_weights_and_settings_are_named() -> None:
    text = _text(_with(lam=0.5, resolution=2.0))
    for words in ("neuralprep 9.8.7", "'npp'", "c0ffee", "openvino", "lambda = 0.5", "mean of 110",
                  "MNI152NLin2009aSym", "12 parameters", "0.700", "2 mm voxels", "2 mm grid"):
        assert words in text, words


@pytest.mark.parametrize(
    ("result", "said", "unsaid"),
    [
        (_with(outputs=("brain_mask",), normalize=False, register=False), ["extracted"], ["lambda", "registered"]),
        (_with(outputs=("preproc",), strip=False), ["lambda"], ["extracted", "was registered"]),
        (_with(outputs=("template_from_scan",)), ["registered"], ["interpolated once", "extracted", "lambda"]),
        (_with({"ct_window": True}), ["-100 to 200 HU", "without a bias field"], ["lambda", "refined"]),
        (_with({"bias": "smoothed: poor fit"}), ["not refined", "not close enough"], ["expectation maximisation"]),
        (_with({"bias": "smoothed: little tissue"}), ["not refined", "too little brain tissue"], ["expectation"]),
        (_with({"bias": None}), ["lambda"], ["refined"]),
        (_with({"registration": {"method": "search", "score": 0.6}}), ["all rotations"], ["reads off"]),
        (_with(border_mm=-2.0), ["inwards by 2 mm"], ["outwards"]),
        (_with(no_csf=True), ["surface of the brain tissue, without"], ["inside of the skull"]),
        (_mask_network(), ["'mindgrab' [1]", "a mask that the network predicts"],
         ["follows Neural", "signed distances", "lambda", "registered"]),
    ],
    ids=["strip", "normalize", "register", "ct", "poor fit", "little tissue", "not recorded", "search", "border",
         "no csf", "mask network"],
)  # fmt: skip
def test_what_did_not_run_is_not_mentioned(result: Result, said: list[str], unsaid: list[str]) -> None:
    text = _text(result)
    assert [words for words in said if words not in text] == []
    assert [words for words in unsaid if words in text] == []


@pytest.mark.parametrize("provenance", [{}, {"ct_window": True}, {"registration": None}], ids=str)
def test_references_are_those_of_the_text_in_its_order(provenance: dict[str, Any]) -> None:
    made = boilerplate(_with(provenance))
    numbers = [int(n) for group in re.findall(r"\[([\d, ]+)\]", "".join(made.paragraphs)) for n in group.split(",")]
    first_uses = list(dict.fromkeys(numbers))
    assert first_uses == list(range(1, len(made.references) + 1))
    assert all("doi:10." in reference or "arXiv" in reference for reference in made.references)
    assert set(made.references) <= set(CITATIONS.values())


def test_a_given_mask_is_no_extraction_by_the_network() -> None:
    result = make_result()
    given = replace(result, settings=replace(result.settings, mask=result.outputs["brain_mask"]))
    text = _text(given)
    assert "mask that the user gave" in text
    assert "signed distances" not in text
