"""Systems of the paper that can be solved: models whose chain is a table of replicate by generation, and their closed
forms."""
