"""Experiments as data, run by one command; every table and plot rebuilt from committed CSVs by another."""
