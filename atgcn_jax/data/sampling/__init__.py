"""Selection of the clips of each training batch."""
