"""When an edited file is read again."""

from __future__ import annotations

import os
from pathlib import Path

from modelfleet_operator.local.watching import Edits, fingerprint


def test_an_edit_is_read_once_it_is_steady():
    one, two, three = (((n, n, n),) for n in (1, 2, 3))
    edits = Edits(one)
    looks = [one, two, three, three, three, one, one, one]
    assert [edits.look(seen) for seen in looks] == [
        False, False, False, True, False, False, True, False,
    ]  # fmt: skip


def test_a_file_that_an_editor_replaces_is_not_read_while_it_is_absent():
    edits = Edits(((1, 1, 1),))
    assert not edits.look((None,))
    assert not edits.look(((2, 1, 2),))
    assert edits.look(((2, 1, 2),))


def test_a_file_that_stays_absent_is_an_edit():
    edits = Edits(((1, 1, 1),))
    assert [edits.look((None,)) for _ in range(3)] == [False, True, False]


def test_every_way_of_writing_changes_the_fingerprint(tmp_path: Path):
    file, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    file.write_text("one")
    seen = [fingerprint([file, other])]
    file.write_text("longer")
    seen.append(fingerprint([file, other]))
    other.write_text("!")
    seen.append(fingerprint([file, other]))
    (tmp_path / "new").write_text("longer")
    os.utime(tmp_path / "new", ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    (tmp_path / "new").replace(file)  # as editors save
    seen.append(fingerprint([file, other]))
    assert len(set(seen)) == len(seen)


def test_a_pipe_is_never_read_again():
    reading, writing = os.pipe()
    try:
        before = fingerprint([Path(f"/dev/fd/{reading}")])
        os.write(writing, b"text")
        assert fingerprint([Path(f"/dev/fd/{reading}")]) == before
    finally:
        os.close(reading)
        os.close(writing)
