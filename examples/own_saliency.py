"""Prune by a saliency of your own: the norm of each unit's columns of the output projection.

Run it from this folder, or put this folder on PYTHONPATH: the class is found by its import path.
"""

from nirvana_deploy import CalibrationConfig, ScoringConfig, prune_from_scores, score

MODEL = "my-checkpoint"
TEXT = "reviews.csv"


class OutputNorm:
    """Score a unit by the size of its columns of the output projection."""

    def score(self, task):
        """Return a tensor of scores, one per unit, for each attention and MLP."""
        return {
            sub_block: site.sum_channels(site.output_weight().float().square().sum(dim=0))
            for sub_block, site in task.sites.items()
        }


if __name__ == "__main__":
    config = ScoringConfig(
        saliency="own_saliency:OutputNorm", calibration=CalibrationConfig(source=TEXT)
    )
    run = score(MODEL, config, out="runs/own-scores")
    (result,) = prune_from_scores(run, [0.7], out="runs/own")
    divergence = result.figures["calibration"]["kl_divergence"]
    print(f"KL divergence {divergence:.4f}, {result.checkpoint}")
