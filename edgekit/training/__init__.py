"""Options and stages of training and distillation."""
