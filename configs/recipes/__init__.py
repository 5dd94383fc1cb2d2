"""Recipes of TRL, Open-R1 and MedicalGPT converted into runs."""
