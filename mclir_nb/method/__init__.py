"""The paper, read this first.

    losses      the SPN loss, its relatives, and all objectives by name
    history     history models: when they are refreshed, and what they make of an input
    negatives   which of their outputs a step moves away from
    features    the networks in whose features distances are measured
    distances   the distance itself, with its gradient
    relatives   terms of neighbours that also use the past, most of them bounded
    rivals      what VGG, CR, C2R and PCL add to L1 instead
    push        what the term really does to image and weights
    precision   number formats, and when rounding drowns the push

Takes tensors, modules and plain arguments; knows no network of the paper, no data and no recipe.
"""
