"""python -m imgloop.report STUDY: a study's results as one page, tables and figures; runs no code of the study."""
