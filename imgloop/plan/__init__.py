"""What a run or a sweep will cost, before it starts: `python -m imgloop.plan [-m] OVERRIDES...`."""
