"""The solvable systems of the paper, each run as many replicates at once, and their closed forms."""
