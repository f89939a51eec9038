import json
import shutil

import pytest
from PIL import Image

from balanced_lvis.config import load_config
from balanced_lvis.experiments.quick_start import quick_start
from balanced_lvis.experiments.runs import Run
from balanced_lvis.utils.errors import InputError
from tests.common import CONFIGS, ROOT, rendered_opts

TRAIN_NET = ROOT / "tools" / "train_net.py"


def runs(output):
    configs = CONFIGS / "quick_start"
    return [
        Run("baseline", "sigmoid", configs / "sigmoid.yaml", output / "baseline"),
        Run("balanced_sigmoid", "Balanced Sigmoid", configs / "balanced_sigmoid.yaml", output / "balanced_sigmoid"),
    ]


def overrides(root, **extra):
    opts = rendered_opts(root, "unused")
    at = opts.index("OUTPUT_DIR")
    return [*opts[:at], *opts[at + 2 :], *(str(word) for pair in extra.items() for word in pair)]


def test_it_leaves_summary_table_plots_and_pictures(rendered, tmp_path, capsys):
    output = tmp_path / "quick_start"
    summary = quick_start(runs(output), TRAIN_NET, output, overrides(rendered))
    assert json.loads((output / "summary.json").read_text()) == summary
    assert set(summary) == {"baseline", "balanced_sigmoid", "seconds"}
    for key in ("baseline", "balanced_sigmoid"):
        assert summary[key] == json.loads((output / key / "results.json").read_text())
        assert set(summary[key]) == {"bbox", "segm"}
    table = (output / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "sigmoid",
        "Balanced Sigmoid",
        "difference",
    ]
    for name in ("box_ap_by_training_images", "mask_ap_by_training_images", "predictions_1"):
        assert min(Image.open(output / f"{name}.png").size) > 200

    # What another config left is not resumed; what the same config left is, wherever it ran.
    run = runs(output)[0]
    run.discard_other(load_config(run.config_file, overrides(rendered)))
    assert run.output.exists()
    kept = output / "kept"
    run.output.rename(kept)
    shutil.copytree(kept, run.output)
    run.discard_other(load_config(run.config_file, overrides(rendered, SEED=5)))
    assert not run.output.exists()
    kept.rename(run.output)

    # A finished quick start starts anew.
    (output / "baseline" / "stale").touch()
    with pytest.raises(InputError, match=r"Training .* failed with status 2:(?s:.*)error: "):
        quick_start(runs(output), TRAIN_NET, output, overrides(rendered, **{"DATASETS.TEST": "('nowhere',)"}))
    assert not (output / "baseline" / "stale").exists()
