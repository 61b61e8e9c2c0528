"""How labels are marked that no loss and no metric counts."""

IGNORED = -100  # torch's and transformers' default `ignore_index`
