"""One recipe in, one run folder out: recipes, the training loop, checkpoints, records, several processes."""
