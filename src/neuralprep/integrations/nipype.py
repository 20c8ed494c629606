"""Nipype interfaces of the verbs (extra ``nipype``), with every option, made from the parsers of the command line.

>>> from neuralprep.integrations.nipype import Run                     # doctest: +SKIP
>>> Run(inputs=["sub-01_T1w.nii.gz"], out="out", lam=1.0).cmdline      # doctest: +SKIP
'neuralprep run sub-01_T1w.nii.gz out --lambda=1.0'
"""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from neuralprep.bids.derivatives import BY_OUTPUT
from neuralprep.errors import InputError
from neuralprep.integrations.options import Option, option_words, read_verb, verbs, written_files

try:
    from nipype.interfaces.base import CommandLine, CommandLineInputSpec, TraitedSpec, isdefined, traits
except ImportError as error:
    raise InputError("nipype is not installed; pip install 'neuralprep[nipype]'") from error


class _Interface(CommandLine):  # type: ignore[misc]  # nipype has no types
    """Runs a verb; what it writes is named by the input ``out``."""

    options: ClassVar[dict[str, Option]] = {}

    def _format_arg(self, name: str, trait_spec: Any, value: Any) -> str:
        """The words of an option, quoted for the shell that nipype runs them in."""
        if name in self.options:
            return shlex.join(option_words(self.options[name], value))
        return super()._format_arg(name, trait_spec, value)

    def _run_interface(self, runtime: Any, correct_return_codes: tuple[int, ...] = (0,)) -> Any:
        """Run it; a failed scan is an error of the node (nipype itself only notes it)."""
        runtime = super()._run_interface(runtime, correct_return_codes)
        if runtime.returncode not in correct_return_codes:
            self.raise_exception(runtime)
        return runtime

    def _list_outputs(self) -> dict[str, Any]:
        outputs = self.output_spec().get()
        out = Path.cwd() / self.inputs.out
        outputs["out"] = str(out)
        if len(outputs) > 1:
            space = self.inputs.space if isdefined(getattr(self.inputs, "space", traits.Undefined)) else None
            outputs |= written_files(out, space)
        return outputs


@cache
def interface(name: str) -> type[_Interface]:
    """The interface of a verb that writes to ``OUT``.

    Parameters
    ----------
    name : str
        The verb, for example ``"run"``.

    Raises
    ------
    InputError
        There is no such verb, or it has no ``OUT``.
    """
    verb = read_verb(name)
    options = {option.name: option for option in verb.options}
    if "out" not in options:
        raise InputError(f"the verb {name!r} has no OUT; use nipype's own CommandLine for it")
    title = _title(name)
    places = {option.name: number for number, option in enumerate(verb.positional)}
    inputs = {option.name: _trait(option, places.get(option.name)) for option in verb.options}
    outputs: dict[str, Any] = {"out": traits.Str(desc="what was named as OUT")}
    if "outputs" in options:
        outputs |= {row.output: traits.List(traits.Str(), desc=row.description) for row in BY_OUTPUT.values()}
    own = {"__module__": __name__}
    return type(title, (_Interface,), {
        **own, "__doc__": verb.description, "_cmd": f"neuralprep {name}", "options": options,
        "input_spec": type(f"{title}InputSpec", (CommandLineInputSpec,), own | inputs),
        "output_spec": type(f"{title}OutputSpec", (TraitedSpec,), own | outputs),
    })  # fmt: skip


def _trait(option: Option, place: int | None) -> Any:
    """The trait of an option; globs and folders are inputs too, so paths are text and the command checks them."""
    kinds = {"flag": traits.Bool, "text": traits.Any, "integer": traits.Int, "number": traits.Float, "path": traits.Any}
    facts: dict[str, Any] = {"desc": option.help or option.metavar, "mandatory": option.required, "argstr": "%s"}
    if place is not None:
        facts["position"] = place
    if option.excludes:
        facts["xor"] = list(option.excludes)
    kind = traits.Enum(*option.choices, **facts) if option.choices else kinds[option.kind](**facts)
    return traits.List(kind, **facts) if option.many or option.appends else kind


def __getattr__(name: str) -> Any:
    """The interface of any verb by its title (`Run`, `EvaluateMasks`), and its specs: nipype pickles nodes by name."""
    titles = {_title(verb): verb for verb, _ in verbs()}
    stem = name.removesuffix("InputSpec").removesuffix("OutputSpec")
    if stem not in titles:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = interface(titles[stem])
    return {stem: made, f"{stem}InputSpec": made.input_spec, f"{stem}OutputSpec": made.output_spec}[name]


def _title(verb: str) -> str:
    return "".join(word.title() for word in verb.replace("-", " ").split())
