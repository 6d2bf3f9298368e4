"""How Temper starts: the `temper` command, recipes, the run directory, and the supervisor of one machine's processes.

Nothing here trains, stores, judges or acts; it composes the settings of those packages that do, and runs
them as processes.
"""
