"""Training: one Lightning module, its options, checkpoints and cost."""
