"""Prune a classifier without training, then train it with the dense model as its teacher."""

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nirvana_deploy import (
    CalibrationConfig,
    DataConfig,
    RecoveryConfig,
    ScoringConfig,
    load,
    load_text,
    prune_from_scores,
    recover,
    save_pruned,
    score,
)

MODEL = "my-checkpoint"
DATA = "reviews.csv"  # columns `text` and `label`

calibration = CalibrationConfig(source=DATA)
run = score(MODEL, ScoringConfig(calibration=calibration), out="runs/recover-scores")
(result,) = prune_from_scores(run, [0.5], out="runs/before-recovery")

tokenizer = AutoTokenizer.from_pretrained(MODEL)
teacher = AutoModelForSequenceClassification.from_pretrained(MODEL)
smaller = load(result.checkpoint)
text = load_text(DataConfig(dataset=DATA), tokenizer)
recover(smaller, teacher, text, tokenizer, RecoveryConfig(num_epochs=1), "runs/recovery")
save_pruned(smaller, "runs/recovered", tokenizer)
