"""How fast this project runs: its parts, its ranks, and a cost model of ranks on paper."""
