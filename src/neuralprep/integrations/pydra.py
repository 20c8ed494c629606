"""Pydra tasks of the verbs (extra ``pydra``), with every option, made from the parsers of the command line.

>>> from neuralprep.integrations.pydra import task                               # doctest: +SKIP
>>> task("run", inputs=["sub-01_T1w.nii.gz"], out="out", lam=1.0).cmdline        # doctest: +SKIP
'neuralprep run sub-01_T1w.nii.gz out --lambda=1.0'
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuralprep.bids.derivatives import BY_OUTPUT
from neuralprep.errors import InputError
from neuralprep.integrations.options import Option, option_words, read_verb, written_files

try:
    from pydra.engine.specs import ShellOutSpec, ShellSpec, SpecInfo
    from pydra.engine.task import ShellCommandTask
except ImportError as error:
    raise InputError("pydra 0.25 is not installed; pip install 'neuralprep[pydra]'") from error

_KINDS: dict[str, type] = {"flag": bool, "integer": int, "number": float}


def task(verb: str, **inputs: Any) -> ShellCommandTask:
    """The task of a verb.

    Parameters
    ----------
    verb : str
        For example ``"run"``.
    **inputs
        Of the verb, and of pydra's ``ShellCommandTask`` (name, cache_dir, ...). A relative ``out`` lies in the folder
        of the task.

    Raises
    ------
    InputError
        There is no such verb.
    """
    described = read_verb(verb)
    places = {option.name: number for number, option in enumerate(described.positional)}
    fields = [(option.name, _type(option), _facts(option, places.get(option.name))) for option in described.options]
    title = "".join(word.title() for word in verb.replace("-", " ").split())
    inputs.setdefault("name", verb.replace(" ", "_").replace("-", "_"))
    return ShellCommandTask(
        executable=["neuralprep", *verb.split()],
        input_spec=SpecInfo(name=f"{title}Input", fields=fields, bases=(ShellSpec,)),
        output_spec=SpecInfo(name=f"{title}Output", fields=_outputs(places, described.options), bases=(ShellOutSpec,)),
        **inputs,
    )


def _type(option: Option) -> type:
    return list if option.many or option.appends else _KINDS.get(option.kind, object)


def _facts(option: Option, place: int | None) -> dict[str, Any]:
    def formatter(field: Any) -> str:
        return shlex.join(option_words(option, field))

    facts: dict[str, Any] = {"help_string": option.help or option.metavar, "mandatory": option.required,
                             "formatter": formatter}  # fmt: skip
    if place is not None:
        facts["position"] = place
    if option.excludes:
        facts["xor"] = [option.name, *option.excludes]
    return facts


def _outputs(places: dict[str, int], options: tuple[Option, ...]) -> list[tuple[str, type, dict[str, Any]]]:
    """For a verb with a batch as output, the files of every output; else the folder or file."""
    if "out" not in places:
        return []
    rows: list[tuple[str, type, dict[str, Any]]] = [
        ("written", str, {"help_string": "what was named as OUT", "callable": _written})
    ]
    if any(option.name == "outputs" for option in options):
        rows += [(f"{row.output}_files", list, {"help_string": row.description, "callable": _files(row.output)})
                 for row in BY_OUTPUT.values()]  # fmt: skip
    return rows


def _written(inputs: Any, output_dir: Any) -> str:
    return str(Path(output_dir) / str(inputs.out))


def _files(output: str) -> Callable[[Any, Any], list[str]]:
    def found(inputs: Any, output_dir: Any) -> list[str]:
        space = getattr(inputs, "space", None)
        out = Path(_written(inputs, output_dir))
        return written_files(out, space if isinstance(space, str) else None)[output]

    return found
