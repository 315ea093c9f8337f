"""python -m imgloop.report STUDY: what a study says, as one page, tables and figures; it runs no code of the study."""
