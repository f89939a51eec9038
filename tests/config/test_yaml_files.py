"""What a config file may ask for: memory and time in proportion to its size, and other files only."""

import os

import pytest

from balanced_lvis.config import load_config
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS
from tests.memory import outcomes_within

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11)
)
HOSTILE = {
    "aliases.yaml": f"MODEL:\n  WEIGHTS: x\nSOLVER: {{STEPS: []}}\n{BOMB}",
    "merged.yaml": "a0: &a0 {k: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 11)),
    "endless.yaml": "MODEL: &a\n  X: *a\n",
    "endless list.yaml": "SOLVER: {STEPS: &a [1, *a]}\n",
    "minus.yaml": f"SEED: '{'-' * 30_000}1'\n",
    "minus minus.yaml": f"SEED: {'- ' * 30_000}1\n",
    "not.yaml": f"SEED: '{'not ' * 9_000}1'\n",
    "brackets.yaml": f"SEED: '{'[' * 30_000}'\n",
    "flow.yaml": f"SEED: {'[' * 30_000}\n",
    "long.yaml": f"SEED: '{'9' * 500_000}'\n",
    "large.yaml": "A: [" + "[]," * 100_000 + "]\n",
    "many.yaml": "A: [" + "[]," * 80_000 + "]\n",
}


def test_a_config_takes_no_more_than_its_size_allows(tmp_path):
    for name, content in HOSTILE.items():
        (tmp_path / name).write_text(content)
    paths = [tmp_path / name for name in HOSTILE]
    setup = "from balanced_lvis.config import load_config as read"
    for path, outcome in zip(paths, outcomes_within(800 << 20, setup, paths)):
        assert outcome.startswith("refused"), f"{path.name}: {outcome[:300]}"


@pytest.mark.parametrize("sign", ["+", "~", "(", "[", "not "])
def test_an_override_that_is_nested_too_deeply_is_refused(sign):
    with pytest.raises(InputError, match="SEED") as error:
        load_config("", ["SEED", sign * 20_000 + "1"])
    assert len(str(error.value)) < 500


def test_signs_that_look_like_an_option_are_told_in_short():
    with pytest.raises(InputError, match="before the first KEY VALUE pair") as error:
        load_config("", ["SEED", "-" * 100_000 + "1"])
    assert len(str(error.value)) < 500


def test_bases_are_files(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for base, words in {
        "folder": "is a folder",
        "fifo": "not a regular file",
        "https://example.org/a.yaml": "must be the path of a file",
        "detectron2://a.yaml": "must be the path of a file",
        "file:///etc/passwd": "must be the path of a file",
        "missing.yaml": "doesn't exist",
        "[missing.yaml]": "doesn't exist",
        "{a: 1}": "must be the path of a file",
        "/dev/zero": "not a regular file",
        "x.yaml": "includes itself",
    }.items():
        (tmp_path / "x.yaml").write_text(f"_BASE_: {base}\n")
        with pytest.raises(InputError, match=words) as error:
            load_config(tmp_path / "x.yaml")
        assert "x.yaml" in str(error.value) and "_BASE_" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "<<: {_BASE_: https://example.org/a.yaml}\n",
        "<<: [{SEED: 3}, {_BASE_: https://example.org/a.yaml}]\n",
        "A: &a {<<: &b {_BASE_: https://example.org/a.yaml}}\n<<: *a\n",
        "!!merge x: {_BASE_: https://example.org/a.yaml}\n",
    ],
)
def test_a_base_that_is_merged_in_is_a_file_too(tmp_path, content):
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(InputError, match="must be the path of a file"):
        load_config(tmp_path / "x.yaml")


def test_a_base_may_be_merged_in(tmp_path):
    (tmp_path / "base.yaml").write_text("SEED: 3\n")
    (tmp_path / "x.yaml").write_text("<<: {_BASE_: base.yaml}\n")
    assert load_config(tmp_path / "x.yaml").SEED == 3


