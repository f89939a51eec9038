"""
The table of methods, used by the comparison, the quick start, the tests and docs/choosing_a_method.md.

``python -m balanced_lvis.experiments.methods`` prints the table in docs/choosing_a_method.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..config import load_config


@dataclass(frozen=True)
class Paper:
    """Citation and arXiv number of a paper."""

    citation: str
    arxiv: str

    def link(self) -> str:
        """Markdown link."""
        return f"[{self.citation}](https://arxiv.org/abs/{self.arxiv})"


LVIS = Paper("Gupta et al., CVPR 2019", "1908.03195")
DECOUPLING = Paper("Kang et al., ICLR 2020", "1910.09217")
EQUALIZATION = Paper("Tan et al., CVPR 2020", "2003.05176")
BALANCED_ACTIVATION = Paper("Ren et al., LVIS 2020 challenge", "2008.11037")
INSTANCE_AWARE = Paper("Yaman et al., 2023", "2305.08069")
COPY_PASTE = Paper("Ghiasi et al., CVPR 2021", "2012.07177")
BALANCED_META_SOFTMAX = Paper("Ren et al., NeurIPS 2020", "2007.10740")
FEDERATED = Paper("Zhou et al., 2021", "2103.07461")
DROP_LOSS = Paper("Hsieh et al., AAAI 2021", "2104.06402")
GUMBEL = Paper("Alexandridis et al., ECCV 2022", "2207.10936")
CLASS_MARGINS = Paper("Cho and Krähenbühl, ECCV 2022", "2301.09724")
FOCAL = Paper("Lin et al., ICCV 2017", "1708.02002")
CLASS_BALANCED = Paper("Cui et al., CVPR 2019", "1901.05555")
EQUALIZATION_V2 = Paper("Tan et al., CVPR 2021", "2012.08548")
LOCE = Paper("Feng et al., ICCV 2021", "2108.07507")
ACSL = Paper("Wang et al., CVPR 2021", "2104.00885")
BACL = Paper("Qi et al., TMM 2023", "2308.02213")
SEESAW = Paper("Wang et al., CVPR 2021", "2008.10032")
LOGIT_ADJUSTMENT = Paper("Menon et al., ICLR 2021", "2007.07314")
NORMALIZED_CALIBRATION = Paper("Pan et al., NeurIPS 2021", "2107.02170")
INVERSE_FREQUENCY = Paper("Alexandridis et al., 2022", "2209.04861")
LOGIT_NORMALIZATION = Paper("Zhao et al., IJCV 2024", "2203.17020")
FRACTAL_CALIBRATION = Paper("Alexandridis et al., CVPR 2025", "2410.11774")

# Groups of methods in tables and plots, in their order.
END_TO_END, SECOND_STAGE, TEST_TIME = GROUPS = ("end to end", "second stage", "test time")
# The method that others are compared with, seed by seed.
REFERENCE = "rfs"


@dataclass(frozen=True)
class Method:
    """
    Attributes:
        key: name of its configs, without folder, backbone and ``.yaml``.
        title: name in tables and plots, without the stage.
        paper: where the method is from; None for a control.
        first_stage: key of the method whose model it starts from; None for end-to-end training.
        evaluates_only: whether the model of ``first_stage`` is evaluated with another config, such as a calibration,
            without training.
    """

    key: str
    title: str
    paper: Paper | None
    first_stage: str | None = None
    evaluates_only: bool = False

    @property
    def group(self) -> str:
        """One of :data:`GROUPS`."""
        if self.first_stage is None:
            return END_TO_END
        return TEST_TIME if self.evaluates_only else SECOND_STAGE


def full_titles(methods: Mapping[str, Method]) -> dict[str, str]:
    """{key: title with the first stage}, for a table of methods that contains all first stages."""
    return {key: _full_title(method, methods) for key, method in methods.items()}


def _full_title(method: Method, methods: Mapping[str, Method]) -> str:
    if method.first_stage is None:
        return method.title
    first = methods[method.first_stage].title
    return f"{method.title} ({'on' if method.evaluates_only else 'stage 2 of'} {first})"


def _at_test_time(key: str, title: str, paper: Paper | None, first_stage: str) -> Method:
    return Method(key, title, paper, first_stage, evaluates_only=True)


METHODS = {
    method.key: method
    for method in (
        Method("sigmoid", "Sigmoid", None),  # the baseline of all: no sampling by frequency
        Method("rfs", "RFS", LVIS),  # the paper's rows, in its order, up to balanced_sigmoid
        Method("crt", "cRT", DECOUPLING, "rfs"),
        Method("lws", "LWS", DECOUPLING, "rfs"),
        Method("eql", "Equalization Loss", EQUALIZATION),
        Method("balanced_sigmoid", "Balanced Sigmoid", BALANCED_ACTIVATION),
        Method("balanced_sigmoid_sampled", "Balanced Sigmoid with sampled prior", BALANCED_ACTIVATION),
        Method("decoupled_sigmoid", "Control", None, "rfs"),  # the gain of further training alone
        Method("decoupled_balanced_sigmoid", "Balanced Sigmoid", BALANCED_ACTIVATION, "rfs"),
        Method("balms", "BALMS", BALANCED_META_SOFTMAX, "rfs"),
        Method("rfs_softmax", "RFS with softmax", LVIS),
        Method("balanced_softmax", "Balanced Softmax", BALANCED_META_SOFTMAX),
        Method("decoupled_balanced_softmax", "Balanced Softmax", BALANCED_META_SOFTMAX, "rfs_softmax"),
        Method("irfs", "IRFS", INSTANCE_AWARE),
        Method("copy_paste", "RFS with Copy-Paste", COPY_PASTE),
        Method("federated", "Federated loss", FEDERATED),
        Method("federated_detectron2", "Federated loss, Detectron2's settings", FEDERATED),
        Method("drop_loss", "DropLoss", DROP_LOSS),
        Method("gumbel", "Gumbel activation", GUMBEL),
        Method("gol", "GOL", GUMBEL),
        Method("ecm", "ECM", CLASS_MARGINS),
        Method("sigmoid_focal", "Focal loss", FOCAL),
        Method("class_balanced", "Class-Balanced loss", CLASS_BALANCED),
        Method("sigmoid_background", "Sigmoid with background", None),  # first stage of BACL
        Method("eqlv2", "Equalization Loss v2", EQUALIZATION_V2),
        Method("seesaw", "Seesaw Loss with normalized masks", SEESAW),
        Method("seesaw_linear_mask", "Seesaw Loss", SEESAW),
        Method("decoupled_loce", "Equilibrium Loss", LOCE, "rfs_softmax"),
        Method("decoupled_acsl", "ACSL", ACSL, "sigmoid"),
        Method("decoupled_bacl", "FCBL", BACL, "sigmoid_background"),
        # Without training: checkpoints of the methods above with another config.
        _at_test_time("rfs_logit_adjustment", "Logit adjustment", LOGIT_ADJUSTMENT, "rfs"),
        _at_test_time("rfs_norcal", "NorCal", NORMALIZED_CALIBRATION, "rfs"),
        _at_test_time("rfs_fracal", "FRACAL", FRACTAL_CALIBRATION, "rfs"),
        _at_test_time("rfs_softmax_logit_adjustment", "Logit adjustment", LOGIT_ADJUSTMENT, "rfs_softmax"),
        _at_test_time("rfs_softmax_norcal", "NorCal", NORMALIZED_CALIBRATION, "rfs_softmax"),
        _at_test_time("rfs_softmax_iif", "IIF", INVERSE_FREQUENCY, "rfs_softmax"),
        _at_test_time("rfs_softmax_fracal", "FRACAL", FRACTAL_CALIBRATION, "rfs_softmax"),
        _at_test_time("rfs_softmax_logn", "LogN", LOGIT_NORMALIZATION, "rfs_softmax"),
        # The thresholds of NMS and masks that their papers report results with; all others have 0.5 for both.
        _at_test_time("gol_published_thresholds", "GOL, NMS 0.3 and masks 0.4", GUMBEL, "gol"),
        _at_test_time(
            "rfs_softmax_fracal_published_thresholds",
            "FRACAL, NMS 0.3 and masks 0.4",
            FRACTAL_CALIBRATION,
            "rfs_softmax",
        ),
    )
}

_CLASSIFIERS = {
    "retrain": "classifier from scratch",
    "rescale": "one scale per class",
    "finetune": "classifier fine-tuned",
}


def methods_table(configs: str) -> str:
    """
    The Markdown table in docs/choosing_a_method.md.

    Args:
        configs: prefix of ``KEY.yaml`` in the paths of the configs.
    """
    rows = [_row(method, load_config(f"{configs}{method.key}.yaml")) for method in METHODS.values()]
    header = ["config", "method", "paper", "activation", "sampler", "stage"]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, ["---"] * len(header), *rows])


def _row(method: Method, cfg) -> list[str]:
    activation = f"`{cfg.MODEL.ROI_BOX_HEAD.ACTIVATION.NAME}`"
    if cfg.MODEL.CLASS_PRIOR.SAMPLED:
        activation += ", [sampled prior](methods.md#sampled-prior)"
    if cfg.SOLVER.META.ENABLED:
        activation += " + class weights"
    sampler = f"`{cfg.DATALOADER.SAMPLER_TRAIN}`"
    if cfg.INPUT.COPY_PASTE.ENABLED:
        sampler += ", [copy-paste](methods.md#copy-paste)"
    stage = method.group
    if method.evaluates_only:
        calibration = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME
        stage += f", on `{method.first_stage}`" + (f": `{calibration}`" if calibration else "")
    elif method.first_stage:
        stage = f"second, after `{method.first_stage}`: {_CLASSIFIERS[cfg.MODEL.DECOUPLED.CLASSIFIER]}"
    paper = method.paper.link() if method.paper else "–"
    return [f"`{method.key}`", method.title, paper, activation, sampler, stage]


if __name__ == "__main__":
    print(methods_table("configs/r50_"), end="")
