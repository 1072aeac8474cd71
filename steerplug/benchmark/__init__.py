"""What steering costs, and what its alternatives do, as ratios measured in one run."""
