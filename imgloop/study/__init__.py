"""Reading what runs left: tables, images, comparisons. Nothing that a run folder names is executed."""
