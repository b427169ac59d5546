"""A finished run measured: its predictions, parts of the data, attacks, and what drift is compared with."""
