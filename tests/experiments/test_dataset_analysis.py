"""The tool that tells how long a tail is counts what training counts, and its JSON trains."""

import io
import json
import runpy
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from balanced_lvis.activations import (
    BalancedSigmoid,
    BalancedSoftmax,
    Softmax,
    base,
    centred_offset,
    foreground_offset,
    softmax_offset,
)
from balanced_lvis.config import load_config
from balanced_lvis.data.annotations.counting import count_classes
from balanced_lvis.data.rendered import annotation_file
from balanced_lvis.data.samplers import class_repeat_factors
from balanced_lvis.data.training_prior import class_prior_from_config, class_prior_of_dataset
from balanced_lvis.experiments.dataset_analysis import (
    analysis_tables,
    analyze,
    imbalance_factor,
    plot_analysis,
)
from balanced_lvis.experiments.plots import check_image_file
from balanced_lvis.priors import ClassPrior
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, ROOT, rendered_opts
from tests.data.custom import made

PRIOR = ClassPrior(("a", "b", "c", "d"), [150, 50, 5, 0], 200, [300, 60, 5, 0])


def tool(*words) -> SimpleNamespace:
    """The command line's status and what it prints, in this process."""
    main = runpy.run_path(str(ROOT / "tools" / "analyze_dataset.py"))["main"]
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        status = main([*map(str, words)])
    return SimpleNamespace(returncode=status, stdout=stdout.getvalue(), stderr=stderr.getvalue())


def test_numbers_are_the_priors_own():
    found = analyze(PRIOR, 0.1)
    first = found["classes"][0]
    assert [record["group"] for record in found["classes"]] == ["f", "c", "r", "r"]
    assert [record["repeat_factor"] for record in found["classes"]] == class_repeat_factors(PRIOR, 0.1).tolist()
    assert first["offset"]["balanced_sigmoid_foreground"] == pytest.approx(np.log(50 / 150))
    assert first["offset"]["balanced_sigmoid_centred"] == centred_offset(PRIOR)[0]
    assert first["offset"]["balanced_softmax"] == softmax_offset(PRIOR)[0]
    for record in found["classes"]:
        offset, shift = record["offset"], record["logit_shift"]
        assert shift["balanced_softmax"] == offset["balanced_softmax"]
        for form in ("balanced_sigmoid_foreground", "balanced_sigmoid_centred"):
            assert shift[form] == -offset[form]
    summary = found["summary"]
    assert (summary["imbalance_factor"], summary["imbalance_factor_of_instances"]) == (30.0, 60.0)
    assert (summary["groups"], summary["classes_without_images"]) == ({"r": 2, "c": 1, "f": 1}, 1)


def test_fractal_dimensions_are_shown_if_the_prior_has_them():
    prior = ClassPrior(("a", "b"), [30, 200], 300, fractal_dimension=[1.5, 1.0])
    rows = [[cell.strip() for cell in line.split("|")] for line in analysis_tables(analyze(prior, 0.1)).splitlines()]
    first = {row[1]: row for row in rows if len(row) > 1}
    for name, shown in {"all": "1.00 to 1.50", "a": "1.50", "b": "1.00"}.items():
        column = first["group" if name == "all" else "class"].index("fractal dimension")
        assert first[name][column] == shown
    assert "fractal dimension" not in analysis_tables(analyze(ClassPrior(("a",), [1], 3), 0.1))


def test_no_class_with_images_has_no_imbalance():
    assert imbalance_factor(np.zeros(3)) is None
    analysis_tables(analyze(ClassPrior(("a", "b"), [0, 0], 3, [0, 0]), 0.1))


def test_its_json_is_a_class_prior(tmp_path, tiny_cfg):
    prior = class_prior_of_dataset("rendered_train")
    (tmp_path / "prior.json").write_text(json.dumps(analyze(prior, 0.1)))
    tiny_cfg.MODEL.CLASS_PRIOR.FILE = str(tmp_path / "prior.json")
    loaded = class_prior_from_config(tiny_cfg)
    assert loaded.class_names == prior.class_names
    assert loaded.image_count.tolist() == prior.image_count.tolist()
    assert (loaded.num_images, loaded.instance_count.tolist()) == (prior.num_images, prior.instance_count.tolist())


