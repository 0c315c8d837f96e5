"""Schedules made of schedules."""
