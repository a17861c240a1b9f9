"""Files survive kills: whole batches, a manifest written last, old results set aside and never overwritten."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from xlm_utils.study import ROOT
from xlm_utils.study.records import Step, append_jsonl, manifest_path, read_jsonl, sha256


def write(step, text="x"):
    with step:
        step.partial.write_text(text)
        step.finish()


def test_a_torn_last_line_is_dropped_and_then_overwritten(tmp_path):
    file = tmp_path / "rows.jsonl"
    append_jsonl(file, [{"a": 1}])
    with file.open("a") as out:
        out.write('{"a": 2')
    assert read_jsonl(file) == [{"a": 1}]
    append_jsonl(file, [{"a": 3}])
    assert read_jsonl(file) == [{"a": 1}, {"a": 3}]


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\r"])
def test_a_line_separator_inside_a_text_ends_no_row(tmp_path, odd):
    rows = [{"a": "x"}, {"a": f"y{odd}z"}, {"a": "w"}]
    append_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\nnot json\n{"a": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_jsonl(file)


def test_a_step_is_done_only_with_its_manifest_and_the_same_inputs(tmp_path):
    step = Step(tmp_path / "out.txt", number=1)
    assert not step.done
    write(step)
    assert Step(tmp_path / "out.txt", number=1).done
    assert not Step(tmp_path / "out.txt", number=2).done
    manifest_path(step.path).unlink()
    assert not Step(tmp_path / "out.txt", number=1).done


def test_an_output_edited_after_its_manifest_is_not_done(tmp_path):
    step = Step(tmp_path / "out.txt", number=1)
    write(step)
    step.path.write_text("edited")
    assert not step.done


def test_a_result_from_other_parameters_is_set_aside_not_overwritten(tmp_path):
    old = Step(tmp_path / "out.txt", number=1)
    write(old, "old")
    write(Step(tmp_path / "out.txt", number=2), "new")
    assert (tmp_path / "out.txt").read_text() == "new"
    assert (tmp_path / "superseded" / old.key / "out.txt").read_text() == "old"


def test_results_of_the_same_inputs_keep_their_own_superseded_copies(tmp_path):
    changes = [(name, value) for value in (1, 2, 1, 2) for name in ("one.txt", "twin.txt")]
    for name, value in [*changes, ("one.txt", 1)]:
        write(Step(tmp_path / name, number=value), f"{name} {value}")
    kept = sorted(file.read_text() for file in (tmp_path / "superseded").rglob("*.txt"))
    assert kept == ["one.txt 1", "one.txt 2", "twin.txt 1", "twin.txt 2"]


def test_of_two_processes_that_need_a_result_one_makes_it_and_the_other_waits(tmp_path):
    code = """
    import sys, time
    from pathlib import Path
    from xlm_utils.study.records import Step
    step = Step(Path(sys.argv[1]), value=1)
    with step:
        if step.done:
            print("waited")
        else:
            step.partial.mkdir()
            time.sleep(1)
            (step.partial / "weights").write_text("x")
            step.finish()
            print("made")
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "model")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    assert sorted(process.communicate(timeout=60)[0].strip() for process in both) == ["made", "waited"]
    assert (tmp_path / "model" / "weights").read_text() == "x"


def test_a_kill_between_the_two_last_renames_loses_nothing(tmp_path):
    step = Step(tmp_path / "out.txt", number=1)
    write(step)
    os.replace(manifest_path(step.path), step._pending)
    assert Step(tmp_path / "out.txt", number=1).done


def test_the_manifest_holds_inputs_versions_and_hash(tmp_path):
    step = Step(tmp_path / "out.txt", number=1)
    write(step)
    manifest = json.loads(manifest_path(step.path).read_text())
    assert manifest["made_from"] == {"number": 1}
    assert manifest["sha256"] == sha256(step.path)
    assert "torch" in manifest["versions"]


def test_a_folder_s_hash_follows_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    before = sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256(tmp_path) != before


def test_a_killed_writer_leaves_only_whole_rows(tmp_path):
    """kill -9 while rows are appended: what is read back is a prefix of what was written."""
    file = tmp_path / "rows.jsonl"
    code = f"""
        from pathlib import Path
        from xlm_utils.study.records import append_jsonl
        print("go", flush=True)
        for i in range(10**6):
            append_jsonl(Path({str(file)!r}), [{{"i": i, "pad": "x" * 500}}])
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    process.stdout.readline()
    while not file.exists() or file.stat().st_size < 5000:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = read_jsonl(file)
    assert [row["i"] for row in rows] == list(range(len(rows)))
    assert len(rows) > 5
