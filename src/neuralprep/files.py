"""Opening, reading and writing files so that every fault is an `InputError` that names the file.

Reading is bounded: callers say how many bytes they expect and no more are ever expanded. Writing is atomic: a
temporary file in the same folder is renamed when it is complete.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from isal import igzip_lib, isal_zlib

from neuralprep.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot shrink anything further than this, so a small file cannot hold a large image.
MAX_DEFLATE_RATIO = 1032
# A scan shrinks 2 to 10 times, a mask some 100 times; a large image that shrinks further is empty or meant to do harm.
_BOMB_BYTES, _BOMB_RATIO = 1 << 28, 250
_CHUNK = 1 << 18
_LEVEL = 1
# magic, deflate, no flags, no time stamp (so that the same data give the same file), fastest, unknown system
_GZIP_HEADER = GZIP_MAGIC + b"\x08\x00\x00\x00\x00\x00\x04\xff"


class Source:
    """A file opened for reading from front to back, expanded on the way if its content is gzip.

    Attributes
    ----------
    path : Path
        The file.
    compressed : bool
        Whether the *content* is gzip, whatever the name says.
    size : int
        Bytes on disk.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path = path
        self.size = os.fstat(stream.fileno()).st_size
        self._stream = stream
        start = stream.read(2)
        stream.seek(0)
        self.compressed = start == GZIP_MAGIC
        self._expander = _expander()
        self._pending = b""

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end of the content.

        Raises
        ------
        InputError
            The gzip stream is damaged or ends early, or the disk fails.
        """
        parts = []
        while count > 0:
            try:
                part = self._expand(count) if self.compressed else self._stream.read(count)
            except (OSError, igzip_lib.IsalError) as error:  # type: ignore[misc]  # the stubs declare a variable
                fault = f"{self.path}: cannot be read ({error}); the file is damaged, copy it again"
                raise InputError(fault) from error
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def exactly(self, count: int, what: str) -> bytes:
        """`count` bytes, or an `InputError` that says that the file ends within `what`."""
        data = self.read(count)
        if len(data) < count:
            raise InputError(f"{self.path}: ends within its {what} (truncated); copy or convert the file again")
        return data

    def skip(self, count: int, what: str) -> None:
        """Pass over `count` bytes."""
        if not self.compressed:
            self._stream.seek(count, os.SEEK_CUR)
            return
        while count > 0:
            count -= len(self.exactly(min(count, 1 << 22), what))

    def most(self) -> int:
        """Upper bound of the bytes that the content can hold."""
        return self.size * MAX_DEFLATE_RATIO if self.compressed else self.size

    def _expand(self, count: int) -> bytes:
        """Next bytes (1 to `count`) of the gzip content; empty at its end."""
        while True:
            if self._expander.eof:
                # Some tools write several gzip members in a row; bytes that start no member are padding.
                rest = self._expander.unused_data or self._stream.read(_CHUNK)
                if rest[:2] != GZIP_MAGIC:
                    return b""
                self._expander = _expander()
                self._pending = rest
            data = self._pending
            if not data and self._expander.needs_input:
                data = self._stream.read(_CHUNK)
                if not data:
                    raise InputError(f"{self.path}: the gzip stream ends early (truncated); copy the file again")
            self._pending = b""
            out: bytes = self._expander.decompress(data, count)
            if out:
                return out


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a file for reading.

    Raises
    ------
    InputError
        Missing, a folder, not a regular file, empty, or not permitted.
    """
    try:
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path}: is a link to a file that is not there; fetch the data (git annex, datalad?)")
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give an image file")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file; give an image file")
        with path.open("rb") as stream:
            source = Source(path, stream)
            if source.size == 0:
                raise InputError(f"{path}: is empty (0 bytes); copy or convert it again")
            yield source
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read; change its permissions") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path and the disk") from error


def expands_too_far(stored: int, expanded: int) -> bool:
    """Whether compressed content is refused before it is read, because it would grow without measure.

    Parameters
    ----------
    stored, expanded : int
        Bytes on disk, and bytes that they would become. Up to 256 MiB are never refused.
    """
    return expanded > max(_BOMB_BYTES, _BOMB_RATIO * stored)


def check_output(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write over a file that is read, by whatever path or link either is named. Call it before the work.

    Parameters
    ----------
    output : Path
        File to write; it may not exist yet.
    inputs : iterable of Path
        What is read; folders, and files that do not exist, are passed over.

    Raises
    ------
    InputError
        The output is one of the inputs.
    """
    for path in inputs:
        try:
            same = path.is_file() and output.samefile(path)
        except OSError:  # one of them is not there or may not be looked at: opening it says so better
            continue
        if same:
            raise InputError(f"{output}: is the input itself ({path}), which it would replace; choose another output")


def read_text(path: Path, limit: int = 1 << 20) -> str:
    """Text of a small file (UTF-8), or an `InputError`."""
    with open_source(path) as source:
        if source.size > limit:
            raise InputError(f"{path}: has {source.size} bytes, too many for a text file of this kind")
        try:
            return source.read(limit).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: is not a text file") from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Path of a temporary file in the same folder, renamed to `path` when the block ends well, else removed.

    Raises
    ------
    InputError
        The folder does not exist or cannot be written to.
    """
    temporary = path.with_name(f".np-{secrets.token_hex(6)}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        fault = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({fault}); check the folder and the free space") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, blocks: Iterable[Callable[[], bytes]], gzip: bool = False, threads: int = 2) -> None:
    """Write blocks of bytes to a file, all or nothing.

    Parameters
    ----------
    path : Path
        File to write or replace.
    blocks : iterable of functions returning bytes
        Content in order; each function is called once, on one of the threads.
    gzip : bool
        Compress. The file is one gzip member whose bytes depend on the blocks only.
    threads : int
        Blocks worked on at a time.
    """
    with atomic_path(path) as temporary, temporary.open("xb") as stream, ThreadPoolExecutor(threads) as pool:
        if not gzip:
            for block in blocks:
                stream.write(block())
            return
        stream.write(_GZIP_HEADER)
        checksum, size = 0, 0
        for packed, block_checksum, length in pool.map(_deflated, blocks):
            stream.write(packed)
            checksum = isal_zlib.crc32_combine(checksum, block_checksum, length)
            size += length
        stream.write(b"\x03\x00")  # an empty last deflate block
        stream.write(checksum.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little"))


def _expander() -> igzip_lib.IgzipDecompressor:
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


def _deflated(block: Callable[[], bytes]) -> tuple[bytes, int, int]:
    """The deflated block (flushed to a byte boundary), its CRC-32 and its length."""
    data = block()
    packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    packed = packer.compress(data) + packer.flush(isal_zlib.Z_FULL_FLUSH)
    return packed, isal_zlib.crc32(data), len(data)
