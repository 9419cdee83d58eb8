"""Hyperparameter sweeps: `python -m bench sweep`. plan (what is asked), storage (who does what), trial, finish, command."""
