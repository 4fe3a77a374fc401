"""Short rows, and rows whose classes are apart in memory: a vector of rows at a time, one row in each lane.

rows     the work items of a loss and its gradient
load     tiles: rows transposed into lanes, and back
tile     statistics and gradient of a tile
merge    statistics of the tiles of a row together
"""
