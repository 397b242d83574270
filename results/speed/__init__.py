"""Speed of this project: its parts, its ranks, and a cost model of ranks on paper."""
