"""Runs on disk, training that resumes, the start of a codebook, and trained weights."""
