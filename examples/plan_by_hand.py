"""Drop the last block of a model by a plan written by hand, and save the smaller checkpoint."""

from dataclasses import replace

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nirvana_deploy import LayerPlan, plan_for, repack, save_pruned

MODEL = "my-checkpoint"

model = AutoModelForSequenceClassification.from_pretrained(MODEL)
config = model.config
whole = LayerPlan(
    kept_heads=tuple(range(config.num_attention_heads)),
    kept_neurons=tuple(range(config.intermediate_size)),
)
half_of_the_heads = replace(whole, kept_heads=whole.kept_heads[::2])
dropped = LayerPlan(kept_heads=None, kept_neurons=None, dropped=True)
layers = [whole] * (config.num_hidden_layers - 2) + [half_of_the_heads, dropped]

smaller = repack(model, plan_for(model, layers))
save_pruned(smaller, "runs/by-hand", AutoTokenizer.from_pretrained(MODEL))
print(f"{model.num_parameters():,} parameters before, {smaller.num_parameters():,} after")
