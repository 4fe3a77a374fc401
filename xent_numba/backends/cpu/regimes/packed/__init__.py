"""Rows of a few dozen to a few hundred classes side by side: a vector of rows at a time, each along its classes.

rows    the work items of a loss and its gradient
load    copies of the rows in a tile, and prefetching
row     the sums and the gradient of one row
"""
