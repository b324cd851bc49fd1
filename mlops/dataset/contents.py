"""Recognizes what a file really contains, and decompresses it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any

from mlops.core.errors import DataError

__all__ = ["COMPRESSIONS", "check_content", "decompress", "suffixes"]

COMPRESSIONS = (".gz", ".zst", ".xz", ".bz2")

SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the data itself", "run `git lfs pull`; in a workflow, check out with `lfs: true`"),
    (b"\x1f\x8b", "compressed with gzip", "rename it to end in .gz ({name}.gz)"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", "rename it to end in .zst ({name}.zst)"),
    (b"\xfd7zXZ\x00", "compressed with xz", "rename it to end in .xz ({name}.xz)"),
    (b"BZh", "compressed with bzip2", "rename it to end in .bz2 ({name}.bz2)"),
    (b"PK\x03\x04", "a zip archive (so are .xlsx files)", "unpack it, or export the sheet as CSV in UTF-8"),
    (b"PAR1", "a Parquet file", "rename it to end in .parquet"),
    (b"ARROW1", "an Arrow file", "rename it to end in .arrow"),
    (b"SQLite format 3\x00", "an SQLite database", "export the table as JSON Lines or CSV"),
    (b"%PDF", "a PDF document", "use a file with conversations"),
    (b"\x80\x04", "a Python pickle", "write it as JSON Lines"),
    (b"\x80\x05", "a Python pickle", "write it as JSON Lines"),
    (b"\xff\xfe\x00\x00", "encoded in UTF-32", "save it as UTF-8: iconv -f UTF-32 -t UTF-8 {name} > new"),
    (b"\x00\x00\xfe\xff", "encoded in UTF-32", "save it as UTF-8: iconv -f UTF-32 -t UTF-8 {name} > new"),
    (b"\xff\xfe", "encoded in UTF-16, as `>` in PowerShell does", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 {name} > new"),
    (b"\xfe\xff", "encoded in UTF-16", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 {name} > new"),
)
"""First bytes → what a file is, and what to do about it."""

BINARY = {".parquet": (b"PAR1",), ".arrow": (b"ARROW1", b"\xff\xff\xff\xff"), ".feather": (b"ARROW1",)}
"""Suffix → first bytes of the binary formats that are read."""


def suffixes(path: Path) -> tuple[str, str]:
    """Return the suffix of the format and that of the compression, in lower case: ``data.JSONL.gz`` → ``(".jsonl", ".gz")``."""
    parts = [suffix.lower() for suffix in path.suffixes]
    compression = parts.pop() if parts and parts[-1] in COMPRESSIONS else ""
    # Spark names the compression of the content before the format: part-00000.snappy.parquet.
    return (parts[-1] if parts else ""), compression


def check_content(path: Path, kind: str, head: bytes) -> None:
    """Check that a file is what its name says.

    Args:
        path: the file.
        kind: the suffix of its format.
        head: its first bytes, without compression.

    Raises:
        DataError: it is something else.
    """
    if kind in BINARY and head.startswith(BINARY[kind]):
        return
    for signature, what, fix in SIGNATURES:
        if head.startswith(signature):
            raise DataError(f"{path} is {what}.", fix.format(name=path.name))
    if head[257:262] == b"ustar":
        raise DataError(f"{path} is a tar archive.", f"unpack it: tar xf {path.name}")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if re.match(rb"<(!doctype|html|\?xml|head|body)", text, re.IGNORECASE):
        what = "an XML document" if text[:5].lower() == b"<?xml" else "an HTML page, perhaps a login or error page of the server"
        raise DataError(f"{path} is {what}, not data.", "download the file again, with the permissions that it needs")
    if kind not in BINARY and b"\x00" in head:
        if re.match(rb"(?:[\x09-\x7e]\x00){4}|(?:\x00[\x09-\x7e]){4}", head):
            raise DataError(f"{path} is encoded in UTF-16.", f"save it as UTF-8: iconv -f UTF-16 -t UTF-8 {path.name} > new")
        # In a file with lines of JSON, a single one is an error of its row.
        if kind in (".csv", ".tsv") or head.count(b"\x00") * 10 > len(head):
            raise DataError(f"{path} contains NUL bytes, so it is binary or damaged.", "write the file again as text in UTF-8")
    if kind == ".jsonl" and re.match(rb'\{\s*\n\s*"', text):
        raise DataError(
            f"{path} has JSON objects that span several lines, but JSON Lines has one object per line.",
            f"put each on one line: jq -c . {path.name} > new",
        )
    if kind not in BINARY and b"\r" in head and b"\n" not in head and kind != ".json":
        raise DataError(
            f"{path} has lines that end in a bare carriage return, as on old Macs.", f"convert it: tr '\\r' '\\n' < {path.name} > new"
        )
    if kind == ".jsonl" and text.startswith(b"["):
        raise DataError(f"{path} contains a JSON array, but each line of a .jsonl file is an object.", f"rename it to {path.stem}.json")
    if kind in BINARY and head:
        raise DataError(f"{path} is not a readable {kind[1:].capitalize()} file: it begins with {head[:8]!r}.", "write the file again")


def decompress(path: Path, compression: str) -> IO[bytes]:
    """Open a file for reading at any position, decompressed into a temporary file if it is compressed.

    Raises:
        DataError: the compressed data is damaged or ends early.
        OSError: the file can't be read.
    """
    if not compression:
        return path.open("rb")
    target = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with _open_compressed(path, compression) as source:
            shutil.copyfileobj(source, target, 1 << 20)
    except (EOFError, zlib.error, lzma.LZMAError, ValueError, OSError) as problem:
        target.close()
        if isinstance(problem, OSError) and problem.errno is not None:
            raise
        raise DataError(
            f"{path} can't be decompressed as {compression[1:]}: {problem}", "download or compress the file again, or correct its suffix"
        ) from None
    target.seek(0)
    return target


def _open_compressed(path: Path, compression: str) -> Any:
    if compression == ".gz":
        return gzip.open(path)
    if compression == ".bz2":
        return bz2.open(path)
    if compression == ".xz":
        return lzma.open(path)
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
