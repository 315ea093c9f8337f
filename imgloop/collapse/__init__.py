"""The collapse profile: eight definitions of model collapse, eight verdicts, from series of any chains."""
