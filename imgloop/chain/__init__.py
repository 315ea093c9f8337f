"""Chains on disk: what a chain of generations keeps, resumes and refuses."""
