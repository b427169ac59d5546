"""What the lab writes: experiments.md, postmortem.md, their tables and figures."""