@pytest.mark.parametrize("prior", [PRIOR, ClassPrior(("a",), [1], 1), ClassPrior(tuple("ab"), [0, 0], 3)])
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_any_prior_can_be_drawn(tmp_path, prior, ending):
    check_image_file("--plot", f"tail.{ending}")
    plot_analysis(analyze(prior, 0.001), tmp_path / f"tail.{ending}")
    assert (tmp_path / f"tail.{ending}").stat().st_size > 1000


def test_tables_show_both_ends_and_say_what_they_leave_out():
    names = tuple(f"class_{i}" for i in range(30))
    table = analysis_tables(analyze(ClassPrior(names, range(1, 31), 40), 0.001), shown=2)
    assert [name for name in names if f"| {name} " in table] == ["class_0", "class_1", "class_28", "class_29"]
    assert "…" in table
    assert "…" not in analysis_tables(analyze(PRIOR, 0.001), shown=2)


@pytest.mark.parametrize("form", ["foreground", "centred"])
def test_shifts_are_what_the_losses_do_to_a_logit(form):
    logits, gt_classes = torch.randn(1, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([2])
    shift = {name: torch.zeros(5) for name in ("balanced_softmax", f"balanced_sigmoid_{form}")}
    for name, shifts in shift.items():
        shifts[:4] = torch.tensor([record["logit_shift"][name] for record in analyze(PRIOR, 0.1)["classes"]])
    softmax, sigmoid = BalancedSoftmax(4, PRIOR), BalancedSigmoid(4, PRIOR, form=form)
    expected = F.cross_entropy(logits + shift["balanced_softmax"], gt_classes)
    torch.testing.assert_close(softmax.loss(logits, gt_classes), expected)
    shifted = (logits + shift[f"balanced_sigmoid_{form}"])[:, :4]
    expected = F.binary_cross_entropy_with_logits(shifted, F.one_hot(gt_classes, 4).float(), reduction="sum")
    torch.testing.assert_close(sigmoid.loss(logits, gt_classes), expected)


def test_tables_show_the_shift_not_the_offset():
    table = analysis_tables(analyze(PRIOR, 0.1))
    assert "minus the offset of Balanced Sigmoid\n" in table and "plus the offset of Balanced Softmax" in table
    (row,) = [line for line in table.splitlines() if line.startswith("| a ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    shifts = -foreground_offset(PRIOR), -centred_offset(PRIOR), softmax_offset(PRIOR)
    assert cells[-3:] == [f"{shift[0]:.2f}" for shift in shifts]


def test_other_registered_activations_that_shift_logits_are_shown(tmp_path, monkeypatch):
    class Shifted(Softmax):
        def training_shift(self):
            return self.prior.image_count / 8

    prior = ClassPrior(("a", "b"), [8, 4], 10, [9, 5])
    monkeypatch.setattr(base._ACTIVATIONS, "_classes", {**base._ACTIVATIONS._classes, "shifted": Shifted})
    found = analyze(prior, 0.001)
    assert [record["logit_shift"]["shifted"] for record in found["classes"]] == [1.0, 0.5]
    assert "softmax" not in found["classes"][0]["logit_shift"]
    header, *rows = analysis_tables(found).split("\n\n")[-1].splitlines()[-4:]
    assert header.split("|")[-2].strip() == "shifted" and rows[-1].split("|")[-2].strip() == "0.50"
    plot_analysis(found, tmp_path / "a.svg")


def test_a_file_is_counted_as_its_data_set_is(rendered):
    prior, expected = count_classes(annotation_file(rendered, "train")), class_prior_of_dataset("rendered_train")
    assert prior.to_dict() == expected.to_dict()


def test_crowds_and_ignored_objects_are_not_counted_and_classes_are_by_id(tmp_path):
    content = made.content()
    content["annotations"].append(made.annotation(9, 40, 7, ignore=True))
    prior = count_classes(made.write(tmp_path, "mine", content))
    assert prior.class_names == ("cat", "cup", "dog", "owl")
    assert prior.image_count.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("annotations"), "has no 'annotations'"),
        (lambda c: c.update(images=[]), "0 images and 4 categories"),
        (lambda c: c["annotations"][0].pop("category_id"), "annotation 0 of image 10: has no 'category_id'"),
        (lambda c: c["annotations"][0].update(category_id=[]), "annotation 0 of image 10: category_id is []"),
        (lambda c: c["annotations"][0].update(iscrowd="0"), "annotation 0 of image 10: iscrowd is '0'"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "5 annotations, all with 'iscrowd'"),
        (lambda c: c["annotations"][0].update(category_id=4), "category 4, which the file doesn't contain"),
        (lambda c: c["annotations"][0].update(image_id=4), "image 4, which the file doesn't contain"),
        (lambda c: c["categories"].append({"id": "x", "name": "fox"}), "number 5 id is 'x'"),
        (lambda c: c["categories"].append(7), "number 5 is 7"),
    ],
)
def test_what_cannot_be_counted_is_told(tmp_path, change, words):
    content = made.content()
    change(content)
    with pytest.raises(InputError, match=r"mine\.json") as caught:
        count_classes(made.write(tmp_path, "mine", {"images": [], **content}))
    assert words in str(caught.value)


