"""Pictures in, patches out: degradations, tasks, image files, published sets and their layouts, patches, checks."""
