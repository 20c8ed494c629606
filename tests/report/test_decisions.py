"""The table of decisions: what is written is read back, and a person's work is never passed over."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuralprep.errors import InputError
from neuralprep.report.decisions import (
    MAX_NOTE,
    REVIEW_FILE,
    VERDICTS,
    Decision,
    decide,
    read_decisions,
    write_decisions,
)

_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80)
_name = _text.map(lambda text: " ".join(text.split())).filter(lambda text: text not in ("", "n/a"))


@given(st.dictionaries(_name, st.tuples(st.sampled_from(VERDICTS), _text), max_size=6))
def test_what_is_written_is_read_back(rows: dict[str, tuple[str, str]]) -> None:
    made = [decide(scan, decision, note) for scan, (decision, note) in rows.items()]
    with TemporaryDirectory() as folder:
        write_decisions(Path(folder), made)
        found = read_decisions(Path(folder))
    wanted = {row.scan: row for row in made if not row.empty and row.note != "n/a"}
    assert {scan: row for scan, row in found.items() if scan in wanted} == wanted
    assert set(found) <= set(rows)


def test_the_table_is_plain_tsv(tmp_path: Path) -> None:
    rows = [Decision("b", "reject", "a\ttab and a\nline", "2026-01-02T03:04:05Z"), Decision("a", "accept"),
            Decision("c", "")]
    path = write_decisions(tmp_path, rows)
    assert path == tmp_path / REVIEW_FILE
    assert path.read_text() == ("scan\tdecision\tnote\ttime\na\taccept\tn/a\tn/a\n"
                                "b\treject\ta tab and a line\t2026-01-02T03:04:05Z\n")
    assert [file.name for file in tmp_path.iterdir()] == [REVIEW_FILE]


def test_long_notes_are_cut() -> None:
    assert len(decide("a", "", "x" * 5000).note) == MAX_NOTE


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"\xff\xfe\0", "cannot be read"), (b"name\tverdict\n", "no columns"), (b"", "no columns"),
     (b"scan\tdecision\na\tmaybe\n", "maybe"), (b"scan\tdecision\n\taccept\n", "line 2")],
)  # fmt: skip
def test_a_damaged_table_stops_the_review(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / REVIEW_FILE).write_bytes(content)
    with pytest.raises(InputError, match=fault):
        read_decisions(tmp_path)
    assert (tmp_path / REVIEW_FILE).read_bytes() == content


def test_columns_of_other_programs_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / REVIEW_FILE).write_text("decision\trater\tscan\naccept\tme\tsub-01\n")
    assert read_decisions(tmp_path) == {"sub-01": Decision("sub-01", "accept")}