def test_lvis_is_told_from_metadata_alone(tmp_path):
    done = tool("lvis_v1_train", "--json", tmp_path / "prior.json", "--plot", tmp_path / "tail.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "99,388 images with objects, 1,203 classes" in done.stdout
    for words in ("| rare     |     337 |", "| common   |     461 |", "| frequent |     405 |"):
        assert words in done.stdout
    assert ClassPrior.load(tmp_path / "prior.json").num_classes == 1203


def test_a_data_set_of_a_config_is_told_by_name(rendered, tmp_path):
    config = CONFIGS / "quick_start" / "balanced_sigmoid.yaml"
    done = tool("rendered_train", "--config-file", config, *rendered_opts(rendered, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "24 images with objects, 12 classes" in done.stdout
    made.write(tmp_path, "mine", made.content())
    (tmp_path / "mine.yaml").write_text(load_config(config, made.overrides(tmp_path, "mine", "")).dump())
    done = tool("my_mine", "--config-file", tmp_path / "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert "2 images with objects, 4 classes, 3 instances" in done.stdout  # one has crowds alone, one nothing
    file, everything = tmp_path / "mine.json", ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False")
    assert "2 images with objects, 4 classes, 3 instances" in tool(file).stdout
    for name in (("my_mine", "--config-file", tmp_path / "mine.yaml"), (file,)):
        assert "4 images, 4 classes, 3 instances" in tool(*name, *everything).stdout


def test_shifts_of_the_stream_are_told_where_they_are_asked_for(rendered, tmp_path):
    words = ["rendered_train", "--config-file", CONFIGS / "rendered" / "balanced_sigmoid_sampled.yaml"]
    opts = [*rendered_opts(rendered, tmp_path), "DATALOADER.REPEAT_THRESHOLD", "0.5"]
    done = tool(*words, "--json", tmp_path / "prior.json", *opts)
    assert done.returncode == 0, done.stderr
    prior = ClassPrior.load(tmp_path / "prior.json")
    shown = f"{prior.sampled_counts.num_images:,.0f} images per epoch of RepeatFactorTrainingSampler, threshold 0.5"
    assert f"frequencies and shifts of the {shown}" in done.stdout
    record = json.loads((tmp_path / "prior.json").read_text())["classes"][0]
    assert record["offset"]["balanced_sigmoid_centred"] == centred_offset(prior)[0]
    file = annotation_file(rendered, "train")
    assert "needs a registered dataset" in tool(file, "MODEL.CLASS_PRIOR.SAMPLED", "True").stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere.json",), "nowhere.json doesn't exist"),
        ((str(ROOT / "configs"),), "configs' (it is a folder; name the file in it) is not registered"),
        (("lvis_v1_trian",), "Did you mean lvis_v1_train"),
        (("lvis_v1_train", "--threshold", "2"), "repeat threshold is 2.0"),
        (("lvis_v1_train", "--show", "-1"), "--show is -1; it must be 0 or more"),
        (("lvis_v1_train", "--plot", "tail.doc"), "'doc' is not a supported image format"),
    ],
)
def test_bad_arguments_are_told(words, message):
    done = tool(*words)
    assert done.returncode == 2
    assert message in done.stderr
