"""What a verb takes, read from its argparse parser: one list that every wrapper, and the manual, is made from."""

from __future__ import annotations

import argparse
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from neuralprep.bids.derivatives import BY_OUTPUT, output_files
from neuralprep.bids.layout import home_of
from neuralprep.cli import VERBS, build_parser
from neuralprep.engine.record import read_status
from neuralprep.errors import InputError
from neuralprep.settings import Settings

Kind = Literal["flag", "text", "integer", "number", "path"]

#: positional arguments that are paths although they are parsed as text (globs and lists are allowed there)
_INPUTS = ("INPUT", "MOVING", "FIXED", "TRUTH", "PREDICTION")
#: actions that print and leave
_TELLING = (argparse._HelpAction, argparse._VersionAction)


@dataclass(frozen=True)
class Option:
    """One argument of a verb.

    Parameters
    ----------
    name : str
        Attribute of the parsed arguments; where two options share one (`apply`), the name of the flag.
    flags : tuple of str
        As typed, long form first; empty for positional arguments.
    kind : {"flag", "text", "integer", "number", "path"}
        What its value is; a flag has none.
    many : bool
        Takes one or more values.
    appends : bool
        May be given again and again.
    required : bool
        Has to be given.
    written : bool
        Names a file or folder that the command writes.
    choices : tuple of str
        The only values, if there are such.
    metavar, help : str
        For people.
    excludes : tuple of str
        Names of options that cannot be given with it.
    """

    name: str
    flags: tuple[str, ...]
    kind: Kind
    many: bool
    appends: bool
    required: bool
    written: bool
    choices: tuple[str, ...]
    metavar: str
    help: str
    excludes: tuple[str, ...]

    @property
    def flag(self) -> str:
        """The flag to write; "" for positional arguments."""
        return self.flags[0] if self.flags else ""


@dataclass(frozen=True)
class Verb:
    """One command.

    Parameters
    ----------
    name : str
        As typed; verbs with parts of their own are two words.
    description, epilog : str
        Texts of its help.
    options : tuple of Option
        Positional ones first, in their order.
    """

    name: str
    description: str
    epilog: str
    options: tuple[Option, ...]

    @property
    def positional(self) -> tuple[Option, ...]:
        """Arguments without a flag."""
        return tuple(option for option in self.options if not option.flags)


def verbs() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Name and parser of every command that does something, in the order of the help text."""
    found = dict(_leaves("", build_parser()))
    yield from sorted(found.items(), key=lambda item: VERBS.index(item[0].split()[0]))


def read_verb(name: str) -> Verb:
    """What a verb takes.

    Parameters
    ----------
    name : str
        For example ``"run"`` or ``"evaluate masks"``.

    Raises
    ------
    InputError
        There is no such verb.
    """
    known = dict(verbs())
    if name not in known:
        raise InputError(f"there is no verb {name!r}; there are {', '.join(known)}")
    parser = known[name]
    apart = _exclusions(parser)
    # an option that the help does not show exists to say why it cannot be given (`bids --work-dir`)
    actions = [action for action in parser._actions
               if not isinstance(action, _TELLING) and action.help != argparse.SUPPRESS]  # fmt: skip
    shared = Counter(action.dest for action in actions)
    options = [_option(action, apart.get(action.dest, ())) for action in actions]
    options = [replace(option, name=option.flag.lstrip("-").replace("-", "_")) if shared[option.name] > 1 else option
               for option in options]  # fmt: skip
    return Verb(name, parser.description or "", parser.epilog or "",
                tuple(sorted(options, key=lambda option: bool(option.flags))))  # fmt: skip


def command_line(verb: Verb, values: Mapping[str, Any]) -> list[str]:
    """Arguments, after the verb, that stand for values; the opposite of parsing.

    Positional arguments come first, because an option with many values would swallow them.
    """
    return [word for option in verb.options for word in option_words(option, values.get(option.name))]


def option_words(option: Option, value: Any) -> list[str]:
    """Words that give one option a value; none for None and False."""
    if value is None or value is False:
        return []
    if option.kind == "flag":
        return [option.flag]
    items = [_word(option, item) for item in (value if isinstance(value, list | tuple) else [value])]
    if not option.flags:
        return items
    return [option.flag, *items] if option.many else [f"{option.flag}={item}" for item in items]


def _word(option: Option, value: Any) -> str:
    """A value as it is typed; a path must not look like a flag."""
    text = str(value)
    return f"./{text}" if option.kind == "path" and text.startswith("-") else text


def written_files(out: Path, space: str | None) -> dict[str, list[str]]:
    """For each output, the files that the scans of a batch have of it.

    Parameters
    ----------
    out : Path
        Output folder of ``run``, ``strip`` or ``bids``.
    space : str, optional
        Template space; the default one if None.
    """
    homes = [home_of(out, row["scan"]) for row in read_status(out)]
    found = {name: [home.folder / output_files(home.files, name, space or Settings.space)[0] for home in homes]
             for name in BY_OUTPUT}  # fmt: skip
    return {name: [str(path) for path in paths if path.is_file()] for name, paths in found.items()}


def _leaves(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    parts = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not parts:
        yield name, parser
    for part in parts:
        for word, child in part.choices.items():
            yield from _leaves(f"{name} {word}".strip(), child)


def _exclusions(parser: argparse.ArgumentParser) -> dict[str, tuple[str, ...]]:
    groups = [[action.dest for action in group._group_actions] for group in parser._mutually_exclusive_groups]
    return {name: tuple(other for other in group if other != name) for group in groups for name in group}


def _option(action: argparse.Action, excludes: Sequence[str]) -> Option:
    flags = tuple(sorted(action.option_strings, key=lambda flag: not flag.startswith("--")))
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    kind = _kind(action, metavar)
    name = action.dest
    return Option(
        name=name, flags=flags, kind=kind, many=action.nargs in ("+", "*") or (isinstance(action.nargs, int) and
        kind != "flag"), appends=isinstance(action, argparse._AppendAction),
        required=action.required if flags else action.nargs not in ("?", "*"),
        written=kind == "path" and (name in ("out", "output", "export") or name.endswith("_out")),
        choices=tuple(map(str, action.choices or ())), metavar=metavar or name.upper(),
        help=action.help % vars(action) if action.help else "", excludes=tuple(excludes),
    )  # fmt: skip


def _kind(action: argparse.Action, metavar: str) -> Kind:
    """What the function that reads a value gives back; text always works, because the verb parses it."""
    if action.nargs == 0:
        return "flag"
    if action.type is Path or (not action.option_strings and metavar in _INPUTS):
        return "path"
    gives = action.type if action.type in (int, float) else None
    if inspect.isfunction(action.type):
        gives = inspect.signature(action.type).return_annotation
    return {"int": "integer", "float": "number"}.get(getattr(gives, "__name__", str(gives)), "text")  # type: ignore[return-value]
