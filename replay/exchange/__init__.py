"""Records to files that other tools read, and data sets from elsewhere into a store.

Nothing is imported here: each format needs packages of its own, which most processes do without.
"""
