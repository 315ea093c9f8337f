"""Results of another program as studies: images are measured like our own, histories of measures become a table."""
