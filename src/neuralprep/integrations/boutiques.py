"""A Boutiques descriptor [1]_ of any verb, for platforms that run tools from their description (CBRAIN, VIP, bosh).

    python -m neuralprep.integrations.boutiques run --image IMAGE > neuralprep-run.json

References
----------
.. [1] Glatard et al., "Boutiques: a framework to integrate command-line applications in computing platforms",
   GigaScience 7(5), 2018; schema 0.5.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import neuralprep
from neuralprep.errors import InputError
from neuralprep.integrations.options import Option, Verb, read_verb

_TYPES = {"flag": "Flag", "text": "String", "integer": "Number", "number": "Number", "path": "File"}


def descriptor(name: str, image: str = "") -> dict[str, Any]:
    """Descriptor of a verb.

    Parameters
    ----------
    name : str
        The verb.
    image : str
        Container image to run it in, as Docker names it; without one the command is expected to be installed.

    Raises
    ------
    InputError
        There is no such verb, or it takes nothing, which no descriptor can say.
    """
    verb = read_verb(name)
    if not verb.options:
        raise InputError(f"the verb {name!r} takes nothing, so there is nothing to describe")
    described: dict[str, Any] = {
        "name": f"neuralprep {name}",
        "description": " ".join(verb.description.split()) or f"neuralprep {name}",
        "tool-version": neuralprep.__version__,
        "schema-version": "0.5",
        "command-line": " ".join([f"neuralprep {name}", *(_key(option) for option in verb.options)]),
        "inputs": [_input(option) for option in verb.options],
        "tags": {"domain": ["neuroinformatics", "mri"]},
    }
    if groups := _groups(verb):
        described["groups"] = groups
    if written := [option for option in verb.options if option.written]:
        described["output-files"] = [
            {"id": f"written_{option.name}", "name": option.metavar, "description": option.help or option.name,
             "path-template": _key(option), "optional": not option.required} for option in written
        ]  # fmt: skip
    if image:
        described["container-image"] = {"type": "docker", "image": image}
    return described


def _key(option: Option) -> str:
    return f"[{option.name.upper()}]"


def _input(option: Option) -> dict[str, Any]:
    # what is written does not exist yet, so it is no File
    entry: dict[str, Any] = {
        "id": option.name, "name": option.flag or option.metavar, "value-key": _key(option),
        "type": "String" if option.written else _TYPES[option.kind], "optional": not option.required,
    }  # fmt: skip
    if option.help:
        entry["description"] = option.help
    if option.flags:
        entry["command-line-flag"] = option.flag
    if option.kind == "integer":
        entry["integer"] = True
    if option.choices:
        entry["value-choices"] = [int(choice) if option.kind == "integer" else choice for choice in option.choices]
    if option.many or option.appends:
        entry["list"] = True
    if option.flags and option.kind != "flag" and not option.many:
        entry["command-line-flag-separator"] = "="
    if option.appends:
        entry["list-separator"] = f" {option.flag}="
    return entry


def _groups(verb: Verb) -> list[dict[str, Any]]:
    """Options of which one at most may be given."""
    apart = {tuple(sorted((option.name, *option.excludes))) for option in verb.options if option.excludes}
    return [{"id": "_or_".join(names), "name": " or ".join(names), "members": list(names), "mutually-exclusive": True}
            for names in sorted(apart)]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Write the descriptor to standard output; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m neuralprep.integrations.boutiques",
                                     description="Write the Boutiques descriptor of a verb.")  # fmt: skip
    parser.add_argument("verb", nargs="+", help="for example run, or evaluate masks")
    parser.add_argument("--image", default="", help="container image to run it in")
    args = parser.parse_args(argv)
    try:
        text = json.dumps(descriptor(" ".join(args.verb), args.image), indent=2)
    except InputError as error:
        parser.error(str(error))
    sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
