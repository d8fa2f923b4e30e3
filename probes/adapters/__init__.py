"""What each framework calls the parts of its spiking layers; one file per framework."""
