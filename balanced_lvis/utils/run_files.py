"""Names of files and folders that a run writes to its ``OUTPUT_DIR``."""

CONFIG = "config.yaml"  # all keys
LAZY_CONFIG = "lazy_config.yaml"  # record of the LazyConfig, if it is one
ENVIRONMENT = "environment.txt"  # versions of the system and of libraries
LOG = "log.txt"  # what is printed
METRICS = "metrics.json"  # one line per logged or evaluated iteration
PREVIOUS_METRICS = "metrics.previous.json"  # of an earlier run in the same folder
RESULTS = "results.json"  # metrics of the final model
SAVED_PRIOR = "class_prior.json"  # counts of the training set

FINAL_WEIGHTS = "model_final.pth"  # checkpoint after the last iteration, named as by Detectron2
LAST_CHECKPOINT = "last_checkpoint"  # has the name of the newest checkpoint, as Detectron2's
EMA = "ema"  # folder of the averaged weights
DIAGNOSTICS = "diagnostics"  # folder of training steps that failed

EVALUATION = "evaluation"  # folder of --eval-only, with its own config, log and results
INFERENCE = "inference"  # folder of the next two files
DETECTIONS = "lvis_instances_results.json"  # in LVIS results format
PER_CATEGORY = "per_category_ap.json"  # AP of each category
