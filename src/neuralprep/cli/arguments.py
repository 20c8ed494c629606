"""Command-line flags that several verbs share, and the types of their values, each with a message in words."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Literal


def add_machine(parser: argparse.ArgumentParser | argparse._ArgumentGroup, threads: str = "threads") -> None:
    """What to run on: ``--device`` and ``--threads``, of which help says `threads`."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default auto")
    parser.add_argument("--threads", type=positive_integer, metavar="N", help=f"{threads}; default all cores")


def add_registration(parser: argparse.ArgumentParser) -> None:
    """What every verb that aligns images takes: ``--frame``, ``--also`` and where to run."""
    parser.add_argument("--frame", type=frame_number, metavar="N|mean", help="which frame of 4-D images")
    parser.add_argument("--also", action="append", choices=("x5", "afni"), default=[],
                        help="write affines in this format too (needs nitransforms); may be repeated")
    add_machine(parser)


def number(text: str) -> float:
    """Any real number."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def positive_integer(text: str) -> int:
    """A count: 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def whole_number(text: str) -> int:
    """Zero or more."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of zero or more")
    return int(text[:9])


def port(text: str) -> int:
    """A port to listen on; 0 takes any."""
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give 0 to 65535")
    return int(text)


def names_among(text: str, known: Collection[str]) -> tuple[str, ...]:
    """Comma-separated names of which each must be known; repeats count once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        fault = f"unknown: {', '.join(unknown)}" if unknown else "the list is empty"
        raise argparse.ArgumentTypeError(f"{fault}. Known are {', '.join(known)}")
    return names


def frame_number(text: str) -> int | Literal["mean"]:
    """A frame of a 4-D image, from 0, or their mean."""
    if text == "mean":
        return "mean"
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a frame number nor 'mean'")
    return int(text)


def fill_value(text: str) -> float | Literal["zero", "min"]:
    """What stands outside: zero, the image's minimum, or a number."""
    if text == "zero":
        return "zero"
    if text == "min":
        return "min"
    return number(text)
