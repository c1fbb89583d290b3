"""Measure the hub's costs, as ratios to bare building blocks measured in the same run: `make bench`."""
