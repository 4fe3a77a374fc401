"""Short rows, and rows whose classes are apart in memory: a vector of rows at a time, one row in each lane.

rows     the work items of a loss and its gradient
load     tiles: rows transposed into lanes, and back
tile     exponentials and statistics of a tile
measures sums of `row.measures`, if they are asked for
gradient the gradient of a tile, or an output of another formula
merge    statistics of the tiles of a row together
"""
