"""Prediction on images that belong to no dataset."""
