"""The paper, read this first: losses, history models, negatives, feature networks, precision.

Takes tensors, modules and plain arguments; knows no network of the paper, no data and no recipe.
"""
