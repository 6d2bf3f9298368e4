"""Runs policies on episodes in processes of their own, plants included. Judges nothing."""
