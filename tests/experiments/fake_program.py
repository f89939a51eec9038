"""
Stands in for ``balanced-lvis`` where only what is started when matters: ``train`` writes in milliseconds what a run
leaves, or with --eval-only what an evaluation leaves, and ``collect-logits`` what it saves.

Copied beside a ``behaviour.json``, {"method/seed_0": "fail", "hang" or seconds}; appends to ``log.txt`` beside it.
"""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
CONFIG = Path(sys.argv[sys.argv.index("--config-file") + 1])
OPTS = sys.argv[sys.argv.index("--config-file") + 2 :]
PAIRS = dict(zip(OPTS[::2], OPTS[1::2]))
OUTPUT = Path(PAIRS["OUTPUT_DIR"])
NAME = f"{OUTPUT.parent.name}/{OUTPUT.name}"
EVALUATES = "--eval-only" in sys.argv


def watch_parent():
    """As command lines do; without the seconds that importing the package takes."""
    package = Path(importlib.util.find_spec("balanced_lvis").origin).parent
    path = package / "utils" / "parent_process.py"
    spec = importlib.util.spec_from_file_location("parent", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.end_with_starter()


def log(word):
    with open(HERE / "log.txt", "a") as file:
        file.write(f"{word} {NAME} {os.environ.get('OMP_NUM_THREADS')}\n")


def nested(pairs):
    tree = {}
    for key, value in pairs.items():
        *parents, name = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def metrics(base, seed):
    return {"AP": base + seed**2, "APr": None, "APc": base + 1.0, "APf": base + 2.0 * seed}


watch_parent()
if sys.argv[1] == "collect-logits":
    log("prepare")
    weights = Path(PAIRS["MODEL.WEIGHTS"])
    weights.with_suffix(".logits.json").write_text(weights.read_text())
    log("end")
    sys.exit()
assert sys.argv[1] == "train"
log("evaluate" if EVALUATES else "resume" if (OUTPUT / "checkpoint").exists() else "start")
if EVALUATES:
    PAIRS["OUTPUT_DIR"] = str(OUTPUT / "evaluation")
    PAIRS["MODEL.CLASS_PRIOR.FILE"] = str(Path(PAIRS["MODEL.WEIGHTS"]).parent / "class_prior.json")
    OUTPUT = OUTPUT / "evaluation"
    OUTPUT.mkdir(exist_ok=True)
(OUTPUT / "config.yaml").write_text(json.dumps({"_BASE_": str(CONFIG.absolute()), **nested(PAIRS)}))
(OUTPUT / "gpu.txt").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
weights = PAIRS.get("MODEL.WEIGHTS")
if weights and not Path(weights).exists():
    sys.exit(f"no weights {weights}")
if not EVALUATES:
    (OUTPUT / "checkpoint").touch()
behaviour = json.loads((HERE / "behaviour.json").read_text()).get(NAME, 0)
if behaviour == "fail":
    print(*(f"line {i}" for i in range(30)), sep="\n")
    sys.exit(5)
time.sleep(600 if behaviour == "hang" else behaviour)
if not EVALUATES:
    (OUTPUT / "model_final.pth").write_text(f"{time.time()}")  # no two runs have the same weights
    (OUTPUT / "last_checkpoint").write_text("model_final.pth")
(OUTPUT / "inference").mkdir(exist_ok=True)
rows = [{"id": i, "frequency": "rcf"[i], "image_count": 5 * 10**i, "bbox": 20.0, "segm": 10.0 * i} for i in range(3)]
(OUTPUT / "inference" / "per_category_ap.json").write_text(json.dumps(rows))
seed = int(PAIRS.get("SEED", 0))
(OUTPUT / "results.json").write_text(json.dumps({"segm": metrics(10.0, seed), "bbox": metrics(20.0, seed)}))
log("end")
