"""Rules that judge stored records and write signals about them; they never change a record."""
