from balanced_lvis.config import load_config
from balanced_lvis.experiments.methods import GROUPS, METHODS, SECOND_STAGE, full_titles, methods_table
from tests.common import CONFIGS, ROOT
from tests.config.merged_configs import merged


def test_the_table_in_the_docs_is_that_of_the_code():
    """``python -m balanced_lvis.experiments.methods`` prints it."""
    assert methods_table(f"{CONFIGS}/r50_") in (ROOT / "docs" / "choosing_a_method.md").read_text(encoding="utf-8")


def test_every_config_of_a_method_is_in_the_table():
    for prefix in ("r50_", "r101_", "rendered/"):
        assert {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob(f"{prefix}*.yaml")} == {
            f"{prefix}{key}.yaml" for key in METHODS
        }


def test_second_stages_are_those_that_name_a_first_one():
    for method in METHODS.values():
        cfg = load_config(CONFIGS / f"r50_{method.key}.yaml")
        assert (cfg.MODEL.META_ARCHITECTURE == "DecoupledRCNN") == (method.group == SECOND_STAGE)
        assert method.first_stage is None or METHODS[method.first_stage].first_stage is None


def test_a_method_without_training_differs_from_its_first_stage_at_test_time_only():
    at_test_time = ("MODEL.ROI_BOX_HEAD.CALIBRATION.", "MODEL.ROI_HEADS.", "MODEL.WEIGHTS", "OUTPUT_DIR", "TEST.")
    for method in METHODS.values():
        if method.evaluates_only:
            for prefix in ("r50_", "r101_", "rendered/"):
                own, first = merged(f"{prefix}{method.key}"), merged(f"{prefix}{method.first_stage}")
                changed = {key for key in own if own[key] != first[key]}
                assert {"MODEL.WEIGHTS", "OUTPUT_DIR"} < changed
                assert all(key.startswith(at_test_time) for key in changed), method.key


def test_titles_name_the_first_stage():
    titles = full_titles(METHODS)
    assert titles["rfs"] == "RFS" and titles["crt"] == "cRT (stage 2 of RFS)"
    assert titles["rfs_softmax_logit_adjustment"] == "Logit adjustment (on RFS with softmax)"
    assert len(set(titles.values())) == len(titles)
    assert [METHODS[key].group for key in ("rfs", "crt", "rfs_logit_adjustment")] == list(GROUPS)
