"""Scores: how much each weight is worth keeping, `{name: scores of the weight's shape}`. Higher is kept.

One method a file. None changes the network, and none knows what is done with its scores.
"""
