"""A finished run as one object: from a post to a Decision, by whichever engine computes."""
