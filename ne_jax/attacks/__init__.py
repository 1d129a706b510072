"""What can be tried on a release, by what the attacker knows. Every attack is listed in `registry`."""
