"""The right to act with snapshots, and the monitor that ends it."""
