"""Score a classifier once and prune it to three budgets, without training.

Needs a fine-tuned checkpoint and text like that which it will see.
"""

from nirvana_deploy import CalibrationConfig, ScoringConfig, prune_from_scores, score

MODEL = "my-checkpoint"  # a folder or a hub id
TEXT = "reviews.csv"  # a column `text`; json, parquet and txt work as well

run = score(MODEL, ScoringConfig(calibration=CalibrationConfig(source=TEXT)), out="runs/scores")
for result in prune_from_scores(run, [0.8, 0.65, 0.5], out="runs/budgets"):
    # Text that nothing was fitted on, if there was more of it than the calibration took.
    figures = result.figures["held_out"] or result.figures["calibration"]
    divergence = figures["kl_divergence"]
    print(f"{result.budget:.0%} kept: KL divergence {divergence:.4f}, {result.checkpoint}")
