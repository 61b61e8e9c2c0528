"""Text, fine-tuning and evaluation, around an ordinary Trainer."""
