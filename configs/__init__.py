"""What a run is, and what its processes say to one another: the ground that everything else stands on."""
