"""Convert recipes of TRL, Open-R1 and MedicalGPT into runs: tables of their settings, rules for those that need more, and the command
line."""
