"""Class frequencies of a dataset, and the repeat factors and logit shifts that follow from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..activations import Activation, activation_class, activation_names, build_activation
from ..data.samplers import class_repeat_factors
from ..priors import COMMON_MAX_IMAGES, RARE_MAX_IMAGES, WITH_OBJECTS, ClassPrior
from .plots import plt
from .tables import markdown_table

GROUPS = {"r": "rare", "c": "common", "f": "frequent"}


class Offset(NamedTuple):
    """An activation with options, the sign of its offset in the training shift, and its title in plots."""

    activation: str
    options: dict[str, Any]
    sign: int
    title: str


OFFSETS = {
    "balanced_sigmoid_foreground": Offset(
        "balanced_sigmoid", {"form": "foreground"}, -1, "Balanced Sigmoid, foreground form (−offset)"
    ),
    "balanced_sigmoid_centred": Offset(
        "balanced_sigmoid", {"form": "centred"}, -1, "Balanced Sigmoid, centred form (−offset)"
    ),
    "balanced_softmax": Offset("balanced_softmax", {}, 1, "Balanced Softmax (+offset)"),
}
_DRAWN_WIDE = "balanced_sigmoid_centred"
SHIFT_NOTE = (
    "The columns of methods show what training adds to the logit of a class: minus the offset of Balanced Sigmoid\n"
    "(foreground form: on foreground RoIs only), plus the offset of Balanced Softmax. Test-time scores are not shifted."
)


def analyze(prior: ClassPrior, threshold: float) -> dict:
    """
    Args:
        prior: class prior of the training set.
        threshold: threshold of repeat factor sampling, DATALOADER.REPEAT_THRESHOLD.

    Returns:
        for JSON: the contents of :meth:`ClassPrior.save`, so that it can be used as ``MODEL.CLASS_PRIOR.FILE``, with
        "group", "frequency", "repeat_factor", "offset" and "logit_shift" of each class, and a "summary". "offset" is
        as each method defines it (Balanced Sigmoid subtracts it from a training logit, Balanced Softmax adds it);
        "logit_shift" is what training adds to the logit, so that methods can be compared. If the prior has the counts
        of a sampler, frequencies, offsets and shifts are those of the sampled images.

    Raises:
        InputError: if the threshold is outside [0, 1].
    """
    found = prior.to_dict()
    columns = {
        "group": prior.groups().tolist(),
        "frequency": prior.image_frequency().tolist(),
        "repeat_factor": class_repeat_factors(prior, threshold).tolist(),
    }
    offsets = shown_offsets()
    shifts = {name: _training_shift(prior, offset) for name, offset in offsets.items()}
    for row, record in enumerate(found["classes"]):
        record.update({name: values[row] for name, values in columns.items()})
        record["offset"] = {name: 0.0 + o.sign * float(shifts[name][row]) for name, o in offsets.items()}
        record["logit_shift"] = {name: float(values[row]) for name, values in shifts.items()}
    instances = prior.instance_count
    found["summary"] = {
        "num_classes": prior.num_classes,
        "num_instances": None if instances is None else int(instances.sum()),
        "groups": {group: int((prior.groups() == group).sum()) for group in GROUPS},
        "classes_without_images": int((prior.image_count == 0).sum()),
        "repeat_threshold": threshold,
        "imbalance_factor": imbalance_factor(prior.image_count),
        "imbalance_factor_of_instances": None if instances is None else imbalance_factor(instances),
    }
    return found


def shown_offsets() -> dict[str, Offset]:
    """:data:`OFFSETS`, and every other registered activation that shifts logits, with its default options."""
    known = {offset.activation for offset in OFFSETS.values()}
    others = [
        name
        for name in activation_names()
        if name not in known and activation_class(name).training_shift is not Activation.training_shift
    ]
    return {**OFFSETS, **{name: Offset(name, {}, 1, name) for name in others}}


def _training_shift(prior: ClassPrior, offset: Offset) -> np.ndarray:
    """(K,) float64: what the loss of an activation adds to the logit of each class; zeros if it is None."""
    shift = build_activation(offset.activation, prior.num_classes, prior, **offset.options).training_shift()
    # 0.0 +, so that a shift of 0 isn't shown as -0.0.
    return 0.0 + (np.zeros(prior.num_classes) if shift is None else shift)


def imbalance_factor(counts: np.ndarray) -> float | None:
    """The largest count divided by the smallest non-zero count; None if all are 0."""
    known = counts[counts > 0]
    return float(known.max() / known.min()) if len(known) else None


def analysis_tables(found: dict, shown: int = 5) -> str:
    """
    Args:
        found: result of :func:`analyze`.
        shown: number of classes to show at either end.

    Returns:
        two Markdown tables, of the groups and of the most and least frequent classes, with the logit shifts.
    """
    classes = sorted(found["classes"], key=lambda record: (-record["image_count"], record["name"]))
    names = list(classes[0]["logit_shift"])
    # Shown if the prior has it.
    shown_boxes = ["fractal dimension"] if "fractal_dimension" in classes[0] else []
    groups = [["group", "classes", "images of a class", "instances", "repeat factor", *shown_boxes, *names]]
    for group, name in {**GROUPS, "": "all"}.items():
        rows = [record for record in classes if record["group"].startswith(group)]
        groups.append([name, *_group_row(rows, shown_boxes, names)])
    ends = classes if len(classes) <= 2 * shown else [*classes[:shown], None, *classes[len(classes) - shown :]]
    single = [["class", "group", "images", "instances", "repeat factor", *shown_boxes, *names]]
    single += [_class_row(record) if record else ["…"] + [""] * (len(single[0]) - 1) for record in ends]
    return f"{_summary_line(found)}\n\n{SHIFT_NOTE}\n\n{markdown_table(groups)}\n{markdown_table(single)}"


def _summary_line(found: dict) -> str:
    summary = found["summary"]
    known = summary["num_instances"] is not None
    instances = f"{summary['num_instances']:,} instances" if known else "number of instances unknown"
    factors = ["imbalance_factor", *(["imbalance_factor_of_instances"] if known else [])]
    words = ["images", "instances"][: len(factors)]
    imbalance = ", ".join(f"{summary[key] or 0:,.0f} by {word}" for key, word in zip(factors, words))
    images = f"{found['num_images']:,} {WITH_OBJECTS if found['counted'] == WITH_OBJECTS else 'images'}"
    line = f"{images}, {summary['num_classes']:,} classes, {instances}; imbalance {imbalance}"
    if shown := found.get("shown"):
        line += f"; frequencies and shifts of the {shown['num_images']:,.0f} images per epoch of {shown['sampler']}"
    absent = summary["classes_without_images"]
    return f"{line}; {absent:,} classes in no image, counted as half an image" if absent else line


def _group_row(records: list[dict], boxes: list[str], shifts: list[str]) -> list[str]:
    if not records:
        return ["0", *["–"] * (3 + len(boxes) + len(shifts))]
    counts = [record["instance_count"] for record in records]
    return [
        f"{len(records):,}",
        _span([record["image_count"] for record in records], ",d"),
        "–" if None in counts else f"{sum(counts):,}",
        _span([record["repeat_factor"] for record in records], ".2f"),
        *(_span([record["fractal_dimension"] for record in records], ".2f") for _ in boxes),
        *(_span([record["logit_shift"][name] for record in records], ".2f") for name in shifts),
    ]


def _class_row(record: dict) -> list[str]:
    instances = record["instance_count"]
    return [
        record["name"],
        record["group"],
        f"{record['image_count']:,}",
        "–" if instances is None else f"{instances:,}",
        f"{record['repeat_factor']:.2f}",
        *([f"{record['fractal_dimension']:.2f}"] if "fractal_dimension" in record else []),
        *(f"{shift:.2f}" for shift in record["logit_shift"].values()),
    ]


def _span(values: list, form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def plot_analysis(found: dict, path) -> None:
    """
    Plot the images of each class by rank, and logit shifts and repeat factors against the images of a class.

    Args:
        found: result of :func:`analyze`.
        path: image file to write.
    """
    classes = sorted(found["classes"], key=lambda record: -record["image_count"])
    counts = np.array([max(record["image_count"], 0.5) for record in classes])
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    ranks = np.arange(1, len(classes) + 1)
    for index, (group, name) in enumerate(reversed(GROUPS.items())):
        inside = np.array([record["group"] == group for record in classes])
        if inside.any():
            label = f"{name}: {inside.sum():,}"
            left.bar(ranks[inside], counts[inside], 1.0, color=f"C{index}", label=label)
    left.set(yscale="log", xlabel="class, by images", ylabel="training images", ylim=(0.4, None))
    left.yaxis.set_major_formatter("{x:g}")
    left.legend(frameon=False)
    for index, name in enumerate(classes[0]["logit_shift"]):
        title = OFFSETS[name].title if name in OFFSETS else name
        shifts = [record["logit_shift"][name] for record in classes]
        # With many classes the last two nearly coincide: a wide, transparent line keeps both visible.
        style = {"linewidth": 5, "alpha": 0.4} if name == _DRAWN_WIDE else {}
        right.plot(counts, shifts, color=f"C{3 + index}", label=title, **style)
    right.axhline(0, color="0.85", linewidth=1, zorder=0)
    factors = [record["repeat_factor"] for record in classes]
    threshold = found["summary"]["repeat_threshold"]
    right.plot(counts, factors, color="0.3", linestyle="--", label=f"repeat factor, t = {threshold:g}")
    for edge in (RARE_MAX_IMAGES + 0.5, COMMON_MAX_IMAGES + 0.5):
        right.axvline(edge, color="0.85", linewidth=1, zorder=0)
    right.set(xscale="log", xlabel="training images of the class", ylabel="added to the training logit; repeat factor")
    right.xaxis.set_major_formatter("{x:g}")
    right.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=1)
    figure.savefig(path, dpi=130)
    plt.close(figure)