def test_bases_in_a_circle_or_without_end_are_refused(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.yaml").write_text(f"_BASE_: {(n + 1) % 3}.yaml\n")
    with pytest.raises(InputError, match="includes itself"):
        load_config(tmp_path / "0.yaml")
    for n in range(30):
        (tmp_path / f"{n}.yaml").write_text(f"_BASE_: {n + 1}.yaml\n" if n < 29 else "SEED: 3\n")
    with pytest.raises(InputError, match="more than 20 files"):
        load_config(tmp_path / "0.yaml")
    assert load_config(tmp_path / "15.yaml").SEED == 3


def test_a_base_named_twice_is_no_circle_and_aliases_may_be_used(tmp_path):
    (tmp_path / "base.yaml").write_text("SEED: 3\n")
    (tmp_path / "middle.yaml").write_text("_BASE_: base.yaml\nSOLVER: {STEPS: &steps [1, 2]}\n")
    (tmp_path / "x.yaml").write_text("_BASE_: [base.yaml, middle.yaml]\nTEST: &t {EVAL_PERIOD: 5}\nINPUT: {}\n")
    cfg = load_config(tmp_path / "x.yaml")
    assert (cfg.SEED, cfg.SOLVER.STEPS, cfg.TEST.EVAL_PERIOD) == (3, (1, 2), 5)


def test_a_base_is_found_by_its_path_and_then_by_its_name(tmp_path):
    for base in ("r50_eql", "configs/r50_eql.yaml", "r50_eql.yaml"):
        (tmp_path / "x.yaml").write_text(f"_BASE_: {base}\nSEED: 3\n")
        cfg = load_config(tmp_path / "x.yaml")
        expected = load_config(CONFIGS / "r50_eql.yaml", ["SEED", "3"])
        assert cfg == expected
    (tmp_path / "r50_eql.yaml").write_text("SEED: 5\nSOLVER: {MAX_ITER: 7}\n")
    cfg = load_config(tmp_path / "x.yaml")
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (3, 7, 80)
    (tmp_path / "x.yaml").write_text("_BASE_: [base/rendered, r50_eql.yaml]\n")
    cfg = load_config(tmp_path / "x.yaml")
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (5, 7, 100)


def test_a_name_with_dots_is_no_config_of_ours(tmp_path):
    (tmp_path / "x.yaml").write_text("_BASE_: ../setup\n")
    with pytest.raises(InputError, match="doesn't exist"):
        load_config(tmp_path / "x.yaml")


def test_a_section_and_a_value_of_one_name_are_refused(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER: 3\n")
    (tmp_path / "x.yaml").write_text("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 3}\n")
    with pytest.raises(InputError, match="SOLVER is a section here, but a value in a _BASE_ file"):
        load_config(tmp_path / "x.yaml")


def test_a_folder_with_the_name_of_a_config_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r50_rfs").mkdir()
    (tmp_path / "mine.yaml").write_text('_BASE_: "r50_rfs"\n')
    for name in ("r50_rfs", "mine.yaml"):
        assert load_config(name).MODEL.RESNETS.DEPTH == 50
    (tmp_path / "no config").mkdir()
    with pytest.raises(InputError, match="'no config' is a folder"):
        load_config("no config")


@pytest.mark.parametrize("version", ["VERSION: 2\n", ""])
def test_a_section_that_is_used_twice_by_an_alias_is_changed_once(tmp_path, version):
    (tmp_path / "base.yaml").write_text("DATASETS: {CUSTOM: {a: &files {JSON: a.json, IMAGES: a}, b: *files}}\n")
    (tmp_path / "mine.yaml").write_text(f"{version}_BASE_: base.yaml\nDATASETS: {{CUSTOM: {{a: {{JSON: c.json}}}}}}\n")
    custom = load_config(tmp_path / "mine.yaml").DATASETS.CUSTOM
    assert (custom.a.JSON, custom.b.JSON) == ("c.json", "a.json")
