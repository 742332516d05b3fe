"""Plans decided before they run, paired comparisons, intervals, the paper's tables, and what a step costs."""
