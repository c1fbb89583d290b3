"""Strict fakes of platforms' OAuth: one module for each; `fake` and `tokens` are what they share.

`stage` is a hub that finds them.
"""
