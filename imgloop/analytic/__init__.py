"""The solvable systems of the paper, which run as many replicates side by side, and their closed forms."""
