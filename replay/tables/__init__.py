"""How records are drawn from the log: one module for each kind of table, over the base in table.py."""
